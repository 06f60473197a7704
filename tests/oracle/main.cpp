// skerry-oracle: the software engine against the host's processor, instruction by instruction.
//
//   skerry-oracle [--engine soft,interpreter | --engine soft] [--seed N] [--seconds S | --cases N]
//   [--row TEXT] [--failures N] [--32] [--list]
//
// Takes every row of the instruction table that can be judged here in turn, in random order, and
// prints each disagreement so that it can be reproduced with the seed and --row. Status: 0 agreed,
// 1 disagreed, 2 bad usage, 77 not possible on this host.
#include <CLI/CLI.hpp>
#include <map>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "oracle/compare.hpp"
#include "oracle/generate.hpp"
#include "oracle/guest.hpp"
#include "oracle/native.hpp"

namespace skerry::oracle {
namespace {

struct Options {
  u64 seed = 0;
  double seconds = 5;
  u64 cases = 0;
  std::string row;
  unsigned failures = 20;
  bool list = false;
  bool bits32 = false;
  std::string engine = "soft,interpreter";
};

std::string row_name(u16 index) {
  const isa::Row& row = isa::rows()[index];
  return fmt::format("{} {}: {} {}", index, row.names, row.text_operands, row.text_encoding);
}

struct Choice {
  std::vector<u16> rows;
  std::map<std::string, unsigned, std::less<>> left_out;  ///< reason -> rows
};

Choice choose(const Options& options) {
  Choice choice;
  auto all = isa::rows();
  for (size_t i = 0; i < all.size(); i++) {
    u16 index = static_cast<u16>(i);
    std::string_view why;
    if (!options.row.empty() && options.row != std::to_string(i) &&
        row_name(index).find(options.row) == std::string::npos)
      continue;
    if (testable(all[i], why))
      choice.rows.push_back(index);
    else
      choice.left_out[std::string(why)]++;
  }
  return choice;
}

int run(const Options& options) {
  auto native = Native::create();
  if (!native) {
    fmt::print("skipped: {}\n", native.error().message());
    return 77;
  }
  auto guest = Guest::create(options.engine == "soft");
  if (!guest) {
    fmt::print("skipped: {}\n", guest.error().message());
    return 77;
  }
  Choice choice = choose(options);
  if (options.list) {
    for (u16 row : choice.rows) fmt::print("{}\n", row_name(row));
    return 0;
  }
  if (choice.rows.empty()) {
    fmt::print("no row matches '{}'\n", options.row);
    return 2;
  }
  fmt::print("seed {}\n", options.seed);

  Random random(options.seed);
  std::vector<Case> cases(kBatch);
  std::vector<Outcome> hosts(kBatch);
  Outcome out;
  std::map<u16, u64> done;
  std::map<u16, unsigned> failed;
  u64 total = 0, faults = 0;
  unsigned printed = 0;
  Nanos start = HostClock::monotonic(), end = start + static_cast<Nanos>(options.seconds * 1e9);
  size_t next = 0;
  auto finished = [&] {
    return options.cases ? total >= options.cases : HostClock::monotonic() >= end;
  };
  while (!finished()) {
    size_t n = 0;
    while (n < kBatch) {
      u16 row = choice.rows[next++ % choice.rows.size()];
      for (int attempt = 0; attempt < 200; attempt++)
        if (auto c = generate(row, random, options.bits32)) {
          cases[n++] = *c;
          break;
        }
      if (next % choice.rows.size() == 0) break;
    }
    (*native)->run({cases.data(), n}, {hosts.data(), n});
    for (size_t i = 0; i < n; i++) {
      const Case& c = cases[i];
      (*guest)->run(c, out);
      total++;
      done[c.insn.row]++;
      faults += hosts[i].vector != kNoFault;
      std::string text = differences(c, hosts[i], out);
      if (text.empty()) continue;
      if (failed[c.insn.row]++ || printed >= options.failures) continue;
      printed++;
      fmt::print("\nDISAGREE\n{}{}", describe(c), text);
    }
  }
  double seconds = static_cast<double>(HostClock::monotonic() - start) / 1e9;
  fmt::print("\n{} cases in {:.1f} s ({:.0f}/s), {} with faults, child restarted {} times\n", total,
             seconds, static_cast<double>(total) / seconds, faults, (*native)->restarts());
  fmt::print("rows exercised {} of {}", done.size(), isa::rows().size());
  for (const auto& [why, rows] : choice.left_out) fmt::print("; {}: {}", why, rows);
  fmt::print("\n");
  for (u16 row : choice.rows)
    if (!done.contains(row) && !options.bits32 && total > 20 * choice.rows.size())
      fmt::print("never generated: {}\n", row_name(row));
  for (const auto& [row, count] : failed)
    fmt::print("disagreed {} of {}: {}\n", count, done[row], row_name(row));
  return failed.empty() ? 0 : 1;
}

}  // namespace
}  // namespace skerry::oracle

int main(int argc, char** argv) {
  skerry::oracle::Options options;
  options.seed = static_cast<skerry::u64>(skerry::HostClock::monotonic());
  CLI::App app{"Compares the software engine with the host's processor"};
  app.add_option("--seed", options.seed, "start of the random sequence (default: a fresh one)");
  app.add_option("--seconds", options.seconds, "how long to run");
  app.add_option("--cases", options.cases, "run this many cases instead");
  app.add_option("--row", options.row, "only rows with this number, or this text in their name");
  app.add_option("--failures", options.failures, "how many disagreements to print in full");
  app.add_flag("--32", options.bits32,
               "run the engine in 32-bit mode, with what is the same there");
  app.add_option("--engine", options.engine,
                 "what runs the instructions: 'soft,interpreter', or 'soft' for translated code")
      ->check(CLI::IsMember({"soft", "soft,interpreter"}));
  app.add_flag("--list", options.list, "print the rows that can be judged");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) ? 2 : 0;
  }
  return skerry::oracle::run(options);
}

// skerry-blocks: random programs on the translator and on the interpreter
// (engine/soft/block_rig.hpp).
//
//   skerry-blocks [--seed N] [--seconds S | --programs N] [--failures N] [--print] [--no-minimise]
//
// Prints each disagreement as the smallest program that still shows it. A seed names one program:
// --seed N --programs 1 runs it alone. Status: 0 agreed, 1 disagreed.
#include <CLI/CLI.hpp>

#include "engine/soft/block_rig.hpp"

namespace {

using namespace skerry;
using namespace skerry::soft::block_fuzz;

struct Options {
  u64 seed = 0;
  double seconds = 10;
  u64 programs = 0;
  unsigned failures = 10;
  bool print = false, small = true;
};

int run(const Options& options) {
  auto rig = std::make_unique<Rig>();
  const isa::FeatureSet features = rig->features();
  const Nanos start = HostClock::monotonic();
  const Nanos end = start + static_cast<Nanos>(options.seconds * 1e9);
  u64 programs = 0;
  unsigned failed = 0;
  fmt::print("from seed {}\n", options.seed);
  while (options.programs ? programs < options.programs : HostClock::monotonic() < end) {
    Program p = Generator(options.seed + programs, features).make();
    ++programs;
    if (options.print) fmt::print("{}", p.text());
    const Failure f = rig->test(p);
    if (f.empty()) continue;
    fmt::print("\nDISAGREE, seed {}\n{}", p.seed, options.small ? report(p) : p.text() + f);
    std::fflush(stdout);
    if (++failed >= options.failures) break;
    rig = std::make_unique<Rig>();
  }
  const double seconds = static_cast<double>(HostClock::monotonic() - start) / 1e9;
  fmt::print(
      "{} programs in {:.1f} s ({:.0f}/s), {} disagreements; since the last: {} runs, {} with "
      "faults, {} given up, {} instructions, {} blocks compared\n",
      programs, seconds, static_cast<double>(programs) / seconds, failed, rig->runs, rig->faults,
      rig->discarded, rig->instructions, rig->steps);
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.seed = static_cast<u64>(HostClock::monotonic()) / 1000;
  CLI::App app{"Runs random programs on the translator and on the interpreter"};
  app.add_option("--seed", options.seed, "of the first program (default: a fresh one)");
  app.add_option("--seconds", options.seconds, "how long to run");
  app.add_option("--programs", options.programs, "run this many programs instead");
  app.add_option("--failures", options.failures, "stop after so many disagreements");
  app.add_flag("--print", options.print, "print every program");
  app.add_flag("!--no-minimise", options.small, "print failing programs whole");
  CLI11_PARSE(app, argc, argv);
  return run(options);
}

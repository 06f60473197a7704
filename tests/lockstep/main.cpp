// skerry-lockstep: one guest on two engines at once, compared on the way.
//
//   skerry-lockstep --kernel vmlinuz --initrd initrd --append "console=ttyS0" [--a soft]
//                   [--b soft,interpreter]
//
// Status: 0 equal, 1 they diverge (the report says where), 2 bad usage or no such guest, 3 the
// guest did not end as --expect says.
#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>

#include "base/log.hpp"
#include "lockstep/lockstep.hpp"
#include "schema/text.hpp"

namespace skerry::lockstep {
namespace {

struct Arguments {
  Options options;
  std::string memory = "256M", code_cache, a = "soft", b = "soft,interpreter";
  std::vector<std::string> disks;
  std::string input, expect, expect_output, flags, trace, plant;
  bool output = false;
};

Result<schema::EngineChoice> engine(const std::string& name) {
  using enum schema::EngineChoice;
  for (auto choice : {soft, soft_interpreter, soft_jit, soft_tables})
    if (name == schema::enum_names(choice)[static_cast<size_t>(choice)]) return choice;
  return fail("no engine '{}' can run in lock-step; soft and soft,interpreter can", name);
}

/// Lines "<nanoseconds> <text>", in order; "\n" and "\\" in the text.
Result<std::vector<Input>> read_input(const std::string& path) {
  std::vector<Input> all;
  std::ifstream file(path);
  if (!file) return fail("cannot read {}", path);
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    Input input{};
    size_t used = 0;
    try {
      input.at = std::stoll(line, &used);
    } catch (const std::exception&) {
      return fail("{}: '{}' does not begin with a time", path, line);
    }
    for (size_t i = used + 1; i < line.size(); ++i) {
      if (line[i] == '\\' && i + 1 < line.size()) {
        ++i;
        input.text += line[i] == 'n' ? '\n' : line[i];
      } else {
        input.text += line[i];
      }
    }
    all.push_back(std::move(input));
  }
  return all;
}

Result<int> go(Arguments& arguments) {
  Options& options = arguments.options;
  options.a = TRY(engine(arguments.a));
  options.b = TRY(engine(arguments.b));
  schema::MachineSpec& spec = options.setup.spec;
  auto memory = schema::parse_bytes(arguments.memory);
  if (!memory) return fail("'{}' is not a size; 256M is", arguments.memory);
  spec.memory = *memory;
  if (!arguments.code_cache.empty()) {
    auto size = schema::parse_bytes(arguments.code_cache);
    if (!size) return fail("'{}' is not a size; 1M is", arguments.code_cache);
    spec.code_cache = *size;
  }
  for (const std::string& disk : arguments.disks) spec.disks.push_back({disk, {}, false});
  if (!arguments.input.empty()) options.setup.input = TRY(read_input(arguments.input));
  if (!arguments.flags.empty()) options.ignore.flags = std::stoull(arguments.flags, nullptr, 0);
  if (!arguments.plant.empty()) {
    options.plant.emplace(Plant{std::stoull(arguments.plant), {}});
    if (size_t at = arguments.plant.find(':'); at != std::string::npos)
      options.plant->memory = std::stoull(arguments.plant.substr(at + 1), nullptr, 0);
  }
  options.ignore.pointers = !options.strict;
  TRY_VOID(set_trace(arguments.trace));

  Outcome outcome = TRY(run(options));
  if (arguments.output) fmt::print("{}\n", outcome.output);
  fmt::print(
      "A {}, B {}: {} at position {}, {:.3f} s of guest time, {}; {} comparisons, {} with memory; "
      "{} undefined flags\n",
      arguments.a, arguments.b, outcome.equal ? "equal" : "DIFFERENT", outcome.position,
      static_cast<double>(outcome.time) / 1e9, outcome.ending, outcome.compared,
      outcome.ram_compared, outcome.settled);
  if (!outcome.equal) {
    fmt::print("{}", outcome.report);
    return 1;
  }
  if (!arguments.expect.empty() && outcome.ending != arguments.expect) {
    fmt::print("the guest ended by '{}', not by '{}'; the last it printed:\n{}\n", outcome.ending,
               arguments.expect,
               outcome.output.substr(outcome.output.size() -
                                     std::min<size_t>(2000, outcome.output.size())));
    return 3;
  }
  if (outcome.output.find(arguments.expect_output) == std::string::npos) {
    fmt::print("the guest did not print '{}'\n", arguments.expect_output);
    return 3;
  }
  return 0;
}

int main(int argc, char** argv) {
  Arguments arguments;
  Options& options = arguments.options;
  schema::MachineSpec& spec = options.setup.spec;
  spec.debug_exit = true;
  CLI::App app{"Runs one guest on two engines at once and compares them on the way."};
  app.add_option("--kernel", spec.kernel)->required();
  app.add_option("--initrd", spec.initrd);
  app.add_option("--append", spec.append);
  app.add_option("--memory", arguments.memory)->capture_default_str();
  app.add_option("--code-cache", arguments.code_cache, "of translated code, as in skerry run");
  app.add_option("--cpu", spec.cpu, "CPU model")->capture_default_str();
  app.add_option("--disk", arguments.disks, "disk image; each side works on a copy");
  app.add_option("--input", arguments.input,
                 "file of lines '<nanoseconds of guest time> <text>' to type");
  app.add_option("--seed", options.setup.seed, "of the guest's random numbers")
      ->capture_default_str();
  app.add_option("--a", arguments.a, "engine: soft, or soft,interpreter")->capture_default_str();
  app.add_option("--b", arguments.b, "engine to compare with")->capture_default_str();
  app.add_option("--event-every", options.event_every, "instructions between looks at the time")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--ram-every", options.ram_every, "events between comparisons of memory")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--instructions,--until", options.limit, "end at this position");
  app.add_option("--seconds", options.seconds, "end at this guest time");
  app.add_option("--from", options.from, "from this position on compare after every block");
  app.add_flag("--every-block", options.every_block, "compare after every block from the start");
  app.add_flag("--print", options.print, "print every block that is compared");
  app.add_option("--jitter", options.jitter, "seed: B stops at random places as well");
  app.add_option("--ignore-flags", arguments.flags, "mask of RFLAGS bits not to compare");
  app.add_option("--ignore", options.ignore.fields,
                 "fields of the state not to compare, by their beginnings")
      ->delimiter(',');
  app.add_flag("--ignore-devices", options.ignore.devices, "do not compare devices");
  app.add_flag("--strict", options.strict,
               "compare undefined flags and the pointers of the x87 as well");
  app.add_option(
      "--plant", arguments.plant,
      "POSITION or POSITION:ADDRESS: flip a bit of A's RBX or memory there, to see it found");
  app.add_option("--expect", arguments.expect, "how the guest must end: 'power off', 'limit'...");
  app.add_option("--expect-output", arguments.expect_output, "what it must print");
  app.add_option("--trace", arguments.trace, "trace categories, of both sides");
  app.add_flag("--output", arguments.output, "print what the guest printed");
  CLI11_PARSE(app, argc, argv);
  auto status = go(arguments);
  if (status) return *status;
  fmt::print(stderr, "skerry-lockstep: {}\n", status.error().message());
  return 2;
}

}  // namespace
}  // namespace skerry::lockstep

int main(int argc, char** argv) {
  return skerry::lockstep::main(argc, argv);
}

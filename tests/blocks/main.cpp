// skerry-blocks: random programs on the translator and on the interpreter
// (engine/soft/block_rig.hpp).
//
//   skerry-blocks [--seed N] [--seconds S | --programs N] [--failures N] [--bits 64 | 32 | 16]
//   [--print]
//                 [--no-minimise]
//
// Prints each disagreement, and each crash, as the smallest program that still shows it. A seed
// names one program: --seed N --programs 1 runs it alone. Programs run in a child, so that the
// parent can tell of its death. Status: 0 agreed, 1 disagreed.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

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
  unsigned bits = 0;
};

/// Between parent and child.
struct Progress {
  u64 programs = 0;
  u64 runs = 0, faults = 0, discarded = 0, instructions = 0, steps = 0;
};

/// In a process of its own: 0 if f() gave true; else 1; 2 if the process died.
template <class F>
int apart(F f) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(f() ? 0 : 1);
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 2;
  return WEXITSTATUS(status);
}

bool quiet(bool on) {
  static const int error = ::dup(2);
  return ::dup2(on ? ::open("/dev/null", O_WRONLY) : error, 2) >= 0;
}

/// Prints the smallest program that fails as this one does.
void tell(const Options& options, u64 seed, const isa::FeatureSet& features, bool died) {
  Program p = Generator(seed, features, static_cast<u8>(options.bits)).make();
  fmt::print("\n{}, seed {}\n", died ? "DEATH" : "DISAGREE", seed);
  auto fails = [&](Program& q) {
    return apart([&] { return Rig().test(q).empty(); }) == (died ? 2 : 1);
  };
  quiet(true);
  const bool again = fails(p);
  if (again && options.small) p = minimise(std::move(p), fails);
  quiet(false);
  if (!again) fmt::print("(not when run alone)\n");
  apart([&] {
    fmt::print("{}", p.whole_text());
    std::fflush(stdout);
    fmt::print("{}\n", Rig().test(p));
    std::fflush(stdout);
    return true;
  });
}

int run(const Options& options) {
  void* shared =
      ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 2;
  Progress& progress = *new (shared) Progress;
  const isa::FeatureSet features = Rig().features();
  const Nanos start = HostClock::monotonic();
  const Nanos end = start + static_cast<Nanos>(options.seconds * 1e9);
  auto more = [&] {
    return options.programs ? progress.programs < options.programs : HostClock::monotonic() < end;
  };
  unsigned failed = 0;
  fmt::print("from seed {}\n", options.seed);
  while (more() && failed < options.failures) {
    const int status = apart([&] {
      Rig rig;
      while (more()) {
        Program p =
            Generator(options.seed + progress.programs, features, static_cast<u8>(options.bits))
                .make();
        ++progress.programs;
        if (options.print) fmt::print("{}\n", p.whole_text());
        std::fflush(stdout);
        if (!rig.test(p).empty()) return false;
        progress.runs += std::exchange(rig.runs, 0);
        progress.faults += std::exchange(rig.faults, 0);
        progress.discarded += std::exchange(rig.discarded, 0);
        progress.instructions += std::exchange(rig.instructions, 0);
        progress.steps += std::exchange(rig.steps, 0);
      }
      return true;
    });
    if (status == 0) break;
    ++failed;
    tell(options, options.seed + progress.programs - 1, features, status == 2);
  }
  const double seconds = static_cast<double>(HostClock::monotonic() - start) / 1e9;
  fmt::print(
      "{} programs in {:.1f} s ({:.0f}/s), {} failures; {} runs, {} with faults, {} given up, {} "
      "instructions, {} blocks compared\n",
      progress.programs, seconds, static_cast<double>(progress.programs) / seconds, failed,
      progress.runs, progress.faults, progress.discarded, progress.instructions, progress.steps);
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
  app.add_option("--bits", options.bits, "only code of so many bits: 64, 32 or 16")
      ->check(CLI::IsMember({64, 32, 16}));
  app.add_flag("--print", options.print, "print every program");
  app.add_flag("!--no-minimise", options.small, "print failing programs whole");
  CLI11_PARSE(app, argc, argv);
  return run(options);
}

// Lock-step: two machines that execute the same, until they do not.
//
// Both run from one event to the next (a fixed number of instructions), and there get the time,
// what is due, and input. Comparing happens at events, which is fast. When it finds a difference,
// both are built anew and run, without comparison, to the last event at which all was equal; from
// there A runs block by block, B instruction by instruction, and everything is compared after each
// block.
#pragma once

#include <deque>

#include "lockstep/compare.hpp"

namespace skerry::lockstep {

struct Options {
  Setup setup;
  schema::EngineChoice a = schema::EngineChoice::soft;
  schema::EngineChoice b = schema::EngineChoice::soft_interpreter;
  u64 event_every = 10'000;     ///< instructions
  u64 ram_every = 200;          ///< events between comparisons of memory and devices
  u64 limit = ~u64{0};          ///< position at which all ends
  double seconds = 1e6;         ///< guest time at which all ends
  u64 from = ~u64{0};           ///< compare every block from this position on
  bool every_block = false;     ///< from the start
  bool strict = false;          ///< undefined flags are compared as well
  std::optional<Plant> plant;   ///< in A
  bool print = false;           ///< print every block that is compared
  u64 jitter = 0;               ///< seed: B stops at random places between events, too; 0: no
  Nanos idle = 30'000'000'000;  ///< a guest that sleeps for so long, in its own time, has ended
  Ignore ignore;
  bool verbose = false;
};

struct Outcome {
  bool equal = true;
  std::string report;       ///< of the divergence
  std::string ending;       ///< how the guest ended, or "limit"
  std::optional<u32> code;  ///< of the debug-exit port
  u64 position = 0;
  Nanos time = 0;        ///< of the guest
  u64 compared = 0;      ///< states
  u64 ram_compared = 0;  ///< comparisons of memory
  u64 settled = 0;       ///< undefined flags and their images that were made equal
  std::string output;
};

/// The whole of it.
Result<Outcome> run(const Options& options);

}  // namespace skerry::lockstep

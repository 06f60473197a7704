// Side: one of the two machines that run in lock-step: a whole board with one vCPU on the software
// engine, whose time, interrupts and input come at fixed positions of its execution
// (engine/soft/deterministic.hpp). Has no threads but those of its disks, which are waited for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "board/board.hpp"
#include "engine/soft/deterministic.hpp"
#include "engine/soft/vcpu.hpp"
#include "lockstep/host.hpp"

namespace skerry::lockstep {

/// Text for the serial port, given at the first event at or after a moment of guest time.
struct Input {
  Nanos at;
  std::string text;
};

/// A fault put in on purpose, to see it found.
struct Plant {
  u64 at;                             ///< position
  std::optional<memory::Gpa> memory;  ///< a byte there; else RBX
};

struct Setup {
  schema::MachineSpec spec;  ///< disks are copied, so that each side has its own
  std::vector<Input> input;
  u64 seed = 1;  ///< of what the host's random generator says
};

class Side {
 public:
  static Result<std::unique_ptr<Side>> create(const Setup& setup, schema::EngineChoice engine);
  ~Side();

  enum class Status { running, halted, ended };

  u64 position() const { return core().position(); }
  u64 instructions() const { return core().instructions; }
  Status status() const { return status_; }
  /// Why it ended: "power off", "triple fault"...
  const std::string& ending() const { return ending_; }
  /// The debug-exit code it ended with.
  std::optional<u32> code() const { return code_; }

  /// Runs to the position, or to the end of one block if that is earlier; halting and ending stop
  /// it as well.
  void advance(u64 to, bool single_block = false);
  /// An event: time comes up to the position plus everything skipped, which grows by `skip`;
  /// whatever is due happens; input is given; a halted vCPU may wake.
  void event(Nanos skip);
  /// How far a halted machine's time may be moved: to its LAPIC timer's deadline, or nothing known.
  std::optional<Nanos> until_deadline();

  machine::CpuState state();
  machine::LapicState lapic() { return machine().cpu(0).lapic()->save(); }
  Nanos now() const { return clock_.now(); }
  u64 clock_reads() const { return clock_.reads(); }
  /// What the guest has printed.
  const std::string& output() const { return output_; }
  machine::Machine& machine() { return board_->machine(); }
  soft::Cpu& cpu() { return *cpu_; }
  void set_plant(const Plant& plant) { plant_ = plant; }
  /// Instruction bytes at the linear address, as many as are there.
  std::vector<u8> code_at(u64 linear, size_t length);
  /// Stores within a page; false if nothing is there.
  bool poke(u64 linear, std::span<const u8> bytes);
  /// The devices' states.
  state::Image devices();

 private:
  class Engine;
  class Vcpu;
  Side() = default;
  soft::Cpu::Core& core() const { return *cpu_->core; }
  bool dispatch(machine::Exit& exit);
  void look_for_request();
  void run(u64 to, bool single_block);
  void grow();
  void end(std::string why);
  bool wakes();
  void take_events();
  void give_input();

  Host host_;
  soft::DeterministicClock clock_;
  std::unique_ptr<board::Board> board_;
  soft::Cpu* cpu_ = nullptr;
  Vcpu* vcpu_ = nullptr;
  std::vector<Input> input_;
  size_t next_input_ = 0;
  std::vector<Fd> disks_;
  std::string output_;

  Status status_ = Status::running;
  bool interruptible_ = true;
  std::string ending_;
  std::optional<u32> code_;
  std::optional<Plant> plant_;
  Nanos skipped_ = 0;
};

}  // namespace skerry::lockstep

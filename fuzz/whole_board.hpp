// A whole board with two software vCPUs that never run, a disk in memory, a serial line and a
// console. No threads but the disk's; time stands still unless advance() moves it.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include "board/board.hpp"
#include "engine/soft/engine.hpp"
#include "fuzz/input.hpp"

namespace skerry::fuzz {

inline schema::MachineSpec board_spec() {
  static const int disk = [] {
    int fd = ::memfd_create("disk", MFD_CLOEXEC);
    if (fd < 0 || ::ftruncate(fd, 64 * KiB) < 0) std::abort();
    return fd;
  }();
  schema::MachineSpec spec;
  spec.memory.count = 4 * MiB;
  spec.cpus = 2;
  spec.serials = {{schema::SerialKind::none, ""}, {schema::SerialKind::none, ""}};
  spec.consoles = {{schema::SerialKind::none, ""}};
  spec.disks = {{"/proc/self/fd/" + std::to_string(disk), schema::DiskFormat::raw, false}};
  spec.debug_exit = true;
  return spec;
}

struct WholeBoard {
  WholeBoard() {
    auto sinks = [](size_t) { return board::LineSink{[](std::span<const u8>) {}, [] {}}; };
    auto built = board::Board::build(board_spec(), std::move(soft::create_engine().value()), sinks);
    if (!built) std::fprintf(stderr, "fuzz: %s\n", built.error().message().c_str());
    expect(built.has_value(), "a board can be built");
    board = std::move(*built);
    machine().set_boot([] { return machine::CpuState{}; });
    expect(machine().reset().has_value(), "a board can be reset");
    resume();
  }
  machine::Machine& machine() { return board->machine(); }
  void resume() {
    machine().resume();
    machine().host_clock().stop();
  }
  /// What is waiting on the event loop, without waiting for more.
  void run() {
    for (int i = 0; i < 3; ++i) machine().loop().run_once(0);
    for (unsigned i = 0; i < machine().cpus(); ++i) {
      machine::LocalApic& lapic = *machine().cpu(i).lapic();
      lapic.run_timer();
      if (lapic.deliverable()) (void)lapic.acknowledge();
    }
    (void)machine().wait_request(0);
  }
  void advance(Nanos by) {
    machine().host_clock().set(machine().clock().now() + by);
    machine().loop().reconsider_timers();
    run();
  }

  std::unique_ptr<board::Board> board;
};

}  // namespace skerry::fuzz

// Random code, tables and states at the highest privilege: nothing may happen to the process.
// $SKERRY_SEED varies what is tried, for longer runs.
#include <cstdlib>
#include <random>
#include <thread>

#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

class Hostile : public SoftTest {
 protected:
  static u64 seed() {
    const char* text = std::getenv("SKERRY_SEED");
    return text ? std::strtoull(text, nullptr, 0) : 20261120;
  }
  std::mt19937_64 random{seed()};

  void scribble(u64 at, u64 size) {
    for (u64 i = 0; i < size; i += 8) put<u64>(at + i, random());
  }
  /// A few thousand instructions at most, then back.
  void run_for_a_while(bool stepping) {
    ASSERT_TRUE(vcpu().set_debug({stepping, {}, {}}));
    std::atomic<bool> done{false};
    std::thread kicker([&] {
      while (!done) {
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        vcpu().kick();
      }
    });
    for (unsigned i = 0; i < (stepping ? 200u : 20u); ++i) {
      machine::Exit exit = vcpu().run();
      if (auto* port = std::get_if<machine::PortIo>(&exit)) {
        if (!port->write) vcpu().answer(random());
      } else if (auto* mmio = std::get_if<machine::Mmio>(&exit)) {
        if (!mmio->write) vcpu().answer(random());
      } else if (std::holds_alternative<machine::Shutdown>(exit)) {
        break;
      }
    }
    done = true;
    kicker.join();
  }
  void randomise_registers() {
    for (u64& r : state.gpr) {
      switch (random() % 4) {
        case 0: r = random(); break;
        case 1: r = random() % (16 * MiB); break;
        case 2: r = kMmioAt + random() % 4096; break;
        default: r = random() % 64;
      }
    }
  }
};

TEST_F(Hostile, random_code_in_long_mode) {
  for (unsigned n = 0; n < 300; ++n) {
    long_mode();
    randomise_registers();
    if (n % 3 == 0) user();
    scribble(kCodeAt, 4096);
    if (n % 5 == 0) scribble(kHandlersAt, 4096);
    state.rip = kCodeAt + random() % 4096;
    start();
    run_for_a_while(n % 2);
  }
}

TEST_F(Hostile, random_code_in_protected_and_real_mode) {
  for (unsigned n = 0; n < 300; ++n) {
    if (n % 2) {
      protected_mode();
      if (n % 3 == 0) segments(kUserCode32, kUserData);
      if (n % 5 == 0) state.rflags |= VM | IOPL, segments(kUserCode32, kUserData);
      state.rip = kCodeAt + random() % 4096;
    } else {
      real_mode();
    }
    randomise_registers();
    scribble(kCodeAt, 4096);
    scribble(0x7000, 4096);
    if (n % 3 == 0) scribble(kGdtAt, 256);
    start();
    run_for_a_while(n % 4 > 1);
  }
}

TEST_F(Hostile, random_tables_and_control_registers) {
  for (unsigned n = 0; n < 300; ++n) {
    long_mode();
    randomise_registers();
    for (unsigned i = 0; i < 64; ++i)
      put<u64>(kPagesAt + (random() % 0x3000 & ~7ull), random() % (32 * MiB));
    if (n % 2) scribble(kGdtAt, 512);
    if (n % 3 == 0) scribble(kIdtAt, 512);
    state.cr4 = (random() & 0x3107ff) | 0x20;
    state.dr7 = random() & 0xffffffff;
    for (u64& d : state.dr) d = kCodeAt + random() % 64;
    state.tr.limit = random() % 256;
    state.gdtr.base = n % 7 ? kGdtAt : random();
    for (auto& s : state.seg) s.attributes = random() & 0x1f0ff;
    // mov to control registers, loads of segments, far transfers, among random bytes
    scribble(kCodeAt, 256);
    for (unsigned i = 0; i < 60; i += 6) {
      static constexpr u8 kOpcodes[][3] = {
          {0x0f, 0x22, 0xc0}, {0x0f, 0x22, 0xd8}, {0x0f, 0x22, 0xe0}, {0x8e, 0xd0, 0x90},
          {0xff, 0x2e, 0x90}, {0x48, 0xcf, 0x90}, {0x0f, 0x00, 0xd8}, {0x0f, 0x30, 0x90},
          {0xcd, 0x80, 0x90}, {0x0f, 0x01, 0x16}};
      for (unsigned k = 0; k < 3; ++k) put<u8>(kCodeAt + i + k, kOpcodes[random() % 10][k]);
    }
    if (!vcpu().load(state)) continue;
    run_for_a_while(n % 2);
  }
}

}  // namespace
}  // namespace skerry::soft

// For tests of vector and x87 handlers: a 64-bit CPL 0 Cpu with paging, two writable pages at
// kData, nothing behind them. Instructions are run one at a time, from bytes.
#pragma once

#include <gtest/gtest.h>

#include "engine/soft/core.hpp"
#include "engine/soft/room.hpp"
#include "engine/soft/thunk.hpp"
#include "engine/soft/vector_state.hpp"

namespace skerry::soft::vector_testing {

constexpr u64 kData = 0x40'0000, kDataEnd = kData + 0x2000, kCodeAt = 0x1234'5678'9000;

class VectorTest : public ::testing::Test {
 protected:
  VectorTest() {
    auto memory = memory::GuestMemory::create(4 * MiB);
    EXPECT_TRUE(memory);
    memory_ = std::move(*memory);
    shared_.setup.memory = memory_.get();
    shared_.slots = memory_->slots();
    shared_.physical_mask = (u64{1} << 40) - 1;
    core_ = std::make_unique<Cpu::Core>(cpu, shared_, 0, nullptr);
    // 4-level tables for the two pages.
    put_entry(0x1000, 0, 0x2003);
    put_entry(0x2000, 0, 0x3003);
    put_entry(0x3000, kData >> 21, 0x4003);
    put_entry(0x4000, 0, 0x10003);
    put_entry(0x4000, 1, 0x11003);
    machine::CpuState& s = cpu.s;
    s.cr0 = 0x80050033;
    s.cr3 = 0x1000;
    s.cr4 = 0x40620;
    s.efer = 0xd01;
    s.xcr0 = supported_vector_features().xcr0;
    cpu.seg[machine::cs] = {0x10, 0, 0xffffffff, 0xa09b};
    cpu.seg[machine::ss] = {0x18, 0, 0xffffffff, 0xc093};
    cpu.seg[machine::ds] = {0x18, 0, 0xffffffff, 0xc093};
    cpu.update_mode();
    vector_state_loaded(s);
    set_fcw(cpu, 0x37f);
  }

  void put_entry(u64 table, u64 index, u64 value) {
    ASSERT_TRUE(memory_->write_value(table + 8 * index, value));
  }

  Flow run(std::initializer_list<int> code) {
    u8 bytes[15] = {};
    size_t n = 0;
    for (int b : code) bytes[n++] = static_cast<u8>(b);
    isa::Insn insn;
    EXPECT_EQ(isa::decode({bytes, n}, {cpu.code_bits, true}, insn), isa::DecodeStatus::ok);
    Op op{};
    prepare_op(op, insn);
    Handler handler = select_vector(insn);
    EXPECT_NE(handler, nullptr);
    cpu.rip = kCodeAt;
    cpu.gpr[17] = cpu.rip + insn.length;
    cpu.fault = {};
    return handler(cpu, op);
  }
  void ok(std::initializer_list<int> code) { EXPECT_EQ(run(code), Flow::next); }
  void fault(std::initializer_list<int> code, u8 vector) {
    EXPECT_EQ(run(code), Flow::fault);
    EXPECT_EQ(cpu.fault.vector, vector);
  }

  u8* data(u64 at) { return memory_->host(0x10000 + (at - kData), 1); }
  template <class T>
  T peek(u64 at) {
    return load<T>(data(at));
  }
  template <class T>
  void poke(u64 at, T value) {
    store(data(at), value);
  }
  /// The 64 bytes of a vector register.
  std::array<u8, 64> vector(u8 n) {
    std::array<u8, 64> v;
    read_vector(cpu, n, 64, v.data());
    return v;
  }
  void fill(u8 n, u8 value) {
    u8 v[64];
    std::memset(v, value, 64);
    write_vector(cpu, n, 64, v);
  }

 private:
  std::unique_ptr<memory::GuestMemory> memory_;
  Shared shared_;

 protected:
  Room room_;
  Cpu& cpu = room_.cpu();

 private:
  std::unique_ptr<Cpu::Core> core_;
};

inline bool host_has_avx2() {
  return __builtin_cpu_supports("avx2");
}

}  // namespace skerry::soft::vector_testing

// Directed tests of what the host comparison cannot reach: decimal adjustment, stack, control flow,
// strings.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "engine/soft/arith_wide.hpp"
#include "engine/soft/testing_guest.hpp"

namespace skerry::soft {
namespace {

using namespace machine;
using testing_guest::Guest;
using testing_guest::Regs;

class Handlers : public testing::Test {
 protected:
  void SetUp() override {
    memory = static_cast<u8*>(
        mmap(nullptr, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory, MAP_FAILED);
    guest.map(memory, 4 * 4096);
    regs.gpr[rsp] = address(0x800);
  }
  void TearDown() override { munmap(memory, 4 * 4096); }

  u64 address(u64 at) const { return reinterpret_cast<u64>(memory) + at; }
  template <class T>
  T at(u64 offset) const {
    return load<T>(memory + offset);
  }
  Flow run(std::vector<u8> bytes) {
    isa::Insn insn;
    bytes.resize(15);
    EXPECT_EQ(isa::decode(bytes, isa::DecodeMode{}, insn), isa::DecodeStatus::ok);
    Handler handler = select_integer(insn);
    EXPECT_TRUE(handler);
    return handler ? guest.run(insn, handler, regs) : Flow::fault;
  }

  Guest guest;
  Regs regs{};
  u8* memory = nullptr;
};

TEST(Arith, EveryCombinationOfFlagsSurvives) {
  for (unsigned n = 0; n < 64; ++n) {
    u64 flags = (n & 1 ? u64{CF} : 0) | (n & 2 ? u64{PF_} : 0) | (n & 4 ? u64{AF} : 0) |
                (n & 8 ? u64{ZF} : 0) | (n & 16 ? u64{SF} : 0) | (n & 32 ? u64{OF_} : 0);
    LazyFlags f;
    arith::from_eflags(f, flags);
    EXPECT_EQ(arith::to_eflags(f), flags);
    bool s = n & 16, o = n & 32, z = n & 8;
    EXPECT_EQ(arith::condition<12>(f), s != o);
    EXPECT_EQ(arith::condition<15>(f), s == o && !z);
    arith::set_cf(f, !(n & 1));
    EXPECT_EQ(arith::to_eflags(f), flags ^ CF);
    arith::Inc::flags<u8>(f, 0x7f, 0x80);
    EXPECT_EQ(arith::to_eflags(f), (n & 1 ? 0 : u64{CF}) | SF | OF_ | AF);
  }
  EXPECT_EQ(arith::to_eflags(LazyFlags{}), 0u);
}

TEST(Arith, DecimalAdjustment) {
  struct Case {
    u16 (*f)(LazyFlags&, u16);
    u64 flags;
    u16 in, out;
    u64 expected, mask;
  };
  constexpr u64 kSzapc = CF | PF_ | AF | ZF | SF;
  const Case cases[] = {
      {arith::daa, 0, 0x79 + 0x35, 0x14, CF | AF | PF_, kSzapc},  // 79 + 35 = 114
      {arith::daa, 0, 0x12, 0x12, PF_, kSzapc},
      {arith::daa, AF, 0x12, 0x18, AF | PF_, kSzapc},
      {arith::daa, CF, 0x12, 0x72, CF | PF_, kSzapc},
      {arith::das, AF, 0x47 - 0x35 + 6, 0x12, AF | PF_, kSzapc},
      {arith::das, CF | AF, 0x35 - 0x47 + 0x100, 0x88, CF | AF | SF | PF_, kSzapc},
      {arith::aaa, 0, 0x000b, 0x0101, CF | AF, CF | AF},
      {arith::aaa, 0, 0x00fb, 0x0201, CF | AF, CF | AF},
      {arith::aaa, 0, 0x0119, 0x0109, 0, CF | AF},
      {arith::aas, AF, 0x0203, 0x000d, CF | AF, CF | AF},
      {arith::aas, 0, 0x0209, 0x0209, 0, CF | AF},
  };
  for (const Case& c : cases) {
    LazyFlags f;
    arith::from_eflags(f, c.flags);
    EXPECT_EQ(c.f(f, c.in), c.out) << std::hex << c.in;
    EXPECT_EQ(arith::to_eflags(f) & c.mask, c.expected) << std::hex << c.in;
  }
  LazyFlags f;
  EXPECT_EQ(arith::aam(f, 0x1163, 10), 0x0909);
  EXPECT_EQ(arith::aad(f, 0x0909, 10), 0x0063);
}

TEST_F(Handlers, PushAndPop) {
  u64 sp = regs.gpr[rsp];
  regs.gpr[rax] = 0x1122334455667788;
  EXPECT_EQ(run({0x50}), Flow::next);  // push rax
  EXPECT_EQ(regs.gpr[rsp], sp - 8);
  EXPECT_EQ(at<u64>(0x7f8), 0x1122334455667788u);
  EXPECT_EQ(run({0x54}), Flow::next);  // push rsp: the old value
  EXPECT_EQ(at<u64>(0x7f0), sp - 8);
  EXPECT_EQ(run({0x6a, 0xff}), Flow::next);
  EXPECT_EQ(at<u64>(0x7e8), ~u64{0});
  EXPECT_EQ(run({0x66, 0x68, 0x34, 0x12}), Flow::next);
  EXPECT_EQ(regs.gpr[rsp], sp - 26);
  EXPECT_EQ(at<u16>(0x7e6), 0x1234);
  EXPECT_EQ(run({0x66, 0x5b}), Flow::next);  // pop bx
  EXPECT_EQ(regs.gpr[rbx], 0x1234u);
  EXPECT_EQ(run({0x8f, 0x04, 0x24}), Flow::next);  // pop [rsp]: at the new rsp
  EXPECT_EQ(at<u64>(0x7f0), ~u64{0});
  EXPECT_EQ(regs.gpr[rsp], sp - 16);
  regs.gpr[rsp] = sp - 8;
  EXPECT_EQ(run({0x5c}), Flow::next);  // pop rsp: the popped value
  EXPECT_EQ(regs.gpr[rsp], 0x1122334455667788u);
}

TEST_F(Handlers, EnterAndLeave) {
  u64 sp = regs.gpr[rsp];
  regs.gpr[rbp] = address(0x400);
  store<u64>(memory + 0x3f8, u64{0xaaaa});
  store<u64>(memory + 0x3f0, u64{0xbbbb});
  EXPECT_EQ(run({0xc8, 0x20, 0x00, 0x03}), Flow::next);  // enter 0x20, 3
  EXPECT_EQ(regs.gpr[rbp], sp - 8);
  EXPECT_EQ(regs.gpr[rsp], sp - 8 - 24 - 0x20);
  EXPECT_EQ(at<u64>(0x7f8), address(0x400));
  EXPECT_EQ(at<u64>(0x7f0), 0xaaaau);
  EXPECT_EQ(at<u64>(0x7e8), 0xbbbbu);
  EXPECT_EQ(at<u64>(0x7e0), sp - 8);
  EXPECT_EQ(run({0xc9}), Flow::next);
  EXPECT_EQ(regs.gpr[rsp], sp);
  EXPECT_EQ(regs.gpr[rbp], address(0x400));
}

TEST_F(Handlers, Branches) {
  u64 sp = regs.gpr[rsp];
  EXPECT_EQ(run({0xe8, 0x10, 0x00, 0x00, 0x00}), Flow::branch);  // call, from 0x1000
  EXPECT_EQ(guest.cpu->rip, 0x1015u);
  EXPECT_EQ(at<u64>(0x7f8), 0x1005u);
  EXPECT_EQ(run({0xc2, 0x08, 0x00}), Flow::branch);  // ret 8
  EXPECT_EQ(guest.cpu->rip, 0x1005u);
  EXPECT_EQ(regs.gpr[rsp], sp + 8);
  regs.gpr[rax] = 0x8000000000000000;
  regs.gpr[rsp] = sp;
  EXPECT_EQ(run({0xff, 0xe0}), Flow::fault);  // jmp rax, not canonical
  EXPECT_EQ(guest.cpu->fault.vector, GP);
  EXPECT_EQ(run({0xff, 0xd0}), Flow::fault);  // call rax
  EXPECT_EQ(regs.gpr[rsp], sp);
  EXPECT_EQ(run({0xeb, 0xfe}), Flow::branch);
  EXPECT_EQ(guest.cpu->rip, 0x1000u);
  regs.gpr[rcx] = 0x1'00000000;
  EXPECT_EQ(run({0x67, 0xe3, 0x10}), Flow::branch);  // jecxz
  EXPECT_EQ(run({0xe3, 0x10}), Flow::next);          // jrcxz
  regs.gpr[rcx] = 1;
  EXPECT_EQ(run({0xe2, 0x10}), Flow::next);  // loop
  EXPECT_EQ(regs.gpr[rcx], 0u);
  EXPECT_EQ(run({0x67, 0xe2, 0x10}), Flow::branch);
  EXPECT_EQ(regs.gpr[rcx], 0xffffffffu);
  regs.flags = 2 | ZF;
  EXPECT_EQ(run({0xe0, 0x10}), Flow::next);    // loopne
  EXPECT_EQ(run({0xe1, 0x10}), Flow::branch);  // loope
  EXPECT_EQ(regs.gpr[rcx], 0xfffffffdu);
}

TEST_F(Handlers, RepeatedMoves) {
  for (u32 i = 0; i < 4096; ++i) memory[i] = static_cast<u8>(i * 7 + i / 256);
  std::vector<u8> expected(memory, memory + 4096);
  regs.gpr[rsi] = address(10);
  regs.gpr[rdi] = address(4096 + 100);
  regs.gpr[rcx] = 3000;
  EXPECT_EQ(run({0xf3, 0xa4}), Flow::next);
  EXPECT_EQ(regs.gpr[rcx], 0u);
  EXPECT_EQ(regs.gpr[rsi], address(3010));
  EXPECT_EQ(regs.gpr[rdi], address(4096 + 3100));
  EXPECT_EQ(std::memcmp(memory + 4196, expected.data() + 10, 3000), 0);

  // A destination just above the source repeats the first elements, as the processor does.
  std::memcpy(memory, "abcd", 4);
  regs.gpr[rsi] = address(0);
  regs.gpr[rdi] = address(2);
  regs.gpr[rcx] = 100;
  EXPECT_EQ(run({0xf3, 0xa4}), Flow::next);
  for (u32 i = 0; i < 102; ++i) EXPECT_EQ(memory[i], "ab"[i % 2]);

  // Backwards, by words.
  for (u32 i = 0; i < 64; ++i) store<u16>(memory + 2 * i, static_cast<u16>(i));
  regs.flags = 2 | DF_;
  regs.gpr[rsi] = address(2 * 63);
  regs.gpr[rdi] = address(2 * 64);
  regs.gpr[rcx] = 64;
  EXPECT_EQ(run({0x66, 0xf3, 0xa5}), Flow::next);
  EXPECT_EQ(regs.gpr[rdi], address(0));
  for (u32 i = 0; i < 64; ++i) EXPECT_EQ(at<u16>(2 * i + 2), i);
}

TEST_F(Handlers, RepeatedStoresAndInterruption) {
  regs.gpr[rdi] = address(3);
  regs.gpr[rcx] = 500;
  regs.gpr[rax] = 0x0102030405060708;
  EXPECT_EQ(run({0xf3, 0x48, 0xab}), Flow::next);
  for (u32 i = 0; i < 500; ++i) ASSERT_EQ(at<u64>(3 + 8 * i), 0x0102030405060708u);
  EXPECT_EQ(memory[2], 0);
  EXPECT_EQ(memory[3 + 4000], 0);

  guest.cpu->attention.fetch_or(1);
  regs.gpr[rcx] = 10;
  regs.gpr[rdi] = address(0);
  EXPECT_EQ(run({0xf3, 0xaa}), Flow::branch);  // gives way after one element
  EXPECT_EQ(guest.cpu->rip, 0x1000u);
  EXPECT_EQ(regs.gpr[rcx], 9u);
  EXPECT_EQ(regs.gpr[rdi], address(1));
}

TEST_F(Handlers, Comparisons) {
  std::memcpy(memory, "hello, world", 13);
  std::memcpy(memory + 100, "hello, there", 13);
  regs.gpr[rsi] = address(0);
  regs.gpr[rdi] = address(100);
  regs.gpr[rcx] = 13;
  EXPECT_EQ(run({0xf3, 0xa6}), Flow::next);  // repe cmpsb
  EXPECT_EQ(regs.gpr[rcx], 13u - 8);
  EXPECT_EQ(regs.flags & (ZF | CF), 0u);  // 'w' > 't'
  regs.gpr[rdi] = address(0);
  regs.gpr[rcx] = ~u64{0};
  regs.gpr[rax] = 0;
  EXPECT_EQ(run({0xf2, 0xae}), Flow::next);  // repne scasb: strlen
  EXPECT_EQ(~regs.gpr[rcx] - 1, 12u);
  EXPECT_TRUE(regs.flags & ZF);
  regs.gpr[rcx] = 0;
  regs.flags = 2;
  EXPECT_EQ(run({0xf2, 0xae}), Flow::next);  // a count of 0 does nothing
  EXPECT_EQ(regs.flags & kArithmeticFlags, 0u);
  regs.gpr[rsi] = address(1);
  EXPECT_EQ(run({0xac}), Flow::next);  // lodsb
  EXPECT_EQ(regs.gpr[rax], u64{'e'});
}

TEST_F(Handlers, BitStringsReachBelowTheOperand) {
  memory[0x100 - 16] = 1;
  regs.gpr[rbx] = address(0x100);
  regs.gpr[rax] = -u64{128};
  EXPECT_EQ(run({0x48, 0x0f, 0xbb, 0x03}), Flow::next);  // btc [rbx], rax
  EXPECT_TRUE(regs.flags & CF);
  EXPECT_EQ(memory[0x100 - 16], 0);
}

}  // namespace
}  // namespace skerry::soft

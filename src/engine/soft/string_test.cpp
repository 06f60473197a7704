// Repeated string instructions against a model that takes them element by element: overlapping,
// backwards, across pages, into a page that is not there.
#include <random>

#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using machine::rax, machine::rcx, machine::rdi, machine::rsi;

constexpr u64 kLinear = (u64{1} << 30) + 0x10000, kSpan = 3 * 4096;
constexpr u64 kPhysical[3] = {0x500000, 0x300000, 0x700000};  // neighbours are no neighbours

enum class Kind : u8 { movs, stos, lods, cmps, scas };
struct Case {
  Kind kind = Kind::movs;
  unsigned size = 1;
  bool repne = false, down = false;
  u64 si = 0, di = 0, count = 0, ax = 0;
};
struct Outcome {
  u64 si, di, cx, ax;
  bool fault, zero, carry;
  std::vector<u8> memory;
};

/// SDM 2A, REP/REPE/REPZ/REPNE/REPNZ, word for word.
Outcome model(const Case& c, std::vector<u8> memory, u64 flags) {
  Outcome o{c.si, c.di, c.count, c.ax, false, (flags & ZF) != 0, (flags & CF) != 0, {}};
  auto here = [&](u64 at) { return at - kLinear <= kSpan - c.size; };
  auto get = [&](u64 at) {
    u64 v = 0;
    std::memcpy(&v, &memory[at - kLinear], c.size);
    return v;
  };
  const u64 step = c.down ? -u64{c.size} : c.size;
  const bool reads_si = c.kind != Kind::stos && c.kind != Kind::scas;
  const bool has_di = c.kind != Kind::lods, compares = c.kind >= Kind::cmps;
  while (o.cx != 0) {
    if ((reads_si && !here(o.si)) || (has_di && !here(o.di))) {
      o.fault = true;
      break;
    }
    const u64 a =
        c.kind == Kind::scas || c.kind == Kind::stos ? o.ax & byte_mask(c.size) : get(o.si);
    if (c.kind == Kind::movs || c.kind == Kind::stos)
      std::memcpy(&memory[o.di - kLinear], &a, c.size);
    if (c.kind == Kind::lods) o.ax = c.size == 4 ? a : (o.ax & ~byte_mask(c.size)) | a;
    if (reads_si) o.si += step;
    if (has_di) o.di += step;
    --o.cx;
    if (!compares) continue;
    const u64 b = get(o.di - step);
    o.zero = a == b, o.carry = a < b;
    if (o.zero == c.repne) break;
  }
  o.memory = std::move(memory);
  return o;
}

struct Strings : SoftTest {
  Strings() {
    long_mode();
    for (u64 i = 0; i < 3; ++i) map_page(kLinear + i * 4096, kPhysical[i], 3);
  }
  void check(const Case& c, const std::vector<u8>& memory_before) {
    for (u64 i = 0; i < 3; ++i)
      ASSERT_TRUE(memory->write(kPhysical[i], std::span(memory_before).subspan(i * 4096, 4096)));
    static constexpr u8 kOpcode[] = {0xa4, 0xaa, 0xac, 0xa6, 0xae};
    const u8 opcode = static_cast<u8>(kOpcode[static_cast<u8>(c.kind)] | (c.size != 1));
    std::vector<u8> bytes{static_cast<u8>(c.repne ? 0xf2 : 0xf3)};
    if (c.size == 2) bytes.insert(bytes.begin(), 0x66);
    if (c.size == 8) bytes.push_back(0x48);
    bytes.push_back(opcode);
    bytes.push_back(0xf4);
    ASSERT_TRUE(memory->write(kCodeAt, bytes));
    state.gpr[rsi] = c.si, state.gpr[rdi] = c.di, state.gpr[rcx] = c.count;
    state.gpr[rax] = c.ax;
    state.rflags = 2 | CF | (c.down ? u64{DF_} : 0);
    start();
    const u64 at = run_to_halt();
    const Outcome want = model(c, memory_before, state.rflags);
    const u64 end = kCodeAt + bytes.size() - 1;
    EXPECT_EQ(at, want.fault ? kHandlersAt + 16 * PF : end);
    EXPECT_EQ(reg(rsi), want.si);
    EXPECT_EQ(reg(rdi), want.di);
    EXPECT_EQ(reg(rcx), want.cx);
    EXPECT_EQ(reg(rax), want.ax);
    // A comparison that faults later has set the flags of the elements before.
    const u64 flags = want.fault ? stack<u64>(3) : cpu().eflags();
    if (c.kind >= Kind::cmps) {
      EXPECT_EQ((flags & ZF) != 0, want.zero);
      EXPECT_EQ((flags & CF) != 0, want.carry);
    } else {
      EXPECT_EQ(flags & kArithmeticFlags, CF);
    }
    std::vector<u8> after(kSpan);
    for (u64 i = 0; i < 3; ++i)
      ASSERT_TRUE(memory->read(kPhysical[i], std::span(after).subspan(i * 4096, 4096)));
    EXPECT_EQ(after, want.memory);
  }
};

TEST_F(Strings, do_as_their_model_does) {
  std::mt19937_64 random(5);
  auto any = [&](u64 n) { return random() % n; };
  std::vector<u8> before(kSpan);
  for (int n = 0; n < 3000 && !HasFailure(); ++n) {
    Case c;
    c.kind = static_cast<Kind>(any(5));
    c.size = 1u << any(4);
    c.repne = c.kind >= Kind::cmps && any(2);
    c.down = any(3) == 0;
    // Few different values, in runs, so that comparisons get somewhere.
    const u64 run = 1 + any(any(2) ? 4 : 6000);
    const u8 values = static_cast<u8>(1 + any(3));
    for (u64 i = 0; i < kSpan; ++i)
      before[i] = i % run || i == 0 ? before[i ? i - 1 : 0] : static_cast<u8>(any(values));
    auto place = [&] { return kLinear + any(kSpan - 8); };
    c.si = place();
    c.di = any(3) ? place() : c.si + any(40) - 20;  // overlapping
    if (any(2)) c.si &= ~u64{7}, c.di &= ~u64{7};
    if (c.kind == Kind::cmps && any(2)) {  // equal for long
      const u64 half = kSpan / 2;
      std::copy_n(before.begin(), half, before.begin() + half);
      c.si = kLinear + any(half - 8), c.di = c.si + half;
      if (any(2)) before[half + any(half)] ^= 1;
    }
    c.count = any(any(2) ? 40 : 9000);
    u64 value = any(values);
    c.ax = any(3) ? value * 0x0101010101010101 : random();
    check(c, before);
    if (HasFailure())
      ADD_FAILURE() << "case " << n << ": kind " << static_cast<int>(c.kind) << " size " << c.size
                    << " repne " << c.repne << " down " << c.down << std::hex << " si " << c.si
                    << " di " << c.di << " count " << c.count << " ax " << c.ax;
  }
}

// With 16-bit addresses the offset wraps in the middle of a page's worth.
TEST_F(Strings, offsets_wrap_at_the_address_size) {
  state = {};
  state.rflags = 2;
  protected_mode();
  put<u8>(0xffff, 0x11);
  put<u8>(0x0, 0x22);
  put<u8>(0x1, 0x33);
  state.gpr[rsi] = 0xffff, state.gpr[rdi] = 0x9000, state.gpr[rcx] = 3;
  code(kCodeAt, {0x67, 0xf3, 0xa4, 0xf4});  // rep movsb, 16-bit addresses
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 3);
  EXPECT_EQ(get<u32>(0x9000) & 0xffffff, 0x332211u);
  EXPECT_EQ(reg(rsi), 2u);
  state.rflags |= DF_;
  state.gpr[rsi] = 1, state.gpr[rdi] = 0x9102, state.gpr[rcx] = 3;
  start();
  EXPECT_EQ(run_to_halt(), kCodeAt + 3);
  EXPECT_EQ(get<u32>(0x9100) & 0xffffff, 0x332211u);
  EXPECT_EQ(reg(rsi), 0xfffeu);
}

}  // namespace
}  // namespace skerry::soft

// The oracle is the host's own processor: each encoding of the integer tables runs there and
// through its handler, on the same registers, flags and memory, and everything defined must come
// out the same.
#include <sys/mman.h>
#include <ucontext.h>
#include <csignal>
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "engine/soft/testing_guest.hpp"
#include "isa/row.hpp"

namespace skerry::soft {
namespace {

using isa::OperandKind;
using isa::Sem;
using testing_guest::Guest;
using testing_guest::Regs;

// ---- running an instruction on the host

volatile u64 g_recover = 0;  ///< where to go on after a signal, 0: none expected
volatile int g_signal = 0;

void on_signal(int signal, siginfo_t*, void* context) {
  auto* c = static_cast<ucontext_t*>(context);
  if (g_recover == 0) _exit(99);
  g_signal = signal;
  c->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(g_recover);
}

/// A page of code that loads the registers, runs one instruction and stores them again.
class HostRunner {
 public:
  HostRunner() {
    page_ = static_cast<u8*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO;
    for (int s : kSignals) sigaction(s, &action, &before_[s]);
  }
  bool ok() const { return page_ != MAP_FAILED; }
  ~HostRunner() {
    for (int s : kSignals) sigaction(s, &before_[s], nullptr);  // host thunks have handlers too
    munmap(page_, 8192);
  }

  /// The signal it raised, or 0.
  int run(std::span<const u8> insn, Regs& regs) {
    u8* p = page_;
    auto* in = reinterpret_cast<Regs*>(page_ + 4096);
    auto* out = in + 1;
    u64* saved = reinterpret_cast<u64*>(out + 1);
    auto emit = [&](std::initializer_list<int> bytes) {
      for (int b : bytes) *p++ = static_cast<u8>(b);
    };
    auto disp = [&](const void* to) {
      store<u32>(p, static_cast<u32>(static_cast<const u8*>(to) - (p + 4)));
      p += 4;
    };
    auto move = [&](bool to_memory, int reg, const void* at) {
      emit({reg >= 8 ? 0x4c : 0x48, to_memory ? 0x89 : 0x8b, 0x05 | (reg & 7) << 3});
      disp(at);
    };
    constexpr int kCallee[] = {3, 5, 12, 13, 14, 15};
    for (int i = 0; i < 6; ++i) move(true, kCallee[i], saved + i);
    emit({0xff, 0x35});
    disp(&in->flags);
    emit({0x9d});
    for (int r = 0; r < 16; ++r)
      if (r != 4) move(false, r, &in->gpr[r]);
    std::memcpy(p, insn.data(), insn.size());
    p += insn.size();
    g_recover = reinterpret_cast<u64>(p);
    for (int r = 0; r < 16; ++r)
      if (r != 4) move(true, r, &out->gpr[r]);
    emit({0x9c, 0x8f, 0x05});
    disp(&out->flags);
    for (int i = 0; i < 6; ++i) move(false, kCallee[i], saved + i);
    emit({0xfc, 0xc3});
    *in = regs;
    g_signal = 0;
    reinterpret_cast<void (*)()>(page_)();
    g_recover = 0;
    out->gpr[4] = regs.gpr[4];
    regs = *out;
    return g_signal;
  }

 private:
  static constexpr int kSignals[] = {SIGFPE, SIGILL, SIGSEGV};
  struct sigaction before_[32];
  u8* page_;
};

constexpr u64 kPage = 4096;  ///< of memory to work on

// ---- choosing what to run

bool host_has(isa::Feature f) {
  switch (f) {
    case isa::Feature::base: return true;
    case isa::Feature::bmi1: return __builtin_cpu_supports("bmi");
    case isa::Feature::bmi2: return __builtin_cpu_supports("bmi2");
    case isa::Feature::lzcnt: return __builtin_cpu_supports("lzcnt");
    case isa::Feature::popcnt: return __builtin_cpu_supports("popcnt");
    case isa::Feature::sse4_2: return __builtin_cpu_supports("sse4.2");
    default: return true;  // SIGILL tells; these have no older meaning
  }
}

/// Not here: what moves the stack pointer or RIP, depends on memory we do not control, or is
/// random.
bool testable(const isa::Insn& i) {
  switch (i.sem) {
    case Sem::push:
    case Sem::pop:
    case Sem::pushf:
    case Sem::popf:
    case Sem::enter:
    case Sem::leave:
    case Sem::xlat:
    case Sem::movdir64b:
    case Sem::cli:
    case Sem::sti:
    case Sem::std:
    case Sem::rdssp: return false;
    default: break;
  }
  if (i.cls != isa::Class::integer) return false;
  if (i.map == 0 && i.opcode >= 0xa0 && i.opcode <= 0xa3) return false;
  if (i.memory_operand() && (i.mem.base >= 16 || i.mem.base == machine::rsp || i.mem.index < 16 ||
                             i.mem.segment >= 4 || i.addrsize != 8 || i.op[1].reg == i.mem.base))
    return false;
  for (const isa::Operand& o : i.op) {
    if (o.kind == OperandKind::segment) return false;
    if (o.kind == OperandKind::gpr && o.reg == machine::rsp) return false;
  }
  return true;
}

/// The SDM leaves the result open: BSWAP of 16 bits, SHLD and SHRD of 16 bits by more than 16.
bool undefined_result(const isa::Insn& i, const Regs& before) {
  if (i.opsize != 2) return false;
  if (i.sem == Sem::bswap) return true;
  u64 count = i.opcode & 1 ? before.gpr[1] : i.imm;
  return (i.sem == Sem::shld || i.sem == Sem::shrd) && (count & 31) > 16;
}

/// Flags that must agree.
u64 compared_flags(const isa::Insn& insn) {
  if (getenv("SKERRY_TEST_UNDEFINED_FLAGS")) return kArithmeticFlags;
  return kArithmeticFlags & ~u64{isa::row_of(insn).flags.undefined};
}

class HostComparison : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(runner.ok());
    memory = static_cast<u8*>(
        mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory, MAP_FAILED);
    guest.map(memory, kPage);
  }
  void TearDown() override { munmap(memory, kPage); }

  u64 interesting() {
    switch (random() % 8) {
      case 0: return 0;
      case 1: return ~u64{0};
      case 2: return u64{1} << (random() % 64);
      case 3: return (u64{1} << (random() % 64)) - 1;
      case 4: return random() % 70;
      case 5: return -(random() % 70);
      case 6: return random() & 0xffffffff;
      default: return random();
    }
  }

  /// A random instruction of the given opcode, or nothing.
  bool make(int map, int opcode, int vex_map, std::vector<u8>& bytes, isa::Insn& insn) {
    bytes.clear();
    static constexpr int kPrefix[] = {0, 0, 0, 0x66, 0xf2, 0xf3};
    bool memory_form = random() % 2;
    u8 modrm = static_cast<u8>(random());
    modrm = memory_form ? static_cast<u8>((modrm & 0x38) | 0x86) : static_cast<u8>(modrm | 0xc0);
    if (vex_map == 0) {
      if (int p = kPrefix[random() % 6]) bytes.push_back(static_cast<u8>(p));
      if (memory_form && random() % 4 == 0) bytes.push_back(0xf0);
      if (random() % 2) bytes.push_back(static_cast<u8>(0x40 | (random() & 0xd)));
      if (map >= 1) bytes.push_back(0x0f);
      if (map == 2) bytes.push_back(0x38);
      if (map == 3) bytes.push_back(0x3a);
    } else {
      bytes.push_back(0xc4);
      bytes.push_back(static_cast<u8>((random() & 0xe0) | 0x40 | vex_map));
      bytes.push_back(static_cast<u8>(random() & 0xfb));
    }
    bytes.push_back(static_cast<u8>(opcode));
    bytes.push_back(modrm);
    for (int i = 0; i < 15; ++i) bytes.push_back(static_cast<u8>(random()));
    if (isa::decode(bytes, isa::DecodeMode{}, insn) != isa::DecodeStatus::ok) return false;
    bytes.resize(insn.length);
    return testable(insn) && host_has(isa::row_of(insn).feature);
  }

  /// Registers for it: random, but a memory operand points into `memory`.
  Regs registers(const isa::Insn& insn) {
    Regs regs;
    for (u64& r : regs.gpr) r = interesting();
    regs.flags = 0x202 | (random() & kArithmeticFlags);
    if (const isa::Operand* m = insn.memory_operand(); m && m->size != 0) {
      u64 at = reinterpret_cast<u64>(memory) + 2000 + random() % 128;
      if (m->size == 16) at &= ~u64{15};
      if (insn.sem == Sem::bt || insn.sem == Sem::bts || insn.sem == Sem::btr ||
          insn.sem == Sem::btc) {
        if (insn.op[1].kind == OperandKind::gpr)
          regs.gpr[insn.op[1].reg] =
              random() % 16384 - 8192 + (insn.opsize == 8 ? 0 : interesting() << (8 * insn.opsize));
      }
      regs.gpr[insn.mem.base] = at - static_cast<u64>(insn.mem.disp);
    }
    return regs;
  }

  HostRunner runner;
  Guest guest;
  u8* memory = nullptr;
  std::mt19937_64 random{20261120};
};

std::string show(std::span<const u8> bytes, const isa::Insn& insn) {
  std::string s(isa::row_of(insn).names);
  for (u8 b : bytes) s += fmt::format(" {:02x}", b);
  return s;
}

TEST_F(HostComparison, EveryIntegerEncoding) {
  std::map<Sem, u64> seen;
  std::vector<u8> bytes, original(kPage), host_memory(kPage), noise(2 * kPage);
  for (u8& b : noise) b = static_cast<u8>(random());
  u64 cases = 0;
  int failures = 0;
  auto try_opcode = [&](int map, int opcode, int vex_map) {
    isa::Insn insn;
    int chosen = 0;
    for (int n = 0; n < 600 && chosen < 30 && failures < 20; ++n) {
      if (!make(map, opcode, vex_map, bytes, insn)) continue;
      ++chosen;
      Handler handler = select_integer(insn);
      if (!handler) {
        ADD_FAILURE() << "no handler: " << show(bytes, insn);
        ++failures;
        return;
      }
      for (int k = 0; k < 40 && failures < 20; ++k) {
        Regs before = registers(insn);
        std::memcpy(original.data(), &noise[random() % kPage], kPage);
        if (random() % 2) {  // give CMPXCHG a chance
          u64 at = insn.memory_operand()
                       ? before.gpr[insn.mem.base] + static_cast<u64>(insn.mem.disp)
                       : 0;
          u64 offset = at - reinterpret_cast<u64>(memory);
          if (offset < original.size() - 16) {
            store<u64>(&original[offset], before.gpr[0]);
            if (insn.opsize == 8) store<u64>(&original[offset + 8], before.gpr[2]);
          }
        }
        Regs host = before, ours = before;
        std::memcpy(memory, original.data(), original.size());
        int signal = runner.run(bytes, host);
        if (signal == SIGILL) break;
        std::memcpy(host_memory.data(), memory, original.size());
        std::memcpy(memory, original.data(), original.size());
        if (signal == SIGFPE) host = before;
        Flow flow = guest.run(insn, handler, ours);
        ++cases;
        ++seen[insn.sem];
        u64 mask = compared_flags(insn);
        bool same = std::equal(host.gpr, host.gpr + 16, ours.gpr) &&
                    (host.flags & mask) == (ours.flags & mask) &&
                    std::memcmp(memory, host_memory.data(), original.size()) == 0;
        if (signal == SIGFPE)
          same = same && flow == Flow::fault && guest.cpu->fault.vector == DE;
        else
          same = same && flow == Flow::next;
        if (same || undefined_result(insn, before)) continue;
        ++failures;
        std::string report = show(bytes, insn);
        for (int r = 0; r < 16; ++r)
          if (host.gpr[r] != ours.gpr[r] || before.gpr[r] != host.gpr[r])
            report += fmt::format("\n  gpr{} before {:x} host {:x} ours {:x}", r, before.gpr[r],
                                  host.gpr[r], ours.gpr[r]);
        report += fmt::format("\n  flags before {:x} host {:x} ours {:x} mask {:x} rcx {:x}",
                              before.flags, host.flags, ours.flags, mask, before.gpr[1]);
        if (std::memcmp(memory, host_memory.data(), original.size()) != 0) report += "\n  memory";
        ADD_FAILURE() << report << "\n  signal " << signal << " flow " << static_cast<int>(flow);
      }
    }
  };
  for (int opcode = 0; opcode < 256; ++opcode) {
    for (int map = 0; map < 4; ++map) try_opcode(map, opcode, 0);
    for (int map = 1; map < 4; ++map) try_opcode(0, opcode, map);
  }
  EXPECT_GT(cases, 50000u);
  for (Sem s : {Sem::add,   Sem::adc,   Sem::sbb,     Sem::cmp,       Sem::inc,        Sem::neg,
                Sem::shl,   Sem::rcl,   Sem::rcr,     Sem::shld,      Sem::shrd,       Sem::mul,
                Sem::imul,  Sem::div,   Sem::idiv,    Sem::bt,        Sem::bts,        Sem::bsf,
                Sem::bsr,   Sem::xadd,  Sem::cmpxchg, Sem::cmpxchg8b, Sem::cmpxchg16b, Sem::cmovcc,
                Sem::setcc, Sem::movzx, Sem::movsxd,  Sem::lea,       Sem::bswap,      Sem::cbw,
                Sem::cwd,   Sem::lahf,  Sem::sahf,    Sem::xchg})
    EXPECT_GT(seen[s], 100u) << static_cast<int>(s);
}

}  // namespace
}  // namespace skerry::soft

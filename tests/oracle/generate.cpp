#include "oracle/generate.hpp"

#include <cpuid.h>

#include <algorithm>
#include <bit>

#include "base/bits.hpp"
#include "engine/soft/thunk.hpp"
#include "isa/generate.hpp"

namespace skerry::oracle {

using isa::Class;
using isa::Insn;
using isa::Method;
using isa::OperandKind;
using isa::Row;
using isa::Sem;
using machine::rax;
using machine::rbp;
using machine::rbx;
using machine::rcx;
using machine::rdi;
using machine::rdx;
using machine::rsi;
using machine::rsp;

namespace {

bool host_has(isa::Feature f) {
  if (f == isa::Feature::base) return true;
  const isa::FeatureInfo& i = isa::feature_info(f);
  u32 r[4] = {};
  if (!__get_cpuid_count(i.leaf, i.subleaf, &r[0], &r[1], &r[2], &r[3])) return false;
  if (!(r[static_cast<unsigned>(i.reg)] >> i.bit & 1)) return false;
  const soft::VectorFeatures& v = soft::supported_vector_features();
  u32 ours = ~u32{0};
  if (i.leaf == 1) ours = i.reg == isa::CpuidReg::ecx ? v.leaf1_ecx : v.leaf1_edx;
  if (i.leaf == 7 && i.subleaf == 0)
    ours = i.reg == isa::CpuidReg::ebx   ? v.leaf7_ebx
           : i.reg == isa::CpuidReg::ecx ? v.leaf7_ecx
                                         : v.leaf7_edx;
  if (i.leaf == 7 && i.subleaf == 1) ours = v.leaf7_1_eax;
  return ours >> i.bit & 1;
}

// ---- values
// ----------------------------------------------------------------------------------------

/// Fills in c.code and c.insn.
bool encode(const Row& row, Random& r, Case& c) {
  size_t length = 0;
  if (!isa::random_instance(row, r.instances(), {64, true}, c.code, length)) return false;
  if (isa::decode({c.code, 15}, {64, true}, c.insn) != isa::DecodeStatus::ok) return false;
  return &isa::row_of(c.insn) == &row;
}

/// Changes the displacement of the memory operand (disp32) or of a relative branch in place.
void patch_displacement(Case& c, u32 at, unsigned size, i64 value) {
  if (size == 1)
    store<i8>(c.code + at, static_cast<i8>(value));
  else
    store<i32>(c.code + at, static_cast<i32>(value));
  Insn again{};
  if (isa::decode({c.code, 15}, {64, true}, again) == isa::DecodeStatus::ok) c.insn = again;
}

u64 integer_value(Random& r) {
  static constexpr u64 kDirected[] = {0,
                                      1,
                                      2,
                                      ~u64{0},
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      0x7fffffffffffffff,
                                      0x8000000000000000,
                                      31,
                                      32,
                                      63,
                                      64,
                                      0x0123456789abcdef};
  u64 v = r.chance(50) ? r.pick(kDirected) : r.next();
  if (r.chance(20)) v >>= r.below(64);
  return v;
}

u32 float_value(Random& r) {
  static constexpr u32 kDirected[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                      0xff800000, 0x7fc00000, 0x7f800001, 0xffc12345, 0x00000001,
                                      0x807fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0x4effffff,
                                      0x3f000000, 0x40490fdb, 0xcf000000, 0x5f000000, 0x3fffffff};
  return r.chance(60) ? r.pick(kDirected) : static_cast<u32>(r.next());
}

u64 double_value(Random& r) {
  static constexpr u64 kDirected[] = {0,
                                      0x8000000000000000,
                                      0x3ff0000000000000,
                                      0xbff0000000000000,
                                      0x7ff0000000000000,
                                      0xfff0000000000000,
                                      0x7ff8000000000000,
                                      0x7ff0000000000001,
                                      0x0000000000000001,
                                      0x800fffffffffffff,
                                      0x0010000000000000,
                                      0x7fefffffffffffff,
                                      0x41dfffffffc00000,
                                      0x41e0000000000000,
                                      0xc1e0000000000000,
                                      0x43e0000000000000,
                                      0x3fe0000000000000,
                                      0x400921fb54442d18,
                                      0x36a0000000000000,
                                      0x47efffffe0000000};
  return r.chance(60) ? r.pick(kDirected) : r.next();
}

void vector_bytes(Random& r, u8* to, unsigned size) {
  unsigned kind = r.below(4);
  for (unsigned i = 0; i < size; i += 8) {
    u64 v = kind == 0   ? r.next()
            : kind == 1 ? integer_value(r)
            : kind == 2 ? double_value(r)
                        : static_cast<u64>(float_value(r)) << 32 | float_value(r);
    store(to + i, v);
  }
}

void x87_value(Random& r, u8* to) {
  static constexpr u16 kExponents[] = {0,      1,      0x3fff, 0x3ffe, 0x4000,
                                       0x401e, 0x403e, 0x7ffe, 0x7fff};
  static constexpr u64 kMantissas[] = {
      0, u64{1} << 63,       ~u64{0},           u64{3} << 62, (u64{1} << 63) | 1,
      1, 0x7fffffffffffffff, 0xc90fdaa22168c235};
  u64 mantissa = r.chance(60) ? r.pick(kMantissas) : r.next() | (r.chance(80) ? u64{1} << 63 : 0);
  u16 exponent = r.chance(50)   ? r.pick(kExponents)
                 : r.chance(60) ? static_cast<u16>(0x3fe0 + r.below(0x60))
                                : static_cast<u16>(r.below(0x8000));
  if (r.chance(40)) exponent |= 0x8000;
  std::memset(to, 0, 16);
  store(to, mantissa);
  store(to + 8, exponent);
}

void vector_state(Random& r, u8* x) {
  std::memset(x, 0, machine::kXsaveSize);
  u64 host = soft::supported_vector_features().xcr0;
  static constexpr u16 kControl[] = {0x37f, 0x37f, 0x37f, 0x37f, 0x27f, 0x7f, 0xf7f, 0xb7f, 0x77f};
  u16 control = r.pick(kControl);
  if (r.chance(15)) control = static_cast<u16>(control & ~r.below(64));
  u16 status = static_cast<u16>(r.below(8) << 11 | (r.next() & 0x4700));
  if (r.chance(20)) status |= static_cast<u16>(r.below(128));
  if (!r.chance(5) && status & ~control & 0x3f) control |= 0x3f;
  if (status & ~control & 0x3f) status |= 0x8080;
  store(x, control);
  store(x + 2, status);
  static constexpr u8 kTags[] = {0xff, 0xff, 0xff, 0x00, 0x7f, 0xf0};
  x[4] = r.chance(70) ? r.pick(kTags) : static_cast<u8>(r.next());
  u32 mxcsr = 0x1f80;
  if (r.chance(30)) mxcsr = (mxcsr & ~0x6000u) | r.below(4) << 13;
  if (r.chance(15)) mxcsr |= r.below(2) << 15 | r.below(2) << 6;
  if (r.chance(10)) mxcsr &= ~(r.below(64) << 7);
  if (r.chance(30)) mxcsr |= r.below(64);
  store(x + 24, mxcsr);
  store<u32>(x + 28, 0xffff);
  for (unsigned i = 0; i < 8; i++) x87_value(r, x + 32 + 16 * i);
  for (unsigned i = 0; i < 16; i++) vector_bytes(r, x + 160 + 16 * i, 16);
  if (host & 4)
    for (unsigned i = 0; i < 16; i++) vector_bytes(r, x + 576 + 16 * i, 16);
  if (host & 0xe0) {
    for (unsigned i = 0; i < 8; i++)
      store(x + 1088 + 8 * i, r.chance(15) ? 0 : r.chance(20) ? ~u64{0} : r.next());
    for (unsigned i = 0; i < 16; i++) vector_bytes(r, x + 1152 + 32 * i, 32);
    for (unsigned i = 0; i < 16; i++) vector_bytes(r, x + 1664 + 64 * i, 64);
  }
}

// ---- addresses
// -------------------------------------------------------------------------------------

/// A target for an operand of `size` bytes.
u64 target(Random& r, unsigned size) {
  u64 at;
  switch (u32 kind = r.below(100); kind) {
    case 0 ... 9: at = kData + kPage - r.below(size + 2); break;  // across two pages
    case 10 ... 13: at = kDataEnd - r.below(size + 2); break;     // over the end
    case 14 ... 17: at = kReadOnly + r.below(kPage); break;
    case 18: at = kDataEnd + r.below(kPage); break;  // not present
    case 19:
      if (r.chance(50)) return 0x8000'0000'0000 + r.below(64);  // not canonical
      at = kReadOnly - r.below(size + 2);
      break;
    default: at = kData + 1024 + r.below(kDataSize - 2048); break;
  }
  if (r.chance(60)) at &= ~u64{63};
  return at;
}

unsigned memory_size(const Insn& insn) {
  const isa::Operand* m = insn.memory_operand();
  return m && m->size ? m->size : 8;
}

/// The values of base and index (or of the displacement) that make the operand lie at `at`; may
/// move `at` a little. False: not possible.
bool aim(Case& c, Random& r, u64& at) {
  Insn& insn = c.insn;
  const isa::Memory& m = insn.mem;
  auto& gpr = c.in.regs.gpr;
  u32 disp_at = insn.modrm_at + 1u;
  bool far = at > 0x7fff'ffff;
  if (far && (insn.addrsize == 4 || m.base >= isa::Memory::kNone)) return false;
  if (m.base == isa::Memory::kRip) {
    patch_displacement(c, disp_at, 4, static_cast<i64>(at - (kInsnAt + insn.length)));
    return true;
  }
  bool none = m.base == isa::Memory::kNone;
  if (none && m.index == isa::Memory::kNone) {
    if (insn.op[0].kind == OperandKind::memory || insn.op[1].kind == OperandKind::memory ||
        insn.memory_operand()) {
      if (!insn.has_modrm) return false;  // moffs: see generate()
      patch_displacement(c, disp_at + 1, 4, static_cast<i64>(at));
    }
    return true;
  }
  u64 d = static_cast<u64>(m.disp);
  u64 noise = insn.addrsize == 4 ? r.next() << 32 : 0;
  if (m.vsib) {  // indices are chosen in generate(); base in the middle of the data
    if (none) return false;
    gpr[m.base] = (kData - d) | noise;
    return true;
  }
  if (none) {
    u64 index = (at - d) >> m.scale;
    at = (index << m.scale) + d;
    gpr[m.index] = index + (m.scale || insn.addrsize == 4 ? 0 : noise);
    return true;
  }
  if (m.index == isa::Memory::kNone) {
    gpr[m.base] = (at - d) + noise;
    return true;
  }
  if (m.index == m.base) {
    u64 factor = 1 + (u64{1} << m.scale), v = (at - d) / factor;
    if (static_cast<i64>(at - d) < 0) return false;
    at = v * factor + d;
    gpr[m.base] = v;
    return true;
  }
  u64 index = static_cast<u64>(static_cast<i64>(r.below(512)) - 256);
  gpr[m.index] = index;
  gpr[m.base] = at - d - (index << m.scale) + noise;
  return true;
}

/// Index vector of a gather or scatter: every element at its own target.
void aim_vector(Case& c, Random& r) {
  const Insn& insn = c.insn;
  u8* x = c.in.xsave.data();
  u8 n = insn.mem.index;
  std::string_view name = isa::row_of(insn).names;
  size_t er = name.find("er");
  bool wide = er != std::string_view::npos && name[er + 2] == 'q';
  bool faulty = r.chance(25);
  for (unsigned i = 0; i < 16; i++) {
    u64 at = faulty && r.chance(15) ? target(r, 8) : kData + 64 + r.below(kDataSize - 128);
    i64 index = static_cast<i64>(at - kData) >> insn.mem.scale;
    u8 element[8];
    store<i64>(element, index);
    unsigned size = wide ? 8 : 4, offset = i * size;
    if (offset >= 64) break;
    u8* to = n >= 16       ? x + 1664 + 64 * (n - 16) + offset
             : offset < 16 ? x + 160 + 16 * n + offset
             : offset < 32 ? x + 576 + 16 * n + offset - 16
                           : x + 1152 + 32 * n + offset - 32;
    std::memcpy(to, element, size);
  }
}

void put_data(Case& c, u64 at, const u8* from, unsigned size) {
  for (unsigned i = 0; i < size; i++)
    if (at + i >= kData && at + i < kDataEnd) c.data[at + i - kData] = from[i];
}

/// Directed values where the instruction will read.
void fill_memory(Case& c, Random& r, u64 at, unsigned size) {
  u8 bytes[128];
  if (c.insn.cls == Class::x87 && size == 10) {
    u8 v[16];
    x87_value(r, v);
    put_data(c, at, v, 10);
    return;
  }
  size = std::min<unsigned>((size + 7) & ~7u, sizeof bytes);
  vector_bytes(r, bytes, size);
  if (c.insn.cls == Class::integer || size <= 8) {
    u64 v = r.chance(60) ? integer_value(r) : load<u64>(bytes);
    store(bytes, v);
  }
  put_data(c, at, bytes, size);
}

bool is_stack(Sem s);

/// Whether the bytes are the same instruction in 32-bit mode, with the same effects.
bool same_in_32_bits(Case& c) {
  const Insn& i = c.insn;
  if (isa::decode({c.code, 15}, {32, true}, c.insn32) != isa::DecodeStatus::ok) return false;
  if (c.insn32.row != i.row || c.insn32.length != i.length || c.insn32.opsize != i.opsize)
    return false;
  for (unsigned k = 0; k < i.operands; k++)  // VEX register bits that only 64-bit mode looks at
    if (c.insn32.op[k].reg != i.op[k].reg || c.insn32.op[k].kind != i.op[k].kind) return false;
  if (c.insn32.mem.base != i.mem.base || c.insn32.mem.index != i.mem.index) return false;
  // CS cannot be written, and SS prefixes change nothing in 64-bit mode.
  if (c.insn32.mem.segment_override) return false;
  if (i.mem.base == isa::Memory::kRip || i.addrsize != 8 || is_stack(i.sem)) return false;
  switch (i.sem) {
    case Sem::fxsave:
    case Sem::fxrstor:
    case Sem::vzeroall:
    case Sem::vzeroupper: return false;  // eight registers
    default: return true;
  }
}

bool is_stack(Sem s) {
  switch (s) {
    case Sem::push:
    case Sem::pop:
    case Sem::call:
    case Sem::ret:
    case Sem::enter:
    case Sem::leave:
    case Sem::pushf: return true;
    default: return false;
  }
}

}  // namespace

bool testable(const Row& row, std::string_view& why_not) {
  auto no = [&](std::string_view why) {
    why_not = why;
    return false;
  };
  if (row.mask & isa::kKey64 && !(row.value & isa::kKey64)) return no("not in 64-bit mode");
  if (!host_has(row.feature) || !host_has(row.feature2)) return no("the host lacks it");
  if (row.vl && !host_has(isa::Feature::avx512vl)) return no("the host lacks AVX512VL");
  for (unsigned i = 0; i < row.operands; i++) {
    Method m = row.op[i].method;
    if (m == Method::S || m == Method::seg || m == Method::A)
      return no("segment registers belong to the host");
    if (m == Method::C || m == Method::D) return no("privileged");
    if (m == Method::O) return no("64-bit absolute address");
  }
  if (row.privilege != isa::Privilege::none) return no("privileged, or depends on the system");
  switch (row.sem) {
    case Sem::syscall:
    case Sem::int_:
    case Sem::into:
    case Sem::int1:
    case Sem::int3:
    case Sem::iret:
    case Sem::jmp_far:
    case Sem::call_far:
    case Sem::ret_far:
    case Sem::sysenter: return no("leaves the sandbox");
    case Sem::popf: return no("may set TF or AC");
    case Sem::cpuid:
    case Sem::rdpid:
    case Sem::rdtsc:
    case Sem::rdtscp:
    case Sem::rdrand:
    case Sem::rdseed:
    case Sem::xgetbv:
    case Sem::lar:
    case Sem::lsl:
    case Sem::verr:
    case Sem::verw:
    case Sem::smsw:
    case Sem::str:
    case Sem::sldt:
    case Sem::sgdt:
    case Sem::sidt: return no("answers differ by host");
    case Sem::rdfsbase:
    case Sem::rdgsbase:
    case Sem::wrfsbase:
    case Sem::wrgsbase: return no("segment registers belong to the host");
    case Sem::rdpkru:
    case Sem::wrpkru: return no("protection keys belong to the host");
    case Sem::xsave:
    case Sem::xsavec:
    case Sem::xsaveopt:
    case Sem::xsaves:
    case Sem::xrstor:
    case Sem::xrstors: return no("the layout is ours, not the host's");
    case Sem::xbegin:
    case Sem::xend:
    case Sem::xabort:
    case Sem::xtest: return no("transactions");
    case Sem::monitor:
    case Sem::mwait:
    case Sem::monitorx:
    case Sem::mwaitx:
    case Sem::umonitor:
    case Sem::umwait:
    case Sem::tpause: return no("waits");
    case Sem::vmcall:
    case Sem::vmmcall: return no("talks to the host's hypervisor");
    case Sem::nop:  // PREFETCH with a register: AMD's processors give #UD
      if (row.map == 1 && row.opcode == 0x0d) return no("answers differ by host");
      break;
    case Sem::clzero: return no("not cached the same way");
    default: break;
  }
  return true;
}

std::optional<Case> generate(u16 index, Random& r, bool bits32) {
  Case c;
  c.bits32 = bits32;
  const Row& row = isa::rows()[index];
  if (!encode(row, r, c)) return std::nullopt;
  Insn& insn = c.insn;
  if (insn.mem.segment >= machine::fs) return std::nullopt;  // the host's bases
  if (bits32 && !same_in_32_bits(c)) return std::nullopt;
  for (u64& v : c.in.regs.gpr) v = bits32 ? static_cast<u32>(integer_value(r)) : integer_value(r);
  auto& gpr = c.in.regs.gpr;
  c.in.regs.rip = kInsnAt;
  c.in.regs.rflags = 0x202 | (r.next() & soft::kArithmeticFlags) | (r.chance(10) ? 0x400u : 0u);
  vector_state(r, c.in.xsave.data());
  static const std::array<u8, kDataSize> kPattern = [] {
    Random fixed(1);
    std::array<u8, kDataSize> p;
    for (size_t i = 0; i < p.size(); i += 8) store(&p[i], fixed.next());
    return p;
  }();
  c.data = kPattern;

  if (row.cls == Class::string || insn.sem == Sem::xlat) {
    gpr[rcx] = r.chance(80) ? r.below(40) : r.below(3000);
    if (insn.addrsize == 4 && r.chance(50)) gpr[rcx] |= r.next() << 32;
    if (insn.sem == Sem::xlat) {
      gpr[rbx] = kData + 300;
      if (insn.addrsize == 4) gpr[rbx] |= r.next() << 32;
    }
  }
  if ((insn.sem == Sem::div || insn.sem == Sem::idiv) && r.chance(70)) {
    if (r.chance(50)) gpr[rdx] = r.chance(50) ? 0 : ~u64{0};
    if (insn.opsize == 1) gpr[rax] = r.next() & 0x7fff;
  }
  u64 stack = target(r, 8);
  if (is_stack(insn.sem)) {
    gpr[rsp] = stack;
    gpr[rbp] = target(r, 8);
    u8 v[8];
    store(v, integer_value(r));
    put_data(c, stack, v, 8);
    if (insn.sem == Sem::enter) gpr[rsp] = kData + 2048 + r.below(4096);
  }
  for (unsigned i = 0; i < insn.operands; i++) {
    if (insn.op[i].kind != OperandKind::memory) continue;
    unsigned size = memory_size(insn);
    u64 at = target(r, size);
    switch (row.op[i].method) {
      case Method::X: gpr[rsi] = at; break;
      case Method::Y: gpr[rdi] = at; break;
      case Method::at:
        if (insn.sem != Sem::xlat) gpr[row.op[i].reg] = at;
        break;
      default:
        if (!aim(c, r, at)) return std::nullopt;
        c.memory_at = at;
        if (insn.mem.vsib) aim_vector(c, r);
        fill_memory(c, r, at, size);
    }
    if (row.op[i].method == Method::X && insn.addrsize == 4) gpr[rsi] |= r.next() << 32;
    if (row.op[i].method == Method::Y && insn.addrsize == 4) gpr[rdi] |= r.next() << 32;
  }
  if ((insn.sem == Sem::cmps || insn.sem == Sem::scas) && r.chance(60)) {
    // Equal stretches, so that a repetition gets somewhere.
    u64 fill = integer_value(r);
    std::fill(c.data.begin(), c.data.end(), static_cast<u8>(fill));
    gpr[rax] = (fill & 0xff) * 0x0101010101010101;
    c.data[r.below(kDataSize)] ^= 1;
  }
  // Both ends selected: whether bytes that are not selected fault is up to the processor.
  if (insn.sem == Sem::maskmovdqu || insn.sem == Sem::vmaskmovdqu)
    for (unsigned i : {0u, 15u}) c.in.xsave[160 + 16u * insn.op[1].reg + i] |= 0x80;
  if (insn.sem == Sem::maskmovq)
    for (unsigned i = 0; i < 8; i++)
      for (unsigned byte : {0u, 7u}) c.in.xsave[32 + 16 * i + byte] |= 0x80;
  if ((insn.sem == Sem::shld || insn.sem == Sem::shrd) && insn.opsize == 2) {
    // Counts above the operand size leave everything undefined.
    u64 count = insn.op[2].kind == OperandKind::gpr ? gpr[rcx] : insn.imm;
    if ((count & 31) > 16) return std::nullopt;
  }
  // A bit offset in a register moves the operand: keep it within reach.
  bool bit_test =
      insn.sem == Sem::bt || insn.sem == Sem::btc || insn.sem == Sem::btr || insn.sem == Sem::bts;
  if (bit_test && insn.memory_operand() && insn.op[1].kind == OperandKind::gpr) {
    if (insn.op[1].reg == insn.mem.base || insn.op[1].reg == insn.mem.index) return std::nullopt;
    u64 offset = static_cast<u64>(static_cast<i64>(r.below(40000)) - 20000);
    gpr[insn.op[1].reg] = insn.opsize == 4 ? (r.next() << 32) | static_cast<u32>(offset) : offset;
  }
  // MOVSXD r16: Intel reads 16 bits, AMD 32.
  if (insn.sem == Sem::movsxd && insn.opsize == 2 && insn.memory_operand()) return std::nullopt;
  // MXCSR.MM (misaligned SSE) is AMD's; no guest is offered it.
  bool loads_mxcsr = insn.sem == Sem::ldmxcsr || insn.sem == Sem::vldmxcsr;
  if (loads_mxcsr || insn.sem == Sem::fxrstor) {
    u64 byte = c.memory_at + (loads_mxcsr ? 2 : 26);
    if (byte >= kData && byte < kDataEnd) c.data[byte - kData] &= 0xfd;
  }
  // A branch goes to one of the landings.
  if (row.cls == Class::control) {
    if (insn.rep || insn.repne) return std::nullopt;  // AMD: F3 LOOPNE is LOOPE
    if (insn.prefix66) return std::nullopt;           // AMD truncates RIP, Intel does not
    bool relative = false;
    for (unsigned i = 0; i < insn.operands; i++)
      relative |= insn.op[i].kind == OperandKind::relative;
    if (relative) {
      bool near = insn.length - insn.imm_at == 1;
      u64 to = near ? kNearLanding : kFarLanding;
      patch_displacement(c, insn.imm_at, near ? 1 : 4,
                         static_cast<i64>(to - (kInsnAt + insn.length)));
      if (insn.sem == Sem::loop || insn.sem == Sem::loope || insn.sem == Sem::loopne ||
          insn.sem == Sem::jcxz)
        gpr[rcx] = r.below(3) | (r.chance(30) ? r.next() << 32 : 0);
    } else if (insn.sem == Sem::jmp || insn.sem == Sem::call) {
      u8 v[8];
      store(v, kFarLanding);
      if (insn.op[0].kind == OperandKind::gpr) {
        if (is_stack(insn.sem) && insn.op[0].reg == rsp) return std::nullopt;
        gpr[insn.op[0].reg] = kFarLanding;
      } else {
        u64 at = kData + 512;
        if (!aim(c, r, at)) return std::nullopt;
        put_data(c, at, v, 8);
        if (insn.sem == Sem::call && (insn.mem.base == rsp || insn.mem.index == rsp))
          return std::nullopt;
      }
    } else if (insn.sem == Sem::ret) {
      u8 v[8];
      store(v, kFarLanding);
      if (gpr[rsp] < kData) return std::nullopt;  // constant contents: no way back from there
      put_data(c, gpr[rsp], v, 8);
    }
  }
  if (bits32) {
    for (u64& v : gpr)
      if (v >> 32) return std::nullopt;
    isa::Insn again{};  // displacements may have been patched
    if (isa::decode({c.code, 15}, {32, true}, again) != isa::DecodeStatus::ok) return std::nullopt;
    c.insn32 = again;
  }
  return c;
}

}  // namespace skerry::oracle

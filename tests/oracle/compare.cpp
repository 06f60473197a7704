#include "oracle/compare.hpp"

#include <fmt/format.h>

#include "engine/soft/thunk.hpp"
#include "isa/disassemble.hpp"
#include "isa/row.hpp"

namespace skerry::oracle {

using isa::Class;
using isa::OperandKind;
using isa::Sem;

namespace {

constexpr const char* kGpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                  "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr u64 kFlags = soft::kArithmeticFlags | 0x400;

std::string hex(const u8* p, size_t n) {
  std::string s;
  for (size_t i = n; i-- > 0;) s += fmt::format("{:02x}", p[i]);
  return s;
}

std::string fault_name(const Outcome& o) {
  switch (o.vector) {
    case kNoFault: return "no fault";
    case kHostDied: return "the child died";
    case kHostHung: return "the child hung";
    case kNotRun: return "not run, or an exit";
    case soft::PF: return fmt::format("#PF({:#x}) at {:#x}", o.error, o.address);
    default: return fmt::format("vector {} error {:#x}", o.vector, o.error);
  }
}

/// Parts of the XSAVE area, by name.
struct Part {
  const char* name;
  u32 offset, size, count, stride;
};
constexpr Part kParts[] = {
    {"fcw", 0, 2, 1, 0},           {"fsw", 2, 2, 1, 0},   {"ftw", 4, 1, 1, 0},
    {"mxcsr", 24, 4, 1, 0},        {"st", 32, 10, 8, 16}, {"xmm", 160, 16, 16, 16},
    {"ymm_high", 576, 16, 16, 16}, {"k", 1088, 8, 8, 8},  {"zmm_high", 1152, 32, 16, 32},
    {"zmm16+", 1664, 64, 16, 64}};

/// What processors are free to do differently is made equal.
void level(const Case& c, Outcome& o) {
  const Sem sem = c.insn.sem;
  if (o.vector == soft::PF) {
    // Linux reports user accesses beyond its user half as protection violations.
    if (o.address >= 0x7fff'ffff'f000) o.error |= 1;
    // Large and byte-wise operands: which byte is touched first is not architectural.
    switch (sem) {
      case Sem::fxsave:
      case Sem::fxrstor:
      case Sem::fsave:
      case Sem::frstor:
      case Sem::fstenv:
      case Sem::fldenv: o.address = o.error = 0; break;  // not even which page
      case Sem::maskmovq:
      case Sem::maskmovdqu:
      case Sem::vmaskmovdqu: o.address &= ~(kPage - 1); break;
      default: break;
    }
  }
  // A gather that faults: whether mask elements have been spread out already, and the upper parts
  // zeroed.
  if (c.insn.mem.vsib && c.insn.encoding == isa::Insn::Encoding::vex && o.vector != kNoFault) {
    std::memset(&o.state.xsave[1152], 0, 512);
    u8* x = o.state.xsave.data();
    u32 dst = c.insn.op[0].reg, mask = c.insn.op[2].reg;
    if (c.insn.vector_length == 0) std::memset(x + 576 + 16 * dst, 0, 16);
    for (u32 i = 0; i < 16; i++) {
      x[160 + 16 * mask + i] &= i % 4 == 3 ? 0x80 : 0;
      x[576 + 16 * mask + i] &= i % 4 == 3 && c.insn.vector_length ? 0x80 : 0;
    }
  }
  if (c.insn.mem.vsib && c.insn.encoding == isa::Insn::Encoding::evex && o.vector != kNoFault &&
      c.insn.op[0].kind == OperandKind::vector) {
    u8* x = o.state.xsave.data();
    u32 dst = c.insn.op[0].reg;
    bool half = sem == Sem::vpgatherqd || sem == Sem::vgatherqps;
    if (half)
      std::memset(dst >= 16 ? x + 1664 + 64 * (dst - 16) + 8 : x + 160 + 16 * dst + 8, 0, 8);
    if (dst >= 16) {
      std::memset(x + 1664 + 64 * (dst - 16) + 16, 0, 48);
    } else {
      std::memset(x + 576 + 16 * dst, 0, 16);
      std::memset(x + 1152 + 32 * dst, 0, 32);
    }
  }
  // The change to MMX state may come before the fault.
  if (sem == Sem::maskmovq && o.vector != kNoFault) std::memset(&o.state.xsave[2], 0, 158);
  // MXCSR_MASK in the image: AMD has the bit for misaligned SSE.
  if (sem == Sem::fxsave && o.vector == kNoFault)
    for (u64 at = c.memory_at + 28; at < c.memory_at + 32; at++)
      if (at >= kData && at < kDataEnd) o.data[at - kData] = 0;
}

}  // namespace

/// When both operands of CMPS fault, which of them is told is the processor's choice.
static bool other_operand_of_cmps(const Case& c, const Outcome& host, const Outcome& guest) {
  if (c.insn.sem != isa::Sem::cmps) return false;
  // All addresses of the sandbox have 32 bits; an element may begin in the page before.
  auto at = [&](u64 address, unsigned reg) {
    return static_cast<u32>(address - host.state.regs.gpr[reg]) < 8;
  };
  return (at(host.address, machine::rdi) && at(guest.address, machine::rsi)) ||
         (at(host.address, machine::rsi) && at(guest.address, machine::rdi));
}

std::string differences(const Case& c, Outcome& host, Outcome& guest) {
  level(c, host);
  level(c, guest);
  if (c.bits32) {  // the upper halves are undefined after 32-bit mode
    for (Outcome* o : {&host, &guest})
      for (u64& v : o->state.regs.gpr) v = static_cast<u32>(v);
  }
  std::string text;
  auto differ = [&](std::string_view what, const std::string& h, const std::string& g) {
    text += fmt::format("  {:10} host {}  guest {}\n", what, h, g);
  };
  const isa::Row& row = isa::row_of(c.insn);
  bool same_fault = host.vector == guest.vector && host.error == guest.error &&
                    (host.vector != soft::PF || host.address == guest.address ||
                     other_operand_of_cmps(c, host, guest));
  if (!same_fault) {
    differ("fault", fault_name(host), fault_name(guest));
    return text;
  }
  for (size_t i = 0; i < 16; i++)
    if (host.state.regs.gpr[i] != guest.state.regs.gpr[i])
      differ(kGpr[i], fmt::format("{:016x}", host.state.regs.gpr[i]),
             fmt::format("{:016x}", guest.state.regs.gpr[i]));
  if (host.state.regs.rip != guest.state.regs.rip)
    differ("rip", fmt::format("{:x}", host.state.regs.rip),
           fmt::format("{:x}", guest.state.regs.rip));
  u64 mask = kFlags;
  if (host.vector == kNoFault) mask &= ~u64{row.flags.undefined};
  if (u64 d = (host.state.regs.rflags ^ guest.state.regs.rflags) & mask)
    differ("flags", fmt::format("{:x}", host.state.regs.rflags & mask),
           fmt::format("{:x} (differ in {:x})", guest.state.regs.rflags & mask, d));
  const u8 *h = host.state.xsave.data(), *g = guest.state.xsave.data();
  for (const Part& part : kParts)
    for (u32 i = 0; i < part.count; i++) {
      u32 at = part.offset + i * part.stride;
      if (std::memcmp(h + at, g + at, part.size))
        differ(part.count > 1 ? fmt::format("{}[{}]", part.name, i) : part.name,
               hex(h + at, part.size), hex(g + at, part.size));
    }
  // The x87 pointers. AMD's processors save zeros unless an exception is pending; FOP is only then
  // defined everywhere, and FDP only after a memory operand (SDM 1 8.1.8, 8.1.9). Translated code
  // leaves zeros (Jit::vectors_saved).
  const bool pointers = !guest.translated || load<u64>(g + 8);
  if (row.cls == Class::x87 && host.vector == kNoFault && load<u64>(h + 8) && pointers) {
    if (load<u64>(h + 8) != load<u64>(g + 8)) differ("fip", hex(h + 8, 8), hex(g + 8, 8));
    if (h[2] & 0x80 && load<u16>(h + 6) != load<u16>(g + 6))
      differ("fop", hex(h + 6, 2), hex(g + 6, 2));
    if (c.insn.memory_operand() && load<u64>(h + 16) != load<u64>(g + 16))
      differ("fdp", hex(h + 16, 8), hex(g + 16, 8));
  }
  for (size_t i = 0, lines = 0; i < kDataSize && lines < 4; i++) {
    if (host.data[i] == guest.data[i]) continue;
    size_t from = i & ~size_t{15};
    differ(fmt::format("[{:x}]", kData + from), hex(&host.data[from], 16),
           hex(&guest.data[from], 16));
    i = from + 15;
    lines++;
  }
  return text;
}

std::string describe(const Case& c) {
  std::string text = c.bits32 ? "  in 32-bit mode\n  bytes" : "  bytes";
  for (unsigned i = 0; i < c.insn.length; i++) text += fmt::format(" {:02x}", c.code[i]);
  const isa::Row& row = isa::row_of(c.insn);
  text +=
      fmt::format("\n  row {}: {}  {}  {}\n  at {:x}: {}\n", c.insn.row, row.names,
                  row.text_operands, row.text_encoding, kInsnAt, isa::disassemble(c.insn, kInsnAt));
  for (size_t i = 0; i < 16; i += 4)
    text += fmt::format("  {:3} {:016x}  {:3} {:016x}  {:3} {:016x}  {:3} {:016x}\n", kGpr[i],
                        c.in.regs.gpr[i], kGpr[i + 1], c.in.regs.gpr[i + 1], kGpr[i + 2],
                        c.in.regs.gpr[i + 2], kGpr[i + 3], c.in.regs.gpr[i + 3]);
  const u8* x = c.in.xsave.data();
  text += fmt::format("  flags {:x}  mxcsr {:x}  fcw {:x}  fsw {:x}  ftw {:x}\n", c.in.regs.rflags,
                      load<u32>(x + 24), load<u16>(x), load<u16>(x + 2), x[4]);
  for (const isa::Operand& o : c.insn.op) {
    if (o.kind == OperandKind::vector) {
      u32 n = o.reg;
      std::string v = n >= 16 ? hex(x + 1664 + 64 * (n - 16), std::max<u32>(16, o.size)) : "";
      if (n < 16 && o.size > 32) v += hex(x + 1152 + 32 * n, 32) + ":";
      if (n < 16 && o.size > 16) v += hex(x + 576 + 16 * n, 16) + ":";
      if (n < 16) v += hex(x + 160 + 16 * n, 16);
      text += fmt::format("  vector {} = {}\n", n, v);
    }
    if (o.kind == OperandKind::mask)
      text += fmt::format("  k{} = {}\n", o.reg, hex(x + 1088 + 8 * o.reg, 8));
  }
  if (c.insn.evex_aaa)
    text +=
        fmt::format("  mask k{} = {}\n", c.insn.evex_aaa, hex(x + 1088 + 8 * c.insn.evex_aaa, 8));
  if (c.insn.cls == Class::x87 || c.insn.cls == Class::mmx)
    for (u32 i = 0; i < 8; i++) text += fmt::format("  st{} {}\n", i, hex(x + 32 + 16 * i, 10));
  return text;
}

}  // namespace skerry::oracle

// x87 and MMX. Arithmetic runs as host thunks between FXRSTOR and FXSAVE of the guest's state, so
// stack, tags, condition codes and exception flags are the host's own. What must not be the host's
// is kept apart: FIP, FDP and FOP are the guest's (SDM 1 8.1.8), and the environment instructions
// are laid out here in the guest's format (SDM 1 8.1.10).
//
// Exceptions: an unmasked exception sets FSW.ES; the next waiting instruction is #MF (Gate).
// FCS and FDS are always 0, as CPUID.7.0:EBX[13] says.
#include "engine/soft/access.hpp"
#include "engine/soft/core.hpp"
#include "engine/soft/vector_state.hpp"

namespace skerry::soft {
namespace {

using isa::Class;
using isa::Insn;
using isa::Sem;

struct Pointers {
  u16 fop;
  u64 fip, fdp;
};

Pointers pointers(const Cpu& cpu) {
  const u8* x = cpu.s.xsave.data();
  return {load<u16>(x + area::kFop), load<u64>(x + area::kFip), load<u64>(x + area::kFdp)};
}
void set_pointers(Cpu& cpu, const Pointers& p) {
  u8* x = cpu.s.xsave.data();
  store(x + area::kFop, p.fop);
  store(x + area::kFip, p.fip);
  store(x + area::kFdp, p.fdp);
}

bool real_format(const Cpu& cpu) {
  return !cpu.protected_mode || cpu.v86;
}

/// What an instruction at the current address leaves in the pointers.
Pointers new_pointers(const Cpu& cpu, const Insn& insn, u64 offset, const Pointers& old) {
  Pointers p;
  p.fop = static_cast<u16>((insn.opcode & 7) << 8 | insn.modrm);
  p.fip = cpu.rip;
  p.fdp = insn.memory_operand() ? offset : old.fdp;
  if (real_format(cpu)) {  // there the image holds linear addresses
    p.fip += cpu.seg[machine::cs].base;
    if (insn.memory_operand()) p.fdp += cpu.seg[insn.mem.segment].base;
  }
  return p;
}

constexpr size_t kX87Bytes = 160;  // FCW to ST7
constexpr u16 kNotStored = 0x1f;   // all exceptions but precision prevent a store

/// x87 and MMX instructions, and SSE instructions with an MMX operand.
Flow run_fx(Cpu& cpu, const Op& op) {
  const Thunk* t = find_thunk(op);
  if (!t) return cpu.raise(UD);
  if (!pass_gate(cpu, t->gate)) return Flow::fault;
  alignas(64) u8 memory[64];
  u8 before[kX87Bytes];
  u64 offset = 0;
  if (t->read | t->write) {
    offset = cpu.ea(op);
    if (t->align && misaligned(cpu, op.segment, offset, t->align)) return cpu.raise(GP, 0);
    if (t->read && !load_operand(cpu, op.segment, offset, memory, t->read)) return cpu.failed();
    if (t->write) std::memcpy(before, cpu.s.xsave.data(), kX87Bytes);
  }
  Pointers p = pointers(cpu);
  bool ok = run_code(cpu, *t, memory);
  // Translated code leaves no pointers of the guest: to be compared with it, neither do we.
  const bool kept = t->fpu_op && ok && !cpu.core->deterministic();
  set_pointers(cpu, kept ? new_pointers(cpu, *op.insn, offset, p) : p);
  if (!ok) return Flow::fault;
  if (t->write) {
    bool suppressed = t->fpu_op && (fsw(cpu) & ~fcw(cpu) & kNotStored);
    bool stored = suppressed ? cpu.probe_write(op.segment, offset, t->write)
                             : store_operand(cpu, op.segment, offset, memory, t->write);
    if (!stored) {
      std::memcpy(cpu.s.xsave.data(), before, kX87Bytes);
      return cpu.failed();
    }
  }
  return Flow::next;
}

u8 (&st(Cpu& cpu, unsigned i))[16] {
  return *reinterpret_cast<u8(*)[16]>(&cpu.s.xsave[area::kSt + 16u * i]);
}

/// Sets FSW. The area holds the registers by stack position, so they turn when TOP changes.
void set_status(Cpu& cpu, u16 status) {
  unsigned turn = ((status >> 11) - (fsw(cpu) >> 11)) & 7;
  if (turn) {
    u8 copy[8][16];
    std::memcpy(copy, &cpu.s.xsave[area::kSt], sizeof copy);
    for (unsigned i = 0; i < 8; i++) std::memcpy(st(cpu, i), copy[(i + turn) & 7], 16);
  }
  set_fsw(cpu, status);
}

Flow wait(Cpu& cpu, const Op&) {
  if ((cpu.s.cr0 & (kCr0Mp | kCr0Ts)) == (kCr0Mp | kCr0Ts)) return cpu.raise(NM);
  return fsw(cpu) & 0x80 ? cpu.raise(MF) : Flow::next;
}

Flow finit(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  set_fcw(cpu, 0x37f);
  set_status(cpu, 0);
  cpu.s.xsave[area::kFtw] = 0;
  set_pointers(cpu, {0, 0, 0});
  return Flow::next;
}

Flow fclex(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  set_fsw(cpu, fsw(cpu) & 0x7f00);
  return Flow::next;
}

/// FENI, FDISI (8087), FSETPM (80287): no operation since.
Flow fnothing(Cpu& cpu, const Op& op) {
  return pass_gate(cpu, gate_of(*op.insn)) ? Flow::next : Flow::fault;
}

Flow fstcw(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  return cpu.write<u16>(op.segment, cpu.ea(op), fcw(cpu)) ? Flow::next : cpu.failed();
}

Flow fstsw(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  if (op.insn->memory_operand())
    return cpu.write<u16>(op.segment, cpu.ea(op), fsw(cpu)) ? Flow::next : cpu.failed();
  u64& rax = cpu.gpr[machine::rax];
  rax = (rax & ~u64{0xffff}) | fsw(cpu);
  return Flow::next;
}

// ---- FNSTENV, FLDENV, FNSAVE, FRSTOR: 16- or 32-bit, protected or real layout
// ----------------------

constexpr unsigned kRegisters = 80;

unsigned environment_size(const Op& op) {
  return op.opsize == 2 ? 14 : 28;
}

/// The two-bit tags (SDM 1 8.1.7) from the one-bit tags and the registers' contents.
u16 full_tags(Cpu& cpu) {
  u16 tags = 0;
  unsigned top = fsw(cpu) >> 11 & 7;
  for (unsigned r = 0; r < 8; r++) {
    unsigned tag = 3;
    if (cpu.s.xsave[area::kFtw] >> r & 1) {
      const u8* v = st(cpu, (r - top) & 7);
      u64 mantissa = load<u64>(v);
      u16 exponent = load<u16>(v + 8) & 0x7fff;
      tag = exponent == 0 && mantissa == 0                             ? 1
            : exponent == 0x7fff || exponent == 0 || !(mantissa >> 63) ? 2
                                                                       : 0;
    }
    tags = static_cast<u16>(tags | tag << (2 * r));
  }
  return tags;
}

void put_environment(Cpu& cpu, bool wide, u8* to) {
  Pointers p = pointers(cpu);
  u16 words[3] = {fcw(cpu), fsw(cpu), full_tags(cpu)};
  u32 ip = static_cast<u32>(p.fip), dp = static_cast<u32>(p.fdp);
  u32 fop = p.fop & 0x7ff;
  bool real = real_format(cpu);
  if (wide) {
    for (unsigned i = 0; i < 3; i++) store<u32>(to + 4 * i, 0xffff0000u | words[i]);
    store<u32>(to + 12, real ? 0xffff0000u | (ip & 0xffff) : ip);
    store<u32>(to + 16, real ? (ip >> 16) << 12 | fop : fop << 16);
    store<u32>(to + 20, real ? 0xffff0000u | (dp & 0xffff) : dp);
    store<u32>(to + 24, real ? (dp >> 16) << 12 : 0xffff0000u);
  } else {
    for (unsigned i = 0; i < 3; i++) store<u16>(to + 2 * i, words[i]);
    store<u16>(to + 6, static_cast<u16>(ip));
    store<u16>(to + 8, static_cast<u16>(real ? (ip >> 16 & 15) << 12 | fop : 0));
    store<u16>(to + 10, static_cast<u16>(dp));
    store<u16>(to + 12, static_cast<u16>(real ? (dp >> 16 & 15) << 12 : 0));
  }
}

/// FSW.ES and B follow from the flags and the masks.
u16 with_summary(u16 status, u16 control) {
  status &= 0x7f7f;
  return status & ~control & 0x3f ? status | 0x8080 : status;
}

void get_environment(Cpu& cpu, bool wide, const u8* from) {
  unsigned step = wide ? 4 : 2;
  u16 control = static_cast<u16>((load<u16>(from) & 0x1f3f) | 0x40);
  u16 status = with_summary(load<u16>(from + step), control);
  u16 tags = load<u16>(from + 2 * step);
  bool real = real_format(cpu);
  Pointers p{};
  if (wide) {
    u32 second = load<u32>(from + 16);
    p.fip = real ? (second >> 12 << 16 | load<u16>(from + 12)) : load<u32>(from + 12);
    p.fop = (real ? second : second >> 16) & 0x7ff;
    p.fdp = real ? (load<u32>(from + 24) >> 12 << 16 | load<u16>(from + 20)) : load<u32>(from + 20);
  } else {
    u16 second = load<u16>(from + 8);
    p.fip = load<u16>(from + 6) | (real ? u32{second} >> 12 << 16 : 0);
    p.fop = real ? second & 0x7ff : 0;
    p.fdp = load<u16>(from + 10) | (real ? u32{load<u16>(from + 12)} >> 12 << 16 : 0);
  }
  u8 abridged = 0;
  for (unsigned r = 0; r < 8; r++)
    if ((tags >> (2 * r) & 3) != 3) abridged = static_cast<u8>(abridged | 1 << r);
  set_fcw(cpu, control);
  set_status(cpu, status);
  cpu.s.xsave[area::kFtw] = abridged;
  set_pointers(cpu, p);
}

Flow fstenv(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  u8 image[28];
  unsigned size = environment_size(op);
  put_environment(cpu, size == 28, image);
  if (!cpu.write_bytes(op.segment, cpu.ea(op), image, size)) return cpu.failed();
  set_fcw(cpu, fcw(cpu) | 0x3f);
  set_fsw(cpu, with_summary(fsw(cpu), fcw(cpu)));
  return Flow::next;
}

Flow fldenv(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  u8 image[28];
  unsigned size = environment_size(op);
  if (!cpu.read_bytes(op.segment, cpu.ea(op), image, size)) return cpu.failed();
  get_environment(cpu, size == 28, image);
  return Flow::next;
}

Flow fsave(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  u8 image[28 + kRegisters];
  unsigned size = environment_size(op);
  put_environment(cpu, size == 28, image);
  for (unsigned i = 0; i < 8; i++) std::memcpy(image + size + 10 * i, st(cpu, i), 10);
  if (!cpu.write_bytes(op.segment, cpu.ea(op), image, size + kRegisters)) return cpu.failed();
  return finit(cpu, op);
}

Flow frstor(Cpu& cpu, const Op& op) {
  if (!pass_gate(cpu, gate_of(*op.insn))) return Flow::fault;
  u8 image[28 + kRegisters];
  unsigned size = environment_size(op);
  if (!cpu.read_bytes(op.segment, cpu.ea(op), image, size + kRegisters)) return cpu.failed();
  get_environment(cpu, size == 28, image);
  for (unsigned i = 0; i < 8; i++) {
    std::memcpy(st(cpu, i), image + size + 10 * i, 10);
    std::memset(st(cpu, i) + 10, 0, 6);
  }
  return Flow::next;
}

}  // namespace

Handler select_x87(const Insn& insn) {
  switch (insn.sem) {
    case Sem::wait: return wait;
    case Sem::finit: return finit;
    case Sem::fclex: return fclex;
    case Sem::feni:
    case Sem::fdisi:
    case Sem::fsetpm: return fnothing;
    case Sem::fstcw: return fstcw;
    case Sem::fstsw: return fstsw;
    case Sem::fstenv: return fstenv;
    case Sem::fldenv: return fldenv;
    case Sem::fsave: return fsave;
    case Sem::frstor: return frstor;
    case Sem::maskmovq: return select_special_vector(insn);
    default: return run_fx;
  }
}

}  // namespace skerry::soft

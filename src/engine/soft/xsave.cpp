// FXSAVE, FXRSTOR, the XSAVE family, XGETBV, XSETBV (SDM 1 chapter 13), and the conversion of
// s.xsave between its running form and the form in which it is saved.
//
// The layout is our own, that of Intel's processors, whatever the host's is. No component needs
// 64-byte alignment in the compacted format. There are no supervisor components (IA32_XSS is 0), so
// XSAVES and XRSTORS differ from XSAVEC and XRSTOR only in their checks. The init optimization is
// done, the modified optimization is not.
#include "engine/soft/access.hpp"
#include "engine/soft/core.hpp"
#include "engine/soft/thunk.hpp"
#include "engine/soft/vector_state.hpp"

namespace skerry::soft {
namespace {

using isa::Insn;
using isa::Sem;

struct Component {
  u32 offset, size;
};
/// By XSTATE_BV bit; size 0: not ours. Bits 0 and 1 are in the legacy region.
constexpr Component kComponents[8] = {{0, 0},
                                      {0, 0},
                                      {area::kYmm, 256},
                                      {0, 0},
                                      {0, 0},
                                      {area::kOpmask, 64},
                                      {area::kZmmHigh, 512},
                                      {area::kHi16, 1024}};
constexpr u64 kX87 = 1, kSse = 2, kAvx = 4, kAll = 0xe7;
constexpr u32 kInitMxcsr = 0x1f80;
constexpr u64 kCompacted = u64{1} << 63;

bool zero(const u8* p, size_t n) {
  return std::all_of(p, p + n, [](u8 b) { return b == 0; });
}

void reset_x87(u8* x) {
  std::memset(x, 0, area::kMxcsr);
  store<u16>(x + area::kFcw, 0x37f);
  std::memset(x + area::kSt, 0, 128);
}

/// The number of XMM registers that the mode can name.
unsigned registers(const Cpu& cpu) {
  return cpu.code_bits == 64 ? 16 : 8;
}

/// Offset 0-31 of the image in the format of the instruction (SDM 1 tables 10-2, 13-1).
void put_legacy_head(const Cpu& cpu, const Op& op, u8* to) {
  const u8* x = cpu.s.xsave.data();
  std::memcpy(to, x, 24);
  if (op.opsize != 8) {  // 32-bit pointers; FCS and FDS are deprecated and read 0
    store<u32>(to + 12, 0);
    store<u32>(to + 20, 0);
  }
  to[5] = 0;
  store<u32>(to + area::kMxcsr, mxcsr(cpu));
  store<u32>(to + area::kMxcsrMask, kMxcsrMask);
}

void put_x87_registers(const Cpu& cpu, u8* to) {
  for (unsigned i = 0; i < 8; i++) {
    std::memcpy(to + 16 * i, &cpu.s.xsave[area::kSt + 16 * i], 10);
    std::memset(to + 16 * i + 10, 0, 6);
  }
}

/// x87 state from an image; MXCSR is left alone.
void take_x87(Cpu& cpu, const Op& op, const u8* from) {
  u8* x = cpu.s.xsave.data();
  std::memcpy(x, from, 24);
  if (op.opsize != 8) {
    store<u32>(x + 12, 0);
    store<u32>(x + 20, 0);
  }
  for (unsigned i = 0; i < 8; i++) {
    std::memcpy(x + area::kSt + 16 * i, from + area::kSt + 16 * i, 10);
    std::memset(x + area::kSt + 16 * i + 10, 0, 6);
  }
  u16 control = static_cast<u16>((load<u16>(x) & 0x1f3f) | 0x40);
  u16 status = load<u16>(x + area::kFsw) & 0x7f7f;
  if (status & ~control & 0x3f) status |= 0x8080;
  store(x + area::kFcw, control);
  store(x + area::kFsw, status);
  x[5] = 0;
  store<u16>(x + area::kFop, load<u16>(x + area::kFop) & 0x7ff);
}

/// #GP(0), except that a stack address that is not canonical is #SS(0) first; unlike SSE operands.
Flow alignment_fault(Cpu& cpu, u8 segment, u64 offset) {
  bool stack = segment == machine::ss && cpu.flat && !canonical(offset);
  return cpu.raise(stack ? SS : GP, 0);
}

// ---- FXSAVE, FXRSTOR
// -------------------------------------------------------------------------------

bool fx_gate(Cpu& cpu, const Op& op, u64& offset) {
  if (cpu.s.cr0 & (kCr0Em | kCr0Ts)) {
    cpu.raise(NM);
    return false;
  }
  offset = cpu.ea(op);
  if (misaligned(cpu, op.segment, offset, 16)) {
    alignment_fault(cpu, op.segment, offset);
    return false;
  }
  return true;
}

Flow fxsave(Cpu& cpu, const Op& op) {
  u64 offset;
  if (!fx_gate(cpu, op, offset)) return Flow::fault;
  u8 image[416];
  put_legacy_head(cpu, op, image);
  put_x87_registers(cpu, image + area::kSt);
  unsigned xmm = 16 * registers(cpu);
  std::memcpy(image + area::kXmm, &cpu.s.xsave[area::kXmm], xmm);
  return cpu.write_bytes(op.segment, offset, image, area::kXmm + xmm) ? Flow::next : cpu.failed();
}

Flow fxrstor(Cpu& cpu, const Op& op) {
  u64 offset;
  if (!fx_gate(cpu, op, offset)) return Flow::fault;
  u8 image[512];
  if (!cpu.read_bytes(op.segment, offset, image, sizeof image)) return cpu.failed();
  u32 control = load<u32>(image + area::kMxcsr);
  bool sse = cpu.s.cr4 & kCr4OsFxsr;
  if (sse && control & ~kMxcsrMask) return cpu.raise(GP, 0);
  take_x87(cpu, op, image);
  if (sse) {
    set_mxcsr(cpu, control);
    std::memcpy(&cpu.s.xsave[area::kXmm], image + area::kXmm, 16 * registers(cpu));
  }
  return Flow::next;
}

// ---- XSAVE and its kin
// -----------------------------------------------------------------------------

u64 requested(const Cpu& cpu) {
  return cpu.gpr[machine::rdx] << 32 | static_cast<u32>(cpu.gpr[machine::rax]);
}

/// #UD, #NM, privilege and alignment, in this order.
bool xsave_gate(Cpu& cpu, const Op& op, u64& offset) {
  bool supervisor = op.insn->sem == Sem::xsaves || op.insn->sem == Sem::xrstors;
  if (!(cpu.s.cr4 & kCr4OsXsave)) {
    cpu.raise(UD);
    return false;
  }
  if (cpu.s.cr0 & kCr0Ts) {
    cpu.raise(NM);
    return false;
  }
  offset = cpu.ea(op);
  if (supervisor && cpu.cpl != 0) {
    cpu.raise(GP, 0);
    return false;
  }
  if (misaligned(cpu, op.segment, offset, 64)) {
    alignment_fault(cpu, op.segment, offset);
    return false;
  }
  return true;
}

/// How much of a component the mode transfers: outside 64-bit mode registers 8 and up stay.
u32 transferred(const Cpu& cpu, unsigned bit) {
  u32 size = kComponents[bit].size;
  if (cpu.code_bits == 64 || bit == 5) return size;
  return bit == 7 ? 0 : size / 2;
}

/// One piece of memory to be written.
struct Piece {
  u32 at, size;
};

Flow xsave(Cpu& cpu, const Op& op) {
  u64 offset;
  if (!xsave_gate(cpu, op, offset)) return Flow::fault;
  Sem sem = op.insn->sem;
  bool compact = sem == Sem::xsavec || sem == Sem::xsaves;
  u64 wanted = requested(cpu) & cpu.s.xcr0 & kAll;
  u64 in_use = components_in_use(cpu.s);
  if (compact && mxcsr(cpu) != kInitMxcsr) in_use |= kSse;  // SDM 1 13.10
  u64 saved = sem == Sem::xsave ? wanted : wanted & in_use;

  alignas(64) u8 image[machine::kXsaveSize];
  Piece pieces[16];
  unsigned count = 0;
  auto piece = [&](u32 at, u32 size) {
    if (count && pieces[count - 1].at + pieces[count - 1].size == at)
      pieces[count - 1].size += size;
    else if (size)
      pieces[count++] = {at, size};
  };
  u8 head[32];
  put_legacy_head(cpu, op, head);
  std::memcpy(image, head, sizeof head);
  put_x87_registers(cpu, image + area::kSt);
  std::memcpy(image + area::kXmm, &cpu.s.xsave[area::kXmm], 256);
  if (saved & kX87) piece(0, 24);
  // MXCSR belongs to the SSE component in the compacted format, to SSE and AVX in the other.
  if (compact ? (saved & kSse) != 0 : (wanted & (kSse | kAvx)) != 0) piece(area::kMxcsr, 8);
  if (saved & kX87) piece(area::kSt, 128);
  if (saved & kSse) piece(area::kXmm, 16 * registers(cpu));

  u64 header[2];
  if (compact) {
    header[0] = wanted & in_use;
    header[1] = wanted | kCompacted;
  } else {
    u64 old = 0;
    if (!cpu.read<u64>(op.segment, offset + area::kHeader, old)) return cpu.failed();
    header[0] = (old & ~wanted) | (wanted & in_use);
  }
  std::memcpy(image + area::kHeader, header, sizeof header);
  piece(area::kHeader, compact ? 16 : 8);
  u32 next = area::kYmm;
  for (unsigned bit = 2; bit < 8; bit++) {
    const Component& c = kComponents[bit];
    if (!c.size) continue;
    u32 at = compact ? next : c.offset;
    if (wanted >> bit & 1) next += c.size;
    if (!(saved >> bit & 1)) continue;
    u32 size = transferred(cpu, bit);
    std::memcpy(image + at, &cpu.s.xsave[c.offset], size);
    piece(at, size);
  }
  for (bool write : {false, true})
    for (unsigned i = 0; i < count; i++) {
      const Piece& p = pieces[i];
      if (!(write ? cpu.write_bytes(op.segment, offset + p.at, image + p.at, p.size)
                  : cpu.probe_write(op.segment, offset + p.at, p.size)))
        return cpu.failed();
    }
  return Flow::next;
}

Flow xrstor(Cpu& cpu, const Op& op) {
  u64 offset;
  if (!xsave_gate(cpu, op, offset)) return Flow::fault;
  u64 wanted = requested(cpu) & cpu.s.xcr0 & kAll;
  alignas(64) u8 image[machine::kXsaveSize] = {};
  if (!cpu.read_bytes(op.segment, offset, image, area::kYmm)) return cpu.failed();
  const u64 present = load<u64>(image + area::kHeader);
  const u64 format = load<u64>(image + area::kHeader + 8);
  const bool compact = format & kCompacted;
  bool bad;
  if (compact)
    bad = (format & ~kCompacted & ~cpu.s.xcr0) || (present & ~format) ||
          !zero(image + area::kHeader + 16, 48);
  else
    bad = op.insn->sem == Sem::xrstors || (present & ~cpu.s.xcr0) ||
          !zero(image + area::kHeader + 8, 16);
  u32 control = load<u32>(image + area::kMxcsr);
  bool take_mxcsr = compact ? (wanted & present & kSse) != 0 : (wanted & (kSse | kAvx)) != 0;
  if (bad || (take_mxcsr && control & ~kMxcsrMask)) return cpu.raise(GP, 0);

  u32 at[8] = {};
  u32 next = area::kYmm;
  for (unsigned bit = 2; bit < 8; bit++) {
    const Component& c = kComponents[bit];
    if (!c.size) continue;
    at[bit] = compact ? next : c.offset;
    if (format >> bit & 1) next += c.size;
    if (wanted & present & (u64{1} << bit) &&
        !cpu.read_bytes(op.segment, offset + at[bit], image + at[bit], c.size))
      return cpu.failed();
  }

  // Nothing fails from here on.
  u8* x = cpu.s.xsave.data();
  if (wanted & kX87) {
    if (present & kX87)
      take_x87(cpu, op, image);
    else
      reset_x87(x);
  }
  if (take_mxcsr)
    set_mxcsr(cpu, control);
  else if (compact && wanted & kSse)
    set_mxcsr(cpu, kInitMxcsr);
  if (wanted & kSse) {
    u32 size = 16 * registers(cpu);
    if (present & kSse)
      std::memcpy(x + area::kXmm, image + area::kXmm, size);
    else
      std::memset(x + area::kXmm, 0, size);
  }
  for (unsigned bit = 2; bit < 8; bit++) {
    const Component& c = kComponents[bit];
    if (!(wanted >> bit & 1) || !c.size) continue;
    u32 size = transferred(cpu, bit);
    if (present >> bit & 1)
      std::memcpy(x + c.offset, image + at[bit], size);
    else
      std::memset(x + c.offset, 0, size);
  }
  return Flow::next;
}

// ---- XCR0
// ------------------------------------------------------------------------------------------

Flow xgetbv(Cpu& cpu, const Op&) {
  if (!(cpu.s.cr4 & kCr4OsXsave)) return cpu.raise(UD);
  u32 index = static_cast<u32>(cpu.gpr[machine::rcx]);
  if (index > 1) return cpu.raise(GP, 0);
  u64 value = cpu.s.xcr0;
  if (index == 1) value &= components_in_use(cpu.s);
  cpu.gpr[machine::rax] = static_cast<u32>(value);
  cpu.gpr[machine::rdx] = value >> 32;
  return Flow::next;
}

/// The components that this guest may enable: what its CPUID says and this host can do.
u64 allowed_xcr0(const Cpu& cpu) {
  u64 host = supported_vector_features().xcr0;
  if (!cpu.core) return host;
  machine::CpuidLeaf leaf = machine::cpuid_lookup(cpu.core->shared.setup.cpuid, 0xd, 0);
  return host & (static_cast<u64>(leaf.edx) << 32 | leaf.eax);
}

Flow xsetbv(Cpu& cpu, const Op&) {
  if (!(cpu.s.cr4 & kCr4OsXsave)) return cpu.raise(UD);
  u64 value = requested(cpu);
  bool bad = cpu.cpl != 0 || static_cast<u32>(cpu.gpr[machine::rcx]) != 0 || !(value & kX87) ||
             value & ~allowed_xcr0(cpu) || (value & kAvx && !(value & kSse)) ||
             (value & 0xe0 && (value & 0xe6) != 0xe6);  // SDM 1 13.3
  if (bad) return cpu.raise(GP, 0);
  cpu.s.xcr0 = value;
  return Flow::end;
}

}  // namespace

u64 components_in_use(const machine::CpuState& s) {
  const u8* x = s.xsave.data();
  u64 used = 0;
  if (load<u16>(x + area::kFcw) != 0x37f || !zero(x + 2, 22) || !zero(x + area::kSt, 128))
    used |= kX87;
  if (!zero(x + area::kXmm, 256)) used |= kSse;
  for (unsigned bit = 2; bit < 8; bit++)
    if (kComponents[bit].size && !zero(x + kComponents[bit].offset, kComponents[bit].size))
      used |= u64{1} << bit;
  return used;
}

void vector_state_loaded(machine::CpuState& s) {
  u8* x = s.xsave.data();
  u64 present = load<u64>(x + area::kHeader);
  if (!(present & kX87)) {
    u16 control = load<u16>(x + area::kFcw);  // always valid: 0x40 after RESET
    reset_x87(x);
    store(x + area::kFcw, control);
  }
  store<u16>(x + area::kFcw, static_cast<u16>((load<u16>(x + area::kFcw) & 0x1f3f) | 0x40));
  u16 status = load<u16>(x + area::kFsw) & 0x7f7f;
  if (status & ~load<u16>(x + area::kFcw) & 0x3f) status |= 0x8080;
  store(x + area::kFsw, status);
  store<u32>(x + area::kMxcsr, load<u32>(x + area::kMxcsr) & kMxcsrMask);
  if (!(present & kSse)) std::memset(x + area::kXmm, 0, 256);
  for (unsigned bit = 2; bit < 8; bit++)
    if (kComponents[bit].size && !(present >> bit & 1))
      std::memset(x + kComponents[bit].offset, 0, kComponents[bit].size);
}

void vector_state_saving(machine::CpuState& s) {
  u8* x = s.xsave.data();
  store(x + area::kHeader, components_in_use(s));
  std::memset(x + area::kHeader + 8, 0, 56);
  store<u32>(x + area::kMxcsrMask, kMxcsrMask);
}

machine::CpuidLeaf xsave_cpuid(u32 subleaf, u64 supported, u64 xcr0, u64 xss) {
  machine::CpuidLeaf leaf{0xd, subleaf, true, 0, 0, 0, 0};
  supported &= kAll;
  auto standard = [](u64 set) {
    u32 end = area::kYmm;
    for (unsigned bit = 2; bit < 8; bit++)
      if (set >> bit & 1 && kComponents[bit].size)
        end = std::max(end, kComponents[bit].offset + kComponents[bit].size);
    return end;
  };
  if (subleaf == 0) {
    leaf.eax = static_cast<u32>(supported);
    leaf.ebx = standard(xcr0);
    leaf.ecx = standard(supported);
  } else if (subleaf == 1) {
    leaf.eax = supported_vector_features().leaf_d1_eax;
    leaf.ebx = area::kYmm;
    for (unsigned bit = 2; bit < 8; bit++)
      if ((xcr0 | xss) >> bit & 1) leaf.ebx += kComponents[bit].size;
  } else if (subleaf < 8 && supported >> subleaf & 1) {
    leaf.eax = kComponents[subleaf].size;
    leaf.ebx = kComponents[subleaf].offset;
  }
  return leaf;
}

Handler select_xsave(const Insn& insn) {
  switch (insn.sem) {
    case Sem::fxsave: return fxsave;
    case Sem::fxrstor: return fxrstor;
    case Sem::xsave:
    case Sem::xsaveopt:
    case Sem::xsavec:
    case Sem::xsaves: return xsave;
    case Sem::xrstor:
    case Sem::xrstors: return xrstor;
    case Sem::xgetbv: return xgetbv;
    case Sem::xsetbv: return xsetbv;
    default: return nullptr;
  }
}

}  // namespace skerry::soft

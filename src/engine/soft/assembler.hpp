// Assembler: x86-64 machine code into a buffer, byte by byte, for the translator. Knows nothing of
// guests. Also: how translated code uses the host's registers, and where it finds things.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>

#include "engine/soft/cpu.hpp"

namespace skerry::soft {

// ---- host registers
// RSP is the base register: the end of the Cpu, the start of the TLB instance (room.hpp). R11 and
// RCX are free between guest instructions. The others hold guest registers all the time, most of
// them the one of the same number, so that instructions can be copied; guest R10, R11 and R15 live
// in memory.
enum Host : u8 { hax, hcx, hdx, hbx, hsp, hbp, hsi, hdi, h8, h9, h10, h11, h12, h13, h14, h15 };
constexpr u8 kNoReg = 0xff;
constexpr u8 kBase = hsp, kT0 = h11, kT1 = hcx;
/// Where a guest register lives; kNoReg: in Cpu::gpr.
constexpr u8 kHome[16] = {hax, h10, hdx,    hbx,    h15, hbp, hsi, hdi,
                          h8,  h9,  kNoReg, kNoReg, h12, h13, h14, kNoReg};

/// [base + index << scale + disp]; base kNoReg: RIP-relative is not offered, absolute neither.
struct HostMem {
  u8 base = kBase, index = kNoReg, scale = 0;
  i32 disp = 0;
};

// Displacements from the base register. A Cpu is no standard-layout class, but has no virtual
// bases, which is all that offsetof needs of g++ and clang.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
#define SKERRY_CPU_AT(member) \
  (static_cast<i32>(offsetof(Cpu, member)) - static_cast<i32>(sizeof(Cpu)))
namespace at {
inline constexpr i32 kSelf = SKERRY_CPU_AT(self), kJitBase = SKERRY_CPU_AT(jit_base),
                     kHostStack = SKERRY_CPU_AT(host_stack), kGpr = SKERRY_CPU_AT(gpr),
                     kCodePage = SKERRY_CPU_AT(code_page), kCodeKey = SKERRY_CPU_AT(code_key),
                     kScratch = SKERRY_CPU_AT(scratch), kSavedFlags = SKERRY_CPU_AT(saved_flags),
                     kDelta = SKERRY_CPU_AT(delta), kRflags = SKERRY_CPU_AT(rflags),
                     kRip = SKERRY_CPU_AT(rip), kSegBase = SKERRY_CPU_AT(seg_base),
                     kGo = SKERRY_CPU_AT(attention.go_),
                     kAttention = SKERRY_CPU_AT(attention.bits_),
                     kVectorLive = SKERRY_CPU_AT(vector_live),
                     kFetchEpoch = SKERRY_CPU_AT(tlb.fetch_epoch),
                     kExitSite = SKERRY_CPU_AT(exit_site), kJumpMask = SKERRY_CPU_AT(jump_mask),
                     kFaultFlags = SKERRY_CPU_AT(fault_flags), kResumeT0 = SKERRY_CPU_AT(resume_t0),
                     kResumeT1 = SKERRY_CPU_AT(resume_t1);
// Further away: what translate_system.cpp uses.
inline constexpr i32 kSimpleEnd = SKERRY_CPU_AT(simple_end), kSeg = SKERRY_CPU_AT(seg),
                     kCpl = SKERRY_CPU_AT(cpl), kTlbCurrent = SKERRY_CPU_AT(tlb.current),
                     kTlbContext = SKERRY_CPU_AT(tlb.context),
                     kKernelGsBase = SKERRY_CPU_AT(s.kernel_gs_base),
                     kTscAux = SKERRY_CPU_AT(s.tsc_aux), kCr0 = SKERRY_CPU_AT(s.cr0),
                     kCr2 = SKERRY_CPU_AT(s.cr2), kCr3 = SKERRY_CPU_AT(s.cr3),
                     kCr4 = SKERRY_CPU_AT(s.cr4), kEfer = SKERRY_CPU_AT(s.efer),
                     kStar = SKERRY_CPU_AT(s.star), kLstar = SKERRY_CPU_AT(s.lstar),
                     kSfmask = SKERRY_CPU_AT(s.sfmask);
constexpr i32 gpr(u8 guest) {
  return kGpr + 8 * guest;
}
// In the TLB instance.
inline constexpr i32 kTlbRead = 0, kTlbWrite = 8, kTlbHost = 16, kTlbBias = 24;
inline constexpr i32 kJump = offsetof(Instance, jump), kInstanceMode = offsetof(Instance, mode);
}  // namespace at
#undef SKERRY_CPU_AT
#pragma GCC diagnostic pop

/// Condition codes as in the opcodes of Jcc.
enum Condition : u8 { cO, cNO, cB, cAE, cE, cNE, cBE, cA, cS, cNS, cP, cNP, cL, cGE, cLE, cG };

/// Where a rel32 that could not be filled in yet lies.
struct Fixup {
  u32 at = 0;
};

inline constexpr u8 kNop5[5] = {0x0f, 0x1f, 0x44, 0x00, 0x00};

/// Writes without checks: whoever emits sees to it that kRoom bytes are enough.
class Assembler {
 public:
  static constexpr u32 kRoom = 64 * 1024;
  Assembler() : code(new u8[kRoom]), p_(code.get()) {}

  const std::unique_ptr<u8[]> code;

  u32 size() const { return static_cast<u32>(p_ - code.get()); }
  void clear() { p_ = code.get(); }
  void byte(u8 b) { *p_++ = b; }
  void bytes(std::initializer_list<u8> list) {
    for (u8 b : list) *p_++ = b;
  }
  void append(const u8* p, size_t n) {
    std::memcpy(p_, p, n);
    p_ += n;
  }
  void dword(u32 v) {
    std::memcpy(p_, &v, 4);
    p_ += 4;
  }
  void qword(u64 v) {
    std::memcpy(p_, &v, 8);
    p_ += 8;
  }

  /// ModRM, SIB and displacement of a memory operand; `reg` is the low three bits' owner.
  /// wide_disp: never an 8-bit displacement (EVEX scales those).
  void modrm_mem(u8 reg, const HostMem& m, bool wide_disp = false) {
    const bool sib = m.index != kNoReg || (m.base & 7) == 4;
    u8 mod = m.disp == 0 && (m.base & 7) != 5                ? 0
             : m.disp >= -128 && m.disp <= 127 && !wide_disp ? 1
                                                             : 2;
    byte(static_cast<u8>(mod << 6 | (reg & 7) << 3 | (sib ? 4 : m.base & 7)));
    if (sib)
      byte(static_cast<u8>((m.index == kNoReg ? 4 << 3 : m.scale << 6 | (m.index & 7) << 3) |
                           (m.base & 7)));
    if (mod == 1) byte(static_cast<u8>(m.disp));
    if (mod == 2) dword(static_cast<u32>(m.disp));
  }
  static u8 rex_mem(bool w, u8 reg, const HostMem& m) {
    return static_cast<u8>(w << 3 | (reg >> 3 & 1) << 2 |
                           (m.index != kNoReg ? (m.index >> 3 & 1) << 1 : 0) | (m.base >> 3 & 1));
  }

  // ---- plain instructions. 64-bit unless said.
  void op_mem(u8 opcode, u8 reg, const HostMem& m, bool wide = true) {
    u8 rex = rex_mem(wide, reg, m);
    if (rex) byte(0x40 | rex);
    byte(opcode);
    modrm_mem(reg, m);
  }
  void op_reg(u8 opcode, u8 reg, u8 rm, bool wide = true) {
    u8 rex = static_cast<u8>(wide << 3 | (reg >> 3) << 2 | rm >> 3);
    if (rex) byte(0x40 | rex);
    byte(opcode);
    byte(static_cast<u8>(0xc0 | (reg & 7) << 3 | (rm & 7)));
  }
  void mov(u8 to, u8 from, bool wide = true) { op_reg(0x8b, to, from, wide); }
  void load(u8 to, const HostMem& m, bool wide = true) { op_mem(0x8b, to, m, wide); }
  void store(const HostMem& m, u8 from, bool wide = true) { op_mem(0x89, from, m, wide); }
  void lea(u8 to, const HostMem& m, bool wide = true) { op_mem(0x8d, to, m, wide); }
  void add_mem(u8 reg, const HostMem& m) { op_mem(0x03, reg, m); }
  void or_mem(u8 reg, const HostMem& m) { op_mem(0x0b, reg, m); }
  void sub_mem(u8 reg, const HostMem& m) { op_mem(0x2b, reg, m); }
  /// op: 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp.
  void alu_imm(u8 op, u8 reg, i32 value, bool wide = true) {
    u8 rex = static_cast<u8>(wide << 3 | reg >> 3);
    if (rex) byte(0x40 | rex);
    const bool small = value >= -128 && value <= 127;
    byte(small ? 0x83 : 0x81);
    byte(static_cast<u8>(0xc0 | op << 3 | (reg & 7)));
    if (small)
      byte(static_cast<u8>(value));
    else
      dword(static_cast<u32>(value));
  }
  void alu_mem_imm(u8 op, const HostMem& m, i32 value, bool wide) {
    u8 rex = rex_mem(wide, 0, m);
    if (rex) byte(0x40 | rex);
    const bool small = value >= -128 && value <= 127;
    byte(small ? 0x83 : 0x81);
    modrm_mem(op, m);
    if (small)
      byte(static_cast<u8>(value));
    else
      dword(static_cast<u32>(value));
  }
  void mov_imm32(u8 reg, u32 value) {  ///< zero-extends
    if (reg >= 8) byte(0x41);
    byte(static_cast<u8>(0xb8 | (reg & 7)));
    dword(value);
  }
  void mov_imm(u8 reg, u64 value) {
    if (value <= 0xffff'ffff) return mov_imm32(reg, static_cast<u32>(value));
    if (static_cast<i64>(value) == static_cast<i32>(value)) {
      byte(static_cast<u8>(0x48 | reg >> 3));
      byte(0xc7);
      byte(static_cast<u8>(0xc0 | (reg & 7)));
      return dword(static_cast<u32>(value));
    }
    byte(static_cast<u8>(0x48 | reg >> 3));
    byte(static_cast<u8>(0xb8 | (reg & 7)));
    qword(value);
  }
  void shift_imm(u8 op, u8 reg, u8 count, bool wide = true) {  ///< op: 4 shl, 5 shr, 7 sar
    u8 rex = static_cast<u8>(wide << 3 | reg >> 3);
    if (rex) byte(0x40 | rex);
    byte(0xc1);
    byte(static_cast<u8>(0xc0 | op << 3 | (reg & 7)));
    byte(count);
  }
  void movzx8_mem(u8 reg, const HostMem& m) {
    u8 rex = rex_mem(false, reg, m);
    if (rex) byte(0x40 | rex);
    bytes({0x0f, 0xb6});
    modrm_mem(reg, m);
  }
  void movzx16_mem(u8 reg, const HostMem& m) {
    u8 rex = rex_mem(false, reg, m);
    if (rex) byte(0x40 | rex);
    bytes({0x0f, 0xb7});
    modrm_mem(reg, m);
  }
  void movzx16(u8 to, u8 from) {
    u8 rex = static_cast<u8>((to >> 3) << 2 | from >> 3);
    if (rex) byte(0x40 | rex);
    bytes({0x0f, 0xb7, static_cast<u8>(0xc0 | (to & 7) << 3 | (from & 7))});
  }
  void rorx(u8 to, u8 from, u8 count) {  // VEX.LZ.F2.0F3A.W1 F0
    bytes({0xc4, static_cast<u8>((to & 8 ? 0 : 0x80) | 0x40 | (from & 8 ? 0 : 0x20) | 3), 0xfb,
           0xf0, static_cast<u8>(0xc0 | (to & 7) << 3 | (from & 7)), count});
  }
  void pext_mem(u8 to, u8 from, const HostMem& m) {  // VEX.LZ.F3.0F38.W0 F5, 32 bits
    bytes({0xc4, static_cast<u8>((to & 8 ? 0 : 0x80) | 0x40 | (m.base & 8 ? 0 : 0x20) | 2),
           static_cast<u8>((~from & 15) << 3 | 2), 0xf5});
    modrm_mem(to, m);
  }
  void jmp_mem(const HostMem& m) {
    u8 rex = rex_mem(false, 0, m);
    if (rex) byte(0x40 | rex);
    byte(0xff);
    modrm_mem(4, m);
  }
  /// JRCXZ over a distance to be filled in with patch8().
  u32 jrcxz() {
    bytes({0xe3, 0});
    return size() - 1;
  }
  u32 jmp8() {
    bytes({0xeb, 0});
    return size() - 1;
  }
  u32 jcc8(u8 condition) {
    bytes({static_cast<u8>(0x70 | condition), 0});
    return size() - 1;
  }
  void patch8(u32 at) {
    const u32 distance = size() - at - 1;
    SKERRY_DCHECK(distance < 128, "a short jump over too much");
    code[at] = static_cast<u8>(distance);
  }
  Fixup jmp32() {
    byte(0xe9);
    dword(0);
    return {size() - 4};
  }
  Fixup jcc32(u8 condition) {
    bytes({0x0f, static_cast<u8>(0x80 | condition)});
    dword(0);
    return {size() - 4};
  }
  void patch32(Fixup f, u32 target) {
    const u32 rel = target - (f.at + 4);
    std::memcpy(&code[f.at], &rel, 4);
  }

  // ---- idioms
  HostMem base(i32 disp) const { return {kBase, kNoReg, 0, disp}; }
  /// EFLAGS -> Cpu::saved_flags; clobbers `temp`.
  void save_flags(u8 temp) {
    mov(temp, hax);
    bytes({0x9f});              // lahf
    bytes({0x0f, 0x90, 0xc0});  // seto al
    byte(0x66);                 // mov [saved], ax
    op_mem(0x89, hax, base(at::kSavedFlags), false);
    mov(hax, temp);
  }
  /// Cpu::saved_flags -> EFLAGS; clobbers `temp`.
  void restore_flags(u8 temp) {
    mov(temp, hax);
    movzx16_mem(hax, base(at::kSavedFlags));
    bytes({0x04, 0x7f});  // add al, 127: OF
    byte(0x9e);           // sahf
    mov(hax, temp);
  }

 private:
  u8* p_;
};

/// Cpu::saved_flags <-> EFLAGS.
constexpr u64 eflags_of_saved(u32 saved) {
  return ((saved >> 8) & 0xd5) | (saved & 1 ? u64{OF_} : 0);
}
constexpr u32 saved_of_eflags(u64 eflags) {
  return static_cast<u32>((eflags & 0xd5) << 8 | 0x200 | (eflags & OF_ ? 1 : 0));
}

}  // namespace skerry::soft

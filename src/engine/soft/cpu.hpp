// Cpu: one software vCPU at run time, as instruction handlers see it.
//
// Instruction bytes are decoded once into Ops (see block.hpp), an Op names its Handler; the run
// loop (interpreter.cpp) calls handlers one after the other. A handler that faults or must leave
// for the machine (port, MMIO) records why in the Cpu and returns false or Flow::fault/exit
// *before* it changes any guest-visible register, so that the instruction can be delivered as a
// fault or executed again.
//
// MMIO and port reads: the handler runs again from its start once the machine has answered; the
// answers of its earlier accesses are replayed from a log (io_log.hpp), so a handler sees plain
// synchronous memory. Stores to RAM before a device access of the same instruction must therefore
// be idempotent.
#pragma once

#include <array>
#include <atomic>

#include "base/bits.hpp"
#include "engine/soft/tlb.hpp"
#include "isa/insn.hpp"
#include "machine/cpu_state.hpp"
#include "machine/exit.hpp"

// Handlers include access.hpp as well: the inline bodies of read, write, modify, push, pop.
namespace skerry::soft {

using machine::Segment;
struct Cpu;
struct Op;

enum class Flow : u8 {
  next,    ///< go on with the next instruction
  branch,  ///< cpu.rip was set
  fault,   ///< cpu.fault holds an exception to deliver; rip still points at this instruction
  exit,    ///< cpu.exit holds an Exit for the machine; the instruction runs again afterwards
  end,  ///< as next, but the block ends here: mode, paging, interrupt flag or code may have changed
  far_branch,  ///< as branch, but mode, CPL or paging may have changed as well
};
using Handler = Flow (*)(Cpu&, const Op&);

/// A decoded instruction, ready to run.
struct Op {
  Handler run;
  const isa::Insn* insn;  ///< everything else about it; lives as long as the block
  u64 imm;
  i32 disp;  ///< moffs64 addresses are in imm instead
  u8 length;
  u8 opsize;                       ///< 1, 2, 4, 8
  u8 base, index, scale, segment;  ///< of the memory operand: isa::Memory
  u8 addrsize;
  /// First and second explicit operand if they are registers: byte offset into Cpu::gpr (so AH is
  /// 1, CL is 8, R15 is 120); for segment, control... registers their number. 0xff for a memory
  /// operand.
  u8 dst, src;
  /// What the handler found out about this Op when it first ran, and under which generation it
  /// holds (thunk.hpp): translated host code. The handler's own.
  mutable const void* cached = nullptr;
  mutable u64 cached_generation = 0;
};

/// What a segment register lets through outside 64-bit mode: offsets in [lo, end). end = 0:
/// nothing.
struct Reach {
  u64 lo = 0, read_end = 0, write_end = 0;
};

/// An exception on its way to the guest (SDM 3A chapter 6).
struct Fault {
  u8 vector = 0;
  bool has_error = false;
  u32 error = 0;
  u64 address = 0;  ///< CR2 for #PF
};

enum Vector : u8 {
  DE = 0,
  DB = 1,
  NMI = 2,
  BP = 3,
  OF = 4,
  BR = 5,
  UD = 6,
  NM = 7,
  DF = 8,
  TS = 10,
  NP = 11,
  SS = 12,
  GP = 13,
  PF = 14,
  MF = 16,
  AC = 17,
  MC = 18,
  XM = 19
};

enum Flag : u64 {
  CF = 1,
  PF_ = 4,
  AF = 0x10,
  ZF = 0x40,
  SF = 0x80,
  TF = 0x100,
  IF = 0x200,
  DF_ = 0x400,
  OF_ = 0x800,
  IOPL = 0x3000,
  NT = 0x4000,
  RF = 0x10000,
  VM = 0x20000,
  AC_ = 0x40000,
  VIF = 0x80000,
  VIP = 0x100000,
  ID = 0x200000
};
constexpr u64 kArithmeticFlags = CF | PF_ | AF | ZF | SF | OF_;

/// Arithmetic flags, computed when asked for (arith.hpp). ZF, SF and PF follow from the last
/// result, CF, OF and AF from the vector of carries out of each bit; the spare bits of that vector
/// correct SF and PF where no single result can express what was loaded into EFLAGS.
struct LazyFlags {
  u64 result = 1;  ///< last result, sign-extended to 64 bits: ZF (== 0), SF (bit 63), PF (low byte)
  /// Bit 63: CF. Bit 62: CF ^ OF (the carry into the sign bit). Bit 3: AF. Bits 8-15: to be XORed
  /// into the low byte of the result for PF. Bit 0: to be XORed into SF. Other bits: anything.
  u64 carries = 0;
};

/// 48-bit linear addresses (5-level paging is not offered).
constexpr bool canonical(u64 linear) {
  return static_cast<u64>(static_cast<i64>(linear << 16) >> 16) == linear;
}

/// Cpu::attention: bits that any thread may set, which jump table entries look at, and a word that
/// other translated code polls without touching flags.
class AttentionWord {
 public:
  u32 load(std::memory_order order) const { return static_cast<u32>(bits_.load(order)); }
  void fetch_or(u32 bits, std::memory_order = std::memory_order_seq_cst) {
    bits_.fetch_or(bits, std::memory_order_seq_cst);
    go_.store(0, std::memory_order_seq_cst);
  }
  void fetch_and(u32 bits, std::memory_order order = std::memory_order_seq_cst) {
    bits_.fetch_and(bits, order);
  }
  /// Before translated code runs: false if there is something to attend to first.
  bool arm() {
    go_.store(1, std::memory_order_seq_cst);
    if (!bits_.load(std::memory_order_seq_cst)) [[likely]]
      return true;
    go_.store(0, std::memory_order_seq_cst);
    return false;
  }

 public:
  std::atomic<u64> bits_{0};
  std::atomic<u32> go_{0};  ///< 0: leave translated code soon
};

/// Lives in a Room, directly below its TLB instances.
struct alignas(64) Cpu {
  u64 rip = 0;  ///< of the instruction being executed (offset in CS)
  LazyFlags flags;
  u64 rflags = 2;  ///< everything but the arithmetic flags

  // ---- derived from mode; recomputed by update_mode() after any change
  u8 cpl = 0;
  u8 code_bits = 16;       ///< 16, 32, 64
  bool long_mode = false;  ///< EFER.LMA
  bool protected_mode = false, v86 = false;
  u64 rip_mask = 0xffff;  ///< 16: 0xffff, 32: 0xffffffff, 64: all ones
  u8 stack_size = 2;      ///< 2, 4, 8: SS.B or 64-bit mode
  bool flat = false;      ///< 64-bit mode: only FS and GS have bases, no limits

  std::array<Segment, 6> seg{};
  std::array<u64, 8> seg_base{};  ///< the effective bases: 0 for ES CS SS DS in 64-bit mode
  std::array<Reach, 6> reach{};   ///< limits and types of seg, outside 64-bit mode
  /// The ends of `reach` for reading and writing, 0 if it does not begin at 0: for translated code.
  std::array<std::array<u64, 2>, 6> simple_end{};
  bool align_check = false;  ///< CR0.AM, EFLAGS.AC, CPL 3: misaligned data accesses are #AC

  /// Everything else architectural (CRs, MSRs, DRs, xsave area...). gpr, rip, rflags and seg above
  /// are the live copies while running; load()/save() exchange them.
  machine::CpuState s;

  Tlbs tlb;
  Fault fault;

  // ---- what handlers call (mmu.cpp and the inline part in access.hpp)
  /// Offset of the memory operand within its segment.
  u64 ea(const Op& op) const {
    static constexpr u64 kMask[9] = {0, 0, 0xffff, 0, 0xffffffff, 0, 0, 0, ~u64{0}};
    return (gpr[op.base] + (gpr[op.index] << op.scale) +
            static_cast<u64>(static_cast<i64>(op.disp))) &
           kMask[op.addrsize];
  }

  /// Loads and stores by segment and offset: segmentation checks, canonical check, paging,
  /// alignment check, device access. T: u8, u16, u32, u64, u128. False: fault or exit recorded;
  /// return failed().
  template <class T>
  [[nodiscard]] bool read(u8 segment, u64 offset, T& value);
  template <class T>
  [[nodiscard]] bool write(u8 segment, u64 offset, T value);
  /// Read-modify-write: `f(old) -> new`. All permission checks (for writing) happen before f is
  /// called. `locked`: atomic towards other vCPUs, also when crossing a page. f may be called more
  /// than once.
  template <class T, class F>
  [[nodiscard]] bool modify(u8 segment, u64 offset, bool locked, F f);
  /// Any number of bytes up to 4096, for wide and odd operands: 10-byte x87, FXSAVE, descriptors...
  /// write_bytes checks all pages before it writes the first byte.
  [[nodiscard]] bool read_bytes(u8 segment, u64 offset, void* to, u32 size);
  [[nodiscard]] bool write_bytes(u8 segment, u64 offset, const void* from, u32 size);
  /// True if every byte can be written (read): raises the fault otherwise. For stores that must not
  /// begin before another step of the instruction has succeeded.
  [[nodiscard]] bool probe_write(u8 segment, u64 offset, u32 size);
  [[nodiscard]] bool probe_read(u8 segment, u64 offset, u32 size);
  /// Supervisor access by linear address, for descriptor tables, TSS, IDT (ignores CPL; SDM
  /// 3A 4.6.1).
  template <class T>
  [[nodiscard]] bool system_read(u64 linear, T& value);
  template <class T>
  [[nodiscard]] bool system_write(u64 linear, T value);

  // ---- what repeated string instructions need
  /// An interrupt, single step, kick... waits: update rCX, rSI, rDI for the elements that are done
  /// and return Flow::branch with rip unchanged (the instruction starts again later).
  bool interrupted() const { return attention.load(std::memory_order_relaxed) != 0; }
  /// Call after each element, once its registers are updated: forgets the logged device accesses,
  /// so that the next element makes its own.
  void element_done() {
    if (io_used) forget_io();
  }

  /// Ports: permission (IOPL, TSS bitmap) included. size 1, 2, 4.
  [[nodiscard]] bool port_in(u16 port, u8 size, u32& value);
  [[nodiscard]] bool port_out(u16 port, u8 size, u32 value);

  /// Push and pop with the stack's address size; the stack pointer changes only on success.
  [[nodiscard]] bool push(u64 value, u8 size);
  [[nodiscard]] bool pop(u64& value, u8 size);
  void set_sp(u64 value);  ///< RSP, ESP or SP by stack_size

  Flow raise(u8 vector);             ///< records a fault without error code; returns Flow::fault
  Flow raise(u8 vector, u32 error);  ///< with error code
  Flow failed() const { return pending_exit ? Flow::exit : Flow::fault; }

  /// Near jump within CS: checks limit / canonical (#GP before anything changed). Returns branch or
  /// fault.
  Flow jump(u64 target);

  u64 eflags() const;          ///< rflags with the arithmetic flags
  void set_eflags(u64 value);  ///< all bits; masks nothing

  // ---- mode (mode.cpp). Whoever changes CR0, CR4, EFER, a segment register, RFLAGS.VM/AC/TF/IF or
  // CPL calls one of these and ends the block (Flow::end or branch).
  void update_mode();               ///< everything derived: after CRs, EFER, segments, CPL, VM
  void update_segment(u8 segment);  ///< base and reach of one segment register
  void select_tlb();                ///< after CPL, EFLAGS.AC or SMAP alone
  void set_cpl(u8 value);           ///< and select_tlb()

  // ---- the out-of-line halves of read, write, modify (mmu.cpp)
  struct Access;
  bool prepare(Access& access, u8 segment, u64 offset, u32 size, bool write);
  bool prepare_linear(Access& access, u64 linear, u32 size, bool write, bool system);
  bool load_from(Access& access, void* to);
  bool store_to(Access& access, const void* from);
  void stored(Access& access);  ///< after a direct store to access.piece[].host
  bool read_slow(u8 segment, u64 offset, void* to, u32 size);
  bool write_slow(u8 segment, u64 offset, const void* from, u32 size);
  void forget_io();
  static void split_lock(bool take);

  bool io_used = false;  ///< the I/O log is not empty

  bool pending_exit = false;  ///< cpu.exit is filled in
  machine::Exit exit = machine::Interrupted{};

  struct Core;  ///< the rest: blocks, LAPIC, I/O log, configuration. core.hpp
  Core* core = nullptr;

  /// What a load across two pages finds, at the address's place in a line; and the two temporaries
  /// with which translated code goes on (its address).
  alignas(64) std::array<u8, 128> across{};
  u64 resume_t0 = 0, resume_t1 = 0;

  // ---- what translated code uses most comes last: it is next to the base register (room.hpp).
  u64 jit_base = 0;          ///< base register while C++ runs
  u64 host_stack = 0;        ///< of the C++ code that entered translated code
  Cpu* self = this;          ///< the address that C++ knows
  u64 fault_flags = 0;       ///< flags as a signal found them
  u32 exit_site = 0;         ///< Jit's site of the last indirect jump
  bool vector_live = false;  ///< vector and x87 registers are in the host's, not in s.xsave
  /// core.hpp: Attention bits; any thread sets them
  alignas(64) AttentionWord attention;
  u64 code_key = 0;  ///< what jump tables add to RIP in segmented code (Jit::key_of)
  u64 reserved_[3] = {};

  /// Slot 16 is always 0 (no base/index), slot 17 holds the next instruction's address.
  std::array<u64, 18> gpr{};
  // The last 64 bytes: see jit_layout.hpp.
  u64 code_page = 0;    ///< RIP of the start of the page that translated code runs in
  u64 scratch = 0;      ///< the address of an access that missed; and so on
  u32 saved_flags = 2;  ///< as LAHF and SETO leave them in AX
  u32 jump_mask = (Instance::kJumps - 1) << Instance::kJumpShift;
  std::array<u64, 5> delta{};  ///< host - guest addresses found earlier in the same block
};

// Nothing lies between a Cpu and the instance behind it.
static_assert(sizeof(Cpu) % 64 == 0);

}  // namespace skerry::soft

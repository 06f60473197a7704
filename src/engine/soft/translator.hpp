// Translator: guest instructions of one block to host code (copy and patch).
//
// An instruction that touches only registers is emitted again with other register numbers; a memory
// operand is looked up in the soft TLB first; control transfers become jumps to other blocks; what
// remains calls the interpreter's handler. A block goes on past conditional jumps that are not
// taken and ends at other control transfers, at the end of its page or after kMaxInsns.
//
// Flags: jumps within a page leave the guest's arithmetic flags in EFLAGS. Jumps through a jump
// table (calls, returns: few look at them afterwards) leave them in Cpu::saved_flags, and a block
// that is reached so takes them from there if it wants them (JitBlock::table). In between a TLB
// check may destroy EFLAGS; if somebody still wants them they are saved before and restored when
// they are wanted. Flags that will be overwritten before anybody reads them are not kept, also not
// for a fault in between.
//
// Pure: reads guest bytes given to it, writes to buffers of its own; Jit puts the result in place.
#pragma once

#include <span>

#include "engine/soft/assembler.hpp"
#include "engine/soft/jit.hpp"
#include "isa/row.hpp"

namespace skerry::soft {

/// What a block's code depends on besides its bytes.
enum Mode : u32 {
  kModeUser = 1,          ///< CPL 3
  kModeSse = 2,           ///< SSE instructions may run
  kModeAvx = 4,           ///< AVX instructions may
  kModeAvx512 = 8,        ///< AVX-512 instructions may
  kModeX87 = 16,          ///< x87 and MMX instructions may
  kModeSmap = 32,         ///< CR4.SMAP
  kModeSet = 64,          ///< always: no mode is 0, which unused memory holds
  kModeCode32 = 128,      ///< 32-bit code; neither of the two: 64-bit code
  kModeCode16 = 256,      ///< 16-bit code
  kModeReal = 512,        ///< not protected mode; with kModeUser: virtual-8086 mode
  kModeStack32 = 1024,    ///< of such code: ESP, not SP
  kModeFlat = 2048,       ///< and DS, ES and SS are 4 GiB of writable memory at 0
  kModeSegmented = 4096,  ///< RIP is not the linear address, or runs into a limit
  // Of segmented code, in 16ths of bytes: how much of the page lies before its segment and, with
  // what one instruction needs, behind its end. All else is the *window*. Direct jumps stay within
  // it, so that they know neither wrapping nor limits.
  kModeBefore = 0xff << 13,
  kModeBehind = 0xff << 21,
  kModeWindow = kModeBefore | kModeBehind,
  kModeUnmerged = 1u << 31,  ///< every access is checked for itself
};
constexpr u32 window_first(u32 mode) {
  return (mode & kModeBefore) >> 13 << 4;
}
constexpr u32 window_end(u32 mode) {
  return 4096 - ((mode & kModeBehind) >> 21 << 4);
}

class Translator {
 public:
  static constexpr u32 kMaxInsns = Jit::kMostInsns;

  explicit Translator(Jit& jit);

  static isa::DecodeMode decode_mode(u32 mode);

  /// Translates from `offset` in a page whose bytes from there on are `code`, for placement at
  /// `place` (an offset in the code cache), as block number `block`. fetch(n) makes sure that
  /// the first n of `code` may be looked at. Fills in count, bytes, hot_bytes, entry, vectors,
  /// stale_stub of `b`, and appends to the Jit's sites, links and faults. False: the instruction
  /// at `offset` crosses into the next page.
  template <class Fetch>
  bool translate(std::span<const u8> code, u32 offset, u32 mode, u32 block, u32 place, JitBlock& b,
                 Fetch fetch) {
    begin(code, offset, mode, block, place);
    while (want_more()) {
      fetch(wanted());
      if (!decode_next()) break;
    }
    return finish(b);
  }
  /// A block of the one instruction at `offset`, which goes on in the next page. The code leaves
  /// through the stale gate when the epoch is not `epoch`.
  void translate_crossing(std::span<const u8> code, u32 offset, u32 mode, u32 block, u32 place,
                          JitBlock& b, u32 epoch);

  const Assembler& hot() const { return hot_; }
  const Assembler& cold() const { return cold_; }

 private:
  enum class Kind : u8 {
    copy,
    skip,       ///< does nothing (NOP, ENDBR, prefetches)
    interpret,  ///< the interpreter's handler
    push,
    pop,
    leave,
    lea,
    jump,
    jcc,
    call,
    ret,
    loop,    ///< LOOP, JRCXZ
    system,  ///< translate_system.cpp
  };
  /// How an instruction is copied.
  struct Plan {
    u8 place_reg[7];  ///< host register by isa::Place
    struct Temp {
      u8 guest = kNoReg, host = kNoReg;
      bool load = false, store = false;
    } temp[2];
    u8 temps = 0;
    bool use_rcx = false;  ///< host RCX must hold guest RCX
    bool rcx_written = false;
    bool high = false;      ///< AH-DH: no REX prefix
    bool high_rcx = false;  ///< guest RCX is in host RCX for the instruction
    bool high_rcx_written = false;
    const isa::Operand* memory = nullptr;
  };
  struct Item {
    isa::Insn insn;
    u16 at;  ///< offset in the page
    Kind kind;
    bool ends;                              ///< nothing follows
    u32 reads = 0, changes = 0, kills = 0;  ///< flags
    u32 live_after = 0;                     ///< flags that somebody may still want
    i16 group = -1;                         ///< of its memory operand (or the stack)
    bool leads = false;                     ///< checks for the whole group
    i32 place = 0;                          ///< of the access in its group's terms
    Plan plan;                              ///< for Kind::copy
  };
  /// Accesses at constant distances from one base: the first checks for all, keeps host - guest in
  /// Cpu::delta, and the others just add it. If they do not all lie in one page, or it is no plain
  /// memory, the block goes on in a translation of its rest without groups (kModeUnmerged).
  struct Group {
    u32 origin;  ///< what the base is derived from
    bool write, open;
    u16 first, last, count;  ///< items
    i32 low, high;
    u8 slot;
  };
  static constexpr i32 kMostSpan = 256;
  static constexpr u8 kSlots = 4;

  // translator.cpp
  void begin(std::span<const u8> code, u32 offset, u32 mode, u32 block, u32 place);
  bool want_more() const;
  u32 wanted() const { return at_ - offset_ + 15; }
  bool decode_next();
  bool finish(JitBlock& b);
  Kind classify(const isa::Insn& insn) const;
  bool copyable(const isa::Insn& insn) const;
  u32 liveness();  ///< the flags that the block wants from before
  void prologue(bool wants_flags);
  void emit_item(Item& item);
  void emit_cold();
  void resolve();
  void end_block(JitBlock& b);

  // flags
  u32 wanted_flags(const Item& item) const { return item.reads | (item.live_after & ~item.kills); }
  /// Before code that destroys EFLAGS: keeps what is still wanted from before `item`.
  void protect_flags(const Item& item);
  /// Before code that reads EFLAGS, or changes some and keeps others.
  void need_flags(u8 temp);
  void flags_before_op(const Item& item, u8 temp);
  void flags_after_op(const Item& item);

  // merge.cpp
  void merge();
  void note_access(u16 item, u32 origin, i64 place, u32 size, bool write);
  std::vector<Group> groups_;
  static constexpr size_t kNoGroup = ~size_t{0};
  size_t sure_ = kNoGroup;  ///< since its first access nothing else could branch or fault
  /// Instructions that the host may refuse with a signal.
  static bool may_fault(const isa::Insn& insn);

  // translate_memory.cpp
  /// Host address of a memory operand (of the instruction, or made up for the stack), checked. The
  /// site that run_one() may come back to is `site` (none for members of a group).
  HostMem reach(const Item& item, const isa::Memory& m, u32 size, bool write, bool single,
                u32& site);
  static bool base_only(const isa::Insn& insn, const isa::Memory& m);
  HostMem through_delta(const Item& item, const isa::Memory& m, bool single);
  void set_after(u32 site) {
    if (site != kNoSite) jit_.sites_[site].after = place_ + hot_.size();
  }
  static constexpr u32 kNoSite = ~u32{0};
  struct Address {
    HostMem mem;
    bool single;  ///< in one register: kT1 is free
  };
  /// Linear address of the instruction's memory operand to kT0.
  /// `wide`: whatever the instruction's address size is.
  void linear_address(const isa::Insn& insn, const isa::Memory& m, u16 at, bool wide = false);
  /// Host address of what kT0 points to; jumps to a cold stub if it is not plain memory.
  Address check(const Item& item, u32 size, bool write, bool single);
  void look_up(u32 size, bool write, u32 site);
  void check_bias(u32 size, bool write, u32 site);
  static isa::Memory stack(i32 disp);  ///< [RSP + disp]
  void copy(const Item& item);
  void encode(const isa::Insn& insn, const u8* original, const u8 regs[7], const HostMem* mem);
  void push(const Item& item);
  void pop(const Item& item);
  void leave(const Item& item);
  void lea(const Item& item);
  /// Whether copy() can do it; fills in the plan.
  bool plan(const isa::Insn& insn, Plan& p) const;

  // translate_modes.cpp: code that is not 64-bit
  bool narrow() const { return mode_ & (kModeCode32 | kModeCode16); }
  bool segmented() const { return mode_ & kModeSegmented; }
  bool v86() const { return (mode_ & (kModeReal | kModeUser)) == (kModeReal | kModeUser); }
  /// Whether a near jump of the block may lead there directly (an offset in the page).
  bool in_window(i64 target) const {
    return target >= window_first(mode_) && target < window_end(mode_);
  }
  bool near_narrow(const isa::Insn& insn) const;
  Kind classify_narrow(const isa::Insn& insn, std::span<const u8> bytes) const;
  void narrow_offset(const isa::Insn& insn, const isa::Memory& m, bool on_stack);
  bool flat_segment(u8 segment) const;
  void narrow_linear(u8 segment, u32 size, bool write, u32 site);
  HostMem reach_narrow(const Item& item, const isa::Memory& m, u32 size, bool write, bool single,
                       u32& site);
  /// Linear address of the instruction's memory operand to kT0, in any mode.
  void operand_address(const Item& item, u32 size, bool write, u32 site);
  void load_sized(u8 to, const HostMem& from, u8 size);
  void store_sized(const HostMem& to, u8 from, u8 size);
  void move_stack(i32 by);
  void set_word(u8 to, u8 from);
  void push_narrow(const Item& item);
  void pop_narrow(const Item& item);
  void leave_narrow(const Item& item);
  void lea_narrow(const Item& item);
  void load_segment(const Item& item);
  bool real_segment(const isa::Insn& insn) const;
  void load_real_segment(const Item& item);
  void offset_of_page(Assembler& a, const isa::Insn& insn, i64 offset);
  void compare_limit(Assembler& a);
  void check_target(const Item& item);
  void call_narrow(const Item& item);
  void ret_narrow(const Item& item);

  // translate_control.cpp
  void jump(const Item& item);
  void jcc(const Item& item);
  void call(const Item& item);
  void ret(const Item& item);
  void loop(const Item& item);
  void interpret(const Item& item);
  /// To kT0: where an indirect jump or call goes.
  void load_target(const Item& item);
  /// Says who jumps, for whoever has to deal with a bad target (and for counting).
  void mark_exit(Assembler& a, const Item& item);
  void through_table(Assembler& a);
  void indirect(bool may_be_bad, bool checked = true);  ///< to kT0
  /// To an offset relative to the page's start, in or out of the page. `checked`: it is known to
  /// lie below the code segment's limit.
  void go_to(i64 target, bool checked = false);
  void jump_out(u8 condition, bool conditional, i64 target);

  // translate_x87.cpp
  static bool on_x87(const isa::Insn& insn);
  bool x87_copyable(const isa::Insn& insn) const;

  // translate_string.cpp
  static u32 string_element(const isa::Insn& insn);
  bool narrow_string_step(const isa::Insn& insn) const;
  bool string_step_inline(const isa::Insn& insn) const;
  void string_step(const Item& item);
  void string(const Item& item);

  // translate_system.cpp
  bool system_inline(const isa::Insn& insn) const;
  bool sti_here(u32 index) const;
  void system(const Item& item);
  void fall_back_if(u8 condition, u32 site);
  void test_mem(i32 disp, u32 bits);
  void alu_mem32(u8 op, i32 disp, u32 value);
  void test_byte_at(const void* p);
  void read_guest(u8 to, u8 guest);
  void write_guest(u8 guest, u8 from);
  void compose_flags();
  void slot_from(u8 from);
  void switch_instance(i32 views);
  void check_instance(i32 views, u32 mode, u32 site);
  void load_flat_segments(u32 dpl, i32 stack_from_code);
  void mov_system(const Item& item);
  void bit_string(const Item& item);
  void stack_address(const Item& item, i32 disp, bool write, u32 site);
  void pushf(const Item& item);
  void popf(const Item& item);
  void syscall(const Item& item);
  void sysret(const Item& item);

  u32 new_site(const Item& item, u32 size, bool write);
  const u8* original(const Item& item) const { return code_.data() + (item.at - offset_); }

  // ---- cold code, emitted behind the block
  struct Cold {
    enum Kind : u8 { slow_read, slow_write, link, stop, far, interpret } kind;
    u32 from;    ///< offset of the rel32 in hot code
    u32 number;  ///< site, link or item
    i64 target = 0;
    bool in_slot = false;  ///< of link, stop, far: saved_flags hold the flags
  };
  /// rel32 in hot or cold code to a place outside of the block.
  struct Outside {
    bool in_cold;
    u32 at, target;
  };
  void to_gate(Assembler& a, u32 gate);  ///< jmp

  Jit& jit_;
  Assembler hot_, cold_;
  std::span<const u8> code_;
  u32 offset_ = 0, at_ = 0, end_ = 0, mode_ = 0, block_ = 0, place_ = 0;
  bool done_ = false, vectors_ = false;
  bool in_eflags_ = true, in_slot_ = false;
  u32 n_ = 0, current_ = 0;
  u32 code_at_ = 0;  ///< where the block begins for those that have the flags in EFLAGS; 0: not yet
  bool wants_flags_ = false;
  std::unique_ptr<Item[]> items_;
  std::vector<Cold> colds_;
  std::vector<Outside> outside_;
  const bool bmi2_, fast_pext_;
};

}  // namespace skerry::soft

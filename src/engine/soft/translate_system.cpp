// Translator: system instructions that an operating system uses all the time. What is out of the
// ordinary falls back to the interpreter's handler before anything has changed.
//
// Flags are in Cpu::saved_flags when one of these falls back (protect_flags), so the plain gate to
// the interpreter will do.
#include "engine/soft/room.hpp"
#include "engine/soft/system.hpp"
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using isa::Insn;
using isa::Operand;
using isa::OperandKind;
using isa::Sem;
using machine::cs;
using machine::gs;
using machine::ss;

namespace {

constexpr u8 kRcx = 1, kRsp = 4, kR11 = 11;
/// Keeps a value across a TLB check, as in push().
constexpr i32 kKept = at::kDelta + 32;

constexpr i32 segment_at(u8 n) {
  return at::kSeg + static_cast<i32>(n * sizeof(Segment));
}
constexpr i32 kBaseIn = offsetof(Segment, base), kLimitIn = offsetof(Segment, limit);
static_assert(offsetof(Segment, selector) == 0 && offsetof(Segment, attributes) == kLimitIn + 4);
constexpr i32 kViews[] = {0, static_cast<i32>(kViewSize), static_cast<i32>(2 * kViewSize)};
static_assert(Tlbs::supervisor == Tlbs::user + 1 && Tlbs::supervisor_ac == Tlbs::user + 2);

/// DS, ES, FS or GS.
bool loads_segment(const Insn& insn) {
  return insn.op[0].kind == OperandKind::segment && insn.op[0].reg != ss && insn.op[0].reg != cs;
}

bool in_register(const Operand& o) {
  return o.kind == OperandKind::gpr;
}

}  // namespace

bool Translator::system_inline(const Insn& insn) const {
  const bool kernel = !(mode_ & kModeUser);
  constexpr u32 kFlat32 = kModeCode32 | kModeFlat | kModeStack32;
  const bool flat32 = (mode_ & (kFlat32 | kModeReal)) == kFlat32;
  // Operand and address size of 64-bit code and of flat 32-bit code; none of other code.
  const u8 natural = !narrow() ? 8 : flat32 ? 4 : 0;
  // What depends on IOPL in virtual-8086 mode is the interpreter's.
  const bool own_flags = narrow() ? !v86() : insn.opsize == 8;
  switch (insn.sem) {
    case Sem::cld:
    case Sem::std:
    case Sem::lfence:
    case Sem::mfence:
    case Sem::sfence: return true;
    case Sem::pause: return !jit_.exact_;
    case Sem::cli:
    case Sem::swapgs: return kernel;
    case Sem::stac:  // the jumps of the other instance may be of another code segment
    case Sem::clac: return kernel && !(segmented() && (mode_ & kModeSmap));
    case Sem::sti: return kernel && !jit_.exact_;
    case Sem::popf: return kernel && own_flags;
    case Sem::pushf: return own_flags;
    case Sem::rdtsc:
    case Sem::rdtscp: return bmi2_ && !jit_.exact_;
    case Sem::bt:
    case Sem::bts:
    case Sem::btr:
    case Sem::btc:
      return insn.op[0].kind == OperandKind::memory && in_register(insn.op[1]) &&
             insn.addrsize == natural && (!narrow() || flat_segment(insn.mem.segment));
    case Sem::mov:
      if (loads_segment(insn))
        return real_segment(insn) || (natural == 4 && in_register(insn.op[1]));
      if (!in_register(insn.op[0])) return false;
      if (insn.op[1].kind == OperandKind::segment) return insn.opsize >= 4 || narrow();
      return kernel && insn.op[1].kind == OperandKind::control &&
             (insn.op[1].reg == 0 || (insn.op[1].reg >= 2 && insn.op[1].reg <= 4));
    case Sem::rdfsbase:
    case Sem::rdgsbase:
    case Sem::wrfsbase:
    case Sem::wrgsbase: return insn.op[0].size == 8;
    case Sem::serialize: return !jit_.exact_;
    case Sem::pop:
      return loads_segment(insn) && (real_segment(insn) || (natural == 4 && insn.opsize == 4));
    case Sem::sysenter: return natural == 4 && !kernel;
    case Sem::sysexit: return natural == 4 && kernel && insn.opsize == 4;
    case Sem::iret: return kernel && insn.opsize == natural;
    case Sem::syscall: return !kernel && !narrow();
    case Sem::sysret: return kernel && insn.opsize == 8;
    case Sem::lods:
    case Sem::scas:
    case Sem::cmps: return string_step_inline(insn);
    case Sem::stos:
    case Sem::movs:
      if (narrow_string_step(insn)) return true;
      return string_element(insn) != 0 && insn.addrsize == natural &&
             (!narrow() || insn.sem == Sem::stos || flat_segment(insn.mem.segment));
    default: return false;
  }
}

// ---- pieces

void Translator::fall_back_if(u8 condition, u32 site) {
  colds_.push_back({Cold::interpret, hot_.jcc32(condition).at, site});
}

void Translator::test_mem(i32 disp, u32 bits) {
  hot_.op_mem(0xf7, 0, hot_.base(disp), false);
  hot_.dword(bits);
}

void Translator::alu_mem32(u8 op, i32 disp, u32 value) {
  hot_.alu_mem_imm(op, hot_.base(disp), static_cast<i32>(value), false);
}

/// A byte outside of the Cpu: not zero?  Clobbers kT1 and the flags.
void Translator::test_byte_at(const void* p) {
  hot_.mov_imm(kT1, reinterpret_cast<u64>(p));
  hot_.bytes({0x80, 0x39, 0});  // cmp byte [rcx], 0
}

/// Guest register to a host register.
void Translator::read_guest(u8 to, u8 guest) {
  if (kHome[guest] == kNoReg)
    hot_.load(to, hot_.base(at::gpr(guest)));
  else
    hot_.mov(to, kHome[guest]);
}

void Translator::write_guest(u8 guest, u8 from) {
  if (kHome[guest] == kNoReg)
    hot_.store(hot_.base(at::gpr(guest)), from);
  else
    hot_.mov(kHome[guest], from);
}

/// The guest's EFLAGS to kT0, from saved_flags and Cpu::rflags; clobbers kT1.
void Translator::compose_flags() {
  hot_.movzx8_mem(kT0, hot_.base(at::kSavedFlags));
  hot_.shift_imm(4, kT0, 11, false);
  hot_.movzx8_mem(kT1, hot_.base(at::kSavedFlags + 1));
  hot_.op_reg(0x0b, kT0, kT1);
  hot_.op_mem(0x0b, kT0, hot_.base(at::kRflags));
}

/// EFLAGS in `from` to saved_flags; clobbers both temporaries. They are in the slot then.
void Translator::slot_from(u8 from) {
  const u8 other = from == kT0 ? kT1 : kT0;
  hot_.mov(other, from, false);
  hot_.alu_imm(4, other, 0xd5, false);
  hot_.alu_imm(1, other, 2, false);
  hot_.shift_imm(4, other, 8, false);
  hot_.shift_imm(5, from, 11, false);
  hot_.alu_imm(4, from, 1, false);
  hot_.op_reg(0x0b, other, from, false);
  hot_.byte(0x66);
  hot_.op_mem(0x89, other, hot_.base(at::kSavedFlags), false);
  in_slot_ = true;
  in_eflags_ = false;
}

/// To another instance of the same address space.
void Translator::switch_instance(i32 views) {
  hot_.lea(hsp, {hsp, kNoReg, 0, views});
  hot_.store(hot_.base(at::kTlbCurrent), hsp);
  hot_.store(hot_.base(at::kTlbContext), hsp);
}

/// Falls back unless the instance `views` away has jumps of blocks of this mode (or none).
void Translator::check_instance(i32 views, u32 mode, u32 site) {
  mode &= ~u32{kModeUnmerged};
  hot_.alu_mem_imm(7, {hsp, kNoReg, 0, views + at::kInstanceMode}, static_cast<i32>(mode), false);
  fall_back_if(cNE, site);
}

// ---- instructions

void Translator::system(const Item& item) {
  const Insn& insn = item.insn;
  switch (insn.sem) {
    case Sem::lfence:
    case Sem::mfence:
    case Sem::sfence: return hot_.append(original(item), insn.length);
    case Sem::swapgs:
      hot_.load(kT0, hot_.base(at::kKernelGsBase));
      hot_.load(kT1, hot_.base(segment_at(gs) + kBaseIn));
      hot_.store(hot_.base(at::kKernelGsBase), kT1);
      hot_.store(hot_.base(segment_at(gs) + kBaseIn), kT0);
      hot_.store(hot_.base(at::kSegBase + 8 * gs), kT0);
      return;
    case Sem::mov:
      if (!loads_segment(insn)) return mov_system(item);
      [[fallthrough]];
    case Sem::pop: return real_segment(insn) ? load_real_segment(item) : load_segment(item);
    case Sem::bt:
    case Sem::bts:
    case Sem::btr:
    case Sem::btc: return bit_string(item);
    case Sem::pushf: return pushf(item);
    case Sem::popf: return popf(item);
    case Sem::iret:
      protect_flags(item);
      hot_.mov_imm32(kT1, new_site(item, 0, false));
      return to_gate(hot_, jit_.gate_.iret);
    case Sem::sysenter:
    case Sem::sysexit:
      protect_flags(item);
      hot_.mov_imm32(kT1, new_site(item, 0, false));
      return to_gate(hot_, insn.sem == Sem::sysexit ? jit_.gate_.sysexit : jit_.gate_.sysenter);
    case Sem::syscall: return syscall(item);
    case Sem::sysret: return sysret(item);
    case Sem::lods:
    case Sem::scas:
    case Sem::cmps: return string_step(item);
    case Sem::stos:
    case Sem::movs: return narrow_string_step(insn) ? string_step(item) : string(item);
    default: break;
  }
  protect_flags(item);
  const u32 site = new_site(item, 0, false);
  switch (insn.sem) {
    case Sem::cld: alu_mem32(4, at::kRflags, ~u32{DF_}); break;
    case Sem::std: alu_mem32(1, at::kRflags, DF_); break;
    case Sem::cli: alu_mem32(4, at::kRflags, ~u32{IF}); break;
    case Sem::sti:
      // With nothing waiting nobody can tell that there was a shadow: the next instruction runs
      // before anybody looks at Cpu::attention (see sti_here).
      test_byte_at(&jit_.core_.interrupt_waiting);
      fall_back_if(cNE, site);
      alu_mem32(1, at::kRflags, IF);
      break;
    case Sem::stac:
    case Sem::clac: {
      const bool set = insn.sem == Sem::stac;
      if (!(mode_ & kModeSmap)) {
        alu_mem32(set ? 1 : 4, at::kRflags, set ? u32{AC_} : ~u32{AC_});
        break;
      }
      test_mem(at::kRflags, AC_);
      const u32 already = hot_.jcc8(set ? cNE : cE);
      const i32 views = set ? kViews[1] : -kViews[1];
      check_instance(views, mode_, site);
      alu_mem32(set ? 1 : 4, at::kRflags, set ? u32{AC_} : ~u32{AC_});
      switch_instance(views);
      hot_.patch8(already);
      break;
    }
    case Sem::pause:
      if (jit_.core_.shared.setup.cpus > 1) {
        // Every 32nd is the interpreter's, which may let another vCPU run.
        hot_.mov_imm(kT1, reinterpret_cast<u64>(&jit_.core_.pauses));
        hot_.load(kT0, {kT1, kNoReg, 0, 0}, false);
        hot_.alu_imm(0, kT0, 1, false);
        hot_.bytes({0x41, 0xf6, 0xc3, 31});  // test r11b, 31
        fall_back_if(cE, site);
        hot_.store({kT1, kNoReg, 0, 0}, kT0, false);
      }
      hot_.bytes({0xf3, 0x90});
      break;
    case Sem::rdtsc:
    case Sem::rdtscp:
      if (mode_ & kModeUser) {
        test_mem(at::kCr4, system::kCr4Tsd);
        fall_back_if(cNE, site);
      }
      test_byte_at(&jit_.plain_ticks_);
      fall_back_if(cE, site);
      hot_.bytes({0x0f, 0x31});
      hot_.rorx(hdx, hdx, 32);
      hot_.op_reg(0x0b, hax, hdx);
      hot_.mov_imm(kT0, reinterpret_cast<u64>(&jit_.tick_offset_));
      hot_.add_mem(hax, {kT0, kNoReg, 0, 0});
      hot_.mov_imm(kT0, reinterpret_cast<u64>(&jit_.core_.tsc_offset));
      hot_.add_mem(hax, {kT0, kNoReg, 0, 0});
      hot_.rorx(hdx, hax, 32);
      hot_.mov(hdx, hdx, false);
      hot_.mov(hax, hax, false);
      if (insn.sem == Sem::rdtscp) hot_.load(kHome[kRcx], hot_.base(at::kTscAux), false);
      break;
    case Sem::rdfsbase:
    case Sem::rdgsbase:
      test_mem(at::kCr4, system::kCr4Fsgsbase);
      fall_back_if(cE, site);
      hot_.load(kT0, hot_.base(segment_at(insn.sem == Sem::rdfsbase ? machine::fs : gs) + kBaseIn));
      write_guest(insn.op[0].reg, kT0);
      break;
    case Sem::wrfsbase:
    case Sem::wrgsbase: {
      const u8 n = insn.sem == Sem::wrfsbase ? machine::fs : gs;
      test_mem(at::kCr4, system::kCr4Fsgsbase);
      fall_back_if(cE, site);
      read_guest(kT0, insn.op[0].reg);
      hot_.mov(kT1, kT0);  // canonical: bits 63:47 are the same
      hot_.shift_imm(4, kT1, 16);
      hot_.shift_imm(7, kT1, 16);
      hot_.op_reg(0x3b, kT1, kT0);
      fall_back_if(cNE, site);
      hot_.store(hot_.base(segment_at(n) + kBaseIn), kT0);
      hot_.store(hot_.base(at::kSegBase + 8 * n), kT0);
      break;
    }
    case Sem::serialize:
      // Stores are done; and whoever wrote code has said so.
      hot_.bytes({0x0f, 0xae, 0xf0});  // mfence
      alu_mem32(7, at::kGo, 0);
      fall_back_if(cE, site);
      break;
    default: break;
  }
  jit_.sites_[site].after = place_ + hot_.size();
}

/// Whether STI may be done without its shadow: what follows runs before interrupts are looked for.
bool Translator::sti_here(u32 index) const {
  if (index + 1 >= n_) return false;
  const Insn& next = items_[index + 1].insn;
  switch (items_[index + 1].kind) {
    case Kind::jump:
    case Kind::jcc:  // backwards they look first
      return next.op[0].kind != OperandKind::relative || static_cast<i64>(next.imm) >= 0;
    case Kind::loop: return false;
    default: return true;
  }
}

void Translator::mov_system(const Item& item) {
  const Operand& from = item.insn.op[1];
  if (from.kind == OperandKind::segment) {
    hot_.movzx16_mem(kT0, hot_.base(segment_at(from.reg)));
  } else {
    static constexpr i32 kRegister[] = {at::kCr0, 0, at::kCr2, at::kCr3, at::kCr4};
    hot_.load(kT0, hot_.base(kRegister[from.reg]), !narrow());
  }
  // Control registers are whole whatever the operand size is (SDM 2A MOV).
  if (item.insn.opsize == 2 && from.kind == OperandKind::segment)
    set_word(kHome[item.insn.op[0].reg], kT0);
  else
    write_guest(item.insn.op[0].reg, kT0);
}

/// BT and its kin with a memory operand and the bit's number in a register: the operand is the
/// element that has the bit.
void Translator::bit_string(const Item& item) {
  const Insn& insn = item.insn;
  const u8 guest = insn.op[1].reg, size = static_cast<u8>(insn.op[0].size);
  const u8 log = size == 8 ? 3 : size == 4 ? 2 : 1;
  protect_flags(item);
  const u32 site = new_site(item, size, insn.sem != Sem::bt);
  linear_address(insn, insn.mem, item.at);
  read_guest(kT1, guest);
  if (size == 4) hot_.op_reg(0x63, kT1, kT1);           // movsxd
  if (size == 2) hot_.bytes({0x48, 0x0f, 0xbf, 0xc9});  // movsx rcx, cx
  hot_.shift_imm(7, kT1, static_cast<u8>(3 + log));
  hot_.lea(kT0, {kT0, kT1, log, 0}, !narrow());
  read_guest(kT1, guest);
  hot_.alu_imm(4, kT1, 8 * size - 1, false);
  hot_.store(hot_.base(kKept), kT1);
  check(item, size, insn.sem != Sem::bt, true);
  flags_before_op(item, kT1);
  hot_.load(kT1, hot_.base(kKept));
  if (insn.lock) hot_.byte(0xf0);
  if (size == 2) hot_.byte(0x66);
  hot_.bytes({static_cast<u8>(0x41 | (size == 8) << 3), 0x0f, insn.opcode, 0x0b});  // [r11], rcx
  jit_.sites_[site].after = place_ + hot_.size();
  flags_after_op(item);
}

/// To kT0: the linear address of what lies on the stack.
void Translator::stack_address(const Item& item, i32 disp, bool write, u32 site) {
  const u8 size = item.insn.opsize;
  if (!narrow()) return hot_.lea(kT0, {kHome[kRsp], kNoReg, 0, disp});
  narrow_offset(item.insn, stack(disp), true);
  narrow_linear(ss, size, write, site);
}

void Translator::pushf(const Item& item) {
  protect_flags(item);
  compose_flags();
  hot_.alu_imm(4, kT0, static_cast<i32>(~u32{RF | VM}));
  hot_.store(hot_.base(kKept), kT0);
  const u8 size = item.insn.opsize;
  const u32 site = new_site(item, size, true);
  stack_address(item, -i32{size}, true, site);
  const Address a = check(item, size, true, true);
  hot_.load(kT1, hot_.base(kKept));
  store_sized(a.mem, kT1, size);
  move_stack(-i32{size});
  jit_.sites_[site].after = place_ + hot_.size();
}

/// The common case: only arithmetic flags, DF and IF change.
void Translator::popf(const Item& item) {
  protect_flags(item);
  const u8 size = item.insn.opsize;
  const u32 site = new_site(item, size, false);
  stack_address(item, 0, false, site);
  load_sized(kT0, check(item, size, false, false).mem, size);
  hot_.mov(kT1, kT0, false);
  hot_.op_mem(0x33, kT1, hot_.base(at::kRflags), false);
  hot_.bytes({0xf7, 0xc1});  // test ecx, ...
  hot_.dword(size == 2 ? TF | IOPL | NT : TF | IOPL | NT | AC_ | ID);
  fall_back_if(cNE, site);
  hot_.bytes({0x41, 0xf7, 0xc3});  // test r11d, IF
  hot_.dword(IF);
  const u32 disabled = hot_.jcc8(cE);
  test_byte_at(&jit_.core_.interrupt_waiting);
  fall_back_if(cNE, site);
  hot_.patch8(disabled);
  hot_.mov(kT1, kT0, false);
  hot_.alu_imm(4, kT1, IF | DF_, false);
  alu_mem32(4, at::kRflags, ~u32{IF | DF_ | RF});
  hot_.op_mem(0x09, kT1, hot_.base(at::kRflags), false);
  slot_from(kT0);
  move_stack(size);
  jit_.sites_[site].after = place_ + hot_.size();
}

// ---- fast system calls: only what differs between the two flat 64-bit sides changes

/// CS and SS from the selector of CS in kT0 (the other 8 away), as SYSCALL and SYSRET load them.
void Translator::load_flat_segments(u32 dpl, i32 stack_from_code) {
  auto store16 = [&](i32 disp) {
    hot_.byte(0x66);
    hot_.op_mem(0x89, kT0, hot_.base(disp), false);
  };
  auto rest = [&](u8 n, u32 attributes) {
    hot_.op_mem(0xc7, 0, hot_.base(segment_at(n) + kBaseIn));
    hot_.dword(0);
    hot_.mov_imm(kT0, u64{attributes | dpl << 5} << 32 | 0xffff'ffff);
    hot_.store(hot_.base(segment_at(n) + kLimitIn), kT0);
  };
  store16(segment_at(cs));
  hot_.alu_imm(0, kT0, stack_from_code, false);
  store16(segment_at(ss));
  rest(cs, 0xa09b);
  rest(ss, 0xc093);
  hot_.op_mem(0xc6, 0, hot_.base(at::kCpl), false);
  hot_.byte(static_cast<u8>(dpl));
}

void Translator::syscall(const Item& item) {
  protect_flags(item);
  const u32 site = new_site(item, 0, false);
  const i32 views = kViews[mode_ & kModeSmap ? 1 : 2];
  test_mem(at::kEfer, system::kEferSce);
  fall_back_if(cE, site);
  check_instance(views, mode_ & ~u32{kModeUser}, site);
  compose_flags();
  hot_.alu_imm(4, kT0, static_cast<i32>(~u32{RF}));
  hot_.load(kT1, hot_.base(at::kSfmask), false);
  hot_.bytes({0x48, 0xf7, 0xd1});  // not rcx
  hot_.op_reg(0x23, kT1, kT0);
  hot_.bytes({0xf7, 0xc1});  // test ecx, ...
  hot_.dword(TF | AC_);
  fall_back_if(cNE, site);
  hot_.store(hot_.base(at::gpr(kR11)), kT0);
  const u8 rcx = kHome[kRcx];
  hot_.load(rcx, hot_.base(at::kCodePage));
  hot_.lea(rcx, {rcx, kNoReg, 0, item.at + item.insn.length});
  hot_.mov(kT0, kT1, false);
  hot_.alu_imm(4, kT0, static_cast<i32>(~u32{kArithmeticFlags}), false);
  hot_.alu_imm(1, kT0, 2, false);
  hot_.store(hot_.base(at::kRflags), kT0);
  slot_from(kT1);
  hot_.load(kT0, hot_.base(at::kStar));
  hot_.shift_imm(5, kT0, 32);
  hot_.alu_imm(4, kT0, 0xfffc, false);
  load_flat_segments(0, 8);
  switch_instance(views);
  hot_.load(kT0, hot_.base(at::kLstar));
  indirect(false);
}

void Translator::sysret(const Item& item) {
  protect_flags(item);
  const u32 site = new_site(item, 0, false);
  const i32 views = -kViews[mode_ & kModeSmap ? 1 : 2];
  test_mem(at::kEfer, system::kEferSce);
  fall_back_if(cE, site);
  if (mode_ & kModeSmap) {
    test_mem(at::kRflags, AC_);
    fall_back_if(cNE, site);
  }
  check_instance(views, mode_ | kModeUser, site);
  const u8 rcx = kHome[kRcx];
  hot_.mov(kT0, rcx);
  hot_.shift_imm(4, kT0, 16);
  hot_.shift_imm(7, kT0, 16);
  hot_.op_reg(0x3b, kT0, rcx);
  fall_back_if(cNE, site);
  hot_.load(kT0, hot_.base(at::gpr(kR11)), false);
  hot_.bytes({0x41, 0xf7, 0xc3});  // test r11d, ...
  hot_.dword(TF | AC_);
  fall_back_if(cNE, site);
  hot_.bytes({0x41, 0xf7, 0xc3});
  hot_.dword(IF);
  const u32 disabled = hot_.jcc8(cE);
  test_byte_at(&jit_.core_.interrupt_waiting);
  fall_back_if(cNE, site);
  hot_.patch8(disabled);
  hot_.mov(kT1, kT0, false);
  hot_.alu_imm(4, kT1, static_cast<i32>(0x3c7fd7 & ~u32{kArithmeticFlags}), false);
  hot_.alu_imm(1, kT1, 2, false);
  hot_.store(hot_.base(at::kRflags), kT1);
  slot_from(kT0);
  hot_.load(kT0, hot_.base(at::kStar));
  hot_.shift_imm(5, kT0, 48);
  hot_.alu_imm(0, kT0, 16, false);
  hot_.alu_imm(1, kT0, 3, false);
  load_flat_segments(3, -8);
  switch_instance(views);
  hot_.mov(kT0, rcx);
  indirect(false);
}

}  // namespace skerry::soft

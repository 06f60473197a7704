// Translator: control transfers and what the interpreter does.
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using isa::Insn;
using isa::OperandKind;
using isa::Sem;

namespace {
constexpr u8 kRcx = 1, kRsp = 4;
constexpr i32 kTarget = at::kDelta + 32;  ///< where a call keeps its target while it pushes
}  // namespace

void Translator::interpret(const Item& item) {
  if (in_eflags_ && !in_slot_) hot_.save_flags(kT0);
  in_slot_ = true;
  const u32 site = new_site(item, 0, false);
  hot_.mov_imm32(kT1, site);
  to_gate(hot_, jit_.gate_.interpret);
  if (!item.ends) jit_.sites_[site].after = place_ + hot_.size();
  in_eflags_ = true;
}

void Translator::mark_exit(Assembler& a, const Item& item) {
  a.op_mem(0xc7, 0, a.base(at::kExitSite), false);
  a.dword(new_site(item, 0, false));
}

/// Where kT0 leads: the instance's jump table, by its low bits. The flags are in the slot.
void Translator::through_table(Assembler& a) {
  if (fast_pext_) {
    a.pext_mem(kT1, kT0, a.base(at::kJumpMask));
  } else {
    a.mov(kT1, kT0, false);
    a.shift_imm(5, kT1, Instance::kJumpShift, false);
    a.alu_imm(4, kT1, Instance::kJumps - 1, false);
  }
  if (segmented()) a.add_mem(kT0, a.base(at::kCodeKey));
  a.jmp_mem({kBase, kT1, 3, at::kJump});
}

/// Narrow code checks where it goes before anything has changed.
void Translator::indirect(bool may_be_bad, bool checked) {
  if (in_eflags_ && !in_slot_) hot_.save_flags(kT1);
  if (!checked) check_target(items_[current_]);
  if ((may_be_bad && !narrow()) || jit_.exact_) mark_exit(hot_, items_[current_]);
  through_table(hot_);
}

void Translator::go_to(i64 target, bool checked) {
  if (in_window(target)) {
    jump_out(0, false, target);
    return;
  }
  offset_of_page(hot_, items_[current_].insn, target);
  indirect(false, checked);
}

void Translator::jump_out(u8 condition, bool conditional, i64 target) {
  const u32 jump = conditional ? hot_.jcc32(condition).at : hot_.jmp32().at;
  if (in_window(target)) {
    const u32 number = static_cast<u32>(jit_.links_.size());
    jit_.links_.push_back({block_, place_ + jump, static_cast<u16>(target),
                           static_cast<u8>(current_ + 1), !in_eflags_});
    colds_.push_back({Cold::link, jump, number, 0, !in_eflags_});
  } else {
    colds_.push_back({Cold::far, jump, current_, target, in_slot_});
  }
}

void Translator::jump(const Item& item) {
  const Insn& insn = item.insn;
  if (insn.op[0].kind == OperandKind::relative) {
    const i64 target = item.at + insn.length + static_cast<i64>(insn.imm);
    if (target > item.at) return go_to(target);
    hot_.load(kT1, hot_.base(at::kGo), false);
    const u32 out = hot_.jrcxz();
    const u32 site = new_site(item, 0, false);
    go_to(target);
    hot_.patch8(out);
    colds_.push_back({Cold::stop, hot_.jmp32().at, site, 0, !in_eflags_});
    return;
  }
  load_target(item);
  indirect(true, false);
}

void Translator::load_target(const Item& item) {
  const Insn& insn = item.insn;
  const u8 size = narrow() ? insn.opsize : 8;
  if (insn.op[0].kind == OperandKind::memory) {
    protect_flags(item);
    operand_address(item, size, false, new_site(item, size, false));
    load_sized(kT0, check(item, size, false, false).mem, size);
    return;
  }
  const u8 guest = insn.op[0].reg;
  if (size == 8)
    read_guest(kT0, guest);
  else if (size == 4)
    hot_.mov(kT0, kHome[guest], false);
  else
    hot_.movzx16(kT0, kHome[guest]);
}

void Translator::jcc(const Item& item) {
  const Insn& insn = item.insn;
  need_flags(kT0);
  const i64 target = item.at + insn.length + static_cast<i64>(insn.imm);
  if (target > item.at) return jump_out(insn.condition, true, target);
  // A loop: look whether somebody wants attention.
  hot_.load(kT1, hot_.base(at::kGo), false);
  const u32 out = hot_.jrcxz();
  const u32 site = new_site(item, 0, false);
  jump_out(insn.condition, true, target);
  const u32 over = hot_.jmp8();
  hot_.patch8(out);
  colds_.push_back({Cold::stop, hot_.jmp32().at, site, 0, !in_eflags_});
  hot_.patch8(over);
}

void Translator::call(const Item& item) {
  const Insn& insn = item.insn;
  const u8 sp = kHome[kRsp];
  const bool relative = insn.op[0].kind == OperandKind::relative;
  if (!relative) {
    load_target(item);
    hot_.store(hot_.base(kTarget), kT0);
  }
  u32 site;
  const HostMem to = reach(item, stack(-8), 8, true, true, site);
  hot_.load(kT1, hot_.base(at::kCodePage));
  hot_.lea(kT1, {kT1, kNoReg, 0, item.at + insn.length});
  hot_.store(to, kT1);
  hot_.lea(sp, {sp, kNoReg, 0, -8});
  if (relative) return go_to(item.at + insn.length + static_cast<i64>(insn.imm));
  hot_.load(kT0, hot_.base(kTarget));
  indirect(true);
}

void Translator::ret(const Item& item) {
  const Insn& insn = item.insn;
  const u8 sp = kHome[kRsp];
  const i32 release =
      insn.op[0].kind == OperandKind::immediate ? static_cast<i32>(insn.imm & 0xffff) : 0;
  u32 site;
  hot_.load(kT0, reach(item, stack(0), 8, false, false, site));
  hot_.lea(sp, {sp, kNoReg, 0, 8 + release});
  indirect(true);
}

void Translator::loop(const Item& item) {
  const Insn& insn = item.insn;
  need_flags(kT0);
  const i64 next = item.at + insn.length, target = next + static_cast<i64>(insn.imm);
  u32 out = ~u32{0}, site = 0;
  if (target <= item.at) {
    hot_.load(kT1, hot_.base(at::kGo), false);
    out = hot_.jrcxz();
    site = new_site(item, 0, false);
  }
  const u8 rcx = kHome[kRcx];
  if (insn.addrsize == 2) {
    if (insn.sem == Sem::loop) {
      hot_.lea(kT0, {rcx, kNoReg, 0, -1}, false);
      set_word(rcx, kT0);
    }
    hot_.movzx16(hcx, rcx);
  } else {
    if (insn.sem == Sem::loop) hot_.lea(rcx, {rcx, kNoReg, 0, -1}, !narrow());
    hot_.mov(hcx, rcx, !narrow());
  }
  const u32 zero = hot_.jrcxz();
  go_to(insn.sem == Sem::loop ? target : next, true);
  hot_.patch8(zero);
  go_to(insn.sem == Sem::loop ? next : target, true);
  if (out != ~u32{0}) {
    hot_.patch8(out);
    colds_.push_back({Cold::stop, hot_.jmp32().at, site, 0, !in_eflags_});
  }
}

}  // namespace skerry::soft

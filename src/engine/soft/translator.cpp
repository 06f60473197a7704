#include "engine/soft/translator.hpp"

#include <cpuid.h>

#include <algorithm>

#include "engine/soft/host_features.hpp"

namespace skerry::soft {

using isa::Class;
using isa::Insn;
using isa::Operand;
using isa::OperandKind;
using isa::Sem;

namespace {

constexpr u32 kAllFlags = kArithmeticFlags;

bool host_has_bmi2() {
  return __builtin_cpu_supports("bmi2");
}

/// AMD before Zen 3 does PEXT in microcode, some 20 to 250 cycles.
bool host_has_fast_pext() {
  if (!host_has_bmi2()) return false;
  u32 a = 0, b = 0, c = 0, d = 0;
  __cpuid(0, a, b, c, d);
  if (b != 0x68747541) return true;  // "Auth"enticAMD
  __cpuid(1, a, b, c, d);
  const u32 family = ((a >> 8) & 15) + ((a >> 20) & 255);
  return family >= 0x19;
}

bool is_vector(const Insn& insn) {
  return insn.cls == Class::sse || insn.cls == Class::avx || insn.cls == Class::avx512 ||
         insn.cls == Class::mask;
}

/// Immediate count of a shift or rotation that is not zero: the flags do change.
bool counted(const Insn& insn) {
  for (unsigned i = 0; i < insn.operands; ++i)
    if (insn.op[i].kind == OperandKind::immediate) return insn.imm & (insn.opsize == 8 ? 63 : 31);
  return false;
}

}  // namespace

Translator::Translator(Jit& jit)
    : jit_(jit),
      items_(new Item[kMaxInsns]),
      bmi2_(host_has_bmi2()),
      fast_pext_(host_has_fast_pext()) {}

void Translator::begin(std::span<const u8> code, u32 offset, u32 mode, u32 block, u32 place) {
  hot_.clear();
  cold_.clear();
  colds_.clear();
  outside_.clear();
  code_ = code;
  offset_ = at_ = offset;
  mode_ = mode;
  // Whatever begins before the window's end lies below the limit as a whole.
  end_ = window_end(mode) == 4096 ? 4096 : window_end(mode) - 15;
  block_ = block;
  place_ = place;
  done_ = vectors_ = false;
  in_eflags_ = true;
  in_slot_ = false;
  n_ = current_ = code_at_ = 0;
}

bool Translator::want_more() const {
  return !done_ && n_ < kMaxInsns && at_ < end_;
}

bool Translator::copyable(const Insn& insn) const {
  if (!isa::feature_allowed(insn, host_features())) return false;
  const bool sse = mode_ & kModeSse;
  if (on_x87(insn)) return x87_copyable(insn);
  switch (insn.cls) {
    case Class::integer:
      switch (insn.sem) {
        case Sem::bound:
        case Sem::enter:
        case Sem::xlat:
        case Sem::cld:
        case Sem::std:
        case Sem::push:
        case Sem::pop:
        case Sem::popf:
        case Sem::pushf:
        case Sem::rdssp:
        case Sem::movdir64b:
        case Sem::daa:
        case Sem::das:
        case Sem::aaa:
        case Sem::aas:
        case Sem::aam:
        case Sem::aad:
        case Sem::salc:
        case Sem::pusha:
        case Sem::popa: return false;
        case Sem::bt:
        case Sem::btc:
        case Sem::btr:
        case Sem::bts:
          // With a register the bit may lie far from the operand.
          if (insn.op[0].kind == OperandKind::memory && insn.op[1].kind != OperandKind::immediate)
            return false;
          break;
        default: break;
      }
      for (const Operand& o : insn.op)
        if (o.kind == OperandKind::segment) return false;
      return select_system(insn) == nullptr;
    case Class::sse:
      if (!sse) return false;
      break;
    case Class::avx:
      if (!(mode_ & kModeAvx)) return false;
      break;
    case Class::avx512:
    case Class::mask:
      if (!(mode_ & kModeAvx512)) return false;
      break;
    default: return false;
  }
  if (insn.mem.vsib) return false;
  switch (insn.sem) {
    case Sem::maskmovdqu:
    case Sem::vmaskmovdqu: return false;
    default: return true;
  }
}

Translator::Kind Translator::classify(const Insn& insn) const {
  const bool near64 = insn.opsize == 8;
  if (system_inline(insn)) return Kind::system;
  switch (insn.sem) {
    case Sem::nop:
    case Sem::endbr32:
    case Sem::endbr64: return Kind::skip;
    case Sem::jmp: return Kind::jump;
    case Sem::jcc: return Kind::jcc;
    case Sem::call: return Kind::call;
    case Sem::ret: return Kind::ret;
    case Sem::loop:
    case Sem::jcxz: return insn.addrsize == 8 ? Kind::loop : Kind::interpret;
    case Sem::push:
      return near64 && insn.op[0].kind != OperandKind::segment ? Kind::push : Kind::interpret;
    case Sem::pop:
      return near64 && insn.op[0].kind == OperandKind::gpr ? Kind::pop : Kind::interpret;
    case Sem::leave: return near64 ? Kind::leave : Kind::interpret;
    case Sem::lea:
      return insn.addrsize == 8 || insn.mem.base != isa::Memory::kRip ? Kind::lea : Kind::interpret;
    default: break;
  }
  if (!copyable(insn)) return Kind::interpret;
  if (const Operand* m = insn.memory_operand())
    if (m->size == 0 || (insn.addrsize == 4 && insn.mem.base == isa::Memory::kRip))
      return Kind::interpret;
  return plan(insn, items_[n_].plan) ? Kind::copy : Kind::interpret;
}

bool Translator::decode_next() {
  Item& item = items_[n_];
  const u32 index = at_ - offset_;
  const std::span<const u8> bytes = code_.subspan(index);  // of which decode() looks at 15
  const isa::DecodeStatus status = isa::decode(bytes, decode_mode(mode_), item.insn);
  const Insn& insn = item.insn;
  item.at = static_cast<u16>(at_);
  item.ends = false;
  item.reads = item.changes = item.kills = 0;
  if (status == isa::DecodeStatus::truncated && bytes.size() < 15) return false;
  bool allowed =
      status == isa::DecodeStatus::ok && isa::feature_allowed(insn, jit_.core_.shared.features);
  if (status == isa::DecodeStatus::ok && !allowed) {
    // TZCNT and LZCNT without their features: BSF and BSR, which is what they are without F3.
    const Sem other = isa::row_of(insn).fallback;
    if (other == Sem::bsf || other == Sem::bsr) {
      item.insn.sem = other;
      item.insn.rep = false;
      allowed = true;
    }
  }
  if (!allowed) {
    // #UD, #GP, or what a processor without the feature does.
    item.kind = Kind::interpret;
    if (status != isa::DecodeStatus::ok) {
      item.insn = Insn{};
      item.insn.length = static_cast<u8>(std::min<size_t>(bytes.size(), 15));  // looked at
    }
    item.ends = true;
    done_ = true;
    ++n_;
    at_ += item.insn.length;
    return true;
  }
  item.kind = narrow() ? classify_narrow(insn, bytes) : classify(insn);
  const isa::Flags& f = isa::row_of(insn).flags;
  item.reads = f.read & kAllFlags;
  item.changes = f.changed() & kAllFlags;
  item.kills = (f.conditional && !counted(insn) ? 0 : f.changed()) & kAllFlags;
  if (jit_.exact_) {
    item.kills &= f.written | f.cleared | f.set;
    // A fault shows them. Pushes, pops, calls and returns have no operand that says "memory".
    if (insn.memory_operand() || item.kind != Kind::copy || insn.cls != Class::integer ||
        insn.sem == Sem::div || insn.sem == Sem::idiv)
      item.reads = kAllFlags;
  }
  if (insn.sem == Sem::jcc || insn.sem == Sem::cmovcc || insn.sem == Sem::setcc)
    item.reads = kAllFlags;  // more than one condition's, which is simpler
  switch (item.kind) {
    case Kind::interpret:
      item.reads = kAllFlags;  // they must be in the Cpu
      item.kills = 0;
      if (ends_block(insn) || insn.sem == Sem::loop || insn.sem == Sem::loope ||
          insn.sem == Sem::loopne || insn.sem == Sem::jcxz)
        item.ends = done_ = true;
      break;
    case Kind::jump:
    case Kind::call:
    case Kind::ret:
    case Kind::loop: item.ends = done_ = true; break;
    case Kind::copy:
      if (is_vector(insn) || on_x87(insn)) vectors_ = true;
      break;
    case Kind::system:
      if (jit_.exact_ || insn.sem == Sem::syscall || insn.sem == Sem::sysenter ||
          insn.sem == Sem::sysexit)
        item.reads = kAllFlags;
      if (insn.sem == Sem::syscall || insn.sem == Sem::sysret || insn.sem == Sem::iret ||
          insn.sem == Sem::sysenter || insn.sem == Sem::sysexit)
        item.ends = done_ = true;
      break;
    default: break;
  }
  ++n_;
  at_ += insn.length;
  return true;
}

// Backwards: an exit wants all flags.
u32 Translator::liveness() {
  u32 live = kAllFlags;
  for (u32 i = n_; i-- > 0;) {
    Item& item = items_[i];
    if (item.kind == Kind::jcc) live = kAllFlags;
    item.live_after = live;
    live = (live & ~item.kills) | item.reads;
  }
  return live;
}

void Translator::prologue(bool wants_flags) {
  wants_flags_ = wants_flags;
  if (wants_flags)
    hot_.restore_flags(kT1);
  else
    hot_.bytes({kNop5[0], kNop5[1], kNop5[2], kNop5[3], kNop5[4]});  // a stale block's jump
  code_at_ = hot_.size();
}

// ---- flags

void Translator::protect_flags(const Item& item) {
  if (wanted_flags(item) && !in_slot_) {
    hot_.save_flags(kT0);
    in_slot_ = true;
  }
  in_eflags_ = false;
}

void Translator::need_flags(u8 temp) {
  if (in_eflags_) return;
  hot_.restore_flags(temp);
  in_eflags_ = true;
}

void Translator::flags_before_op(const Item& item, u8 temp) {
  const bool merges = item.changes && (item.live_after & ~item.kills);
  if (item.reads || merges) need_flags(temp);
}

void Translator::flags_after_op(const Item& item) {
  if (!item.changes) return;
  in_eflags_ = true;
  in_slot_ = false;
}

// ---- one block

void Translator::emit_item(Item& item) {
  switch (item.kind) {
    case Kind::skip: break;
    case Kind::copy: copy(item); break;
    case Kind::interpret: interpret(item); break;
    case Kind::push: narrow() ? push_narrow(item) : push(item); break;
    case Kind::pop: narrow() ? pop_narrow(item) : pop(item); break;
    case Kind::leave: narrow() ? leave_narrow(item) : leave(item); break;
    case Kind::lea: narrow() ? lea_narrow(item) : lea(item); break;
    case Kind::jump: jump(item); break;
    case Kind::jcc: jcc(item); break;
    case Kind::call: narrow() ? call_narrow(item) : call(item); break;
    case Kind::ret: narrow() ? ret_narrow(item) : ret(item); break;
    case Kind::loop: loop(item); break;
    case Kind::system:
      if (item.insn.sem == Sem::sti && !sti_here(current_))
        interpret(item);
      else
        system(item);
      break;
  }
}

bool Translator::finish(JitBlock& b) {
  if (n_ == 0) return false;
  merge();
  const u32 live = liveness();
  if (!code_at_) prologue(live != 0);
  if (vectors_) {
    hot_.movzx8_mem(kT1, hot_.base(at::kVectorLive));
    const u32 none = hot_.jrcxz();
    const u32 over = hot_.jmp8();
    hot_.patch8(none);
    hot_.mov_imm32(kT1, block_);
    to_gate(hot_, jit_.gate_.load_vectors);
    hot_.patch8(over);
  }
  b.entry = static_cast<u16>(hot_.size() - code_at_);
  for (current_ = 0; current_ < n_; ++current_) emit_item(items_[current_]);
  current_ = n_;
  if (!items_[n_ - 1].ends) {
    --current_;
    go_to(at_, true);
  }
  end_block(b);
  return true;
}

void Translator::end_block(JitBlock& b) {
  emit_cold();
  auto stale_stub = [&](u32 gate) {
    const u32 at = place_ + hot_.size() + cold_.size();
    cold_.mov_imm32(kT1, block_);
    to_gate(cold_, gate);
    return at;
  };
  b.stale_stub = stale_stub(jit_.gate_.stale_live);
  if (!wants_flags_) b.stale_table_stub = stale_stub(jit_.gate_.stale);
  resolve();
  b.count = static_cast<u16>(n_);
  b.bytes = static_cast<u16>(at_ - offset_);
  b.vectors = vectors_;
  b.table = place_;
  b.code = place_ + code_at_;
  b.wants_flags = wants_flags_;
  b.hot_bytes = hot_.size();
  b.code_bytes = hot_.size() + cold_.size();
}

void Translator::translate_crossing(std::span<const u8> code, u32 offset, u32 mode, u32 block,
                                    u32 place, JitBlock& b, u32 epoch) {
  begin(code, offset, mode, block, place);
  decode_next();
  done_ = true;
  prologue(true);
  hot_.load(kT1, hot_.base(at::kFetchEpoch), false);
  hot_.lea(kT1, {kT1, kNoReg, 0, INT32_MIN}, false);
  const u32 negated = -epoch;
  b.epoch = place + hot_.size() - 4;
  std::memcpy(&hot_.code[hot_.size() - 4], &negated, 4);
  const u32 well = hot_.jrcxz();
  hot_.mov_imm32(kT1, block_);
  to_gate(hot_, jit_.gate_.stale_live);
  hot_.patch8(well);
  finish(b);
}

void Translator::to_gate(Assembler& a, u32 gate) {
  const Fixup f = a.jmp32();
  outside_.push_back({&a == &cold_, f.at, gate});
}

u32 Translator::new_site(const Item& item, u32 size, bool write) {
  jit_.sites_.push_back({block_, place_ + hot_.size(), 0, item.at, static_cast<u16>(size),
                         item.insn.length, write, static_cast<u8>(current_), false});
  return static_cast<u32>(jit_.sites_.size() - 1);
}

void Translator::emit_cold() {
  for (const Cold& c : colds_) {
    // The jump in hot code that leads here.
    const u32 rel = hot_.size() + cold_.size() - (c.from + 4);
    std::memcpy(&hot_.code[c.from], &rel, 4);
    switch (c.kind) {
      case Cold::slow_read:
      case Cold::slow_write:
        // kT0 - tag is in kT0, the entry's place in kT1.
        cold_.add_mem(kT0,
                      {kBase, kT1, 0, c.kind == Cold::slow_read ? at::kTlbRead : at::kTlbWrite});
        cold_.store(cold_.base(at::kScratch), kT0);
        cold_.mov_imm32(kT1, c.number);
        to_gate(cold_, jit_.gate_.slow);
        break;
      case Cold::link:
        cold_.mov_imm32(kT1, c.number);
        to_gate(cold_, c.in_slot ? jit_.gate_.link : jit_.gate_.link_live);
        break;
      case Cold::interpret:
        cold_.mov_imm32(kT1, c.number);
        to_gate(cold_, jit_.gate_.interpret);
        break;
      case Cold::stop:
        cold_.mov_imm32(kT1, c.number);
        to_gate(cold_, c.in_slot ? jit_.gate_.stop : jit_.gate_.stop_live);
        break;
      case Cold::far:
        current_ = c.number;  // what sites count from
        if (!c.in_slot) cold_.save_flags(kT1);
        if (jit_.exact_) mark_exit(cold_, items_[current_]);
        offset_of_page(cold_, items_[current_].insn, c.target);
        if (segmented()) {
          compare_limit(cold_);
          const u32 over = cold_.jcc8(cBE);
          cold_.mov_imm32(kT1, new_site(items_[current_], 0, false));
          to_gate(cold_, jit_.gate_.interpret);
          cold_.patch8(over);
        }
        through_table(cold_);
        break;
    }
  }
}

void Translator::resolve() {
  for (const Outside& o : outside_) {
    Assembler& a = o.in_cold ? cold_ : hot_;
    const u32 here = place_ + (o.in_cold ? hot_.size() : 0) + o.at + 4;
    const u32 rel = o.target - here;
    std::memcpy(&a.code[o.at], &rel, 4);
  }
}

}  // namespace skerry::soft

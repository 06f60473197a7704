// Translator: instructions that are copied, their memory operands, the stack.
#include "engine/soft/translator.hpp"
#include "isa/reencode.hpp"

namespace skerry::soft {

using isa::Class;
using isa::Insn;
using isa::Operand;
using isa::OperandKind;
using isa::Place;
using isa::Sem;

namespace {

constexpr u8 kRcx = 1, kRsp = 4;

constexpr unsigned index_of(Place p) {
  return static_cast<unsigned>(p);
}

}  // namespace

/// Instructions that the host may refuse with a signal: division errors, misaligned or masked
/// vector operands, unmasked floating-point exceptions.
bool Translator::may_fault(const Insn& insn) {
  switch (insn.cls) {
    case Class::sse:
    case Class::avx:
    case Class::avx512: return true;
    case Class::x87:
    case Class::mmx: return true;
    default:
      return insn.sem == Sem::wait || insn.sem == Sem::div || insn.sem == Sem::idiv ||
             insn.sem == Sem::cmpxchg16b;
  }
}

bool Translator::plan(const Insn& insn, Plan& p) const {
  p = {};
  std::fill_n(p.place_reg, 7, u8{0});
  if (insn.has_modrm) {
    p.place_reg[index_of(Place::reg)] = insn.modrm >> 3 & 7;
    p.place_reg[index_of(Place::rm)] = insn.modrm & 7;
  }
  auto temp_of = [&](u8 guest) -> Plan::Temp* {
    for (u8 i = 0; i < p.temps; ++i)
      if (p.temp[i].guest == guest) return &p.temp[i];
    if (p.temps == 2) return nullptr;
    Plan::Temp& t = p.temp[p.temps++];
    t.guest = guest;
    return &t;
  };
  bool takes_rsp = false;
  for (unsigned i = 0; i < insn.operands; ++i) {
    const Operand& o = insn.op[i];
    const Place place = isa::place_of(insn, i);
    switch (o.kind) {
      case OperandKind::memory:
        if (place != Place::memory || p.memory) return false;
        p.memory = &o;
        break;
      case OperandKind::gpr:
        if (place == Place::none) {
          if (o.reg == kRcx) {
            p.use_rcx = true;
            p.rcx_written |= o.write;
          } else if (o.reg != 0 && o.reg != 2 && o.reg != 3) {
            return false;
          }
          break;
        }
        takes_rsp |= o.reg == kRsp;
        if (kHome[o.reg] == kNoReg) {
          Plan::Temp* t = temp_of(o.reg);
          if (!t) return false;
          t->load |= o.read || o.size < 4;
          t->store |= o.write;
        }
        break;
      case OperandKind::gpr_high:
        p.high = true;
        if (o.reg == kRcx) {
          p.high_rcx = true;
          p.high_rcx_written |= o.write;
        }
        if (place != Place::none) p.place_reg[index_of(place)] = o.reg + 4;
        break;
      case OperandKind::vector:
      case OperandKind::mask:
      case OperandKind::mmx:
      case OperandKind::st:
        if (place != Place::none) p.place_reg[index_of(place)] = o.reg;
        break;
      default: break;
    }
  }
  if (p.memory) {
    // The host address takes one temporary.
    if (p.temps + p.use_rcx > 1) return false;
    if (p.temps) p.temp[0].host = kT1;
  } else {
    if (p.temps + p.use_rcx > 2) return false;
    if (p.temps) p.temp[0].host = kT0;
    if (p.temps == 2) p.temp[1].host = kT1;
  }
  if (p.high) {
    if (p.temps || p.use_rcx || takes_rsp) return false;
    if (p.memory && p.high_rcx) return false;
  }
  for (unsigned i = 0; i < insn.operands; ++i) {
    const Operand& o = insn.op[i];
    const Place place = isa::place_of(insn, i);
    if (o.kind != OperandKind::gpr || place == Place::none) continue;
    u8 host = kHome[o.reg];
    if (host == kNoReg)
      for (const Plan::Temp& t : p.temp)
        if (t.guest == o.reg) host = t.host;
    if (p.high && o.reg == kRcx) {
      if (p.memory) return false;
      host = hcx;
      p.high_rcx = true;
      p.high_rcx_written |= o.write;
    }
    if (p.high && host >= 8) return false;
    p.place_reg[index_of(place)] = host;
  }
  return true;
}

// ---- addresses

void Translator::linear_address(const Insn& insn, const isa::Memory& m, u16 at, bool wide) {
  const i32 disp = static_cast<i32>(m.disp);
  wide |= insn.addrsize == 8;
  if (m.base == isa::Memory::kRip) {
    hot_.load(kT0, hot_.base(at::kCodePage));
    hot_.lea(kT0, {kT0, kNoReg, 0, disp + at + insn.length});
  } else if (m.base == isa::Memory::kNone && m.index == isa::Memory::kNone) {
    u64 address = static_cast<u64>(m.disp);
    if (!wide) address = static_cast<u32>(address);
    hot_.mov_imm(kT0, address);
  } else {
    u8 base = m.base == isa::Memory::kNone ? kNoReg : kHome[m.base];
    u8 index = m.index == isa::Memory::kNone ? kNoReg : kHome[m.index];
    if (m.base != isa::Memory::kNone && base == kNoReg) {
      hot_.load(kT0, hot_.base(at::gpr(m.base)));
      base = kT0;
    }
    if (m.index != isa::Memory::kNone && index == kNoReg) {
      hot_.load(kT1, hot_.base(at::gpr(m.index)));
      index = kT1;
    }
    if (base == kNoReg) {
      // No base: scaled index and displacement only. With a zero in kT0 it has one.
      hot_.mov_imm32(kT0, 0);
      base = kT0;
    }
    if (index == kNoReg && disp == 0) {
      if (base != kT0 || !wide) hot_.mov(kT0, base, wide);
    } else {
      hot_.lea(kT0, {base, index, m.scale, disp}, wide);
    }
  }
  if (m.segment >= machine::fs) hot_.add_mem(kT0, hot_.base(at::kSegBase + 8 * m.segment));
}

// kT0: the address. Leaves its place in its page in kT0 and the entry's offset in kT1.
void Translator::look_up(u32 size, bool write, u32 site) {
  static_assert(sizeof(TlbEntry) == 32);
  if (bmi2_) {
    hot_.rorx(kT1, kT0, 7);
  } else {
    hot_.mov(kT1, kT0, false);
    hot_.shift_imm(5, kT1, 7, false);
  }
  hot_.alu_imm(4, kT1, (Instance::kEntries - 1) * 32, false);
  hot_.sub_mem(kT0, {kBase, kT1, 0, write ? at::kTlbWrite : at::kTlbRead});
  hot_.alu_imm(7, kT0, static_cast<i32>(4096 - size));
  colds_.push_back({write ? Cold::slow_write : Cold::slow_read, hot_.jcc32(cA).at, site});
}

void Translator::check_bias(u32 size, bool write, u32 site) {
  look_up(size, write, site);
  hot_.load(kT1, {kBase, kT1, 0, at::kTlbBias});
}

Translator::Address Translator::check(const Item&, u32 size, bool write, bool single) {
  look_up(size, write, static_cast<u32>(jit_.sites_.size() - 1));
  if (single) {
    hot_.add_mem(kT0, {kBase, kT1, 0, at::kTlbHost});
    return {{kT0, kNoReg, 0, 0}, true};
  }
  hot_.load(kT1, {kBase, kT1, 0, at::kTlbHost});
  return {{kT0, kT1, 0, 0}, false};
}

/// The operand is a register that lives in a host register and a displacement: with the entry's
/// bias it can be reached from that register, before the compare's result is there (a cycle
/// earlier, which loads that wait for each other are made of).
bool Translator::base_only(const Insn& insn, const isa::Memory& m) {
  const bool wide = insn.addrsize == 8 || &m != &insn.mem;  // the stack
  return wide && m.base < 16 && kHome[m.base] != kNoReg && m.index == isa::Memory::kNone &&
         m.segment < machine::fs;
}

// kT1 holds the group's delta.
HostMem Translator::through_delta(const Item& item, const isa::Memory& m, bool single) {
  HostMem at;
  if (m.base == isa::Memory::kRip) {
    at = {kT1, kNoReg, 0, static_cast<i32>(m.disp) + item.at + item.insn.length};
  } else if (m.base == isa::Memory::kNone) {
    at = {kT1, kNoReg, 0, static_cast<i32>(m.disp)};
  } else {
    u8 base = kHome[m.base];
    if (base == kNoReg) {
      hot_.load(kT0, hot_.base(at::gpr(m.base)));
      base = kT0;
    }
    at = {base, kT1, 0, static_cast<i32>(m.disp)};
    if (m.index != isa::Memory::kNone) {
      hot_.lea(kT0, {base, kHome[m.index], m.scale, static_cast<i32>(m.disp)});
      at = {kT0, kT1, 0, 0};
    }
  }
  if (!single) return at;
  hot_.lea(kT0, at);
  return {kT0, kNoReg, 0, 0};
}

HostMem Translator::reach(const Item& item, const isa::Memory& m, u32 size, bool write, bool single,
                          u32& site) {
  if (narrow()) return reach_narrow(item, m, size, write, single, site);
  site = kNoSite;
  if (item.group < 0) {
    protect_flags(item);
    site = new_site(item, size, write);
    linear_address(item.insn, m, item.at, &m != &item.insn.mem);  // the stack
    const bool biased = !single && base_only(item.insn, m);
    HostMem at;
    if (biased) {
      check_bias(size, write, site);
      at = {kHome[m.base], kT1, 0, static_cast<i32>(m.disp)};
    } else {
      at = check(item, size, write, single).mem;
    }
    if (item.kind == Kind::copy && size <= 64) {
      jit_.sites_[site].checked = place_ + hot_.size();
      jit_.sites_[site].biased = biased;
    }
    return at;
  }
  const Group& g = groups_[static_cast<size_t>(item.group)];
  const HostMem slot = hot_.base(at::kDelta + 8 * g.slot);
  if (!item.leads) {
    hot_.load(kT1, slot);
    return through_delta(item, m, single);
  }
  protect_flags(item);
  site = new_site(item, static_cast<u32>(g.high - g.low), g.write);
  jit_.sites_[site].group = true;
  isa::Memory lowest = m;
  lowest.disp += g.low - item.place;
  linear_address(item.insn, lowest, item.at, true);
  check_bias(static_cast<u32>(g.high - g.low), g.write, site);
  if (m.base == isa::Memory::kRip) hot_.add_mem(kT1, hot_.base(at::kCodePage));
  if (m.base == isa::Memory::kNone) hot_.add_mem(kT1, hot_.base(at::kSegBase + 8 * m.segment));
  hot_.store(slot, kT1);
  return through_delta(item, m, single);
}

// ---- copies

void Translator::copy(const Item& item) {
  const Insn& insn = item.insn;
  const Plan& p = item.plan;
  HostMem mem;
  u32 site = kNoSite;
  if (p.memory) {
    const bool flags = item.reads || (item.changes && (item.live_after & ~item.kills));
    const bool single = p.temps || p.use_rcx || p.high || flags;
    mem = reach(item, insn.mem, p.memory->size, p.memory->write, single, site);
    flags_before_op(item, kT1);
    if (p.high) {
      hot_.mov(kT1, kT0);
      mem = {kT1, kNoReg, 0, 0};
    }
  } else {
    flags_before_op(item, kT0);
  }
  for (u8 i = 0; i < p.temps; ++i)
    if (p.temp[i].load) hot_.load(p.temp[i].host, hot_.base(at::gpr(p.temp[i].guest)));
  if (p.use_rcx || p.high_rcx) hot_.mov(hcx, kHome[kRcx]);
  if (may_fault(insn))
    jit_.faults_.push_back({place_ + hot_.size(), block_, item.at, insn.length,
                            static_cast<u8>(current_), in_eflags_});
  encode(insn, original(item), p.place_reg, p.memory ? &mem : nullptr);
  for (u8 i = 0; i < p.temps; ++i)
    if (p.temp[i].store) hot_.store(hot_.base(at::gpr(p.temp[i].guest)), p.temp[i].host);
  if (p.high_rcx_written || p.rcx_written) hot_.mov(kHome[kRcx], hcx);
  set_after(site);
  flags_after_op(item);
}

void Translator::encode(const Insn& insn, const u8* original, const u8 regs[7],
                        const HostMem* mem) {
  const u8 reg = regs[index_of(Place::reg)], rm = regs[index_of(Place::rm)],
           vvvv = regs[index_of(Place::vvvv)], low = regs[index_of(Place::opcode)];
  u8 opcode = insn.opcode;
  bool modrm = insn.has_modrm;
  const bool moffs = mem && !modrm;  // A0-A3 become 8A, 8B, 88, 89 with AL or rAX
  if (moffs) {
    opcode = static_cast<u8>((opcode & 2 ? 0x88 : 0x8a) | (opcode & 1));
    modrm = true;
  }
  bool in_opcode = isa::row_of(insn).opcode_bits == 3;
  u8 short_op = 0;
  if (narrow() && insn.encoding == Insn::Encoding::legacy && insn.map == 0) {
    if (opcode == 0x82) opcode = 0x80;
    if (in_opcode && opcode >> 4 == 4) {
      // INC and DEC of one byte, which are REX prefixes here, become FF /0 and /1.
      short_op = static_cast<u8>(0xc0 | (opcode & 8) | (low & 7));
      opcode = 0xff;
    }
  }
  if (in_opcode && !short_op) opcode = static_cast<u8>((opcode & ~7) | (low & 7));
  const u8 rm_low = in_opcode ? low : rm;
  const bool x = mem ? mem->index != kNoReg && (mem->index & 8) : (rm & 16) != 0;
  const bool b = mem ? mem->base & 8 : rm_low & 8;
  const bool r = modrm && !moffs && (reg & 8);
  switch (insn.encoding) {
    case Insn::Encoding::legacy: {
      if (insn.lock) hot_.byte(0xf0);
      if (mode_ & kModeCode16 && insn.cls == Class::integer ? insn.opsize == 2 : insn.prefix66)
        hot_.byte(0x66);
      if (insn.rep) hot_.byte(0xf3);
      if (insn.repne) hot_.byte(0xf2);
      const u8 rex = static_cast<u8>((insn.rex & 8) | r << 2 | x << 1 | b << 0);
      if (rex || insn.has_rex) hot_.byte(0x40 | rex);
      if (insn.map) hot_.byte(0x0f);
      if (insn.map >= 2) hot_.byte(insn.map == 2 ? 0x38 : 0x3a);
      break;
    }
    case Insn::Encoding::vex: {
      const u8 last = static_cast<u8>((~vvvv & 15) << 3 | insn.vector_length << 2 | insn.pp);
      if (insn.map == 1 && !insn.w && !x && !b) {
        hot_.bytes({0xc5, static_cast<u8>((r ? 0 : 0x80) | last)});
      } else {
        hot_.bytes({0xc4,
                    static_cast<u8>((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | insn.map),
                    static_cast<u8>((insn.w ? 0x80 : 0) | last)});
      }
      break;
    }
    case Insn::Encoding::evex: {
      const u8 p2 = original[insn.opcode_at - 1u];  // z, L'L, b, aaa stay as they were
      hot_.bytes({0x62,
                  static_cast<u8>((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) |
                                  (reg & 16 ? 0 : 0x10) | insn.map),
                  static_cast<u8>((insn.w ? 0x80 : 0) | (~vvvv & 15) << 3 | 4 | insn.pp),
                  static_cast<u8>((p2 & 0xf7) | (vvvv & 16 ? 0 : 8))});
      break;
    }
  }
  hot_.byte(opcode);
  if (short_op) hot_.byte(short_op);
  if (modrm) {
    const u8 field = moffs ? 0 : reg;
    if (mem)
      hot_.modrm_mem(field, *mem, insn.encoding == Insn::Encoding::evex);
    else
      hot_.byte(static_cast<u8>(0xc0 | (field & 7) << 3 | (rm & 7)));
  }
  if (!moffs) hot_.append(original + insn.imm_at, insn.length - insn.imm_at);
}

// ---- the stack

isa::Memory Translator::stack(i32 disp) {
  isa::Memory m;
  m.base = kRsp;
  m.segment = machine::ss;
  m.disp = disp;
  return m;
}

void Translator::push(const Item& item) {
  const Insn& insn = item.insn;
  const Operand& o = insn.op[0];
  const u8 sp = kHome[kRsp];
  u32 first = kNoSite, site;
  if (o.kind == OperandKind::memory) {
    protect_flags(item);
    first = new_site(item, 8, false);
    linear_address(insn, insn.mem, item.at);
    hot_.load(kT0, check(item, 8, false, false).mem);
    hot_.store(hot_.base(at::kDelta + 32), kT0);
  }
  const bool from_memory = first != kNoSite;
  const bool spilled = o.kind == OperandKind::gpr && kHome[o.reg] == kNoReg;
  const HostMem to = reach(item, stack(-8), 8, true, spilled || from_memory, site);
  if (from_memory || spilled) {
    hot_.load(kT1, hot_.base(from_memory ? at::kDelta + 32 : at::gpr(o.reg)));
    hot_.store(to, kT1);
  } else if (o.kind == OperandKind::immediate) {
    hot_.op_mem(0xc7, 0, to);
    hot_.dword(static_cast<u32>(insn.imm));
  } else {
    hot_.store(to, kHome[o.reg]);
  }
  hot_.lea(sp, {sp, kNoReg, 0, -8});
  set_after(site);
  // After the interpreter's push nobody has checked the stack for its group.
  if (!item.leads) set_after(first);
}

void Translator::pop(const Item& item) {
  const u8 guest = item.insn.op[0].reg, sp = kHome[kRsp];
  u32 site;
  const HostMem from = reach(item, stack(0), 8, false, false, site);
  if (guest == kRsp) {
    hot_.load(sp, from);
  } else {
    if (kHome[guest] != kNoReg) {
      hot_.load(kHome[guest], from);
    } else {
      hot_.load(kT1, from);
      hot_.store(hot_.base(at::gpr(guest)), kT1);
    }
    hot_.lea(sp, {sp, kNoReg, 0, 8});
  }
  set_after(site);
}

void Translator::leave(const Item& item) {
  const u8 sp = kHome[kRsp];
  u32 site;
  isa::Memory frame = stack(0);
  frame.base = 5;
  const HostMem from = reach(item, frame, 8, false, true, site);
  hot_.lea(sp, {hbp, kNoReg, 0, 8});
  hot_.load(hbp, from);
  set_after(site);
}

// No memory access: the address as it is, without a segment.
void Translator::lea(const Item& item) {
  const Insn& insn = item.insn;
  isa::Memory m = insn.mem;
  m.segment = machine::ds;
  const u8 guest = insn.op[0].reg;
  const u8 to = kHome[guest] == kNoReg || insn.opsize == 2 ? kT0 : kHome[guest];
  const u8 base = m.base < 16 ? kHome[m.base] : kNoReg;
  const u8 index = m.index < 16 ? kHome[m.index] : kNoReg;
  const bool direct = m.base < 16 && base != kNoReg && (m.index >= 16 || index != kNoReg);
  if (direct && insn.addrsize == 8 && to != kT0) {
    hot_.lea(to, {base, index, m.scale, static_cast<i32>(m.disp)}, insn.opsize == 8);
    return;
  }
  linear_address(insn, m, item.at);
  if (insn.opsize == 2) {  // keeps what is above
    const u8 home = kHome[guest];
    const u8 target = home == kNoReg ? kT1 : home;
    if (home == kNoReg) hot_.load(kT1, hot_.base(at::gpr(guest)));
    hot_.byte(0x66);
    hot_.op_reg(0x8b, target, kT0, false);
    if (home == kNoReg) hot_.store(hot_.base(at::gpr(guest)), kT1);
    return;
  }
  if (insn.opsize == 4) hot_.mov(kT0, kT0, false);
  write_guest(guest, kT0);
}

}  // namespace skerry::soft

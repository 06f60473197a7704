#include "engine/soft/segments.hpp"

#include "engine/soft/core.hpp"

namespace skerry::soft {

using machine::cs;
using machine::ss;

Found find_descriptor(Cpu& cpu, u16 selector, Descriptor& d, bool wide) {
  u64 base;
  u64 limit;
  if (selector & 4) {
    const Segment& ldt = cpu.s.ldtr;
    if (ldt.unusable() || !ldt.present()) return Found::outside;
    base = ldt.base;
    limit = ldt.limit;
  } else {
    base = cpu.s.gdtr.base;
    limit = cpu.s.gdtr.limit;
  }
  u32 at = selector & 0xfff8u;
  if (at + (wide ? 15u : 7u) > limit) return Found::outside;
  d.address = base + at;
  d.high = 0;
  if (!cpu.system_read(d.address, d.raw)) return Found::fault;
  if (wide && !cpu.system_read(d.address + 8, d.high)) return Found::fault;
  return Found::yes;
}

bool need_descriptor(Cpu& cpu, u16 selector, Descriptor& d, u8 vector, u32 ext, bool wide) {
  switch (find_descriptor(cpu, selector, d, wide)) {
    case Found::yes: return true;
    case Found::outside: cpu.raise(vector, (selector & 0xfffcu) | ext); return false;
    case Found::fault: return false;
  }
  return false;
}

bool mark_accessed(Cpu& cpu, Descriptor& d) {
  if (bit(d.raw, 40)) return true;
  // Byte 5 of the descriptor, by an atomic OR (SDM 3A 8.1.2.2 asks for a locked update).
  Cpu::Access a;
  if (!cpu.prepare_linear(a, d.address + 5, 1, true, true)) return false;
  if (a.piece[0].host) {
    __atomic_fetch_or(a.piece[0].host, u8{1}, __ATOMIC_SEQ_CST);
    cpu.stored(a);
  }
  d.raw |= u64{1} << 40;
  return true;
}

void set_segment(Cpu& cpu, u8 n, const Segment& value) {
  cpu.seg[n] = value;
  if (n == cs || n == ss)
    cpu.update_mode();
  else
    cpu.update_segment(n);
}

void load_real_segment(Cpu& cpu, u8 n, u16 selector) {
  Segment& d = cpu.seg[n];
  d.selector = selector;
  d.base = u64{selector} << 4;
  if (cpu.v86) {
    d.limit = 0xffff;
    d.attributes = 0xf3;
  } else {
    // Limit, type and size stay ("unreal mode"), but the segment becomes usable and present.
    if (d.unusable()) d.limit = 0xffff;
    if (d.unusable() || n == cs) d.attributes = 0x93 | (d.attributes & 0x4000);
    d.attributes |= 0x80;
  }
  if (n == cs || n == ss)
    cpu.update_mode();
  else
    cpu.update_segment(n);
}

bool check_stack(Cpu& cpu, u16 selector, u8 cpl, Descriptor& d, u8 vector, u32 ext) {
  u32 error = (selector & 0xfffcu) | ext;
  if (!(selector & 0xfffc)) {
    cpu.raise(vector, ext);
    return false;
  }
  if (!need_descriptor(cpu, selector, d, vector, ext)) return false;
  if ((selector & 3) != cpl || d.dpl() != cpl || !d.is_data() || !d.writable()) {
    cpu.raise(vector, error);
    return false;
  }
  if (!d.present()) {
    cpu.raise(SS, error);
    return false;
  }
  return true;
}

bool load_segment(Cpu& cpu, u8 n, u16 selector) {
  if (!cpu.protected_mode || cpu.v86) {
    load_real_segment(cpu, n, selector);
    return true;
  }
  if (!(selector & 0xfffc)) {
    if (n == ss) {
      // Only 64-bit code below CPL 3 may run without a stack segment, with RPL = CPL.
      if (cpu.code_bits != 64 || cpu.cpl == 3 || (selector & 3) != cpu.cpl) {
        cpu.raise(GP, 0);
        return false;
      }
      Segment s = null_segment(selector);
      s.attributes |= static_cast<u32>(cpu.cpl) << 5;  // SS.DPL is the CPL
      set_segment(cpu, n, s);
      return true;
    }
    set_segment(cpu, n, null_segment(selector));
    return true;
  }
  Descriptor d;
  if (n == ss) {
    if (!check_stack(cpu, selector, cpu.cpl, d, GP, 0)) return false;
  } else {
    if (!need_descriptor(cpu, selector, d, GP)) return false;
    u32 error = selector & 0xfffcu;
    bool conforming = d.is_code() && d.conforming();
    u8 rpl = selector & 3;
    if (!d.is_code_or_data() || !d.readable() ||
        (!conforming && (rpl > d.dpl() || cpu.cpl > d.dpl()))) {
      cpu.raise(GP, error);
      return false;
    }
    if (!d.present()) {
      cpu.raise(NP, error);
      return false;
    }
  }
  if (!mark_accessed(cpu, d)) return false;
  set_segment(cpu, n, d.segment(selector));
  return true;
}

bool inner_stack(Cpu& cpu, u8 level, u8 ist, u16& new_ss, u64& sp, u32 ext) {
  const Segment& tr = cpu.s.tr;
  u32 error = (tr.selector & 0xfffcu) | ext;
  if (tr.unusable()) {
    cpu.raise(TS, error);
    return false;
  }
  if (cpu.long_mode) {
    u32 at = ist ? 36 + 8 * (ist - 1u) : 4 + 8u * level;
    if (at + 7 > tr.limit) {
      cpu.raise(TS, error);
      return false;
    }
    new_ss = level;  // a null selector with the new RPL
    return cpu.system_read(tr.base + at, sp);
  }
  if (tr.type() & 8) {
    u32 at = 4 + 8u * level, value;
    if (at + 5 > tr.limit) {
      cpu.raise(TS, error);
      return false;
    }
    if (!cpu.system_read(tr.base + at, value) || !cpu.system_read(tr.base + at + 4, new_ss))
      return false;
    sp = value;
    return true;
  }
  u32 at = 2 + 4u * level;
  u16 value;
  if (at + 3 > tr.limit) {
    cpu.raise(TS, error);
    return false;
  }
  if (!cpu.system_read(tr.base + at, value) || !cpu.system_read(tr.base + at + 2, new_ss))
    return false;
  sp = value;
  return true;
}

}  // namespace skerry::soft

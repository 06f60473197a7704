// The decoder's second half: operand sizes, memory operands, registers, immediates, and the checks
// that need the whole instruction. SDM volume 2A chapter 2.
#include <array>

#include "isa/decoder.hpp"

namespace skerry::isa {
namespace {

using SizeTable = std::array<u16, static_cast<size_t>(Size::count)>;

/// Everything that operand sizes depend on, as an index: 64-bit mode, W, operand size, address
/// size, vector length (3 cannot happen, except while rounding is not yet told apart).
constexpr unsigned size_index(bool wide, bool w, unsigned opsize, unsigned addrsize,
                              unsigned length) {
  return (((wide * 2u + w) * 4 + opsize / 4) * 4 + addrsize / 4) * 4 + length;
}

constexpr auto kSizes = [] {
  std::array<SizeTable, 256> t{};
  for (unsigned wide = 0; wide < 2; ++wide)
    for (unsigned w = 0; w < 2; ++w)
      for (u16 op : {2, 4, 8})
        for (u16 address : {2, 4, 8})
          for (unsigned length = 0; length < 4; ++length) {
            u16 z = op == 2 ? 2 : 4, y = wide && w ? 8 : 4, n = wide ? 8 : 4, s = wide ? 10 : 6;
            u16 vl = static_cast<u16>(16u << length), dup = vl == 16 ? 8 : vl;
            auto u = [](unsigned v) { return static_cast<u16>(v); };
            t[size_index(wide, w, op, address, length)] = {
                0,          1,  2,          4,          8,          10,      16,         32,
                64,         op, z,          y,          n,          address, u(op + 2u), s,
                u(2u * op), vl, u(vl / 2u), u(vl / 4u), u(vl / 8u), dup};
          }
  return t;
}();

/// Where operands of each method are encoded, in memory form and in register form.
constexpr Place place_in(Method m, bool register_form) {
  switch (m) {
    case Method::G:
    case Method::S:
    case Method::C:
    case Method::D:
    case Method::P:
    case Method::V:
    case Method::KG: return Place::reg;
    case Method::E:
    case Method::Q:
    case Method::W:
    case Method::KE: return register_form ? Place::rm : Place::memory;
    case Method::R:
    case Method::N:
    case Method::U:
    case Method::KR:
    case Method::STi: return Place::rm;
    case Method::B:
    case Method::H:
    case Method::KH: return Place::vvvv;
    case Method::Z: return Place::opcode;
    case Method::L: return Place::is4;
    case Method::M:
    case Method::T:
    case Method::O: return Place::memory;
    default: return Place::none;
  }
}

constexpr auto kPlaces = [] {
  std::array<std::array<Place, 2>, static_cast<size_t>(Method::at) + 1> t{};
  for (size_t m = 0; m < t.size(); ++m)
    for (bool registers : {false, true}) t[m][registers] = place_in(Method{u8(m)}, registers);
  return t;
}();

}  // namespace

void Decoder::sizes() {
  bool small = insn_.prefix66 && !row_->mandatory66;
  if (long_) {
    insn_.opsize = row_->force64 || insn_.w ? 8 : small ? 2 : row_->default64 ? 8 : 4;
    insn_.addrsize = address_prefix_ ? 4 : 8;
  } else {
    insn_.opsize = (mode_.bits == 32) == small ? 2 : 4;
    insn_.addrsize = (mode_.bits == 32) == address_prefix_ ? 2 : 4;
  }
  size_table_ =
      kSizes[size_index(long_, insn_.w, insn_.opsize, insn_.addrsize, insn_.vector_length)].data();
  if (row_->byte_form) insn_.opsize = 1;
}

void Decoder::memory16(unsigned mod, unsigned rm) {
  constexpr u8 kBase[] = {3, 3, 5, 5, 6, 7, 5, 3};  // BX BX BP BP SI DI BP BX
  Memory& m = insn_.mem;
  if (mod == 0 && rm == 6) {
    m.disp = fetch<u16>();  // an address: wraps at 64 KiB either way
    return;
  }
  m.base = kBase[rm];
  if (rm < 4) m.index = rm & 1 ? 7 : 6;
  if (m.base == 5) m.segment = 2;
  if (mod == 1) m.disp = fetch<i8>();
  if (mod == 2) m.disp = fetch<i16>();
}

/// SDM 2A tables 2-1 to 2-3.
void Decoder::memory() {
  Memory& m = insn_.mem;
  unsigned mod = insn_.modrm >> 6, rm = insn_.modrm & 7;
  if (insn_.addrsize == 2) {
    memory16(mod, rm);
  } else {
    if (rm == 4) {
      u8 sib = fetch<u8>();
      unsigned base = sib & 7, index = (sib >> 3 & 7) | x_;
      m.scale = sib >> 6;
      if (row_->vsib) {
        m.vsib = true;
        m.index = static_cast<u8>(index | v4_);
      } else if (index != 4) {
        m.index = static_cast<u8>(index);
      } else {
        m.scale = 0;
      }
      if (base == 5 && mod == 0) {
        m.disp = fetch<i32>();
      } else {
        m.base = static_cast<u8>(base | b_);
      }
    } else if (rm == 5 && mod == 0) {
      m.disp = fetch<i32>();
      if (long_) m.base = Memory::kRip;
    } else {
      m.base = static_cast<u8>(rm | b_);
    }
    if (m.base == 4 || m.base == 5) m.segment = 2;
    if (mod == 1) m.disp = fetch<i8>();
    if (mod == 2) m.disp = fetch<i32>();
  }
  if (insn_.encoding == Insn::Encoding::evex && mod == 1) {
    unsigned n = row_->disp8;
    for (const OperandSpec& o : row_->op)
      if (n == 0 && o.mem_size != Size::none && o.method != Method::Y) switch (o.method) {
          case Method::W:
          case Method::E:
          case Method::M:
          case Method::T:
          case Method::KE:
            n = insn_.evex_b && o.broadcast ? o.broadcast : size_of(o.mem_size);
            break;
          default: break;
        }
    m.disp *= n ? n : 1;
  }
  if (segment_ != 0xff) m.segment = segment_, m.segment_override = true;
}

void Decoder::gpr(Operand& o, unsigned reg, Size s) {
  o.kind = OperandKind::gpr;
  o.reg = static_cast<u8>(reg);
  o.size = static_cast<u16>(size_of(s));
  if (o.size == 1 && !insn_.has_rex && reg >= 4 && insn_.encoding == Insn::Encoding::legacy) {
    o.kind = OperandKind::gpr_high;
    o.reg -= 4;
  }
}

void Decoder::vector(Operand& o, unsigned reg, Size s) {
  o.kind = OperandKind::vector;
  o.reg = static_cast<u8>(reg);
  o.size = static_cast<u16>(vector_size(s));
}

bool Decoder::mask(Operand& o, unsigned reg, Size s) {
  if (reg > 7) return invalid();
  o.kind = OperandKind::mask;
  o.reg = static_cast<u8>(reg);
  o.size = static_cast<u16>(size_of(s));
  return true;
}

void Decoder::memory_kind(Operand& o, const OperandSpec& spec) {
  o.kind = OperandKind::memory;
  o.size =
      insn_.evex_b && spec.broadcast ? spec.broadcast : static_cast<u16>(size_of(spec.mem_size));
}

void Decoder::fixed_memory(unsigned base, u8 segment, bool overridable) {
  Memory& m = insn_.mem;
  m.base = static_cast<u8>(base);
  m.segment = segment;
  if (overridable && segment_ != 0xff) m.segment = segment_, m.segment_override = true;
}

u64 Decoder::fetch_immediate(unsigned size, bool is_signed) {
  if (insn_.imm_at == 0) insn_.imm_at = static_cast<u8>(pos_);
  switch (size) {
    case 1: return is_signed ? static_cast<u64>(static_cast<i64>(fetch<i8>())) : fetch<u8>();
    case 2: return is_signed ? static_cast<u64>(static_cast<i64>(fetch<i16>())) : fetch<u16>();
    case 4: return is_signed ? static_cast<u64>(static_cast<i64>(fetch<i32>())) : fetch<u32>();
    default: return fetch<u64>();
  }
}

constexpr u64 low_bytes(unsigned size) {
  return size >= 8 ? ~u64{0} : (u64{1} << size * 8) - 1;
}

bool Decoder::operand(const OperandSpec& spec, Operand& o) {
  o.read = spec.read;
  o.write = spec.write;
  o.implicit = spec.implicit;
  unsigned rm = insn_.modrm & 7u, reg = insn_.modrm >> 3 & 7u;
  bool mod3 = insn_.modrm >= 0xc0;
  switch (spec.method) {
    case Method::none: break;
    case Method::E:
      if (!mod3) return memory_kind(o, spec), true;
      [[fallthrough]];
    case Method::R: return gpr(o, rm | b_, spec.size), true;
    case Method::G:
      if (r4_) return invalid();
      return gpr(o, reg | r_, spec.size), true;
    case Method::B: return gpr(o, insn_.vvvv, spec.size), insn_.vvvv < 16 || invalid();
    case Method::Z: return gpr(o, (insn_.opcode & 7u) | b_, spec.size), true;
    case Method::M:
    case Method::T: return memory_kind(o, spec), true;
    case Method::S:
      if (reg > 5 || (spec.write && reg == 1)) return invalid();
      o.kind = OperandKind::segment, o.reg = static_cast<u8>(reg), o.size = 2;
      return true;
    case Method::C:
      reg |= r_;
      if (reg == 1 || (reg > 4 && reg != 8)) return invalid();
      o.kind = OperandKind::control, o.reg = static_cast<u8>(reg),
      o.size = static_cast<u16>(size_of(spec.size));
      return true;
    case Method::D:
      if (r_) return invalid();
      o.kind = OperandKind::debug, o.reg = static_cast<u8>(reg),
      o.size = static_cast<u16>(size_of(spec.size));
      return true;
    case Method::P:
      o.kind = OperandKind::mmx, o.reg = static_cast<u8>(reg), o.size = 8;
      return true;
    case Method::Q:
      if (!mod3) return memory_kind(o, spec), true;
      [[fallthrough]];
    case Method::N: o.kind = OperandKind::mmx, o.reg = static_cast<u8>(rm), o.size = 8; return true;
    case Method::V: return vector(o, reg | r_ | r4_, spec.size), true;
    case Method::H: return vector(o, insn_.vvvv, spec.size), true;
    case Method::W:
      if (!mod3) return memory_kind(o, spec), true;
      [[fallthrough]];
    case Method::U: return vector(o, rm | b_ | x4_, spec.size), true;
    case Method::L:
      return vector(o, fetch_immediate(1, false) >> 4 & (long_ ? 15 : 7), spec.size), true;
    case Method::KG: return mask(o, reg | r_ | r4_, spec.size);
    case Method::KH: return mask(o, insn_.vvvv, spec.size);
    case Method::KE:
      if (!mod3) return memory_kind(o, spec), true;
      [[fallthrough]];
    case Method::KR: return mask(o, rm, spec.size);
    case Method::STi:
      o.kind = OperandKind::st, o.reg = static_cast<u8>(rm), o.size = 10;
      return true;
    case Method::st: o.kind = OperandKind::st, o.size = 10; return true;
    case Method::I:
    case Method::Is: {
      unsigned full =
          spec.method == Method::Is ? row_->byte_form ? 1 : insn_.opsize : size_of(spec.size);
      unsigned encoded = spec.method == Method::Is ? 1 : full;
      if (spec.size == Size::z && insn_.opsize == 8) full = 8;
      u64 v = fetch_immediate(encoded, full > encoded) & low_bytes(full);
      o.size = static_cast<u16>(full);
      bool second = immediates_++ != 0;
      o.kind = second ? OperandKind::immediate2 : OperandKind::immediate;
      (second ? insn_.imm2 : insn_.imm) = v;
      return true;
    }
    case Method::one: o.kind = OperandKind::immediate, o.size = 1, insn_.imm = 1; return true;
    case Method::J:
      o.kind = OperandKind::relative;
      o.size = static_cast<u16>(size_of(spec.size));
      insn_.imm = fetch_immediate(o.size, true);
      return true;
    case Method::A:
      o.kind = OperandKind::far_pointer, o.size = static_cast<u16>(insn_.opsize + 2);
      insn_.imm = fetch_immediate(insn_.opsize, false);
      insn_.imm2 = fetch_immediate(2, false);
      return true;
    case Method::O:
      insn_.mem.segment = segment_ != 0xff ? segment_ : 3;
      insn_.mem.segment_override = segment_ != 0xff;
      insn_.mem.disp = static_cast<i64>(insn_.addrsize == 8   ? fetch<u64>()
                                        : insn_.addrsize == 4 ? fetch<u32>()
                                                              : fetch<u16>());
      return memory_kind(o, spec), true;
    case Method::X: fixed_memory(6, 3, true); return memory_kind(o, spec), true;
    case Method::Y: {
      if (!row_->has_source) fixed_memory(7, 0, false);
      return memory_kind(o, spec), true;
    }
    case Method::at: fixed_memory(spec.reg, 3, true); return memory_kind(o, spec), true;
    case Method::reg:
      o.kind = OperandKind::gpr, o.reg = spec.reg, o.size = static_cast<u16>(size_of(spec.size));
      return true;
    case Method::high: o.kind = OperandKind::gpr_high, o.reg = 0, o.size = 1; return true;
    case Method::seg: o.kind = OperandKind::segment, o.reg = spec.reg, o.size = 2; return true;
    case Method::xmm: return vector(o, spec.reg, Size::dq), true;
  }
  return true;
}

bool Decoder::operands() {
  insn_.operands = row_->operands;
  const bool registers = insn_.modrm >= 0xc0 || row_->ignore_mod;
  for (unsigned i = 0; i < row_->operands; ++i) {
    if (!operand(row_->op[i], insn_.op[i])) return false;
    insn_.op[i].place = kPlaces[static_cast<size_t>(row_->op[i].method)][registers];
  }
  // Merging keeps what the mask leaves out.
  if (insn_.evex_aaa && !insn_.evex_z && row_->merging && insn_.op[0].kind == OperandKind::vector)
    insn_.op[0].read = true;
  return true;
}

bool Decoder::finish() {
  if (!have()) return false;
  insn_.length = static_cast<u8>(pos_);
  if (insn_.imm_at == 0) insn_.imm_at = insn_.length;
  if (insn_.lock && !(row_->lock && insn_.op[0].kind == OperandKind::memory)) return invalid();
  if (insn_.encoding != Insn::Encoding::legacy) {
    bool evex = insn_.encoding == Insn::Encoding::evex;
    if (!row_->uses_vvvv && (insn_.vvvv & (insn_.mem.vsib ? 15 : 31)) != 0) return invalid();
    // VSIB needs a SIB byte, so there is no 16-bit addressing either.
    if (row_->vsib && !insn_.mem.vsib) return invalid();
    if (row_->distinct) {
      u8 dest = insn_.op[0].reg, index = insn_.mem.index;
      if (dest == index) return invalid();
      if (!evex && (insn_.vvvv == dest || insn_.vvvv == index)) return invalid();
    }
  }
  return true;
}

}  // namespace skerry::isa

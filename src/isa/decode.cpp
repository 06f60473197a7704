// The decoder: prefixes, opcode, row selection, operands. SDM volume 2A chapter 2.
//
// Bytes beyond those given read as 0 from a padded copy, and each step that depends on a byte first
// checks that it was there, so "truncated" is exact.
#include <algorithm>
#include <array>
#include <cstring>

#include "isa/row.hpp"

namespace skerry::isa {
namespace {

constexpr unsigned kMaxLength = 15;
constexpr unsigned kPadded = 48;  // 15 prefixes and the longest possible rest

enum Prefix : u8 { kNone, kSegment, kOpsize, kAddrsize, kLock, kRepne, kRep, kRex };

constexpr auto kPrefixes = [] {
  std::array<u8, 256> t{};
  for (u8 b : {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65}) t[b] = kSegment;
  t[0x66] = kOpsize;
  t[0x67] = kAddrsize;
  t[0xf0] = kLock;
  t[0xf2] = kRepne;
  t[0xf3] = kRep;
  for (unsigned b = 0x40; b < 0x50; ++b) t[b] = kRex;
  return t;
}();

class Decoder {
 public:
  Decoder(const u8* p, unsigned available, DecodeMode mode, Insn& insn)
      : p_(p), available_(available), long_(mode.bits == 64), mode_(mode), insn_(insn) {}

  DecodeStatus run();

 private:
  // Each returns false when decoding ends; status_ then says how.
  bool prefixes();
  bool opcode();
  bool vex2();
  bool vex3();
  bool evex();
  bool select();
  void sizes();
  void memory();
  void memory16(unsigned mod, unsigned rm);
  bool operands();
  bool operand(const OperandSpec& spec, Operand& o);
  bool evex_rules();
  bool finish();

  bool end(DecodeStatus s) { return status_ = s, false; }
  bool invalid() { return end(DecodeStatus::invalid); }
  /// Were the bytes up to pos_ really there?
  bool have() {
    if (pos_ <= available_) return true;
    return end(available_ >= kMaxLength ? DecodeStatus::too_long : DecodeStatus::truncated);
  }
  template <class T>
  T fetch() {
    T v;
    std::memcpy(&v, p_ + pos_, sizeof v);
    pos_ += sizeof v;
    return v;
  }
  u64 fetch_immediate(unsigned size, bool is_signed);
  unsigned size_of(Size s) const { return size_table_[static_cast<unsigned>(s)]; }
  unsigned vector_size(Size s) const { return std::max(16u, size_of(s)); }
  void gpr(Operand& o, unsigned reg, Size s);
  void vector(Operand& o, unsigned reg, Size s);
  bool mask(Operand& o, unsigned reg, Size s);
  void memory_kind(Operand& o, const OperandSpec& spec);
  void fixed_memory(unsigned base, u8 segment, bool overridable);

  const u8* p_;
  unsigned available_, pos_ = 0;
  bool long_;
  DecodeMode mode_;
  Insn& insn_;
  const Row* row_ = nullptr;
  DecodeStatus status_ = DecodeStatus::ok;
  u8 r_ = 0, x_ = 0, b_ = 0;     // register extension bits, as 8
  u8 r4_ = 0, x4_ = 0, v4_ = 0;  // EVEX: as 16
  u8 segment_ = 0xff;            // override
  bool address_prefix_ = false;
  std::array<u16, static_cast<size_t>(Size::count)> size_table_;
};

bool Decoder::prefixes() {
  for (;;) {
    if (++pos_; !have()) return false;
    u8 b = p_[pos_ - 1];
    switch (kPrefixes[b]) {
      case kNone: --pos_; return true;
      case kSegment: {
        u8 seg = b == 0x64 ? 4 : b == 0x65 ? 5 : static_cast<u8>((b >> 3) & 3);
        if (!long_ || seg >= 4) segment_ = seg;
        break;
      }
      case kOpsize: insn_.prefix66 = true; break;
      case kAddrsize: address_prefix_ = true; break;
      case kLock: insn_.lock = true; break;
      case kRepne: insn_.repne = true, insn_.rep = false; break;
      case kRep: insn_.rep = true, insn_.repne = false; break;
      case kRex:
        if (!long_) return --pos_, true;
        insn_.rex = b;
        insn_.has_rex = true;
        continue;
    }
    // A REX prefix counts only right before the opcode.
    insn_.rex = 0;
    insn_.has_rex = false;
  }
}

bool Decoder::vex2() {
  pos_ += 1;
  if (!have()) return false;
  u8 b = p_[pos_ - 1];
  r_ = b & 0x80 ? 0 : 8;
  insn_.map = 1;
  insn_.vvvv = static_cast<u8>(~b >> 3 & 15);
  insn_.vector_length = b >> 2 & 1;
  insn_.pp = b & 3;
  return true;
}

bool Decoder::vex3() {
  pos_ += 2;
  if (!have()) return false;
  u8 b = p_[pos_ - 2], c = p_[pos_ - 1];
  r_ = b & 0x80 ? 0 : 8;
  x_ = b & 0x40 ? 0 : 8;
  b_ = b & 0x20 || !long_ ? 0 : 8;
  insn_.map = b & 31;
  insn_.w = c & 0x80;
  insn_.vvvv = static_cast<u8>(~c >> 3 & 15);
  insn_.vector_length = c >> 2 & 1;
  insn_.pp = c & 3;
  return true;
}

bool Decoder::evex() {
  pos_ += 3;
  if (!have()) return false;
  u8 b = p_[pos_ - 3], c = p_[pos_ - 2], d = p_[pos_ - 1];
  if ((b & 0x08) || !(c & 0x04)) return invalid();
  r_ = b & 0x80 ? 0 : 8;
  x_ = b & 0x40 ? 0 : 8;
  b_ = b & 0x20 || !long_ ? 0 : 8;
  r4_ = b & 0x10 || !long_ ? 0 : 16;
  x4_ = x_ ? 16 : 0;
  insn_.map = b & 7;
  insn_.w = c & 0x80;
  insn_.vvvv = static_cast<u8>(~c >> 3 & 15);
  insn_.pp = c & 3;
  insn_.evex_z = d & 0x80;
  insn_.vector_length = d >> 5 & 3;
  insn_.evex_b = d & 0x10;
  if (!(d & 0x08) && !long_) return invalid();  // there are eight registers
  v4_ = d & 0x08 ? 0 : 16;
  insn_.vvvv |= v4_;
  insn_.evex_aaa = d & 7;
  return true;
}

bool Decoder::opcode() {
  u8 b = fetch<u8>();
  bool vex = b == 0xc5 || b == 0xc4, evex_byte = b == 0x62;
  if (vex || evex_byte) {
    if (++pos_; !have()) return false;
    --pos_;
    // Outside 64-bit mode these are LES, LDS and BOUND, which have no register form.
    if (long_ || p_[pos_] >= 0xc0) {
      if (!mode_.protected_mode || insn_.lock || insn_.prefix66 || insn_.rep || insn_.repne ||
          insn_.has_rex)
        return invalid();
      insn_.encoding = vex ? Insn::Encoding::vex : Insn::Encoding::evex;
      if (!(b == 0xc5 ? vex2() : b == 0xc4 ? vex3() : evex())) return false;
      b = fetch<u8>();
    }
  }
  if (insn_.encoding == Insn::Encoding::legacy) {
    if (insn_.has_rex) {
      insn_.w = insn_.rex & 8;
      r_ = insn_.rex & 4 ? 8 : 0;
      x_ = insn_.rex & 2 ? 8 : 0;
      b_ = insn_.rex & 1 ? 8 : 0;
    }
    if (b == 0x0f) {
      insn_.map = 1;
      b = fetch<u8>();
      if (b == 0x38 || b == 0x3a) {
        insn_.map = b == 0x38 ? 2 : 3;
        b = fetch<u8>();
      }
    }
    insn_.pp = insn_.repne ? 3 : insn_.rep ? 2 : insn_.prefix66 ? 1 : 0;
  }
  if (!have()) return false;
  insn_.opcode = b;
  insn_.opcode_at = static_cast<u8>(pos_ - 1);
  return true;
}

bool Decoder::select() {
  const OpcodeMap& map = opcode_map();
  int table = opcode_table(insn_.encoding, insn_.map);
  if (table < 0) return invalid();
  Slot slot = map.slots[static_cast<unsigned>(table) * 256 + insn_.opcode];
  if (slot.count == 0) return invalid();
  insn_.has_modrm = slot.modrm;
  u32 key = (long_ ? u32{kKey64} : 0) | (mode_.protected_mode ? u32{kKeyProtected} : 0) |
            static_cast<u32>(insn_.pp) << 2 | (insn_.w ? u32{kKeyW} : 0) | (b_ ? u32{kKeyRexB} : 0);
  u32 length = insn_.vector_length;
  if (slot.modrm) {
    insn_.modrm_at = static_cast<u8>(pos_);
    u8 m = insn_.modrm = fetch<u8>();
    if (!have()) return false;
    bool mod3 = m >= 0xc0;
    key |= (mod3 ? u32{kKeyMod3} : 0) | static_cast<u32>(m >> 3 & 7) << 5 |
           static_cast<u32>(m & 7) << 8;
    if (slot.by_reg) slot = map.by_reg[slot.first + (m >> 3 & 7)];
    // Register forms with EVEX.b use L'L for rounding: the vector is 512 bits long.
    if (insn_.evex_b && mod3) length = 2;
  }
  key |= length << 12 | (length ? u32{kKeyNot128} : 0);
  for (const Candidate& c : map.candidates.subspan(slot.first, slot.count))
    if ((key & c.mask) == c.value) {
      row_ = &map.rows[c.row];
      insn_.row = c.row;
      insn_.sem = row_->sem;
      insn_.cls = row_->cls;
      if (row_->opcode_bits == 4) insn_.condition = insn_.opcode & 15;
      if (row_->sem == Sem::fcmov) {  // B, E, BE, U by ModRM.reg; DB negates
        constexpr u8 kConditions[] = {2, 4, 6, 10};
        insn_.condition = kConditions[insn_.modrm >> 3 & 3] | (insn_.opcode & 1);
      }
      // Outside 64-bit mode there are eight registers; an unused vvvv must still be 1111b.
      if (!long_ && row_->uses_vvvv) insn_.vvvv &= 7;
      return insn_.encoding != Insn::Encoding::evex || evex_rules();
    }
  return invalid();
}

/// What EVEX bits mean depends on the row (SDM 2A 2.7).
bool Decoder::evex_rules() {
  bool mod3 = insn_.modrm >= 0xc0;
  if (insn_.evex_b && mod3) {
    if (!row_->rounding && !row_->sae) return invalid();
    if (row_->rounding) insn_.evex_rc = insn_.vector_length;
    insn_.vector_length = 2;
  } else if (insn_.evex_b) {
    bool broadcast = false;
    for (const OperandSpec& o : row_->op) broadcast |= o.broadcast != 0;
    if (!broadcast) return invalid();
  }
  if (insn_.vector_length == 3) return invalid();
  if (insn_.evex_aaa == 0) {
    if (insn_.evex_z || row_->mask_required) return invalid();
  } else if (!row_->masked || (insn_.evex_z && !row_->zeroing)) {
    return invalid();
  }
  // Zeroing a memory destination makes no sense and is #UD.
  if (insn_.evex_z && !mod3 && row_->op[0].method == Method::W) return invalid();
  return true;
}

void Decoder::sizes() {
  bool small = insn_.prefix66 && !row_->mandatory66;
  if (long_) {
    insn_.opsize = row_->force64 || insn_.w ? 8 : small ? 2 : row_->default64 ? 8 : 4;
    insn_.addrsize = address_prefix_ ? 4 : 8;
  } else {
    insn_.opsize = (mode_.bits == 32) == small ? 2 : 4;
    insn_.addrsize = (mode_.bits == 32) == address_prefix_ ? 2 : 4;
  }
  u16 op = insn_.opsize;
  u16 y = long_ && insn_.w ? 8 : 4, n = long_ ? 8 : 4;
  u16 vl = static_cast<u16>(16u << insn_.vector_length);
  u16 z = op == 2 ? 2 : 4;
  size_table_ = {0,
                 1,
                 2,
                 4,
                 8,
                 10,
                 16,
                 32,
                 64,
                 op,
                 z,
                 y,
                 n,
                 insn_.addrsize,
                 static_cast<u16>(op + 2),
                 static_cast<u16>(long_ ? 10 : 6),
                 static_cast<u16>(2 * op),
                 vl,
                 static_cast<u16>(vl / 2),
                 static_cast<u16>(vl / 4),
                 static_cast<u16>(vl / 8),
                 static_cast<u16>(vl == 16 ? 8 : vl)};
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
      bool vsib = false;
      for (const OperandSpec& o : row_->op) vsib |= o.method == Method::T;
      if (vsib) {
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
      bool second = false;
      for (const Operand& other : insn_.op) second |= other.kind == OperandKind::immediate;
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
      bool has_source = false;  // MOVS, CMPS: Insn::mem is the source
      for (const OperandSpec& other : row_->op) has_source |= other.method == Method::X;
      if (!has_source) fixed_memory(7, 0, false);
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
  for (unsigned i = 0; i < row_->operands; ++i)
    if (!operand(row_->op[i], insn_.op[i])) return false;
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
    if (row_->op[0].method != Method::none) {
      bool vsib = false;
      for (const OperandSpec& o : row_->op) vsib |= o.method == Method::T;
      if (vsib) {
        if (!insn_.mem.vsib) return invalid();  // needs a SIB byte, so no 16-bit addressing either
        if (row_->distinct) {
          u8 dest = insn_.op[0].reg, index = insn_.mem.index;
          if (dest == index) return invalid();
          if (!evex && (insn_.vvvv == dest || insn_.vvvv == index)) return invalid();
        }
      }
    }
  }
  return true;
}

DecodeStatus Decoder::run() {
  bool ok = prefixes() && opcode() && select();
  if (ok) {
    sizes();
    if (insn_.has_modrm && insn_.modrm < 0xc0 && !row_->ignore_mod) memory();
    ok = operands() && finish();
  }
  if (!ok) {
    insn_.sem = Sem::invalid;
    insn_.length = static_cast<u8>(std::min({pos_, available_, kMaxLength}));
  }
  return status_;
}

}  // namespace

DecodeStatus decode(std::span<const u8> bytes, DecodeMode mode, Insn& insn) {
  insn = Insn{};
  unsigned available = static_cast<unsigned>(std::min<size_t>(bytes.size(), kMaxLength));
  if (bytes.size() >= kPadded) return Decoder(bytes.data(), available, mode, insn).run();
  std::array<u8, kPadded> padded{};
  if (available) std::memcpy(padded.data(), bytes.data(), available);
  return Decoder(padded.data(), available, mode, insn).run();
}

}  // namespace skerry::isa

// The decoder's first half: prefixes, opcode, row selection. SDM volume 2A chapter 2.
//
// Bytes beyond those given read as 0 from a padded copy, and each step that depends on a byte first
// checks that it was there, so "truncated" is exact.
#include <array>

#include "isa/decoder.hpp"

namespace skerry::isa {
namespace {

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

}  // namespace

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

DecodeStatus decode(std::span<const u8> bytes, DecodeMode mode, Insn& insn) {
  insn = Insn{};
  unsigned available = static_cast<unsigned>(std::min<size_t>(bytes.size(), kMaxLength));
  if (bytes.size() >= kPadded) return Decoder(bytes.data(), available, mode, insn).run();
  std::array<u8, kPadded> padded{};
  if (available) std::memcpy(padded.data(), bytes.data(), available);
  return Decoder(padded.data(), available, mode, insn).run();
}

}  // namespace skerry::isa

// Re-emission: everything is rebuilt from Insn and its row; only the immediates are copied.
#include "isa/reencode.hpp"

#include <cstring>

#include "isa/row.hpp"

namespace skerry::isa {
namespace {

class Reencoder {
 public:
  Reencoder(const Insn& insn, std::span<const u8> original, const Patch& patch, u8* out)
      : insn_(insn), row_(row_of(insn)), original_(original), patch_(patch), out_(out) {}
  size_t run();

 private:
  bool registers();
  bool memory();
  bool legacy_prefixes();
  void vex();
  void evex();
  void emit(u8 b) { out_[n_++] = b; }
  u8 value(Place p) const { return value_[static_cast<unsigned>(p)]; }

  const Insn& insn_;
  const Row& row_;
  std::span<const u8> original_;
  const Patch& patch_;
  u8* out_;
  size_t n_ = 0;

  u8 opcode_ = 0, modrm_ = 0, sib_ = 0;
  bool has_modrm_ = false, has_memory_ = false, has_sib_ = false;
  bool force_rex_ = false, forbid_rex_ = false, address32_ = false;
  bool w_ = false, r_ = false, x_ = false, b_ = false, r4_ = false, v4_ = false;
  i32 disp_ = 0;
  std::array<u8, 7> value_{};  // register numbers by Place, after the patch
};

/// Register numbers from the operands and the patch; the REX-like bits that they need.
bool Reencoder::registers() {
  bool register_form = insn_.modrm >= 0xc0 || row_.ignore_mod;
  value_[static_cast<unsigned>(Place::reg)] =
      insn_.modrm >> 3 & 7;  // opcode extension, if no operand
  value_[static_cast<unsigned>(Place::rm)] = insn_.modrm & 7;
  value_[static_cast<unsigned>(Place::vvvv)] = 0;
  for (unsigned i = 0; i < insn_.operands; ++i) {
    const Operand& o = insn_.op[i];
    Place p = o.place;
    if (p == Place::none || p == Place::memory) continue;
    u8 patched = patch_.registers[static_cast<unsigned>(p)];
    u8 reg = patched != Patch::kKeep ? patched : o.reg;
    bool gpr = o.kind == OperandKind::gpr || o.kind == OperandKind::gpr_high;
    if (o.kind == OperandKind::gpr_high && patched == Patch::kKeep) {
      reg += 4;
      forbid_rex_ = true;
    } else if (gpr && o.size == 1 && reg >= 4) {
      force_rex_ = true;
    }
    unsigned limit = o.kind == OperandKind::vector && insn_.encoding == Insn::Encoding::evex  ? 32
                     : gpr || o.kind == OperandKind::vector || o.kind == OperandKind::control ? 16
                                                                                              : 8;
    if (reg >= limit) return false;
    value_[static_cast<unsigned>(p)] = reg;
  }
  r_ = value(Place::reg) & 8;
  r4_ = value(Place::reg) & 16;
  v4_ = value(Place::vvvv) & 16;
  if (register_form || !insn_.has_modrm) {
    u8 low = insn_.has_modrm ? value(Place::rm) : value(Place::opcode);
    b_ = low & 8;
    x_ = low & 16;  // EVEX only
    modrm_ = static_cast<u8>(0xc0 | (value(Place::reg) & 7) << 3 | (low & 7));
  }
  return true;
}

bool Reencoder::memory() {
  bool offset = false;
  bool implicit_address = false;  // rCX of LOOP, [rSI], ...: only the address size can be kept
  for (const OperandSpec& o : row_.op) {
    offset |= o.method == Method::O;
    implicit_address |= o.size == Size::a || o.method == Method::X || o.method == Method::Y ||
                        o.method == Method::at;
  }
  if (implicit_address) {
    if (insn_.addrsize == 2 || (insn_.addrsize == 4 && patch_.memory)) return false;
    address32_ = insn_.addrsize == 4;
  }
  bool by_modrm = insn_.has_modrm && insn_.modrm < 0xc0 && !row_.ignore_mod;
  if (!by_modrm && !offset) return !patch_.memory;
  if (!patch_.memory && (insn_.addrsize == 2 || insn_.mem.base == Memory::kRip || offset))
    return false;
  if (offset) {  // A0-A3 become 8A, 8B, 88, 89 with AL or rAX
    opcode_ = static_cast<u8>((opcode_ & 2 ? 0x88 : 0x8a) | (opcode_ & 1));
    has_modrm_ = true;
  }
  has_memory_ = true;
  u8 base = patch_.memory ? patch_.base : insn_.mem.base;
  u8 index = patch_.memory && !insn_.mem.vsib ? Memory::kNone : insn_.mem.index;
  i64 disp = patch_.memory ? patch_.disp : insn_.mem.disp;
  disp_ = static_cast<i32>(disp);
  address32_ |= !patch_.memory && insn_.addrsize == 4;
  has_sib_ = index != Memory::kNone || insn_.mem.vsib || base == Memory::kNone || (base & 7) == 4;
  bool no_base = base == Memory::kNone;
  modrm_ = static_cast<u8>((no_base ? 0x00 : 0x80) | (value(Place::reg) & 7) << 3 |
                           (has_sib_ ? 4 : base & 7));
  if (has_sib_) {
    bool indexed = insn_.mem.vsib || index != Memory::kNone;
    sib_ = static_cast<u8>((indexed ? insn_.mem.scale << 6 | (index & 7) << 3 : 4 << 3) |
                           (no_base ? 5 : base & 7));
    x_ = indexed && (index & 8);
    if (insn_.mem.vsib) v4_ = index & 16;
  }
  b_ = !no_base && (base & 8);
  return true;
}

bool Reencoder::legacy_prefixes() {
  if (address32_) emit(0x67);
  if (insn_.encoding != Insn::Encoding::legacy) return true;
  if (insn_.lock) emit(0xf0);
  bool by_opsize = false;
  for (const OperandSpec& o : row_.op) by_opsize |= o.method == Method::Is;
  for (const OperandSpec& o : row_.op)
    for (Size s : {o.size, o.mem_size})
      by_opsize |= s == Size::v || s == Size::z || s == Size::p || s == Size::vv;
  bool pp_counts = (row_.mask & kKeyPp) == kKeyPp;
  if (row_.mandatory66 || (by_opsize && insn_.opsize == 2)) emit(0x66);
  if (pp_counts || insn_.cls == Class::string) {
    if (insn_.rep) emit(0xf3);
    if (insn_.repne) emit(0xf2);
  }
  u8 rex = static_cast<u8>(w_ << 3 | r_ << 2 | x_ << 1 | b_ << 0);
  if (rex || force_rex_) {
    if (forbid_rex_) return false;
    emit(0x40 | rex);
  }
  if (insn_.map) emit(0x0f);
  if (insn_.map >= 2) emit(insn_.map == 2 ? 0x38 : 0x3a);
  return true;
}

void Reencoder::vex() {
  u8 vvvv = static_cast<u8>(~value(Place::vvvv) & 15);
  u8 last = static_cast<u8>(vvvv << 3 | insn_.vector_length << 2 | insn_.pp);
  if (insn_.map == 1 && !w_ && !x_ && !b_) {
    emit(0xc5);
    emit(static_cast<u8>((r_ ? 0 : 0x80) | last));
  } else {
    emit(0xc4);
    emit(static_cast<u8>((r_ ? 0 : 0x80) | (x_ ? 0 : 0x40) | (b_ ? 0 : 0x20) | insn_.map));
    emit(static_cast<u8>((w_ ? 0x80 : 0) | last));
  }
}

void Reencoder::evex() {
  u8 p2 = original_[insn_.opcode_at - 1u];  // z, L'L, b, aaa stay as they were
  emit(0x62);
  emit(static_cast<u8>((r_ ? 0 : 0x80) | (x_ ? 0 : 0x40) | (b_ ? 0 : 0x20) | (r4_ ? 0 : 0x10) |
                       insn_.map));
  emit(static_cast<u8>((w_ ? 0x80 : 0) | (~value(Place::vvvv) & 15) << 3 | 4 | insn_.pp));
  emit(static_cast<u8>((p2 & 0xf7) | (v4_ ? 0 : 8)));
}

size_t Reencoder::run() {
  if (original_.size() < insn_.length || insn_.sem == Sem::invalid) return 0;
  opcode_ = insn_.opcode;
  has_modrm_ = insn_.has_modrm;
  w_ = insn_.w;
  for (unsigned i = 0; i < insn_.operands; ++i)  // outside 64-bit mode W was ignored
    if (row_.op[i].size == Size::y && insn_.op[i].size == 4) w_ = false;
  if ((row_.default64 || row_.force64) && insn_.opsize == 4) return 0;
  if (row_.force64 && insn_.opsize == 2) return 0;  // 66 would be ignored
  if (!registers() || !memory()) return 0;
  if ((row_.mask & kKey64) && !(row_.value & kKey64)) {  // no such form in 64-bit mode
    bool short_inc = insn_.map == 0 && (insn_.opcode & 0xf0) == 0x40;
    if (!short_inc) return 0;
    modrm_ = static_cast<u8>(0xc0 | (opcode_ & 8) | (value(Place::opcode) & 7));
    opcode_ = 0xff;
    has_modrm_ = true;
  } else if (row_.opcode_bits == 3) {
    opcode_ = static_cast<u8>((opcode_ & ~7) | (value(Place::opcode) & 7));
    if (opcode_ == 0x90 && insn_.map == 0 && !b_) {  // XCHG r, rAX that would become NOP: 87 /r
      opcode_ = 0x87;
      modrm_ = 0xc0;
      has_modrm_ = true;
    }
  }
  if (!legacy_prefixes()) return 0;
  if (insn_.encoding == Insn::Encoding::vex) vex();
  if (insn_.encoding == Insn::Encoding::evex) evex();
  emit(opcode_);
  if (has_modrm_) emit(modrm_);
  if (has_memory_) {
    if (has_sib_) emit(sib_);
    std::memcpy(out_ + n_, &disp_, 4);
    n_ += 4;
  }
  size_t immediate = insn_.length - insn_.imm_at;
  if (n_ + immediate > 15) return 0;
  std::memcpy(out_ + n_, original_.data() + insn_.imm_at, immediate);
  for (const OperandSpec& o : row_.op)
    if (o.method == Method::L) out_[n_] = static_cast<u8>((out_[n_] & 15) | value(Place::is4) << 4);
  return n_ + immediate;
}

}  // namespace

size_t reencode(const Insn& insn, std::span<const u8> original, const Patch& patch, u8 out[16]) {
  return Reencoder(insn, original, patch, out).run();
}

}  // namespace skerry::isa

// Random instances: the row's fixed bits, everything else at random, kept if the decoder agrees.
#include "isa/generate.hpp"

#include <fmt/format.h>

#include <cstring>

namespace skerry::isa {
namespace {

class Generator {
 public:
  Generator(const Row& row, Rng& rng, DecodeMode mode, const InstanceOptions& options)
      : row_(row), rng_(rng), mode_(mode), options_(options) {}

  /// One attempt; the result may be invalid.
  size_t run(u8* out);

 private:
  u8 random(unsigned limit = 256) { return static_cast<u8>(rng_() % limit); }
  bool maybe(unsigned one_in) { return rng_() % one_in == 0; }
  void emit(unsigned b) {
    if (n_ < 15) out_[n_] = static_cast<u8>(b);
    ++n_;
  }
  void emit_random(unsigned bytes) {
    while (bytes--) emit(maybe(4) ? random(2) * 0xff : random());
  }
  unsigned fixed(u32 field, unsigned shift, unsigned otherwise) const {
    return (row_.mask & field) == field ? (row_.value & field) >> shift : otherwise;
  }
  void legacy();
  void vex();
  void evex();
  void modrm();
  void memory(unsigned reg);
  void immediates();

  const Row& row_;
  Rng& rng_;
  DecodeMode mode_;
  const InstanceOptions& options_;
  u8* out_ = nullptr;
  size_t n_ = 0;
  unsigned rex_ = 0;  // W R X B wanted
  bool address_prefix_ = false, memory_form_ = false, vsib_ = false;
  bool broadcast_or_rounding_ = false;
};

void Generator::legacy() {
  unsigned pp = fixed(kKeyPp, 2, 0);
  bool free66 = (row_.mask & kKeyPp) != kKeyPp;
  if (pp == 1 || (free66 && maybe(4))) emit(0x66);
  if (pp == 2) emit(0xf3);
  if (pp == 3) emit(0xf2);
  if (row_.cls == Class::string && maybe(3)) emit(maybe(2) ? 0xf2 : 0xf3);
  if (row_.lock && memory_form_ && options_.extra_prefixes && maybe(4)) emit(0xf0);
  if (mode_.bits == 64) {
    unsigned w = fixed(kKeyW, 11, maybe(3)), b = fixed(kKeyRexB, 15, rex_ & 1);
    unsigned rex = w << 3 | (rex_ & 6) | b;
    if (rex || maybe(6)) emit(0x40 | rex);
  }
  if (row_.map >= 1) emit(0x0f);
  if (row_.map >= 2) emit(row_.map == 2 ? 0x38 : 0x3a);
}

void Generator::vex() {
  unsigned vvvv = row_.uses_vvvv ? random(mode_.bits == 64 ? 16 : 8) ^ 15u : 15u;
  unsigned w = fixed(kKeyW, 11, maybe(2)), pp = fixed(kKeyPp, 2, random(4));
  unsigned length =
      (row_.mask & kKeyNot128) && (row_.mask & kKeyL) == 0 ? 1 : fixed(kKeyL, 12, maybe(2));
  unsigned last = vvvv << 3 | length << 2 | pp;
  if (row_.map == 1 && !(rex_ & 3) && !w && maybe(2)) {
    emit(0xc5);
    emit((rex_ & 4 ? 0 : 0x80) | last);
  } else {
    emit(0xc4);
    emit((rex_ & 4 ? 0 : 0x80u) | (rex_ & 2 ? 0 : 0x40u) | (rex_ & 1 ? 0 : 0x20u) | row_.map);
    emit(w << 7 | last);
  }
}

void Generator::evex() {
  bool wide = mode_.bits == 64;
  unsigned vvvv = row_.uses_vvvv ? random(wide ? 32 : 8) ^ 31u : 31u;
  if (vsib_ && wide) vvvv = (vvvv & 15) | (maybe(2) ? 16u : 0);
  unsigned w = fixed(kKeyW, 11, maybe(2)), pp = fixed(kKeyPp, 2, random(4));
  unsigned length = (row_.mask & kKeyL) == kKeyL ? (row_.value & kKeyL) >> 12
                    : row_.mask & kKeyNot128     ? 1u + random(2)
                                                 : random(3);
  bool r4 = wide && maybe(2);
  unsigned mask = row_.mask_required ? 1u + random(7) : row_.masked && maybe(2) ? random(8) : 0;
  bool zero = mask && row_.zeroing && maybe(2);
  emit(0x62);
  emit((rex_ & 4 ? 0 : 0x80u) | (rex_ & 2 ? 0 : 0x40u) | (rex_ & 1 ? 0 : 0x20u) | (r4 ? 0 : 0x10u) |
       row_.map);
  emit(w << 7 | (vvvv & 15) << 3 | 4 | pp);
  emit((zero ? 0x80u : 0) | length << 5 | (broadcast_or_rounding_ ? 0x10u : 0) |
       (vvvv & 16 ? 8u : 0) | mask);
}

void Generator::memory(unsigned reg) {
  unsigned size = mode_.bits == 64   ? (address_prefix_ ? 4 : 8)
                  : mode_.bits == 32 ? (address_prefix_ ? 2 : 4)
                                     : (address_prefix_ ? 4 : 2);
  if (size == 2) {
    unsigned mod = random(3), rm = random(8);
    emit(mod << 6 | reg << 3 | rm);
    emit_random(mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0);
    return;
  }
  unsigned mod = random(3), rm = random(8), base = random(8), index = random(8);
  if (options_.fixed_address) {
    base = options_.base & 7u, mod = 2, rm = vsib_ || base == 4 ? 4 : base;
    if (!vsib_) index = 4;
  } else if (vsib_) {
    rm = 4;
  }
  emit(mod << 6 | reg << 3 | rm);
  unsigned scale = options_.fixed_address && !vsib_ ? 0 : random(4);
  if (rm == 4) emit(scale << 6 | index << 3 | base);
  if (options_.fixed_address)
    for (unsigned i = 0; i < 4; ++i) emit(static_cast<u32>(options_.disp) >> 8 * i & 0xff);
  else
    emit_random(mod == 1                                                        ? 1
                : mod == 2 || (mod == 0 && (rm == 5 || (rm == 4 && base == 5))) ? 4
                                                                                : 0);
}

void Generator::modrm() {
  unsigned reg = fixed(kKeyReg, 5, random(8));
  if (memory_form_) return memory(reg);
  emit(0xc0 | reg << 3 | fixed(kKeyRm, 8, random(8)));
}

/// Enough random bytes for any immediates: the decoder says how many are used.
void Generator::immediates() {
  emit_random(10);
}

size_t Generator::run(u8* out) {
  out_ = out;
  n_ = 0;
  bool only_memory = (row_.mask & kKeyMod3) && !(row_.value & kKeyMod3);
  bool only_registers = ((row_.mask & kKeyMod3) && (row_.value & kKeyMod3)) || row_.ignore_mod;
  bool want_memory = options_.form == InstanceOptions::Form::memory ||
                     (options_.form == InstanceOptions::Form::any && maybe(2));
  memory_form_ = row_.modrm && !only_registers && (only_memory || want_memory);
  for (const OperandSpec& o : row_.op) {
    vsib_ |= o.method == Method::T;
    if (o.broadcast && memory_form_ && maybe(3)) broadcast_or_rounding_ = true;
  }
  if ((row_.rounding || row_.sae) && !memory_form_ && maybe(3)) broadcast_or_rounding_ = true;
  if (mode_.bits == 64) rex_ = random(8);
  if (memory_form_ && options_.fixed_address) {
    rex_ = (rex_ & (vsib_ ? 6u : 4u)) | (options_.base >> 3 & 1u);
  } else if (options_.extra_prefixes) {
    if (maybe(8)) {
      constexpr u8 kSegments[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
      emit(kSegments[random(6)]);
    }
    if (maybe(8)) address_prefix_ = true, emit(0x67);
  }
  switch (row_.encoding) {
    case Insn::Encoding::legacy: legacy(); break;
    case Insn::Encoding::vex: vex(); break;
    case Insn::Encoding::evex: evex(); break;
  }
  emit(row_.opcode | random(1u << row_.opcode_bits));
  if (row_.modrm) modrm();
  immediates();
  return std::min<size_t>(n_, 15);
}

}  // namespace

bool random_instance(const Row& row, Rng& rng, DecodeMode mode, u8 out[15], size_t& length,
                     const InstanceOptions& options) {
  u16 index = static_cast<u16>(&row - rows().data());
  for (unsigned attempt = 0; attempt < 200; ++attempt) {
    size_t n = Generator(row, rng, mode, options).run(out);
    Insn insn;
    if (decode({out, n}, mode, insn) != DecodeStatus::ok || insn.row != index) continue;
    bool memory = insn.has_modrm && insn.modrm < 0xc0 && !row.ignore_mod;
    if (options.form == InstanceOptions::Form::memory && !memory) return false;
    if (options.form == InstanceOptions::Form::registers && memory) return false;
    length = insn.length;
    return true;
  }
  return false;
}

size_t CoverageReport::exercised() const {
  size_t n = 0;
  for (u64 c : count_) n += c != 0;
  return n;
}

std::string to_string(const Row& row) {
  return fmt::format("I({}, \"{}\", \"{}\")", row.names, row.text_operands, row.text_encoding);
}

std::string CoverageReport::missing(bool (*filter)(const Row&)) const {
  std::string s;
  for (size_t i = 0; i < count_.size(); ++i)
    if (count_[i] == 0 && (!filter || filter(rows()[i]))) s += to_string(rows()[i]) + "\n";
  return s;
}

}  // namespace skerry::isa

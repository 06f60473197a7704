// Decoder: the state of decoding one instruction; internal to decode().
#pragma once

#include <algorithm>
#include <cstring>

#include "isa/row.hpp"

namespace skerry::isa {

constexpr unsigned kMaxLength = 15;

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
  const u16* size_table_ = nullptr;  // by Size
  unsigned immediates_ = 0;          // seen so far
};

}  // namespace skerry::isa

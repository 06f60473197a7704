#include "oracle/instance.hpp"

#include "base/bits.hpp"

namespace skerry::oracle {

using isa::Insn;
using isa::Method;
using isa::Row;

namespace {

struct Bits {
  const Row& row;
  Random& random;
  /// The key bits that the row fixes, random ones elsewhere.
  u32 field(u32 mask, unsigned shift) const {
    u32 any = static_cast<u32>(random.next());
    return ((row.value & mask) | (any & ~row.mask & mask)) >> shift;
  }
  bool bit(u32 mask) const { return field(mask, 0) != 0; }
  bool fixed(u32 mask) const { return (row.mask & mask) == mask; }
};

bool uses(const Row& row, std::initializer_list<Method> methods) {
  for (unsigned i = 0; i < row.operands; i++)
    for (Method m : methods)
      if (row.op[i].method == m) return true;
  return false;
}

}  // namespace

bool encode_instance(u16 index, Random& random, Case& c) {
  const Row& row = isa::rows()[index];
  Bits bits{row, random};
  u8* p = c.code;
  auto put = [&](u32 b) { *p++ = static_cast<u8>(b); };

  u32 pp = bits.field(isa::kKeyPp, 2);
  if (!bits.fixed(isa::kKeyPp)) {
    bool string = row.cls == isa::Class::string;
    // 66 is an operand size, F2 and F3 repeat a string; otherwise they are noise.
    if (pp == 1 && !random.chance(50)) pp = 0;
    if (pp >= 2 && !string && !random.chance(2)) pp = row.value & isa::kKeyPp ? pp : 0;
    if (row.mask & isa::kKeyPpRep && pp >= 2) pp = 0;
  }
  bool memory_only = bits.fixed(isa::kKeyMod3) && !(row.value & isa::kKeyMod3);
  bool memory = row.modrm && (memory_only || (!bits.fixed(isa::kKeyMod3) && random.chance(50)));
  bool w = bits.bit(isa::kKeyW);
  u32 r = random.below(2), x = random.below(2), b = random.below(2);
  if (bits.fixed(isa::kKeyRexB)) b = row.value & isa::kKeyRexB ? 1 : 0;
  u8 opcode = static_cast<u8>(row.opcode | (random.next() & ((1u << row.opcode_bits) - 1)));
  bool has_v = uses(row, {Method::B, Method::H, Method::KH});
  u32 vvvv = has_v ? random.below(16) : 0;
  u32 length = bits.field(isa::kKeyL, 12) % 3;
  if (bits.fixed(isa::kKeyNot128) && row.value & isa::kKeyNot128 && length == 0) length = 1;

  if (memory && random.chance(8)) put(0x67);
  switch (row.encoding) {
    case Insn::Encoding::legacy: {
      if (row.lock && memory && random.chance(25)) put(0xf0);
      if (pp == 1) put(0x66);
      if (pp >= 2 && random.chance(2)) put(0x66);
      if (pp == 2) put(0xf3);
      if (pp == 3) put(0xf2);
      bool rex = w || random.chance(50);
      if (rex) put(0x40 | static_cast<u32>(w) << 3 | r << 2 | x << 1 | b);
      if (row.map >= 1) put(0x0f);
      if (row.map == 2) put(0x38);
      if (row.map == 3) put(0x3a);
      break;
    }
    case Insn::Encoding::vex:
      if (row.map == 1 && !w && random.chance(30)) {
        put(0xc5);
        put((r ^ 1) << 7 | (~vvvv & 15) << 3 | (length & 1) << 2 | pp);
      } else {
        put(0xc4);
        put((r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | row.map);
        put(static_cast<u32>(w) << 7 | (~vvvv & 15) << 3 | (length & 1) << 2 | pp);
      }
      break;
    case Insn::Encoding::evex: {
      u32 r4 = random.below(2), v4 = has_v || uses(row, {Method::T}) ? random.below(2) : 0;
      u32 aaa = row.masked || row.mask_required ? random.below(8) : 0;
      u32 z = row.zeroing && aaa ? random.below(2) : 0;
      u32 broadcast = 0;
      for (unsigned i = 0; i < row.operands; i++)
        if (memory && row.op[i].broadcast) broadcast = random.below(2);
      if (!memory && (row.sae || row.rounding)) broadcast = random.below(2);
      if (broadcast && !memory && row.rounding) length = random.below(4);
      put(0x62);
      put((r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | (r4 ^ 1) << 4 | row.map);
      put(static_cast<u32>(w) << 7 | (~vvvv & 15) << 3 | 4 | pp);
      put(z << 7 | length << 5 | broadcast << 4 | (v4 ^ 1) << 3 | aaa);
      break;
    }
  }
  put(opcode);
  if (row.modrm) {
    u32 mod = memory ? random.below(3) : 3;
    if (!memory && !bits.fixed(isa::kKeyMod3)) mod = 3;
    u32 reg = bits.field(isa::kKeyReg, 5), rm = bits.field(isa::kKeyRm, 8);
    put(mod << 6 | reg << 3 | rm);
  }
  // SIB, displacement and immediates: as many random bytes as the instruction wants.
  u8* end = c.code + 15;
  while (p < end) {
    u32 byte = static_cast<u32>(random.next());
    put(random.chance(20) ? byte & 0x0f : byte);
  }
  c.insn = Insn{};
  if (isa::decode({c.code, 15}, {64, true}, c.insn) != isa::DecodeStatus::ok) return false;
  return c.insn.row == index && c.insn.length <= 15;
}

void patch_displacement(Case& c, u32 at, unsigned size, i64 value) {
  if (size == 1)
    store<i8>(c.code + at, static_cast<i8>(value));
  else
    store<i32>(c.code + at, static_cast<i32>(value));
  Insn again{};
  if (isa::decode({c.code, 15}, {64, true}, again) == isa::DecodeStatus::ok) c.insn = again;
}

}  // namespace skerry::oracle

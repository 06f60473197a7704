// For tests: writes single instructions of a random program for the block fuzzer: instances of the
// instruction table's rows (isa/generate.hpp), aimed so that most memory operands hit something:
// registers that hold an address are set up before, some hold it all the time.
//
// Leaves out what depends on time, ports and other vCPUs. block_generator.hpp puts programs
// together. Single-threaded.
#pragma once

#include "engine/soft/block_program.hpp"
#include "isa/feature.hpp"
#include "isa/generate.hpp"

namespace skerry::soft::block_fuzz {

using isa::Class;
using isa::Insn;
using isa::OperandKind;
using isa::Sem;

constexpr u64 kFsBase = data_page(kFirst) - 0x1230, kGsBase = data_page(kThird) - 8;

class Writer {
 protected:
  /// Only instructions that `features` allow.
  /// bits: of the code.
  Writer(u64 seed, const isa::FeatureSet& features, u8 bits)
      : r_(seed), rows_rng_(seed ^ 0x5bd1'e995), features_(features), seed_(seed), bits_(bits) {
    for (u16 i = 0; i < isa::rows().size(); ++i) {
      const isa::Row& row = isa::rows()[i];
      if (!suits(row)) continue;
      by_class_[static_cast<u32>(row.cls)].push_back(i);
      if (hot(row.sem)) hot_.push_back(i);
    }
  }

  static bool hot(Sem s) {
    switch (s) {
      case Sem::mov:
      case Sem::movzx:
      case Sem::movsx:
      case Sem::movsxd:
      case Sem::add:
      case Sem::sub:
      case Sem::adc:
      case Sem::sbb:
      case Sem::cmp:
      case Sem::test:
      case Sem::and_:
      case Sem::or_:
      case Sem::xor_:
      case Sem::inc:
      case Sem::dec:
      case Sem::lea:
      case Sem::push:
      case Sem::pop:
      case Sem::cmovcc:
      case Sem::setcc:
      case Sem::shl:
      case Sem::shr:
      case Sem::sar:
      case Sem::imul:
      case Sem::neg:
      case Sem::not_:
      case Sem::xchg:
      case Sem::cmpxchg:
      case Sem::xadd: return true;
      default: return false;
    }
  }

  bool suits(const isa::Row& row) const {
    using isa::Method;
    if (row.mask & isa::kKey64 && !(row.value & isa::kKey64) != narrow()) return false;
    if (!features_.has(row.feature) || !features_.has(row.feature2)) return false;
    if (row.privilege != isa::Privilege::none || row.cls == Class::system ||
        row.cls == Class::control)
      return false;
    for (unsigned i = 0; i < row.operands; ++i) {
      const Method m = row.op[i].method;
      if (m == Method::S || m == Method::seg || m == Method::A || m == Method::C || m == Method::D)
        return false;
    }
    switch (row.sem) {
      case Sem::popf:
      case Sem::rdrand:
      case Sem::rdseed:
      case Sem::rdtsc:
      case Sem::rdtscp:
      case Sem::xsave:
      case Sem::xsavec:
      case Sem::xsaveopt:
      case Sem::xsaves:
      case Sem::xrstor:
      case Sem::xrstors:
      case Sem::fxsave:  // MXCSR_MASK, and with the next two the pointers of the x87, which
      case Sem::fstenv:  // translated code does not keep
      case Sem::fsave:
      case Sem::fxrstor:
      case Sem::enter:
      case Sem::leave:  // explicit
      case Sem::clzero: return false;
      default: return true;
    }
  }

  // ---- items

  struct Pin {
    u8 reg;
    u8 kind;  ///< 0: do not touch; 1: points to data
  };
  void pin(u8 reg, u8 kind) { pinned_.push_back({reg, kind}); }
  bool is_pinned(u8 reg) const {
    return std::any_of(pinned_.begin(), pinned_.end(), [&](const Pin& p) { return p.reg == reg; });
  }

  u32 index() const { return static_cast<u32>(p_.items.size()); }
  bool narrow() const { return bits_ != 64; }
  bool old() const { return p_.cpu_mode != Program::Mode::wide; }
  isa::DecodeMode mode() const { return p_.decode_mode(); }
  u32 registers() const { return narrow() ? 8 : 16; }
  /// Without the REX prefix that it begins with in other code, and with prefixes that make it the
  /// same in 16-bit code.
  Item& add(std::initializer_list<int> bytes) {
    Item& item = p_.items.emplace_back();
    const int* first = bytes.begin();
    if (narrow() && *first >> 4 == 4) ++first;
    if (bits_ == 16) {
      item.bytes[item.length++] = 0x67;
      if (*first == 0x66)
        ++first;
      else
        item.bytes[item.length++] = 0x66;
    }
    for (; first != bytes.end(); ++first) item.bytes[item.length++] = static_cast<u8>(*first);
    (void)isa::decode({item.bytes, 15}, mode(), item.insn);
    return item;
  }
  /// As it is.
  Item& plain(std::initializer_list<int> bytes) {
    Item& item = p_.items.emplace_back();
    for (int b : bytes) item.bytes[item.length++] = static_cast<u8>(b);
    (void)isa::decode({item.bytes, 15}, mode(), item.insn);
    return item;
  }
  /// Whether 16-bit code should have an instruction in its own form.
  bool words() { return bits_ == 16 && r_.chance(50); }
  static void extend(Item& item, u64 value, u32 size) {
    for (u32 i = 0; i < size; ++i) item.bytes[item.length++] = static_cast<u8>(value >> (8 * i));
  }

  void set_register(u8 reg, u64 value) {
    const bool high = reg >= 8;
    if (narrow()) value = static_cast<u32>(value);
    if (value >> 32 == 0) {
      Item& item = high ? add({0x41, 0xb8 | (reg & 7)}) : add({0xb8 | reg});
      extend(item, value, 4);
    } else if (static_cast<i64>(value) == static_cast<i32>(value)) {
      extend(add({0x48 | high, 0xc7, 0xc0 | (reg & 7)}), value, 4);
    } else {
      extend(add({0x48 | high, 0xb8 | (reg & 7)}), value, 8);
    }
  }
  /// CMP of two registers: all flags are defined afterwards.
  void define_flags() {
    const u32 a = r_.below(registers()), b = r_.below(registers());
    add({static_cast<int>(0x48 | (a >> 3) << 2 | b >> 3), 0x39,
         static_cast<int>(0xc0 | (a & 7) << 3 | (b & 7))});
  }

  u64 place(u32 size) {
    static constexpr u32 kUsual[] = {kFirst, kFirst, kSecond, kThird, kLast};
    u64 at;
    switch (r_.below(24)) {
      case 0:
      case 1: at = data_page(kSecond) - r_.below(size + 2); break;  // two pages
      case 2: at = data_page(kReadOnly) + r_.below(kPage); break;
      case 3: at = data_page(kLazy) + r_.below(kPage); break;
      case 4:
        at = r_.chance(30) ? data_page(kAbsent) - r_.below(size + 2)
                           : data_page(r_.pick(kUsual)) + 64 * r_.below(64);
        break;
      case 5:
        at = r_.chance(20) ? data_page(kSupervisor) + r_.below(kPage)
                           : data_page(r_.pick(kUsual)) + r_.below(kPage);
        break;
      case 6:
        at = r_.chance(30) ? data_page(kLate) + r_.below(kPage)
                           : data_page(r_.pick(kUsual)) + r_.below(kPage);
        break;
      case 7:
        at = r_.chance(20) ? data_page(kDevice) + r_.below(256)
                           : data_page(kFirst) + r_.below(2 * kPage);
        break;
      default: at = data_page(r_.pick(kUsual)) + 256 + r_.below(3000); break;
    }
    if (r_.chance(60)) at &= ~u64{63};
    return at;
  }

  u64 value() {
    static constexpr u64 kDirected[] = {0,      1,          2,           ~u64{0},     0x7f, 0x80,
                                        0x7fff, 0x8000,     0x7fffffff,  0x80000000,  31,   32,
                                        64,     0xffffffff, ~u64{0} / 2, u64{1} << 63};
    u64 v = r_.chance(50) ? r_.pick(kDirected) : r_.next();
    if (r_.chance(20)) v >>= r_.below(64);
    return v;
  }

  // ---- instructions of the table

  u16 pick_row() {
    const u32 what = r_.below(100);
    if (what < vectors_) {
      static constexpr Class kVectors[] = {Class::sse, Class::sse,    Class::sse,  Class::avx,
                                           Class::avx, Class::avx512, Class::mask, Class::avx512};
      const auto& list = by_class_[static_cast<u32>(r_.pick(kVectors))];
      if (!list.empty()) return list[r_.below(static_cast<u32>(list.size()))];
    }
    if (what >= 98) {
      const auto& list = by_class_[static_cast<u32>(r_.chance(50) ? Class::x87 : Class::mmx)];
      return list[r_.below(static_cast<u32>(list.size()))];
    }
    if (what < 70) return hot_[r_.below(static_cast<u32>(hot_.size()))];
    const auto& list = by_class_[static_cast<u32>(Class::integer)];
    return list[r_.below(static_cast<u32>(list.size()))];
  }

  bool writes_pinned(const Insn& insn) const {
    if (insn.cls == Class::string)
      return is_pinned(machine::rcx) || is_pinned(machine::rsi) || is_pinned(machine::rdi);
    const bool stack = insn.sem == Sem::push || insn.sem == Sem::pop || insn.sem == Sem::pushf ||
                       insn.sem == Sem::pusha;
    if (insn.sem == Sem::popa && pinned_.size() > 1) return true;
    for (const isa::Operand& o : insn.op) {
      if (!o.write) continue;
      if (stack && o.implicit) continue;
      if ((o.kind == OperandKind::gpr || o.kind == OperandKind::gpr_high) && is_pinned(o.reg))
        return true;
    }
    return insn.sem == Sem::cmpxchg && is_pinned(machine::rax);
  }

  void random_instruction() {
    for (int attempt = 0; attempt < 20; ++attempt) {
      const isa::Row& row = isa::rows()[pick_row()];
      isa::InstanceOptions options;
      u8 pointer = 16;
      if (r_.chance(40))
        for (const Pin& p : pinned_)
          if (p.kind == 1 && r_.chance(60)) pointer = p.reg;
      if (pointer < 16) {
        options.fixed_address = true;
        options.base = pointer;
        options.disp = static_cast<i32>(r_.below(r_.chance(80) ? 96 : 1200)) - 24;
        if (r_.chance(70)) options.disp &= ~7;
        if (r_.chance(70)) options.form = isa::InstanceOptions::Form::memory;
      } else if (r_.chance(40)) {
        options.form = isa::InstanceOptions::Form::registers;
      }
      options.extra_prefixes = r_.chance(15);
      Item item;
      size_t length = 0;
      u8 bytes[15];
      if (!isa::random_instance(row, rows_rng_, mode(), bytes, length, options)) continue;
      std::copy_n(bytes, 15, item.bytes);
      item.length = static_cast<u8>(length);
      std::fill(item.bytes + length, item.bytes + 16, u8{0});
      if (isa::decode({item.bytes, 15}, mode(), item.insn) != isa::DecodeStatus::ok) continue;
      if (!isa::feature_allowed(item.insn, features_)) continue;
      if (item.insn.mem.vsib && !r_.chance(10)) continue;
      if (writes_pinned(item.insn) || undefined_result(item)) continue;
      const size_t before = p_.items.size();
      if (flags_read(item.insn)) define_if_needed(item.insn);
      if (item.insn.sem == Sem::div || item.insn.sem == Sem::idiv) divisor(item.insn);
      const bool fixed = pointer < 16 && item.insn.mem.base == pointer;
      if (!fixed && !r_.chance(wild_) && !aim(item)) {
        p_.items.resize(before);
        continue;
      }
      p_.items.push_back(item);
      return;
    }
  }

  /// SHLD and SHRD of 16 bits by more.
  static bool undefined_result(const Item& item) {
    const Insn& insn = item.insn;
    if ((insn.sem != Sem::shld && insn.sem != Sem::shrd) || insn.opsize != 2) return false;
    return insn.op[2].kind != OperandKind::immediate || (insn.imm & 31) > 15;
  }

  void define_if_needed(const Insn& insn) {
    // What the straight line before leaves undefined; jumps are found out by flags_defined().
    u32 undefined = 0;
    for (const Item& item : p_.items) {
      const isa::Flags& f = isa::row_of(item.insn).flags;
      undefined = (undefined & ~f.killed()) | f.undefined;
    }
    if (undefined & flags_read(insn)) define_flags();
  }

  void divisor(const Insn& insn) {
    if (is_pinned(machine::rdx) || is_pinned(machine::rax) || r_.chance(10)) return;
    if (insn.opsize == 1)
      set_register(machine::rax, r_.below(200));
    else
      set_register(machine::rdx, r_.below(2));
  }

  /// Sets registers so that the memory operand lies somewhere. False: another instruction, please.
  bool aim(Item& item) {
    Insn& insn = item.insn;
    const isa::Operand* m = insn.memory_operand();
    if (insn.sem == Sem::lea || insn.sem == Sem::nop) return true;
    if (insn.cls == Class::string || insn.sem == Sem::xlat || !m) return m == nullptr;
    const u32 size = m->size ? m->size : 8;
    u64 at = place(size);
    const isa::Memory& mem = insn.mem;
    if (insn.addrsize == 2) return aim_16(item, at);
    at -= base_of_segment(mem.segment);
    const u8 disp_at = static_cast<u8>(insn.modrm_at + 1);
    if (mem.base == isa::Memory::kRip) {
      item.fix = Item::Fix::data;
      item.fix_at = disp_at;
      item.fix_size = 4;
      item.target = at;
      return insn.addrsize == 8;
    }
    const bool none = mem.base == isa::Memory::kNone;
    if (none && mem.index == isa::Memory::kNone) {
      const bool moffs = !insn.has_modrm;
      // 32-bit code needs no SIB byte for that, and may have one.
      const bool sib = (insn.modrm & 7) == 4;
      const u32 to = moffs ? insn.opcode_at + 1u : disp_at + u32{sib};
      const u32 bytes = moffs ? insn.addrsize : 4u;
      for (u32 i = 0; i < bytes; ++i) item.bytes[to + i] = static_cast<u8>(at >> (8 * i));
      return true;
    }
    const u64 d = static_cast<u64>(mem.disp);
    const u64 noise = insn.addrsize == 4 && r_.chance(50) ? r_.next() << 32 : 0;
    if (narrow()) at = static_cast<u32>(at);
    auto give = [&](u8 reg, u64 v) {
      if (is_pinned(reg)) return false;
      if (insn.addrsize == 4) v = static_cast<u32>(v);
      set_register(reg, v | noise);
      return true;
    };
    if (mem.vsib) return none || give(mem.base, data_page(kFirst));
    if (none) return give(mem.index, (at - d) >> mem.scale);
    if (mem.index == isa::Memory::kNone) return give(mem.base, at - d);
    if (mem.index == mem.base) {
      if (static_cast<i64>(at - d) < 0) return false;
      return give(mem.base, (at - d) / (1 + (u64{1} << mem.scale)));
    }
    const u64 index = static_cast<u64>(static_cast<i64>(r_.below(256)) - 128);
    if (!is_pinned(mem.index)) {
      return give(mem.base, at - d - (index << mem.scale)) && give(mem.index, index);
    }
    return false;
  }

  /// The same with 16-bit addressing.
  bool aim_16(Item& item, u64 at) {
    const isa::Memory& mem = item.insn.mem;
    if (mem.segment == machine::ss) at = kStack + r_.below(kStackPages * kPage);
    if (mem.segment == machine::cs) at = kCode + r_.below(kPage);
    at -= base_of_segment(mem.segment);
    if (at > 0xffff) return r_.chance(10);
    if (mem.base == isa::Memory::kNone && mem.index == isa::Memory::kNone) {
      u8* to = item.bytes + (item.insn.has_modrm ? item.insn.modrm_at : item.insn.opcode_at) + 1;
      to[0] = static_cast<u8>(at);
      to[1] = static_cast<u8>(at >> 8);
      return true;
    }
    auto give = [&](u8 reg, u64 v) {
      if (is_pinned(reg)) return false;
      set_register(reg, (v & 0xffff) | (r_.chance(50) ? r_.next() << 16 : 0));
      return true;
    };
    at -= static_cast<u64>(mem.disp);
    if (mem.index == isa::Memory::kNone) return give(mem.base, at);
    if (mem.base == isa::Memory::kNone) return give(mem.index, at);
    const u64 index = r_.next();
    return !is_pinned(mem.base) && give(mem.index, index) && give(mem.base, at - index);
  }

  u64 base_of_segment(u8 segment) const {
    if (narrow()) return p_.seg[segment].base;
    return segment == machine::fs ? kFsBase : segment == machine::gs ? kGsBase : 0;
  }

  u8 free_register() {
    for (;;) {
      const u8 reg = static_cast<u8>(r_.below(registers()));
      if (!is_pinned(reg) && reg != machine::rsp) return reg;
    }
  }

  /// Of an XSAVE area: x87, SSE, AVX and AVX-512 registers.
  void vector_state(u8* x) {
    auto bytes = [&](u32 at, u32 size) {
      const u32 kind = r_.below(4);
      static constexpr u32 kFloats[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                        0x7fc00000, 0x7f800001, 1,          0x7f7fffff, 0x4f000000};
      for (u32 i = 0; i < size; i += 8)
        store<u64>(x + at + i, kind == 0   ? r_.next()
                               : kind == 1 ? value()
                               : kind == 2
                                   ? u64{r_.pick(kFloats)} << 32 | r_.pick(kFloats)
                                   : std::bit_cast<u64>(static_cast<double>(r_.below(1000))));
    };
    bytes(160, 256);
    bytes(576, 256);
    bytes(1088, 64);
    bytes(1152, 512);
    bytes(1664, 1024);
    for (u32 i = 0; i < 8; ++i) {
      store<u64>(x + 32 + 16 * i, r_.next() | u64{1} << 63);
      store<u64>(x + 40 + 16 * i, 0x3f80 + r_.below(0x100));
    }
    store<u16>(x, 0x37f);
    x[4] = r_.chance(50) ? 0 : 0xff;
    u32 mxcsr = 0x1f80;
    if (r_.chance(20)) mxcsr |= r_.below(4) << 13;
    if (r_.chance(15)) mxcsr &= ~(r_.below(64) << 7);
    if (r_.chance(20)) mxcsr |= r_.below(64);
    store<u32>(x + 24, mxcsr);
  }

  Random r_;
  isa::Rng rows_rng_;
  const isa::FeatureSet features_;
  const u64 seed_;
  const u8 bits_;
  std::vector<u16> by_class_[16], hot_;
  Program p_;
  std::vector<Pin> pinned_;
  u32 wild_ = 0, vectors_ = 0;  ///< percent
};

}  // namespace skerry::soft::block_fuzz

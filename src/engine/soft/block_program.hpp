// For tests: a random program for the block fuzzer (block_generator.hpp makes them, block_rig.hpp
// runs them): instructions that can be left out one by one, so that a failure can be made small.
//
// Every instruction says where it may lead, so that flags which are undefined when an instruction
// reads them can be found: such a program proves nothing and is not run.
//
// Does not know engines. Single-threaded.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/bits.hpp"
#include "engine/soft/cpu.hpp"
#include "isa/decoder.hpp"
#include "isa/disassemble.hpp"
#include "isa/row.hpp"

namespace skerry::soft::block_fuzz {

// ---- the address space (block_rig.hpp maps it)
constexpr u64 kPage = 4096;
constexpr u64 kCode = 0x4000'0000, kCodePages = 3;
constexpr u64 kData = 0x5000'0000;
/// Pages from kData on.
enum DataPage : u32 {
  kReadOnly,
  kFirst,
  kSecond,
  kAbsent,
  kThird,
  kLazy,        ///< not present until the handler of #PF has mapped it
  kSupervisor,  ///< CPL 0 alone
  kAlias,       ///< the first page of the code, writable
  kLate,        ///< as kLazy, but read-only
  kDevice,      ///< no memory
  kLast,
  kDataPages
};
constexpr u64 data_page(u32 n) {
  return kData + n * kPage;
}
constexpr u64 kStack = 0x6000'0000, kStackPages = 2, kStackTop = kStack + kStackPages * kPage;
// Where they lie in memory, which is where segments of real and virtual-8086 mode lead.
constexpr u64 kCodeGpa = 0x70000, kDataGpa = 0x30000, kStackGpa = 0x50000;

/// xoroshiro-like; small and fast.
class Random {
 public:
  explicit Random(u64 seed)
      : a_(seed * 0x9e37'79b9'7f4a'7c15 + 1), b_(seed ^ 0xd1b5'4a32'd192'ed03) {
    for (int i = 0; i < 8; ++i) next();
  }
  u64 next() {
    u64 s = a_ ^ (a_ << 23);
    a_ = b_;
    b_ = s ^ b_ ^ (s >> 17) ^ (b_ >> 26);
    return a_ + b_;
  }
  /// 0 .. n - 1
  u32 below(u32 n) { return static_cast<u32>((next() >> 32) * n >> 32); }
  bool chance(u32 percent) { return below(100) < percent; }
  template <class T, size_t N>
  T pick(const T (&list)[N]) {
    return list[below(N)];
  }

 private:
  u64 a_, b_;
};

constexpr u32 kNoLabel = ~u32{0};

struct Item {
  u8 bytes[16] = {};
  u8 length = 0;
  isa::Insn insn;
  bool on = true;
  enum class Leads : u8 { on, away, maybe, call, back, indirect, stop } leads = Leads::on;
  u32 label = kNoLabel;  ///< the item it may lead to
  /// What depends on where things lie.
  enum class Fix : u8 {
    none,
    branch,   ///< a displacement to `label`
    address,  ///< of `label`, absolute
    data,     ///< a displacement to `target`: RIP-relative, or absolute in 32-bit code
    code,     ///< the same to byte `target` of `label`
    alias,    ///< absolute address of byte `target` of `label`, through the alias of its page
  } fix = Fix::none;
  u8 fix_at = 0, fix_size = 0;
  u64 target = 0;
  u32 align_to = 0;  ///< begins at this offset of the page after the one that is reached
};

struct Program {
  std::vector<Item> items;
  u32 start = 0;  ///< offset of the first item in the code
  bool user = false;
  bool smap = false;
  u8 bits = 64;  ///< of the code
  /// Code that is not 64-bit: compatibility mode; 16-bit code may also be one of the others.
  enum class Mode : u8 { wide, real, v86 } cpu_mode = Mode::wide;
  u64 code_base = 0;                      ///< linear address of CS:0
  std::array<machine::Segment, 6> seg{};  ///< with which it starts if it is not 64-bit
  std::vector<machine::CpuState> runs;    ///< states to start from
  u64 seed = 0;
  bool step = true;  ///< compare after each block, too
  u32 mxcsr = 0x1f80;

  // ---- filled in by lay_out()
  std::vector<u64> at;         ///< address by item
  std::vector<u32> undefined;  ///< flags that are undefined before the item
  std::vector<u8> code;        ///< all of the code pages

  isa::DecodeMode decode_mode() const { return {bits, cpu_mode == Mode::wide}; }
  bool lay_out();
  bool flags_defined();
  std::string text() const;
  std::string whole_text() const;  ///< with the states
  /// Whether code as it is now differs from what was laid out only where the program means to
  /// change it. When an instruction that overwrites itself notices is not defined.
  bool only_meant_changes(std::span<const u8> now) const {
    std::vector<u8> meant = code;
    for (const Item& item : items)
      if (item.on && (item.fix == Item::Fix::code || item.fix == Item::Fix::alias))
        for (u64 i = at[item.label] + item.target - kCode, end = i + 4; i < end; ++i)
          meant[i] = now[i];
    return std::equal(meant.begin(), meant.end(), now.begin());
  }
  /// And those in an image of RFLAGS with this return address.
  u32 undefined_in_frame(u64 rip) const {
    u32 flags = undefined_at(rip);
    for (size_t i = 0; i < items.size(); ++i)
      if (items[i].on && items[i].insn.sem == isa::Sem::int_ && at[i] + items[i].length == rip)
        flags |= undefined[i];
    return flags;
  }
  /// The flags that are undefined when RIP is `rip`.
  u32 undefined_at(u64 rip) const {
    for (size_t i = 0; i < items.size(); ++i)
      if (items[i].on && at[i] == rip) return undefined[i];
    return kArithmeticFlags;  // who knows
  }
};

/// Arithmetic flags that the instruction looks at.
inline u32 flags_read(const isa::Insn& insn) {
  switch (insn.sem) {
    case isa::Sem::syscall: return kArithmeticFlags;
    case isa::Sem::int_:
    case isa::Sem::hlt: return 0;  // compared apart from undefined ones
    default: return isa::row_of(insn).flags.read & kArithmeticFlags;
  }
}

inline bool Program::lay_out() {
  code.assign(kCodePages * kPage, 0xf4);
  at.assign(items.size(), 0);
  u64 here = kCode + start;
  for (size_t i = 0; i < items.size(); ++i) {
    Item& item = items[i];
    if (item.align_to) {
      const u64 to = ((here + kPage - 1) & ~(kPage - 1)) + item.align_to - 1;
      here = to;
    }
    at[i] = here;
    if (item.on) here += item.length;
  }
  if (here > kCode + kCodePages * kPage - 16) return false;
  for (size_t i = 0; i < items.size(); ++i) {
    Item& item = items[i];
    if (!item.on) continue;
    const u64 next = at[i] + item.length, relative_to = bits == 64 ? next : seg[machine::ds].base;
    i64 value = 0;
    switch (item.fix) {
      case Item::Fix::none: break;
      case Item::Fix::branch: value = static_cast<i64>(at[item.label] - next); break;
      case Item::Fix::address:
        value = static_cast<i64>(at[item.label] + item.target - code_base);
        break;
      case Item::Fix::data: value = static_cast<i64>(item.target - relative_to); break;
      case Item::Fix::code:
        value = static_cast<i64>(at[item.label] + item.target - relative_to);
        break;
      case Item::Fix::alias:
        if (at[item.label] + item.target + 8 > kCode + kPage) return false;
        value = static_cast<i64>(at[item.label] + item.target - kCode + data_page(kAlias) -
                                 (bits == 64 ? 0 : relative_to));
        break;
    }
    if (item.fix != Item::Fix::none) {
      if (item.fix_size == 1 && value != static_cast<i8>(value)) return false;
      for (u32 b = 0; b < item.fix_size; ++b)
        item.bytes[item.fix_at + b] = static_cast<u8>(value >> (8 * b));
    }
    if (isa::decode({item.bytes, 15}, decode_mode(), item.insn) != isa::DecodeStatus::ok)
      return false;
    std::copy_n(item.bytes, item.length, code.begin() + static_cast<i64>(at[i] - kCode));
  }
  return true;
}

// Forward data flow, to a fixed point.
inline bool Program::flags_defined() {
  const size_t n = items.size();
  undefined.assign(n, 0);
  std::vector<bool> reached(n, false);
  auto first_on = [&](size_t i) {
    while (i < n && !items[i].on) ++i;
    return i;
  };
  if (first_on(0) >= n) return false;
  reached[first_on(0)] = true;
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < n; ++i) {
      const Item& item = items[i];
      if (!item.on || !reached[i]) continue;
      const isa::Flags& f = isa::row_of(item.insn).flags;
      // What comes back from a handler has the flags it had.
      const bool returns = item.insn.sem == isa::Sem::int_ || item.insn.sem == isa::Sem::syscall;
      // A repeated string instruction with a count of 0 changes nothing.
      const u32 killed = item.insn.cls == isa::Class::string ? 0 : f.killed();
      const u32 after =
          returns ? undefined[i]
                  : ((undefined[i] & ~killed) | f.undefined) & static_cast<u32>(kArithmeticFlags);
      auto lead = [&](size_t to) {
        to = first_on(to);
        if (to >= n) return;
        if (reached[to] && (after & ~undefined[to]) == 0) return;
        reached[to] = changed = true;
        undefined[to] |= after;
      };
      using L = Item::Leads;
      if (item.leads == L::on || item.leads == L::maybe) lead(i + 1);
      if (item.label != kNoLabel && item.leads != L::on) lead(item.label);
      if (item.leads == L::back)
        for (size_t k = 0; k < n; ++k)
          if (items[k].on && items[k].leads == L::call) lead(k + 1);
    }
  }
  // An indirect jump may lead elsewhere than it was meant to, when the instruction that loads its
  // register was jumped over.
  for (size_t i = 0; i < n; ++i) {
    // Flags come from memory with IRET, and are what PUSHF made sure of.
    // Real mode's INT leaves them on the program's stack.
    const bool anywhere = items[i].leads == Item::Leads::indirect ||
                          (cpu_mode != Mode::wide && items[i].insn.sem == isa::Sem::int_);
    const u32 read = anywhere ? u32{kArithmeticFlags} : flags_read(items[i].insn);
    if (items[i].on && reached[i] && (undefined[i] & read)) return false;
  }
  return true;
}

inline std::string Program::text() const {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].on) continue;
    std::string bytes;
    for (u32 b = 0; b < items[i].length; ++b) bytes += fmt::format("{:02x} ", items[i].bytes[b]);
    out += fmt::format("  {:x}  {:46}{}\n", at[i], bytes, isa::disassemble(items[i].insn, at[i]));
  }
  return out;
}

inline std::string Program::whole_text() const {
  std::string out = fmt::format("seed {}, {}-bit, {}, {} run(s){}\n{}", seed, bits,
                                cpu_mode == Mode::real  ? "real mode"
                                : cpu_mode == Mode::v86 ? "virtual-8086 mode"
                                : user                  ? "CPL 3"
                                : smap                  ? "CPL 0 with SMAP"
                                                        : "CPL 0",
                                runs.size(), step ? ", step by step" : "", text());
  for (u32 i = 0; bits != 64 && i < 6; ++i)
    out += fmt::format(" segment {}: base {:x} limit {:x} attributes {:x}\n", i, seg[i].base,
                       seg[i].limit, seg[i].attributes);
  for (const machine::CpuState& s : runs) {
    for (u32 i = 0; i < 16; ++i) out += fmt::format(" r{}={:x}", i, s.gpr[i]);
    out += fmt::format(" flags={:x} mxcsr={:x}\n", s.rflags, load<u32>(&s.xsave[24]));
  }
  return out;
}

}  // namespace skerry::soft::block_fuzz

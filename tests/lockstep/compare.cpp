#include "lockstep/compare.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "isa/row.hpp"

namespace skerry::lockstep {
namespace {

/// A visitor of describe(): one row for each number.
class Flatten {
 public:
  using Rows = std::vector<std::pair<std::string, u64>>;
  explicit Flatten(Rows& rows, std::string prefix = {}) : rows_(rows), prefix_(std::move(prefix)) {}
  template <class T>
  void field(std::string_view name, const T& value, auto&&...) {
    add(prefix_ + std::string(name), value);
  }

 private:
  template <class T>
  void add(const std::string& name, const T& value) {
    if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>) {
      rows_.emplace_back(name, static_cast<u64>(value));
    } else if constexpr (std::is_class_v<T> && requires { value.size(); }) {
      for (size_t i = 0; i < value.size(); ++i) add(fmt::format("{}[{}]", name, i), value[i]);
    } else {
      Flatten nested(rows_, name + ".");
      T::describe(value, nested);
    }
  }
  Rows& rows_;
  std::string prefix_;
};

/// FOP, FIP and FDP in the XSAVE area.
constexpr size_t kPointers = 6, kPointersSize = 18;

constexpr const char* kGprs[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr const char* kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};

/// Bit 1 is set; bits 3, 5 and 15 are not. The rest of what is around it is equal anyway.
bool images(u64 a, u64 b) {
  auto image = [](u64 v) { return (v & 2) && !(v & 0x8028); };
  return a != b && image(a) && image(b) && ((a ^ b) & ~kArithmetic) == 0;
}

}  // namespace

u64 undefined_flags(Side& side, const machine::CpuState& before, u64 count) {
  const std::vector<u8> bytes = side.code_at(linear_rip(before), std::min<u64>(15 * count, 4096));
  const isa::DecodeMode mode = mode_of(before);
  u64 undefined = 0;
  for (size_t at = 0; count > 0 && at < bytes.size(); --count) {
    isa::Insn insn;
    if (isa::decode(std::span(bytes).subspan(at), mode, insn) != isa::DecodeStatus::ok) break;
    const isa::Flags& f = isa::row_of(insn).flags;
    undefined &= ~u64{f.killed()};
    undefined |= f.undefined;
    at += insn.length;
  }
  return undefined & kArithmetic;
}

isa::DecodeMode mode_of(const machine::CpuState& s) {
  const auto& cs = s.seg[machine::cs];
  isa::DecodeMode mode;
  mode.protected_mode = (s.cr0 & 1) && !(s.rflags & 0x20000);
  mode.bits = (s.efer & 0x400) && cs.is_long() ? 64 : cs.is_big() ? 32 : 16;
  return mode;
}

u64 linear_rip(const machine::CpuState& s) {
  return mode_of(s).bits == 64 ? s.rip : static_cast<u32>(s.seg[machine::cs].base + s.rip);
}

u64 settle_images(Side& a, Side& b) {
  u64 settled = 0;
  for (unsigned i = 0; i < 16; ++i)
    if (const u64 v = a.cpu().gpr[i]; v < (1 << 22) && images(v, b.cpu().gpr[i])) {
      b.cpu().gpr[i] = a.cpu().gpr[i];
      ++settled;
    }
  return settled;
}

u64 settle_stack(Side& a, Side& b, u64 linear, u64 length) {
  u64 found = 0;
  for (u64 at = linear & ~u64{1}; at < linear + length; at += 2) {
    const std::vector<u8> of_a = a.code_at(at, 2), of_b = b.code_at(at, 2);
    if (of_a.size() < 2 || of_b.size() < 2 || of_a == of_b) continue;
    const u16 x = load<u16>(of_a.data()), y = load<u16>(of_b.data());
    if (!images(x, y) || !b.poke(at, of_a)) continue;
    found |= x ^ y;
  }
  return found;
}

bool RamComparison::settle(Side& b, memory::Gpa at, const u8* x, u8* y) {
  for (u64 i = 0; i < memory::kPageSize; i += 2) {
    const u16 of_a = load<u16>(x + i), of_b = load<u16>(y + i);
    if (of_a == of_b) continue;
    if (!images(of_a, of_b) || !b.machine().memory().write_value(at + i, of_a)) return false;
    ++settled_;
  }
  return true;
}

bool Ignore::covers(std::string_view name) const {
  return std::ranges::any_of(fields, [&](const std::string& f) { return name.starts_with(f); });
}

std::vector<std::pair<std::string, u64>> fields(const machine::CpuState& state) {
  Flatten::Rows all;
  Flatten visitor(all);
  machine::CpuState::describe(state, visitor);
  Flatten::Rows rows;
  for (auto& [name, value] : all) {
    unsigned n = 0;
    int end = 0;
    if (std::sscanf(name.c_str(), "gpr[%u]", &n) == 1) {
      rows.emplace_back(kGprs[n % 16], value);
    } else if (std::sscanf(name.c_str(), "seg[%u]%n", &n, &end) == 1) {
      rows.emplace_back(kSegments[n % 6] + name.substr(static_cast<size_t>(end)), value);
    } else if (name.starts_with("xsave[")) {
      n = 0;
      std::sscanf(name.c_str(), "xsave[%u]", &n);
      if (n % 8 == 0) rows.emplace_back(fmt::format("xsave+{:#x}", n), load<u64>(&state.xsave[n]));
    } else {
      rows.emplace_back(std::move(name), value);
    }
  }
  return rows;
}

std::vector<Difference> differences(const machine::CpuState& a, const machine::CpuState& b,
                                    const Ignore& ignore) {
  std::vector<Difference> found;
  machine::CpuState same = b;
  same.rflags ^= (a.rflags ^ b.rflags) & ignore.flags;
  if (ignore.pointers) std::copy_n(&a.xsave[kPointers], kPointersSize, &same.xsave[kPointers]);
  if (a.gpr == b.gpr && a.rip == b.rip && a.rflags == same.rflags && a.xsave == same.xsave &&
      state::encode(a) == state::encode(same))
    return found;
  auto of_a = fields(a), of_b = fields(same);
  for (size_t i = 0; i < of_a.size(); ++i)
    if (of_a[i].second != of_b[i].second && !ignore.covers(of_a[i].first))
      found.push_back({of_a[i].first, of_a[i].second, of_b[i].second});
  return found;
}

std::vector<Difference> differences(const machine::LapicState& a, const machine::LapicState& b) {
  std::vector<Difference> found;
  if (state::encode(a) == state::encode(b)) return found;
  Flatten::Rows of_a, of_b;
  Flatten first(of_a, "lapic."), second(of_b, "lapic.");
  machine::LapicState::describe(a, first);
  machine::LapicState::describe(b, second);
  for (size_t i = 0; i < of_a.size(); ++i)
    if (of_a[i].second != of_b[i].second)
      found.push_back({of_a[i].first, of_a[i].second, of_b[i].second});
  return found;
}

std::optional<RamComparison::Result> RamComparison::compare(Side& a, Side& b) {
  memory::GuestMemory &ram_a = a.machine().memory(), &ram_b = b.machine().memory();
  std::vector<u64> dirty = ram_a.dirty().take();
  const std::vector<u64> other = ram_b.dirty().take();
  for (size_t i = 0; i < dirty.size(); ++i) dirty[i] |= other[i];
  differing_.resize(dirty.size());
  std::optional<Result> result;
  for (size_t i = 0; i < dirty.size(); ++i) {
    for (u64 bits = dirty[i] | std::exchange(differing_[i], 0); bits; bits &= bits - 1) {
      const u64 page = 64 * i + static_cast<u64>(std::countr_zero(bits));
      const u64 offset = page * memory::kPageSize;
      for (size_t s = 0; s < ram_a.slots().size(); ++s) {
        const memory::Slot &in_a = ram_a.slots()[s], &in_b = ram_b.slots()[s];
        if (!in_a.writable || offset < in_a.offset || offset - in_a.offset >= in_a.size) continue;
        const u8* x = in_a.host + (offset - in_a.offset);
        u8* y = in_b.host + (offset - in_b.offset);
        if (std::memcmp(x, y, memory::kPageSize) == 0) continue;
        if (settle_ && settle(b, in_a.start + (offset - in_a.offset), x, y)) continue;
        differing_[i] |= bits & -bits;
        if (!result) {
          const u64 first =
              static_cast<u64>(std::mismatch(x, x + memory::kPageSize, y).first - x) & ~u64{7};
          const u64 last = std::min<u64>(first + 16, memory::kPageSize);
          result = Result{in_a.start + (offset - in_a.offset) + first,
                          {x + first, x + last},
                          {y + first, y + last},
                          0};
        }
        ++result->pages;
      }
    }
  }
  return result;
}

std::vector<std::string> differing_devices(Side& a, Side& b) {
  const state::Image of_a = a.devices(), of_b = b.devices();
  std::vector<std::string> names;
  for (const auto& [name, section] : of_a.sections())
    if (const state::Section* other = of_b.find(name); !other || other->body != section.body)
      names.push_back(name);
  return names;
}

}  // namespace skerry::lockstep

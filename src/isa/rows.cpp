// Builds the parsed rows and, from them, the opcode map; answers questions about features.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "base/result.hpp"
#include "isa/table.hpp"

namespace skerry::isa {
namespace {

constexpr FeatureInfo kFeatureInfo[] = {
#define SKERRY_FEATURE(name, leaf, subleaf, reg, bit) {#name, leaf, subleaf, CpuidReg::reg, bit},
#include "isa/feature.inc"
#undef SKERRY_FEATURE
};

struct Tables {
  std::vector<Row> rows;
  std::vector<Slot> slots = std::vector<Slot>(kOpcodeTables * 256);
  std::vector<Slot> by_reg;
  std::vector<Candidate> candidates;
  std::vector<std::pair<u16, u16>> ambiguous;
  OpcodeMap map;

  Tables();

 private:
  Slot add_slot(std::span<const u16> list, int reg);
};

Slot Tables::add_slot(std::span<const u16> list, int reg) {
  std::vector<Candidate> c;
  for (u16 r : list) {
    const Row& row = rows[r];
    if (reg >= 0 && (row.mask & kKeyReg) && (row.value & kKeyReg) != static_cast<u32>(reg) << 5)
      continue;
    c.push_back({row.mask, row.value, r});
  }
  std::ranges::sort(c, [](const Candidate& a, const Candidate& b) {
    int x = std::popcount(a.mask), y = std::popcount(b.mask);
    return x != y ? x > y : a.row < b.row;
  });
  for (size_t i = 0; i < c.size(); ++i)
    for (size_t j = i + 1; j < c.size(); ++j) {
      bool overlap = ((c[i].value ^ c[j].value) & c[i].mask & c[j].mask) == 0;
      bool narrower = (c[i].mask & c[j].mask) == c[j].mask && c[i].mask != c[j].mask;
      if (overlap && !narrower) ambiguous.emplace_back(c[i].row, c[j].row);
    }
  SKERRY_CHECK(candidates.size() + c.size() < 0x10000 && c.size() < 256, "opcode map too large");
  Slot slot{static_cast<u16>(candidates.size()), static_cast<u8>(c.size())};
  candidates.insert(candidates.end(), c.begin(), c.end());
  return slot;
}

Tables::Tables() {
  rows.reserve(row_texts().size());
  for (const RowText& text : row_texts()) rows.push_back(parse_row(text));

  std::vector<std::vector<u16>> lists(slots.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    const Row& row = rows[r];
    unsigned table = static_cast<unsigned>(opcode_table(row.encoding, row.map));
    for (unsigned i = 0; i < 1u << row.opcode_bits; ++i)
      lists[table * 256 + row.opcode + i].push_back(static_cast<u16>(r));
  }
  for (size_t s = 0; s < slots.size(); ++s) {
    if (lists[s].empty()) continue;
    bool modrm = rows[lists[s][0]].modrm, digits = false;
    for (u16 r : lists[s]) {
      if (rows[r].modrm != modrm)
        check_failed(__FILE__, __LINE__, "row",
                     fmt::format("instruction table: rows of opcode {:#x} disagree on ModRM", s));
      digits |= (rows[r].mask & kKeyReg) != 0;
    }
    if (digits) {
      Slot slot{static_cast<u16>(by_reg.size()), 8};
      slot.by_reg = true;
      by_reg.resize(by_reg.size() + 8);
      for (int reg = 0; reg < 8; ++reg) by_reg[slot.first + reg] = add_slot(lists[s], reg);
      slots[s] = slot;
    } else {
      slots[s] = add_slot(lists[s], -1);
    }
    slots[s].modrm = modrm;
  }
  map = {slots, by_reg, candidates, rows};
  detail::first_row.store(rows.data(), std::memory_order_release);
}

const Tables& tables() {
  static const Tables t;
  return t;
}

}  // namespace

std::span<const Row> rows() {
  return tables().rows;
}
const OpcodeMap& opcode_map() {
  return tables().map;
}
std::span<const std::pair<u16, u16>> ambiguous_rows() {
  return tables().ambiguous;
}

const FeatureInfo& feature_info(Feature f) {
  return kFeatureInfo[static_cast<unsigned>(f)];
}

bool feature_allowed(const Insn& insn, const FeatureSet& features) {
  const Row& row = row_of(insn);
  if (!features.has(row.feature) || !features.has(row.feature2)) return false;
  return !row.vl || insn.vector_length == 2 || features.has(Feature::avx512vl);
}

}  // namespace skerry::isa

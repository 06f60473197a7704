// Feature: a CPUID bit that an instruction depends on, with its place in CPUID. The one list that
// CPU models and the software engine share. Pure data.
#pragma once

#include <bitset>
#include <span>
#include <string_view>

#include "base/types.hpp"

namespace skerry::isa {

enum class Feature : u8 {
#define SKERRY_FEATURE(name, leaf, subleaf, reg, bit) name,
#include "isa/feature.inc"
#undef SKERRY_FEATURE
  count,
};

enum class CpuidReg : u8 { eax, ebx, ecx, edx };

struct FeatureInfo {
  std::string_view name;
  u32 leaf, subleaf;
  CpuidReg reg;
  u8 bit;
};

constexpr unsigned kFeatures = static_cast<unsigned>(Feature::count);

const FeatureInfo& feature_info(Feature f);

/// The features a processor has. `base` is always there.
class FeatureSet {
 public:
  FeatureSet() { add(Feature::base); }
  static FeatureSet all() {
    FeatureSet s;
    s.bits_.set();
    return s;
  }
  FeatureSet& add(Feature f) { return bits_.set(static_cast<unsigned>(f)), *this; }
  FeatureSet& remove(Feature f) { return bits_.reset(static_cast<unsigned>(f)), *this; }
  bool has(Feature f) const { return bits_.test(static_cast<unsigned>(f)); }
  bool operator==(const FeatureSet&) const = default;

 private:
  std::bitset<kFeatures> bits_;
};

}  // namespace skerry::isa

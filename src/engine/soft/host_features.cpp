#include "engine/soft/host_features.hpp"

#include <cpuid.h>

#include "base/bits.hpp"

namespace skerry::soft {

const isa::FeatureSet& host_features() {
  static const isa::FeatureSet set = [] {
    isa::FeatureSet found;
    for (unsigned i = 1; i < isa::kFeatures; ++i) {
      const auto feature = static_cast<isa::Feature>(i);
      const isa::FeatureInfo& info = isa::feature_info(feature);
      u32 values[4] = {};
      if (__get_cpuid_count(info.leaf, info.subleaf, &values[0], &values[1], &values[2],
                            &values[3]) &&
          bit(values[static_cast<unsigned>(info.reg)], info.bit))
        found.add(feature);
    }
    return found;
  }();
  return set;
}

}  // namespace skerry::soft

// What the host's processor can run by itself. The interpreter's own integer instructions need
// none of it, so a guest may have features that the host lacks; copied instructions need all.
#pragma once

#include "isa/feature.hpp"

namespace skerry::soft {

/// By CPUID, found out once. Says nothing of what the operating system lets through (XCR0).
const isa::FeatureSet& host_features();

}  // namespace skerry::soft

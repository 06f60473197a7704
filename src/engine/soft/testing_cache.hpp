// For tests: how large the code cache is to be.
#pragma once

#include <cstdlib>

#include "base/types.hpp"

namespace skerry::soft {

/// $SKERRY_TEST_CODE_CACHE, in bytes; 0: the engine's choice.
inline u64 test_code_cache() {
  const char* size = std::getenv("SKERRY_TEST_CODE_CACHE");
  return size ? std::strtoull(size, nullptr, 10) : 0;
}

}  // namespace skerry::soft

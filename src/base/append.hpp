// Building little-endian tables and streams byte by byte.
#pragma once

#include <vector>

#include "base/bits.hpp"

namespace skerry {

/// Puts the bytes of `value` at the end of `out`.
template <class T>
void append(std::vector<u8>& out, T value) {
  size_t at = out.size();
  out.resize(at + sizeof value);
  store(out.data() + at, value);
}

}  // namespace skerry

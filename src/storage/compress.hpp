// The compressions of qcow2 clusters. Bounded by the buffers that the caller gives.
#pragma once

#include <span>

#include "storage/qcow2_header.hpp"

namespace skerry::storage {

/// Fills all of `to`; false if `from` does not hold as much or is damaged. What follows in `from`
/// does not matter.
bool decompress(qcow2::Compression kind, std::span<const u8> from, std::span<u8> to);
/// The number of bytes that went into `to`, or 0 if they do not fit.
size_t compress(qcow2::Compression kind, std::span<const u8> from, std::span<u8> to);

}  // namespace skerry::storage

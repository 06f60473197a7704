// The header of a qcow2 image: what it says, and whether we can believe it.
//
// QEMU docs/interop/qcow2.txt is the specification ("the specification" in the files qcow2_*). All
// numbers in an image are big-endian. Every field is hostile: parse_header() bounds each, so that
// what follows may allocate by them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/bits.hpp"
#include "base/result.hpp"

namespace skerry::storage::qcow2 {

constexpr u32 kMagic = 0x514649fb;  // "QFI\xfb"

// As many bytes as QEMU allows: an image of 2 TiB at 512-byte clusters, of 2 EiB at 2 MiB.
constexpr u64 kMaxL1Bytes = 32 * MiB, kMaxRefcountTableBytes = 8 * MiB;
constexpr u32 kMaxSnapshots = 65536;
constexpr unsigned kMinClusterBits = 9, kMaxClusterBits = 21;

/// Incompatible features, by bit.
constexpr unsigned kDirty = 0, kCorrupt = 1, kExternalData = 2, kCompressionType = 3,
                   kExtendedL2 = 4;
/// A compatible one.
constexpr unsigned kLazyRefcounts = 0;

/// L1 and L2 entries.
constexpr u64 kCopied = u64{1} << 63, kCompressed = u64{1} << 62, kZero = 1;
constexpr u64 kOffsetMask = 0x00ff'ffff'ffff'fe00;

enum class Compression : u8 { zlib = 0, zstd = 1 };

struct Header {
  u32 version = 3;
  unsigned cluster_bits = 16;
  u64 size = 0;
  u32 l1_entries = 0;
  u64 l1_offset = 0;
  u64 refcount_table_offset = 0;
  u32 refcount_table_clusters = 0;
  u32 snapshots = 0;
  u64 snapshots_offset = 0;
  u64 incompatible = 0, compatible = 0, autoclear = 0;
  unsigned refcount_order = 4;  ///< log2 of a refcount's bits
  Compression compression = Compression::zlib;
  std::string backing_file, backing_format;  ///< empty: none; a format may be missing
  struct Extension {
    u32 type = 0;
    std::vector<u8> data;
  };
  std::vector<Extension> extensions;  ///< those that we do not understand, to be kept

  u64 cluster() const { return u64{1} << cluster_bits; }
  u64 clusters(u64 bytes) const { return (bytes >> cluster_bits) + !!(bytes & (cluster() - 1)); }
  /// Bytes of the disk that one L2 table maps.
  u64 l2_span() const { return cluster() * (cluster() / 8); }
  u64 l1_needed(u64 bytes) const { return bytes / l2_span() + !!(bytes % l2_span()); }
};

/// True if the first bytes of a file are those of a qcow2 image.
bool looks_like_qcow2(std::span<const u8> start);

/// `start`: the first bytes of the file, as many as a header can have (kHeaderBytes). Refuses by
/// name what we do not support.
constexpr u64 kHeaderBytes = 64 * KiB;
Result<Header> parse_header(std::span<const u8> start, const std::string& path);

/// The header as it stands at the start of the file. `name_at`: where the backing file's name goes,
/// after everything else if 0. An Error if it does not fit into a cluster.
Result<std::vector<u8>> encode_header(const Header& header, u64 name_at = 0);

template <class T>
T load_be(const void* p) {
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(load<u64>(p));
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(load<u32>(p));
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(load<u16>(p));
}
template <class T>
void store_be(void* p, T v) {
  if constexpr (sizeof(T) == 8) store<u64>(p, __builtin_bswap64(v));
  if constexpr (sizeof(T) == 4) store<u32>(p, __builtin_bswap32(v));
  if constexpr (sizeof(T) == 2) store<u16>(p, __builtin_bswap16(v));
}

}  // namespace skerry::storage::qcow2

#include <algorithm>

#include "storage/qcow2_check.hpp"
#include "storage/qcow2_refcounts.hpp"

namespace skerry::storage {

using namespace qcow2;

// Header, refcount table, one refcount block, L1 table, in this order. The header is last on the
// disk: before it the file is no image.
Result<> create_qcow2(File& file, const NewQcow2& wanted) {
  Header h;
  h.version = wanted.version;
  h.cluster_bits = wanted.cluster_bits;
  h.size = wanted.size;
  h.refcount_order = wanted.refcount_order;
  h.compression = wanted.compression;
  if (wanted.compression != Compression::zlib) h.incompatible |= 1 << kCompressionType;
  if (wanted.lazy_refcounts) h.compatible |= 1 << kLazyRefcounts;
  h.backing_file = wanted.backing_file;
  h.backing_format = wanted.backing_format;
  if (h.version < 3 && (h.refcount_order != 4 || h.incompatible || h.compatible))
    return fail("these options need version 3 (compat=1.1)");
  u64 l1 = h.l1_needed(h.size);
  if (l1 * 8 > kMaxL1Bytes)
    return fail_hint("use larger clusters: -o cluster_size=2M",
                     "a disk of {} bytes is too large for clusters of {}", h.size, h.cluster());
  u64 l1_clusters = std::max<u64>(1, h.clusters(l1 * 8));
  u64 per_block = h.cluster() * 8 >> h.refcount_order;
  u64 blocks = 1;
  while (blocks * per_block < 2 + blocks + l1_clusters) ++blocks;  // the table has one cluster
  if (blocks > h.cluster() / 8)
    return fail_hint("use larger clusters: -o cluster_size=64K",
                     "a disk of {} bytes is too large for clusters of {}", h.size, h.cluster());
  h.refcount_table_offset = h.cluster();
  h.refcount_table_clusters = 1;
  h.l1_entries = static_cast<u32>(l1);
  h.l1_offset = (2 + blocks) << h.cluster_bits;
  std::vector<u8> header = TRY(encode_header(h));

  std::vector<u8> table(h.cluster()), all(blocks << h.cluster_bits);
  for (u64 b = 0; b < blocks; ++b) store_be<u64>(&table[8 * b], (2 + b) << h.cluster_bits);
  for (u64 i = 0; i < 2 + blocks + l1_clusters; ++i)
    Refcounts::set_entry(std::span(all).subspan(i / per_block << h.cluster_bits), i % per_block,
                         h.refcount_order, 1);
  TRY_VOID(file.write(h.refcount_table_offset, table));
  TRY_VOID(file.write(2 * h.cluster(), all));
  TRY_VOID(file.truncate((2 + blocks + l1_clusters) << h.cluster_bits));
  TRY_VOID(file.flush());
  TRY_VOID(file.write(0, header));
  return file.flush();
}

}  // namespace skerry::storage

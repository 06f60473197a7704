// What changes the header: size, backing file; and the snapshots that it leads to.
#include <algorithm>

#include "storage/qcow2.hpp"

namespace skerry::storage {

using namespace qcow2;

namespace {

constexpr u64 kMaxSnapshotExtra = 1024;

}  // namespace

// Size, L1 size and place lie in one sector, so that they change together (offsets 24 to 48).
Result<> Qcow2::write_size(u64 size) {
  u8 fields[24] = {};
  store_be<u64>(fields, size);
  store_be<u32>(fields + 12, header_.l1_entries);
  store_be<u64>(fields + 16, header_.l1_offset);
  TRY_VOID(file_->write(24, fields));
  return file_->flush();
}

// A longer L1 table elsewhere in the file. With alloc_ held, after sync().
Result<> Qcow2::grow_l1(u64 entries) {
  if (entries * 8 > kMaxL1Bytes)
    return fail_hint("convert it to an image with larger clusters",
                     "{} cannot become so large with clusters of {} bytes", path(), cluster());
  std::lock_guard guard(cache_);
  u64 old_at = header_.l1_offset >> header_.cluster_bits;
  u64 old_count = header_.clusters(u64{header_.l1_entries} * 8);
  std::vector<u8> raw(align_up(entries * 8, cluster()));
  u64 at = TRY(refcounts_.allocate_at_end(raw.size() >> header_.cluster_bits));
  l1_.resize(entries, 0);
  for (u64 i = 0; i < entries; ++i) store_be<u64>(&raw[8 * i], l1_[i]);
  TRY_VOID(file_->write(at, raw));
  TRY_VOID(refcounts_.write());
  TRY_VOID(file_->flush());
  header_.l1_offset = at;
  header_.l1_entries = static_cast<u32>(entries);
  TRY_VOID(write_size(header_.size));
  for (u64 i = 0; i < old_count; ++i) TRY(refcounts_.give_up(old_at + i));
  return {};
}

Result<> Qcow2::resize(u64 size) {
  if (readonly_) return fail("disk {} is read-only", path());
  if (size < kSector || size % kSector) return fail("a disk's size is a multiple of {}", kSector);
  u64 old = size_;
  if (size == old) return {};
  if (header_.snapshots)
    return fail_hint("remove them first, or convert it to a new image",
                     "{} has internal snapshots and keeps its size", path());
  if (size < old) {
    // What is cut off must not come back when the disk grows again.
    u64 end = std::min(align_up(size, cluster()), old);
    if (end > size) TRY_VOID(zero_part(size, end - size));
    if (end < old) TRY_VOID(zero_range(end, old - end, false, false));
    TRY_VOID(flush());
    std::lock_guard guard(alloc_);
    header_.size = size;
    size_ = size;
    return write_size(size);
  }
  {
    std::lock_guard guard(alloc_);
    TRY_VOID(sync());
    if (header_.l1_needed(size) > header_.l1_entries) TRY_VOID(grow_l1(header_.l1_needed(size)));
  }
  // Nor must a longer backing disk show through where the disk is new.
  if (shows_through(old)) {
    size_ = std::min(align_up(size, kSector), backing_->size());
    auto hidden = write_zeroes(old, size_ - old, true);
    size_ = old;
    TRY_VOID(hidden);
    TRY_VOID(flush());
  }
  std::lock_guard guard(alloc_);
  header_.size = size;
  TRY_VOID(write_size(size));
  size_ = size;
  return {};
}

Result<> Qcow2::drop_all() {
  if (readonly_) return fail("disk {} is read-only", path());
  if (header_.snapshots) return fail("{} has internal snapshots and is not emptied", path());
  for (u64 i = 0; i < l1_.size(); ++i) {
    std::lock_guard guard(alloc_);
    TRY_VOID(sync_if_crowded());
    std::lock_guard cache_guard(cache_);
    TableCache::Table* table = TRY(l2_of(i));
    if (!table) continue;
    for (u64 at = 0; at < cluster() / 8; ++at)
      if (u64 entry = load_be<u64>(&table->bytes[8 * at])) TRY_VOID(release(entry));
    released_.push_back(table->offset >> header_.cluster_bits);
    l1_[i] = 0;
    l1_dirty_.insert(i / 64);
    l2_.drop(table->offset);
  }
  return flush();
}

Result<> Qcow2::set_backing(const std::string& name, const std::string& format) {
  if (readonly_) return fail("disk {} is read-only", path());
  TRY_VOID(flush());
  std::lock_guard guard(alloc_);
  Header changed = header_;
  changed.backing_file = name;
  changed.backing_format = name.empty() ? "" : format;
  // The new name goes beside the old one where both fit, so that the first sector, which is written
  // last, decides which of them holds.
  std::vector<u8> first(cluster());
  TRY_VOID(file_->read(0, first));
  u64 old_at = load_be<u64>(&first[8]), old_end = old_at + load_be<u32>(&first[16]);
  std::vector<u8> now = TRY(encode_header(changed));
  u64 plain = now.size() - name.size();
  for (u64 at : {plain, align_up(old_end, 8)})
    if (!name.empty() && at >= plain && at + name.size() <= cluster() &&
        (old_at == 0 || at >= old_end || at + name.size() <= old_at)) {
      now = TRY(encode_header(changed, at));
      break;
    }
  now.resize(cluster());
  if (now.size() > 512) {
    TRY_VOID(file_->write(512, std::span(now).subspan(512)));
    TRY_VOID(file_->flush());
  }
  TRY_VOID(file_->write(0, std::span(now).first(512)));
  TRY_VOID(file_->flush());
  header_ = std::move(changed);
  return {};
}

Result<std::vector<Qcow2::Snapshot>> read_snapshots(File& file, const Header& header, u64* bytes) {
  std::vector<Qcow2::Snapshot> all;
  u64 at = header.snapshots_offset, size = TRY(file.size());
  for (u32 i = 0; i < header.snapshots; ++i) {
    u8 fixed[40];
    auto damaged = [&] {
      return fail("{} is corrupt: its snapshot table is damaged", file.path());
    };
    if (at > size || size - at < sizeof fixed) return damaged();
    TRY_VOID(file.read(at, fixed));
    Qcow2::Snapshot s;
    s.l1_offset = load_be<u64>(fixed);
    s.l1_entries = load_be<u32>(fixed + 8);
    u64 id_length = load_be<u16>(fixed + 12), name_length = load_be<u16>(fixed + 14);
    s.seconds = load_be<u32>(fixed + 16);
    s.vm_state_bytes = load_be<u32>(fixed + 32);
    u64 extra_length = load_be<u32>(fixed + 36);
    if (extra_length > kMaxSnapshotExtra) return damaged();
    std::vector<u8> rest(extra_length + id_length + name_length);
    if (size - at - sizeof fixed < rest.size()) return damaged();
    TRY_VOID(file.read(at + sizeof fixed, rest));
    if (extra_length >= 8) s.vm_state_bytes = load_be<u64>(rest.data());
    s.disk_size = extra_length >= 16 ? load_be<u64>(&rest[8]) : header.size;
    auto text = [&](u64 from, u64 length) {
      return std::string(reinterpret_cast<const char*>(rest.data()) + from, length);
    };
    s.id = text(extra_length, id_length);
    s.name = text(extra_length + id_length, name_length);
    if (u64{s.l1_entries} * 8 > kMaxL1Bytes || s.l1_offset & (header.cluster() - 1) ||
        s.l1_offset >> 56)
      return damaged();
    at += align_up(sizeof fixed + rest.size(), 8);
    all.push_back(std::move(s));
  }
  if (bytes) *bytes = at - header.snapshots_offset;
  return all;
}

}  // namespace skerry::storage

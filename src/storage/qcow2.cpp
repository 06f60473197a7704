#include "storage/qcow2.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "storage/compress.hpp"
#include "storage/qcow2_check.hpp"

namespace skerry::storage {

using namespace qcow2;

namespace {

constexpr u64 kL2CacheBytes = 32 * MiB;  // maps 256 GiB at clusters of 64 KiB

size_t l2_tables(u64 cluster) {
  return std::max<size_t>(16, kL2CacheBytes / cluster);
}

}  // namespace

Qcow2::Qcow2(std::unique_ptr<File> file, std::unique_ptr<Disk> backing, Header header)
    : file_(std::move(file)),
      backing_(std::move(backing)),
      header_(std::move(header)),
      l2_(*file_, header_.cluster(), l2_tables(header_.cluster())),
      refcounts_(*file_, header_) {}

Result<std::unique_ptr<Qcow2>> Qcow2::open(std::unique_ptr<File> file,
                                           std::unique_ptr<Disk> backing, Options options) {
  std::vector<u8> start(std::min(kHeaderBytes, TRY(file->size())));
  TRY_VOID(file->read(0, start));
  Header header = TRY(parse_header(start, file->path()));
  if (header.size < kSector)
    return fail("{} is a disk of {} bytes, less than one sector", file->path(), header.size);
  if (!options.readonly) {
    if (bit(header.incompatible, kCorrupt))
      return fail_hint(
          fmt::format("mend it with: skerry image check --repair all {}", file->path()),
          "{} is marked as corrupt and cannot be written", file->path());
    if (bit(header.incompatible, kDirty)) {
      log_info(fmt::format("{} was not closed properly: mending its refcounts", file->path()));
      TRY_VOID(mend_dirty(*file));
      TRY_VOID(file->read(0, start));
      header = TRY(parse_header(start, file->path()));
    }
  }
  std::unique_ptr<Qcow2> disk(new Qcow2(std::move(file), std::move(backing), std::move(header)));
  disk->readonly_ = options.readonly;
  TRY_VOID(disk->load());
  return disk;
}

Result<> Qcow2::load() {
  size_ = align_down(header_.size, kSector);
  end_ = header_.clusters(TRY(file_->size()));
  std::vector<u8> raw(u64{header_.l1_entries} * 8);
  TRY_VOID(file_->read(header_.l1_offset, raw));
  l1_.resize(header_.l1_entries);
  for (size_t i = 0; i < l1_.size(); ++i) l1_[i] = load_be<u64>(&raw[8 * i]);
  if (readonly_) return {};
  TRY_VOID(refcounts_.load());
  if (header_.autoclear) {
    // Such features (dirty bitmaps) hold only while every writer keeps them up.
    header_.autoclear = 0;
    u8 none[8] = {};
    TRY_VOID(file_->write(88, none));
    TRY_VOID(file_->flush());
  }
  return {};
}

Qcow2::~Qcow2() {
  if (readonly_) return;
  if (auto done = flush(); !done) log_warn(done.error().what);
  // What the last flush set free is not referenced, so that its refcounts may follow.
  std::lock_guard guard(alloc_);
  if (auto done = refcounts_.write(); !done) log_warn(done.error().what);
}

Result<> Qcow2::corrupt(std::string_view why) const {
  return fail_hint(fmt::format("look at it with: skerry image check {}", path()),
                   "{} is corrupt: {}", path(), why);
}

// The file's clusters that no data may lie in. L2 tables are not known without reading them all.
bool Qcow2::fixed(u64 index) const {
  u64 l1 = header_.l1_offset >> header_.cluster_bits;
  return index == 0 ||
         (index >= l1 && index < l1 + header_.clusters(u64{header_.l1_entries} * 8)) ||
         refcounts_.owns(index);
}

Result<TableCache::Table*> Qcow2::l2_of(u64 l1_index) {
  if (l1_index >= l1_.size()) return nullptr;
  u64 offset = host_of(l1_[l1_index]);
  if (offset == 0) return nullptr;
  u64 index = offset >> header_.cluster_bits;
  if (offset & (cluster() - 1) || (index >= end_ && index >= refcounts_.end()) || fixed(index))
    TRY_VOID(corrupt(fmt::format("entry {} of its L1 table is out of place", l1_index)));
  return l2_.get(offset);
}

std::pair<u64, u64> Qcow2::compressed_place(u64 entry) const {
  unsigned offset_bits = 62 - (header_.cluster_bits - 8);
  u64 offset = bits(entry, 0, offset_bits);
  u64 sectors = bits(entry, offset_bits, header_.cluster_bits - 8) + 1;
  return {offset, sectors * 512 - (offset & 511)};
}

Result<Qcow2::Mapping> Qcow2::look(u64 offset, u64 length) {
  u64 index = offset >> header_.cluster_bits, per_table = cluster() / 8;
  u64 skip = offset & (cluster() - 1);
  u64 l1_index = index / per_table, at = index % per_table;
  u64 in_table = (per_table - at) * cluster() - skip;
  Mapping m;
  TableCache::Table* table = TRY(l2_of(l1_index));
  if (!table) {
    m.length = std::min(length, in_table);
    return m;
  }
  auto kind_of = [&](u64 entry) {
    if (entry & kCompressed) return Kind::compressed;
    if (header_.version >= 3 && entry & kZero) return Kind::zero;
    return host_of(entry) ? Kind::data : Kind::unallocated;
  };
  m.entry = load_be<u64>(&table->bytes[8 * at]);
  m.kind = kind_of(m.entry);
  m.writable = m.kind == Kind::data && m.entry & kCopied;
  u64 host = host_of(m.entry);
  if (m.kind == Kind::data) {
    u64 last = host >> header_.cluster_bits;
    if (host & (cluster() - 1) || (last >= end_ && last >= refcounts_.end()))
      TRY_VOID(
          corrupt(fmt::format("the cluster at {:#x} of the disk is out of place", offset - skip)));
    m.host = host + skip;
  }
  m.length = std::min(length, cluster() - skip);
  if (m.kind == Kind::compressed) {
    u64 first = compressed_place(m.entry).first >> header_.cluster_bits;
    if (first >= end_ && first >= refcounts_.end())
      TRY_VOID(
          corrupt(fmt::format("the cluster at {:#x} of the disk is out of place", offset - skip)));
    return m;
  }
  for (u64 next = 1; m.length < length && at + next < per_table; ++next) {
    u64 entry = load_be<u64>(&table->bytes[8 * (at + next)]);
    if (kind_of(entry) != m.kind) break;
    if (m.kind == Kind::data) {
      u64 wanted = host + next * cluster(), last = wanted >> header_.cluster_bits;
      if (host_of(entry) != wanted || (last >= end_ && last >= refcounts_.end())) break;
      if (m.writable != !!(entry & kCopied)) break;
    }
    m.length = std::min(length, m.length + cluster());
  }
  return m;
}

Result<> Qcow2::read_backing(u64 offset, std::span<const iovec> to) {
  u64 total = length_of(to), there = 0;
  if (shows_through(offset)) there = std::min(total, backing_->size() - offset);
  if (there) TRY_VOID(backing_->readv(offset, slice(to, 0, there)));
  if (there < total) clear(slice(to, there, total - there));
  return {};
}

Result<> Qcow2::read_compressed(u64 entry, u64 skip, std::span<const iovec> to) {
  std::lock_guard guard(unpacked_mutex_);
  if (unpacked_entry_ != entry) {
    auto [offset, length] = compressed_place(entry);
    std::vector<u8> packed(length);  // at most two clusters
    TRY_VOID(file_->read(offset, packed));
    unpacked_entry_ = 0;
    unpacked_.resize(cluster());
    if (!decompress(header_.compression, packed, unpacked_))
      TRY_VOID(corrupt(fmt::format("the compressed cluster at {:#x} cannot be read", offset)));
    unpacked_entry_ = entry;
  }
  for (const iovec& part : to) {
    std::memcpy(part.iov_base, &unpacked_[skip], part.iov_len);
    skip += part.iov_len;
  }
  return {};
}

Result<> Qcow2::readv(u64 offset, std::span<const iovec> to) {
  u64 total = length_of(to);
  TRY_VOID(check_range(offset, total));
  for (u64 done = 0; done < total;) {
    Gate::Inside inside(inside_);
    Mapping m;
    {
      std::lock_guard guard(cache_);
      m = TRY(look(offset + done, total - done));
    }
    auto part = slice(to, done, m.length);
    switch (m.kind) {
      case Kind::zero: clear(part); break;
      case Kind::unallocated: TRY_VOID(read_backing(offset + done, part)); break;
      case Kind::data: TRY_VOID(file_->readv(m.host, part)); break;
      case Kind::compressed:
        TRY_VOID(read_compressed(m.entry, (offset + done) & (cluster() - 1), part));
        break;
    }
    done += m.length;
  }
  return {};
}

Result<Disk::Extent> Qcow2::extent(u64 offset, u64 length) {
  TRY_VOID(check_range(offset, length));
  Mapping m;
  {
    std::lock_guard guard(cache_);
    m = TRY(look(offset, length));
  }
  Extent e{.length = m.length};
  switch (m.kind) {
    case Kind::data: e.at = m.host; break;
    case Kind::compressed: e.compressed = true; break;
    case Kind::zero: e.kind = Extent::Kind::zero; break;
    case Kind::unallocated:
      e.kind = Extent::Kind::hole;
      if (!shows_through(offset)) break;
      e = TRY(backing_->extent(offset, std::min(m.length, backing_->size() - offset)));
      ++e.depth;
  }
  return e;
}

Result<bool> Qcow2::has_own(u64 offset, u64& length) {
  std::lock_guard guard(cache_);
  Mapping m = TRY(look(offset, length));
  length = m.length;
  return m.kind != Kind::unallocated;
}

}  // namespace skerry::storage

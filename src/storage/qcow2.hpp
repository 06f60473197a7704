// Qcow2: a disk in a qcow2 image, version 2 or 3, over its backing disk.
//
// The specification: QEMU docs/interop/qcow2.txt. Read: everything but encryption, external data
// files and extended L2 entries. Written: the active disk; internal snapshots are kept and listed.
//
// Order on the disk. What a crash at any instant must leave is an image whose every reference leads
// to clusters that are counted and written; clusters that are counted and not referenced (leaks)
// are allowed. So flush() writes in two steps, each ended by a flush of the file:
//   1. data (written long ago), refcounts, and L2 tables to which nothing leads yet;
//   2. entries of L2 tables that are in use, and of the L1 table.
// What was replaced is given up after that, and only then used again. A new refcount block is on
// the disk before the refcount table leads to it, and the table before the header does. `dirty`
// (lazy refcounts) is never set by us; an image that has it is mended when it is opened for
// writing.
//
// Threading: as Disk. `alloc_` is held by whoever changes the mapping; `cache_` while tables are
// looked at or changed; `inside_` tells when data of clusters that were given up is no longer used.
#pragma once

#include <atomic>
#include <memory>

#include "storage/disk.hpp"
#include "storage/gate.hpp"
#include "storage/qcow2_refcounts.hpp"

namespace skerry::storage {

class Qcow2 final : public Disk {
 public:
  struct Snapshot {
    std::string id, name;
    u64 disk_size = 0, vm_state_bytes = 0;
    u64 seconds = 0;  ///< since 1970
    u64 l1_offset = 0;
    u32 l1_entries = 0;
  };
  struct Options {
    bool readonly = false;
  };

  /// `backing`: what the header names, or null.
  static Result<std::unique_ptr<Qcow2>> open(std::unique_ptr<File> file,
                                             std::unique_ptr<Disk> backing, Options options);
  /// Writes what is in memory; an error then only reaches the log: flush() before.
  ~Qcow2() override;

  u64 size() const override { return size_; }
  bool readonly() const override { return readonly_; }
  const std::string& path() const override { return file_->path(); }
  Result<> readv(u64 offset, std::span<const iovec> to) override;
  Result<> writev(u64 offset, std::span<const iovec> from) override;
  Result<> flush() override;
  Result<> write_zeroes(u64 offset, u64 length, bool unmap) override;
  Result<> discard(u64 offset, u64 length) override;
  Result<> resize(u64 size) override;
  Result<Extent> extent(u64 offset, u64 length) override;

  const qcow2::Header& header() const { return header_; }
  u64 cluster() const { return header_.cluster(); }
  File& file() { return *file_; }
  Disk* backing() { return backing_.get(); }
  /// True if the image itself says what is there: nothing shows through from the backing disk.
  Result<bool> has_own(u64 offset, u64& length);

  /// Stores a whole cluster (the last one may be short) compressed where that is shorter. Nothing
  /// may be stored there yet.
  Result<> write_compressed(u64 offset, std::span<const u8> data);
  /// The cluster at `offset` reads as zeros whatever the backing disk is or becomes. Version 3.
  Result<> hide(u64 offset);
  /// Forgets all that was written: the backing disk shows through everywhere. Refused with
  /// snapshots.
  Result<> drop_all();
  /// Another name for the backing file, in the header only; what shows through is the caller's
  /// care.
  Result<> set_backing(const std::string& name, const std::string& format);

 private:
  enum class Kind : u8 { unallocated, zero, data, compressed };
  struct Mapping {
    Kind kind = Kind::unallocated;
    u64 entry = 0;          ///< of the L2 table
    u64 host = 0;           ///< data: where in the file `offset` is
    u64 length = 0;         ///< bytes from there on of the same kind, one after the other
    bool writable = false;  ///< data: used by nobody else
  };

  Qcow2(std::unique_ptr<File> file, std::unique_ptr<Disk> backing, qcow2::Header header);
  Result<> load();
  Result<> corrupt(std::string_view why) const;
  bool fixed(u64 index) const;

  // With cache_ held.
  Result<qcow2::TableCache::Table*> l2_of(u64 l1_index);
  Result<Mapping> look(u64 offset, u64 length);
  Result<qcow2::TableCache::Table*> l2_to_change(u64 l1_index);
  void set_entry(qcow2::TableCache::Table& table, u64 at, u64 entry);
  Result<> release(u64 entry);
  u64 host_of(u64 entry) const { return entry & qcow2::kOffsetMask; }
  std::pair<u64, u64> compressed_place(u64 entry) const;  ///< offset and length in the file

  // With alloc_ held.
  Result<> sync();
  Result<> sync_if_crowded();
  Result<> reuse_released();
  Result<u64> write_new(u64 offset, std::span<const iovec> from);
  Result<> zero_clusters(u64 first, u64 count, bool keep, bool hide = false);
  Result<> write_l1();
  Result<> grow_l1(u64 entries);
  Result<> write_size(u64 size);

  Result<> read_backing(u64 offset, std::span<const iovec> to);
  Result<> read_compressed(u64 entry, u64 skip, std::span<const iovec> to);
  Result<> read_old(u64 offset, std::span<u8> to, bool& zeros);
  Result<> zero_part(u64 offset, u64 length);
  Result<> zero_range(u64 offset, u64 length, bool keep, bool parts);
  bool shows_through(u64 offset) const { return backing_ && offset < backing_->size(); }

  std::unique_ptr<File> file_;
  std::unique_ptr<Disk> backing_;
  qcow2::Header header_;
  std::atomic<u64> size_{0};
  bool readonly_ = true;
  std::mutex alloc_, cache_;
  Gate inside_;
  std::vector<u64> l1_;
  std::set<u64> l1_dirty_;  ///< sectors of the L1 table
  qcow2::TableCache l2_;
  qcow2::Refcounts refcounts_;
  u64 end_ = 0;                ///< clusters in the file when it was opened
  std::vector<u64> released_;  ///< clusters, one entry for each use that ended
  bool can_punch_ = true;
  u64 packed_at_ = 0;  ///< where the next compressed cluster may begin, 0: in a new cluster
  std::mutex unpacked_mutex_;
  u64 unpacked_entry_ = 0;  ///< whose bytes are in unpacked_; 0: nobody's
  std::vector<u8> unpacked_;
};

/// The snapshots that an image's header leads to. `bytes`: the length of their table.
Result<std::vector<Qcow2::Snapshot>> read_snapshots(File& file, const qcow2::Header& header,
                                                    u64* bytes = nullptr);

}  // namespace skerry::storage

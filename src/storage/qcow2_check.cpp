// Counts every use of every cluster and compares that with the refcounts.
#include "storage/qcow2_check.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_map>

#include "storage/qcow2.hpp"

namespace skerry::storage {

using namespace qcow2;

namespace {

constexpr size_t kMessages = 20;
constexpr u64 kMaxL1Total = 256 * MiB;  ///< of all snapshots together
constexpr u64 kMaxPages = 1 << 15;      ///< of Uses: 512 MiB of counters, 8 TiB in 64 KiB clusters
constexpr u32 kBitmapExtension = 0x23852875;

/// How often each cluster is used. Pages appear where there is something, so that an image takes
/// as much memory as its metadata.
class Uses {
 public:
  /// False if an image needs too many.
  bool add(u64 index, u64 n) {
    auto& page = pages_[index / kPage];
    if (!page) {
      if (pages_.size() > kMaxPages) return false;
      page = std::make_unique<u32[]>(kPage);
    }
    u32& count = page[index % kPage];
    count = static_cast<u32>(std::min<u64>(count + n, ~u32{0}));
    return true;
  }
  u32 get(u64 index) const {
    auto at = pages_.find(index / kPage);
    return at == pages_.end() || !at->second ? 0 : at->second[index % kPage];
  }
  template <class F>
  Result<> each(F call) const {
    for (auto& [number, page] : pages_)
      for (u64 i = 0; page && i < kPage; ++i)
        if (page[i]) TRY_VOID(call(number * kPage + i, page[i]));
    return {};
  }
  u64 end() const {
    for (auto at = pages_.rbegin(); at != pages_.rend(); ++at)
      for (u64 i = kPage; at->second && i > 0; --i)
        if (at->second[i - 1]) return at->first * kPage + i;
    return 0;
  }

 private:
  static constexpr u64 kPage = 4096;
  std::map<u64, std::unique_ptr<u32[]>> pages_;
};

class Checker {
 public:
  Checker(File& file, Header header, Repair repair)
      : file_(file), header_(std::move(header)), repair_(repair), refcounts_(file, header_) {}
  Result<CheckReport> run();

 private:
  template <class... Args>
  void corruption(fmt::format_string<Args...> text, Args&&... args) {
    ++report_.corruptions;
    if (report_.messages.size() < kMessages)
      report_.messages.push_back("corruption: " + fmt::format(text, std::forward<Args>(args)...));
  }
  Result<> use(Uses& uses, u64 offset, u64 bytes, std::string_view what, u64 n = 1);
  Result<bool> read_table(u64 offset, std::vector<u8>& to);
  Result<> count_table(u64 offset, u64 entries, bool active);
  Result<> count_l2(u64 offset, u64 n);
  Result<> count_refcounts();
  Result<> compare();
  Result<> fix_flags();
  Result<> fix_flags_in(u64 offset);
  Result<> rebuild();
  Result<> clear_bits();

  File& file_;
  Header header_;
  Repair repair_;
  Refcounts refcounts_;
  CheckReport report_;
  Uses uses_, own_uses_;  ///< own: by the refcounts themselves
  u64 file_end_ = 0;      ///< clusters
  std::unordered_map<u64, u64> l2_uses_;
  std::vector<u64> active_l1_;
  std::vector<u64> leaked_;
  bool must_rebuild_ = false;
};

// False: it is in a hole of the file, so all zeros.
Result<bool> Checker::read_table(u64 offset, std::vector<u8>& to) {
  to.resize(header_.cluster());
  if (TRY(file_.next_data(offset)) >= offset + to.size()) return false;
  TRY_VOID(file_.read(offset, to));
  return true;
}

Result<> Checker::use(Uses& uses, u64 offset, u64 bytes, std::string_view what, u64 n) {
  u64 first = offset >> header_.cluster_bits, count = header_.clusters(bytes);
  if (offset & (header_.cluster() - 1) || first >= file_end_ || count > file_end_ - first) {
    corruption("{} at {:#x} is out of place", what, offset);
    return {};
  }
  for (u64 i = 0; i < count; ++i)
    if (!uses.add(first + i, n)) return fail("{} is too large to be checked", file_.path());
  return {};
}

Result<> Checker::count_table(u64 offset, u64 entries, bool active) {
  if (entries == 0) return {};
  u64 before = report_.corruptions;
  TRY_VOID(use(uses_, offset, entries * 8, "an L1 table"));
  if (report_.corruptions != before) return {};
  std::vector<u8> raw(entries * 8);
  TRY_VOID(file_.read(offset, raw));
  for (u64 i = 0; i < entries; ++i) {
    u64 entry = load_be<u64>(&raw[8 * i]), l2 = entry & kOffsetMask;
    if (active) active_l1_.push_back(entry);
    if (l2 == 0) continue;
    before = report_.corruptions;
    TRY_VOID(use(uses_, l2, header_.cluster(), "an L2 table"));
    if (report_.corruptions == before) ++l2_uses_[l2];
  }
  return {};
}

Result<> Checker::count_l2(u64 offset, u64 n) {
  std::vector<u8> raw;
  if (!TRY(read_table(offset, raw))) return {};
  unsigned offset_bits = 62 - (header_.cluster_bits - 8);
  for (u64 i = 0; i < raw.size() / 8; ++i) {
    u64 entry = load_be<u64>(&raw[8 * i]);
    if (entry & kCompressed) {
      u64 at = bits(entry, 0, offset_bits);
      u64 sectors = bits(entry, offset_bits, header_.cluster_bits - 8) + 1;
      u64 first = at >> header_.cluster_bits;
      // Its last sector may lie past the end of the file, which ends with the last byte.
      u64 last = (align_down(at, 512) + sectors * 512 - 1) >> header_.cluster_bits;
      if (entry & kCopied)
        corruption("a compressed cluster in the table at {:#x} is marked as not shared", offset);
      if (first >= file_end_) {
        corruption("a compressed cluster at {:#x} is out of place", at);
        continue;
      }
      for (u64 c = first; c <= std::min(last, file_end_); ++c)
        if (!uses_.add(c, n)) return fail("{} is too large to be checked", file_.path());
      ++report_.compressed_clusters;
      ++report_.allocated_clusters;
    } else if (u64 host = entry & kOffsetMask) {
      TRY_VOID(use(uses_, host, header_.cluster(), "a cluster of data", n));
      ++report_.allocated_clusters;
    }
  }
  return {};
}

Result<> Checker::count_refcounts() {
  u64 table_bytes = u64{header_.refcount_table_clusters} << header_.cluster_bits;
  u64 before = report_.corruptions;
  TRY_VOID(use(own_uses_, header_.refcount_table_offset, table_bytes, "the refcount table"));
  if (report_.corruptions != before) {
    must_rebuild_ = true;
    return {};
  }
  std::set<u64> seen;
  for (u64 block : refcounts_.table()) {
    if (block == 0) continue;
    before = report_.corruptions;
    TRY_VOID(use(own_uses_, block, header_.cluster(), "a refcount block"));
    if (!seen.insert(block).second)
      corruption("two entries of the refcount table lead to {:#x}", block);
    if (report_.corruptions != before) must_rebuild_ = true;
  }
  return {};
}

Result<> Checker::compare() {
  if (must_rebuild_) return {};
  // Every stored refcount, then every use that has no block.
  const auto& table = refcounts_.table();
  std::vector<u8> block;
  for (u64 b = 0; b < table.size(); ++b) {
    if (table[b] == 0) continue;
    bool any = TRY(read_table(table[b], block));
    if (!any) std::fill(block.begin(), block.end(), u8{0});
    for (u64 i = 0; i < refcounts_.per_block(); ++i) {
      u64 index = b * refcounts_.per_block() + i;
      u64 stored = Refcounts::entry(block, i, header_.refcount_order);
      u64 used = u64{uses_.get(index)} + own_uses_.get(index);
      if (stored == used) continue;
      if (stored > used) {
        ++report_.leaks;
        leaked_.push_back(index);
        continue;
      }
      corruption("cluster {} is used {} times but counted {}", index, used, stored);
      must_rebuild_ = true;
    }
  }
  auto uncounted = [&](u64 index, u32 used) -> Result<> {
    u64 b = index / refcounts_.per_block();
    if (b < table.size() && table[b]) return {};
    corruption("cluster {} is used {} times but not counted", index, used);
    must_rebuild_ = true;
    return {};
  };
  TRY_VOID(uses_.each(uncounted));
  return own_uses_.each(uncounted);
}

// The flag says that a table or cluster may be written in place: its refcount is exactly 1.
Result<> Checker::fix_flags_in(u64 offset) {
  std::vector<u8> raw;
  if (!TRY(read_table(offset, raw))) return {};
  bool changed = false;
  for (u64 i = 0; i < raw.size() / 8; ++i) {
    u64 entry = load_be<u64>(&raw[8 * i]), host = entry & kOffsetMask;
    if (entry & kCompressed) {
      if (!(entry & kCopied)) continue;
    } else if (host == 0 || host & (header_.cluster() - 1) ||
               !!(entry & kCopied) == (uses_.get(host >> header_.cluster_bits) +
                                           own_uses_.get(host >> header_.cluster_bits) ==
                                       1)) {
      continue;
    }
    if (!(entry & kCompressed)) corruption("the cluster at {:#x} has a wrong flag", host);
    store_be<u64>(&raw[8 * i], entry ^ kCopied);
    changed = true;
  }
  if (changed && repair_ == Repair::all) return file_.write(offset, raw);
  return {};
}

Result<> Checker::fix_flags() {
  std::set<u64> seen;
  bool changed = false;
  for (u64& entry : active_l1_) {
    u64 l2 = entry & kOffsetMask;
    if (l2 == 0 || !l2_uses_.contains(l2)) continue;
    if (!!(entry & kCopied) != (uses_.get(l2 >> header_.cluster_bits) == 1)) {
      corruption("the L2 table at {:#x} has a wrong flag", l2);
      entry ^= kCopied;
      changed = true;
    }
    if (seen.insert(l2).second) TRY_VOID(fix_flags_in(l2));
  }
  if (!changed || repair_ != Repair::all) return {};
  std::vector<u8> raw(active_l1_.size() * 8);
  for (size_t i = 0; i < active_l1_.size(); ++i) store_be<u64>(&raw[8 * i], active_l1_[i]);
  return file_.write(header_.l1_offset, raw);
}

// New refcounts at the end of the file; the header leads to them when they are complete.
Result<> Checker::rebuild() {
  u64 per_block = refcounts_.per_block(), cluster = header_.cluster();
  u64 start = std::max(file_end_, uses_.end()), blocks = 0, table_clusters = 0;
  for (;;) {  // the new clusters are counted, too
    u64 end = start + blocks + table_clusters;
    u64 need = end / per_block + 1;
    u64 need_table = header_.clusters(need * 8);
    if (need == blocks && need_table == table_clusters) break;
    blocks = std::max(blocks, need);
    table_clusters = std::max(table_clusters, need_table);
  }
  if (table_clusters * cluster > kMaxRefcountTableBytes)
    return fail("{} is too large to be mended", file_.path());
  u64 most = ~u64{0} >> (64 - (1u << header_.refcount_order));
  u64 first_block = start + table_clusters;
  std::vector<u8> block(cluster), table(table_clusters * cluster);
  for (u64 b = 0; b < blocks; ++b) {
    std::fill(block.begin(), block.end(), u8{0});
    for (u64 i = 0; i < per_block; ++i) {
      u64 index = b * per_block + i;
      u64 used = index >= start && index < start + table_clusters + blocks ? 1 : uses_.get(index);
      if (used > most) return fail("{}: a refcount would overflow", file_.path());
      if (used) Refcounts::set_entry(block, i, header_.refcount_order, used);
    }
    store_be<u64>(&table[8 * b], (first_block + b) << header_.cluster_bits);
    TRY_VOID(file_.write((first_block + b) * cluster, block));
  }
  TRY_VOID(file_.write(start * cluster, table));
  TRY_VOID(file_.flush());
  header_.refcount_table_offset = start * cluster;
  header_.refcount_table_clusters = static_cast<u32>(table_clusters);
  u8 fields[12];
  store_be<u64>(fields, header_.refcount_table_offset);
  store_be<u32>(fields + 8, header_.refcount_table_clusters);
  TRY_VOID(file_.write(48, fields));
  return file_.flush();
}

Result<> Checker::clear_bits() {
  u64 clear = header_.incompatible & ~u64{1 << kDirty | 1 << kCorrupt};
  if (header_.version < 3 || clear == header_.incompatible) return {};
  TRY_VOID(file_.flush());
  u8 field[8];
  store_be<u64>(field, clear);
  TRY_VOID(file_.write(72, field));
  return file_.flush();
}

Result<CheckReport> Checker::run() {
  report_.dirty = bit(header_.incompatible, kDirty);
  report_.marked_corrupt = bit(header_.incompatible, kCorrupt);
  report_.total_clusters = header_.clusters(header_.size);
  file_end_ = header_.clusters(TRY(file_.size()));
  TRY_VOID(use(uses_, 0, header_.cluster(), "the header"));
  TRY_VOID(count_table(header_.l1_offset, header_.l1_entries, true));
  u64 snapshot_bytes = 0;
  auto snapshots = read_snapshots(file_, header_, &snapshot_bytes);
  if (!snapshots) {
    corruption("{}", snapshots.error().what);
    if (repair_ != Repair::none)
      return fail_hint("copy its contents with: skerry image convert",
                       "{} cannot be mended: its snapshot table is damaged", file_.path());
  } else if (!snapshots->empty()) {
    u64 all = 0;
    for (const auto& s : *snapshots) {
      all += u64{s.l1_entries} * 8;
      if (all > kMaxL1Total) return fail("{} is too large to be checked", file_.path());
      TRY_VOID(count_table(s.l1_offset, s.l1_entries, false));
    }
    TRY_VOID(use(uses_, header_.snapshots_offset, snapshot_bytes, "the snapshot table"));
  }
  for (const auto& extension : header_.extensions)
    if (extension.type == kBitmapExtension && header_.autoclear & 1)
      return fail("{} has dirty bitmaps, which cannot be checked", file_.path());
  for (auto [offset, n] : l2_uses_) TRY_VOID(count_l2(offset, n));
  TRY_VOID(refcounts_.load());
  TRY_VOID(count_refcounts());
  TRY_VOID(compare());
  TRY_VOID(fix_flags());
  report_.image_end = std::max(uses_.end(), own_uses_.end()) << header_.cluster_bits;
  if (repair_ == Repair::none) return report_;

  // Only where every use is counted is it known that a leak is one.
  if (must_rebuild_ && repair_ == Repair::all) {
    TRY_VOID(rebuild());
  } else if (!must_rebuild_) {
    for (u64 index : leaked_)
      TRY_VOID(refcounts_.set(index, u64{uses_.get(index)} + own_uses_.get(index)));
    TRY_VOID(refcounts_.write());
    TRY_VOID(file_.flush());
  }
  // References that lead nowhere are not mended: nobody knows what stood there.
  CheckReport after = TRY(check_qcow2(file_, Repair::none));
  after.corruptions_fixed = report_.corruptions - std::min(report_.corruptions, after.corruptions);
  after.leaks_fixed = report_.leaks - std::min(report_.leaks, after.leaks);
  after.messages.insert(after.messages.begin(), report_.messages.begin(), report_.messages.end());
  if (after.corruptions == 0) TRY_VOID(clear_bits());
  return after;
}

}  // namespace

Result<CheckReport> check_qcow2(File& file, Repair repair) {
  std::vector<u8> start(std::min(kHeaderBytes, TRY(file.size())));
  TRY_VOID(file.read(0, start));
  Header header = TRY(parse_header(start, file.path()));
  return Checker(file, std::move(header), repair).run();
}

Result<> mend_dirty(File& file) {
  CheckReport report = TRY(check_qcow2(file, Repair::all));
  if (report.corruptions)
    return fail_hint(fmt::format("look at it with: skerry image check {}", file.path()),
                     "{} was not closed properly and has damage that cannot be mended",
                     file.path());
  return {};
}

}  // namespace skerry::storage

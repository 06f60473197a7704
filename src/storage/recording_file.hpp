// A file in memory for tests and fuzzing, which remembers every change, so that a power cut can be
// played at any of them.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include "storage/file.hpp"

namespace skerry::storage {

class RecordingFile final : public File {
 public:
  struct Op {
    enum class Kind : u8 { write, zero, truncate, flush } kind = Kind::flush;
    u64 offset = 0, length = 0;
    std::vector<u8> data;
  };

  RecordingFile() = default;
  explicit RecordingFile(std::vector<u8> bytes) : bytes_(std::move(bytes)) {}

  const std::string& path() const override { return path_; }
  Result<u64> size() override {
    std::lock_guard guard(mutex_);
    return bytes_.size();
  }
  Result<> readv(u64 offset, std::span<const iovec> to) override {
    std::lock_guard guard(mutex_);
    for (const iovec& part : to) {
      u64 there = offset < bytes_.size() ? std::min<u64>(part.iov_len, bytes_.size() - offset) : 0;
      auto* p = static_cast<u8*>(part.iov_base);
      if (there) std::memcpy(p, &bytes_[offset], there);
      if (there < part.iov_len) std::memset(p + there, 0, part.iov_len - there);
      offset += part.iov_len;
    }
    return {};
  }
  Result<> writev(u64 offset, std::span<const iovec> from) override {
    Op op{Op::Kind::write, offset, 0, {}};
    for (const iovec& part : from) {
      auto* p = static_cast<const u8*>(part.iov_base);
      op.data.insert(op.data.end(), p, p + part.iov_len);
    }
    op.length = op.data.size();
    return change(std::move(op));
  }
  Result<> flush() override { return change({}); }
  Result<> truncate(u64 size) override { return change({Op::Kind::truncate, size, 0, {}}); }
  Result<bool> punch(u64 offset, u64 length) override {
    TRY_VOID(change({Op::Kind::zero, offset, length, {}}));
    return true;
  }
  Result<bool> zero(u64 offset, u64 length) override { return punch(offset, length); }
  Result<u64> next_data(u64 offset) override { return std::min<u64>(offset, bytes_.size()); }
  Result<u64> next_hole(u64) override { return bytes_.size(); }
  Result<u64> allocated() override { return bytes_.size(); }

  const std::vector<u8>& bytes() const { return bytes_; }
  const std::vector<Op>& log() const { return log_; }
  /// Changes fail from then on if they would make the file longer than this.
  u64 most_bytes = 256 * MiB;
  bool recording = true;
  /// Changes from the n-th on fail; 0: none.
  size_t fail_after = 0;

  /// What the file holds after the first `count` changes and a flush of all of them (kill -9: the
  /// host's page cache survives).
  static std::vector<u8> after_kill(std::vector<u8> start, std::span<const Op> log, size_t count) {
    for (size_t i = 0; i < count; ++i) apply(start, log[i], 0, log[i].length);
    return start;
  }
  /// After a power cut: what came before the last flush is there; of the later changes some, in
  /// any order, in pieces of sectors.
  static std::vector<u8> after_power_cut(std::vector<u8> start, std::span<const Op> log,
                                         size_t count, std::mt19937& random) {
    size_t safe = 0;
    for (size_t i = 0; i < count; ++i)
      if (log[i].kind == Op::Kind::flush) safe = i + 1;
    start = after_kill(std::move(start), log, safe);
    struct Piece {
      size_t op;
      u64 from, to;
    };
    std::vector<Piece> pieces;
    for (size_t i = safe; i < count; ++i) {
      const Op& op = log[i];
      u64 at = 0;
      do {
        u64 end = op.kind == Op::Kind::write
                      ? std::min(op.length, (op.offset + at) / 512 * 512 + 512 - op.offset)
                      : op.length;
        pieces.push_back({i, at, end});
        at = end;
      } while (at < op.length);
    }
    // Each piece with a chance that differs from cut to cut; two to one sector keep their order.
    unsigned chance = random() % 101;
    std::vector<Piece> kept;
    for (const Piece& p : pieces)
      if (random() % 100 < chance) kept.push_back(p);
    for (const Piece& p : kept) apply(start, log[p.op], p.from, p.to);
    return start;
  }

 private:
  static void apply(std::vector<u8>& bytes, const Op& op, u64 from, u64 to) {
    switch (op.kind) {
      case Op::Kind::flush: return;
      case Op::Kind::truncate: bytes.resize(op.offset); return;
      case Op::Kind::write:
        if (to > from && bytes.size() < op.offset + to) bytes.resize(op.offset + to);
        if (to > from) std::memcpy(&bytes[op.offset + from], &op.data[from], to - from);
        return;
      case Op::Kind::zero:
        for (u64 i = op.offset; i < op.offset + op.length && i < bytes.size(); ++i) bytes[i] = 0;
    }
  }
  Result<> change(Op op) {
    std::lock_guard guard(mutex_);
    ++changes_;
    if (fail_after && changes_ >= fail_after) return fail("the file is on fire");
    if (op.kind != Op::Kind::zero && (op.offset > most_bytes || op.length > most_bytes - op.offset))
      return fail("the file would become too large");
    apply(bytes_, op, 0, op.length);
    if (recording) log_.push_back(std::move(op));
    return {};
  }

  std::string path_ = "image";
  std::mutex mutex_;
  std::vector<u8> bytes_;
  std::vector<Op> log_;
  size_t changes_ = 0;
};

}  // namespace skerry::storage

#include "storage/compress.hpp"

#include <zlib.h>
#include <zstd.h>

#include <memory>

namespace skerry::storage {

namespace {

// "Raw deflate" with a window of 2^12 (the specification, "Compressed Clusters").
constexpr int kWindowBits = -12;

bool inflate_all(std::span<const u8> from, std::span<u8> to) {
  z_stream z{};
  z.next_in = const_cast<u8*>(from.data());
  z.avail_in = static_cast<uInt>(from.size());
  z.next_out = to.data();
  z.avail_out = static_cast<uInt>(to.size());
  if (::inflateInit2(&z, kWindowBits) != Z_OK) return false;
  int result = ::inflate(&z, Z_FINISH);
  ::inflateEnd(&z);
  return (result == Z_STREAM_END || result == Z_BUF_ERROR) && z.avail_out == 0;
}

size_t deflate_all(std::span<const u8> from, std::span<u8> to) {
  z_stream z{};
  if (::deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kWindowBits, 9, Z_DEFAULT_STRATEGY) !=
      Z_OK)
    return 0;
  z.next_in = const_cast<u8*>(from.data());
  z.avail_in = static_cast<uInt>(from.size());
  z.next_out = to.data();
  z.avail_out = static_cast<uInt>(to.size());
  int result = ::deflate(&z, Z_FINISH);
  ::deflateEnd(&z);
  return result == Z_STREAM_END ? to.size() - z.avail_out : 0;
}

// The compressed bytes are padded to a sector, so the frame's end is found by decompressing.
bool unzstd_all(std::span<const u8> from, std::span<u8> to) {
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(::ZSTD_createDCtx(), &ZSTD_freeDCtx);
  if (!context) return false;
  ZSTD_inBuffer in{from.data(), from.size(), 0};
  ZSTD_outBuffer out{to.data(), to.size(), 0};
  while (out.pos < out.size) {
    size_t before_in = in.pos, before_out = out.pos;
    size_t result = ::ZSTD_decompressStream(context.get(), &out, &in);
    if (::ZSTD_isError(result)) return false;
    if (in.pos == before_in && out.pos == before_out) return false;
  }
  return true;
}

size_t zstd_all(std::span<const u8> from, std::span<u8> to) {
  size_t n = ::ZSTD_compress(to.data(), to.size(), from.data(), from.size(), 3);
  return ::ZSTD_isError(n) ? 0 : n;
}

}  // namespace

bool decompress(qcow2::Compression kind, std::span<const u8> from, std::span<u8> to) {
  return kind == qcow2::Compression::zstd ? unzstd_all(from, to) : inflate_all(from, to);
}

size_t compress(qcow2::Compression kind, std::span<const u8> from, std::span<u8> to) {
  return kind == qcow2::Compression::zstd ? zstd_all(from, to) : deflate_all(from, to);
}

}  // namespace skerry::storage

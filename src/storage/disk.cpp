#include "storage/disk.hpp"

#include <algorithm>
#include <vector>

namespace skerry::storage {

Result<> Disk::read(u64 offset, std::span<u8> to) {
  iovec one{to.data(), to.size()};
  return readv(offset, {&one, 1});
}

Result<> Disk::write(u64 offset, std::span<const u8> from) {
  iovec one{const_cast<u8*>(from.data()), from.size()};
  return writev(offset, {&one, 1});
}

Result<> Disk::check_range(u64 offset, u64 length) const {
  if (offset > size() || length > size() - offset)
    return fail("access past the end of disk {}", path());
  return {};
}

Result<> Disk::write_zeroes(u64 offset, u64 length, bool) {
  std::vector<u8> zeros(std::min<u64>(length, 1 * MiB));
  while (length > 0) {
    u64 step = std::min<u64>(length, zeros.size());
    TRY_VOID(write(offset, std::span(zeros).first(step)));
    offset += step;
    length -= step;
  }
  return {};
}

Result<> Disk::discard(u64, u64) {
  return {};
}

Result<> Disk::resize(u64) {
  return fail("the size of disk {} cannot be changed", path());
}

Result<Disk::Extent> Disk::extent(u64 offset, u64 length) {
  return Extent{.length = length, .at = offset};
}

}  // namespace skerry::storage

#include "devices/fw_cfg.hpp"

#include <algorithm>

#include "base/bits.hpp"
#include "base/log.hpp"

namespace skerry::devices {
namespace {

constexpr u64 kDmaSignature = 0x51454d5520434647;  // "QEMU CFG"
enum DmaControl : u32 { kError = 1, kRead = 2, kSkip = 4, kSelect = 8, kWrite = 16 };
/// Zeros beyond an item's end are for firmware that rounds up, not a way to fill memory.
constexpr u32 kMaxZeros = 64 * KiB;

u16 big(u16 v) {
  return __builtin_bswap16(v);
}
u32 big(u32 v) {
  return __builtin_bswap32(v);
}
u64 big(u64 v) {
  return __builtin_bswap64(v);
}

template <class T>
std::vector<u8> bytes_of(T value) {
  std::vector<u8> bytes(sizeof value);
  store(bytes.data(), value);
  return bytes;
}

}  // namespace

FwCfg::FwCfg(memory::GuestMemory& memory) : memory_(memory) {
  set(signature, {'Q', 'E', 'M', 'U'});
  set_u32(id, 3);  // bit 0: the port interface, bit 1: DMA
  rebuild_directory();
}

void FwCfg::set(u16 key, std::vector<u8> bytes) {
  items_[key] = std::make_shared<const std::vector<u8>>(std::move(bytes));
}
void FwCfg::set_u16(u16 key, u16 value) {
  set(key, bytes_of(value));
}
void FwCfg::set_u32(u16 key, u32 value) {
  set(key, bytes_of(value));
}
void FwCfg::set_u64(u16 key, u64 value) {
  set(key, bytes_of(value));
}
void FwCfg::set_string(u16 key, std::string_view text) {
  std::vector<u8> bytes(text.begin(), text.end());
  bytes.push_back(0);
  set(key, std::move(bytes));
}

Result<> FwCfg::add_file(std::string name, std::vector<u8> bytes) {
  if (name.empty() || name.size() > kMaxName)
    return fail("fw_cfg: the file name '{}' does not have 1 to {} characters", name, kMaxName);
  if (bytes.size() > 0xffffffff) return fail("fw_cfg: the file '{}' is larger than 4 GiB", name);
  auto found = files_.find(name);
  if (found == files_.end()) {
    if (files_.size() >= kMaxFiles) return fail("fw_cfg: more than {} files", kMaxFiles);
    found = files_.emplace(name, static_cast<u16>(first_file + files_.size())).first;
  }
  set(found->second, std::move(bytes));
  rebuild_directory();
  return {};
}

/// {be32 count; {be32 size, be16 key, u16 0, char name[56]} ...}, sorted by name.
void FwCfg::rebuild_directory() {
  std::vector<u8> directory(4 + 64 * files_.size());
  store(directory.data(), big(static_cast<u32>(files_.size())));
  u8* at = directory.data() + 4;
  for (const auto& [name, key] : files_) {
    store(at, big(static_cast<u32>(items_[key]->size())));
    store(at + 4, big(key));
    std::copy(name.begin(), name.end(), at + 8);
    at += 64;
  }
  set(file_directory, std::move(directory));
}

void FwCfg::select(u16 key) {
  s_.key = key;
  s_.offset = 0;
}

const std::vector<u8>* FwCfg::item() const {
  // Bit 14 once meant writing, bit 15 an architecture's own keys, of which x86 firmware needs none
  // here.
  auto found = items_.find(s_.key & 0xbfff);
  return found == items_.end() ? nullptr : found->second.get();
}

u8 FwCfg::next_byte() {
  const auto* bytes = item();
  if (!bytes || s_.offset >= bytes->size()) return 0;
  return (*bytes)[s_.offset++];
}

bool FwCfg::copy_out(u64 to, u32 length) {
  const auto* bytes = item();
  size_t size = bytes ? bytes->size() : 0;
  auto from_item = static_cast<u32>(std::min<u64>(length, size > s_.offset ? size - s_.offset : 0));
  u32 zeros = length - from_item;
  if (zeros > kMaxZeros) return false;
  if (from_item) {
    if (!memory_.write(to, std::span(*bytes).subspan(s_.offset, from_item))) return false;
    s_.offset += from_item;
  }
  return zeros == 0 || memory_.fill(to + from_item, 0, zeros);
}

/// struct {be32 control, length; be64 address}; the control word is cleared when done, or has its
/// error bit set.
void FwCfg::transfer(u64 at) {
  auto control = memory_.read_value<u32>(at);
  auto length = memory_.read_value<u32>(at + 4);
  auto address = memory_.read_value<u64>(at + 8);
  if (!control || !length || !address) return;  // nowhere to tell the error
  u32 want = big(*control), result = 0;
  trace(Trace::io, "fw_cfg: dma control {:#x} length {:#x} to {:#x}", want, big(*length),
        big(*address));
  if (want & kSelect) select(static_cast<u16>(want >> 16));
  if (want & kRead) {
    if (!copy_out(big(*address), big(*length))) result = kError;
  } else if (want & kWrite) {
    result = kError;
  } else if (want & kSkip) {
    const auto* bytes = item();
    u64 end = bytes ? bytes->size() : 0;
    s_.offset = static_cast<u32>(
        std::min<u64>(u64{s_.offset} + big(*length), std::min<u64>(end, 0xffffffff)));
  }
  if (!memory_.write_value(at, big(result))) return;
}

u64 FwCfg::Ports::read(u64 offset, unsigned size) {
  // The data port is one byte wide; wider reads of it give consecutive bytes on the ISA bus.
  if (offset == 0) return size == 1 ? owner_.s_.key & 0xff : owner_.s_.key;
  return offset == 1 ? owner_.next_byte() : 0xff;
}

void FwCfg::Ports::write(u64 offset, unsigned size, u64 value) {
  if (offset == 0 && size == 2) owner_.select(static_cast<u16>(value));
}

u64 FwCfg::Dma::read(u64 offset, unsigned size) {
  u64 bytes = big(kDmaSignature);
  return offset < 8 ? (bytes >> (8 * offset)) & byte_mask(size) : byte_mask(size);
}

void FwCfg::Dma::write(u64 offset, unsigned size, u64 value) {
  if (size == 8 && offset == 0) {
    owner_.s_.dma_high = 0;
    owner_.transfer(big(value));
  } else if (size == 4 && offset == 0) {
    owner_.s_.dma_high = big(static_cast<u32>(value));
  } else if (size == 4 && offset == 4) {
    u64 at = u64{owner_.s_.dma_high} << 32 | big(static_cast<u32>(value));
    owner_.s_.dma_high = 0;
    owner_.transfer(at);
  }
}

}  // namespace skerry::devices

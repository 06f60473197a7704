// A qcow2 image from a stranger: the input is a small valid image with bytes changed, or all of an
// image as it is, and what is then done with it. Opening, reading, writing, checking and mending
// must never crash, hang or take memory without bound.
#include "storage/qcow2.hpp"
#include "fuzz/input.hpp"
#include "storage/memory_disk.hpp"
#include "storage/qcow2_check.hpp"
#include "storage/recording_file.hpp"

namespace skerry::fuzz {
namespace {

using namespace storage;

constexpr u64 kSize = 256 * KiB;

/// One of each kind: plain, with a backing file, compressed; with data in it.
std::vector<u8> good_image(unsigned kind) {
  auto file = std::make_unique<RecordingFile>();
  NewQcow2 wanted{.size = kSize, .cluster_bits = kind & 1 ? 9u : 12u};
  wanted.version = kind & 2 ? 2 : 3;
  wanted.refcount_order = kind & 2 ? 4 : 3 + kind % 4;
  if (kind & 4) wanted.backing_file = "base", wanted.backing_format = "raw";
  if (kind & 8 && wanted.version == 3) wanted.compression = qcow2::Compression::zstd;
  expect(create_qcow2(*file, wanted).has_value(), "an image can be made");
  auto* raw = file.get();
  auto disk = std::move(Qcow2::open(std::move(file), nullptr, {}).value());
  std::vector<u8> data(disk->cluster(), 0x5a);
  (void)disk->write(1024, std::span(data).first(512));
  (void)disk->write(kSize / 2, data);
  if (wanted.refcount_order > 1)
    for (u64 i = 0; i < 3; ++i) (void)disk->write_compressed(kSize / 4 + i * disk->cluster(), data);
  (void)disk->write_zeroes(kSize / 2 + 4096, 8192, false);
  (void)disk->flush();
  return raw->bytes();
}

std::vector<u8> image_from(Input& input) {
  static const auto images = [] {
    std::vector<std::vector<u8>> all;
    for (unsigned kind = 0; kind < 16; ++kind) all.push_back(good_image(kind));
    return all;
  }();
  auto kind = input.take<u8>();
  std::vector<u8> image = images[kind & 15];
  if (kind & 0x80) {
    auto bytes = input.bytes(input.take<u16>());
    image.assign(bytes.begin(), bytes.end());
  }
  for (unsigned n = kind >> 4 & 7; n > 0 && !image.empty(); --n) {
    // The header and the tables are where it matters.
    auto where = input.take<u16>();
    size_t at = where & 0x8000 ? (where & 0x7fff) * 8u % image.size()
                               : where % std::min<size_t>(image.size(), 4608);
    auto bytes = input.bytes(1 + (input.take<u8>() & 15));
    for (size_t i = 0; i < bytes.size() && at + i < image.size(); ++i) image[at + i] = bytes[i];
  }
  if (input.take<u8>() == 1) image.resize(input.take<u16>() % (image.size() + 1));
  return image;
}

void use(Qcow2& disk, Input& input) {
  u64 sectors = disk.size() / kSector;
  std::vector<u8> buffer(16 * KiB);
  for (int step = 0; step < 64 && !input.empty(); ++step) {
    auto what = input.take<u8>();
    u64 sector = (what & 0x80 ? input.take<u64>() : input.take<u16>()) % sectors;
    u64 count = std::min<u64>(1 + (input.take<u8>() & 31), sectors - sector);
    u64 offset = sector * kSector, length = count * kSector;
    auto part = std::span(buffer).first(length);
    switch (what & 15) {
      default: (void)disk.read(offset, part); break;
      case 4:
      case 5:
      case 6: {
        if (disk.readonly()) break;
        std::fill(part.begin(), part.end(), what);
        if (!disk.write(offset, part)) break;
        // Where nothing overlaps it reads back; a corrupt image may answer with an error.
        (void)disk.read(offset, part);
        break;
      }
      case 7: (void)disk.write_zeroes(offset, length, what & 16); break;
      case 8: (void)disk.discard(offset, std::min<u64>(length * 64, disk.size() - offset)); break;
      case 9: (void)disk.flush(); break;
      case 10: (void)disk.extent(offset, length); break;
      case 11:
        (void)disk.resize(offset + kSector);
        sectors = disk.size() / kSector;
        break;
      case 12: (void)disk.drop_all(); break;
      case 13: (void)disk.set_backing(what & 16 ? "other" : "", "raw"); break;
      case 14:
        if (disk.header().version >= 3) (void)disk.hide(offset);
        break;
    }
    if (sectors == 0) return;
  }
}

void one(Input& input) {
  auto flags = input.take<u8>();
  std::vector<u8> image = image_from(input);
  auto file = std::make_unique<RecordingFile>(std::move(image));
  file->recording = false;
  file->most_bytes = 8 * MiB;
  if (flags & 1) (void)check_qcow2(*file, Repair::none);
  if (flags & 2) (void)check_qcow2(*file, flags & 4 ? Repair::all : Repair::leaks);
  if (flags & 8) {
    std::vector<u8> start(std::min<u64>(qcow2::kHeaderBytes, file->bytes().size()));
    (void)file->read(0, start);
    if (auto header = qcow2::parse_header(start, "image")) (void)read_snapshots(*file, *header);
  }
  std::unique_ptr<Disk> backing;
  if (flags & 16) backing = std::make_unique<MemoryDisk>(128 * KiB, true);
  auto* raw = file.get();
  auto opened = Qcow2::open(std::move(file), std::move(backing), {.readonly = bool(flags & 32)});
  if (!opened) {
    expect(!opened.error().message().empty(), "an error says what is wrong");
    return;
  }
  use(**opened, input);
  if (!(flags & 32)) (void)(*opened)->flush();
  (void)check_qcow2(*raw, Repair::none);
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}

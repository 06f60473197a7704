// Random requests to a block device, of which every byte is checked: tests/disk_verify.py runs it
// in guests.
//
// usage: disk_verify DEVICE REQUESTS SEED
// Up to 16 writes, reads, discards, zeroings and flushes of 1 to 256 sectors are under way at once,
// none of which touch the same sectors (O_DIRECT, io_submit(2), and buffers with odd addresses now
// and then). Each sector carries its number, how often it was written, and a CRC of all of it. Ends
// with 0 and "verified", or says what is wrong.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace {

constexpr unsigned kAtOnce = 16, kSector = 512, kMost = 256;
constexpr uint32_t kZero = 0;   // a generation: reads as zeros
constexpr uint32_t kAny = ~0u;  // discarded: reads as anything

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

uint32_t crc32(const uint8_t* data, size_t size) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320 ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t c = ~0u;
  for (size_t i = 0; i < size; ++i) c = table[(c ^ data[i]) & 0xff] ^ (c >> 8);
  return ~c;
}

struct Head {
  uint64_t sector;
  uint32_t generation, crc;
};

void fill(uint8_t* at, uint64_t sector, uint32_t generation) {
  uint64_t x = sector * 0x9e3779b97f4a7c15u + generation;
  for (size_t i = 0; i < kSector; i += 8) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    std::memcpy(at + i, &x, 8);
  }
  Head head{sector, generation, 0};
  std::memcpy(at, &head, sizeof head);
  head.crc = crc32(at, kSector);
  std::memcpy(at, &head, sizeof head);
}

void check(const uint8_t* at, uint64_t sector, uint32_t generation) {
  if (generation == kAny) return;
  uint8_t right[kSector] = {};
  if (generation != kZero) fill(right, sector, generation);
  if (std::memcmp(at, right, kSector) == 0) return;
  Head head;
  std::memcpy(&head, at, sizeof head);
  uint8_t copy[kSector];
  std::memcpy(copy, at, kSector);
  uint32_t crc = head.crc;
  std::memset(copy + offsetof(Head, crc), 0, 4);
  std::printf(
      "WRONG: sector %llu, expected generation %u: it says sector %llu, generation %u, CRC %s\n",
      static_cast<unsigned long long>(sector), generation,
      static_cast<unsigned long long>(head.sector), head.generation,
      crc32(copy, kSector) == crc ? "right" : "wrong");
  std::exit(1);
}

struct Request {
  iocb block{};
  uint8_t* memory = nullptr;
  uint64_t first = 0;
  unsigned count = 0;
  bool busy = false, write = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: disk_verify DEVICE REQUESTS SEED\n"), 2;
  int fd = ::open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
  if (fd < 0) die(argv[1]);
  long requests = std::atol(argv[2]);
  std::mt19937_64 random(std::strtoull(argv[3], nullptr, 10));
  uint64_t bytes = 0;
  if (::ioctl(fd, BLKGETSIZE64, &bytes) < 0) die("BLKGETSIZE64");
  const uint64_t sectors = bytes / kSector;
  std::vector<uint32_t> generations(sectors, kAny);
  std::vector<bool> in_use(sectors);
  aio_context_t context = 0;
  if (::syscall(SYS_io_setup, kAtOnce, &context) < 0) die("io_setup");
  std::array<Request, kAtOnce> all;
  for (Request& r : all)
    if (::posix_memalign(reinterpret_cast<void**>(&r.memory), 4096, (kMost + 1) * kSector))
      die("memory");

  unsigned under_way = 0;
  auto wait = [&](unsigned least) {
    std::array<io_event, kAtOnce> events;
    long n =
        ::syscall(SYS_io_getevents, context, long{least}, long{kAtOnce}, events.data(), nullptr);
    if (n < 0) die("io_getevents");
    for (long i = 0; i < n; ++i) {
      Request& r = all[events[i].data];
      if (events[i].res != static_cast<int64_t>(r.count) * kSector) {
        std::printf("FAILED: %s of %u sectors at %llu: %lld\n", r.write ? "write" : "read", r.count,
                    static_cast<unsigned long long>(r.first),
                    static_cast<long long>(events[i].res));
        std::exit(1);
      }
      const auto* data = reinterpret_cast<const uint8_t*>(r.block.aio_buf);
      for (unsigned k = 0; k < r.count; ++k) {
        if (!r.write) check(data + k * kSector, r.first + k, generations[r.first + k]);
        in_use[r.first + k] = false;
      }
      r.busy = false;
      --under_way;
    }
  };
  auto place = [&](Request& r, unsigned most) {
    for (;;) {
      r.count = 1 + static_cast<unsigned>(random() % most);
      r.first = random() % (sectors - r.count + 1);
      // Half of them in clusters of 4 KiB, as filesystems have it; and near each other now and
      // then.
      if (random() & 1) r.first &= ~uint64_t{7};
      if (random() % 4 == 0) r.first %= sectors / 16;
      bool free = true;
      for (unsigned k = 0; k < r.count; ++k) free &= !in_use[r.first + k];
      if (free) return;
    }
  };
  auto submit = [&](Request& r, bool write) {
    r.write = write;
    r.busy = true;
    uint8_t* at = r.memory + (random() % 4 == 0 ? kSector : 0);
    for (unsigned k = 0; k < r.count; ++k) {
      in_use[r.first + k] = true;
      uint32_t& generation = generations[r.first + k];
      if (write)
        fill(at + k * kSector, r.first + k, generation = generation == kAny ? 1 : generation + 1);
    }
    r.block = {};
    r.block.aio_data = static_cast<uint64_t>(&r - all.data());
    r.block.aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    r.block.aio_fildes = static_cast<uint32_t>(fd);
    r.block.aio_buf = reinterpret_cast<uint64_t>(at);
    r.block.aio_nbytes = r.count * kSector;
    r.block.aio_offset = static_cast<int64_t>(r.first * kSector);
    iocb* one = &r.block;
    if (::syscall(SYS_io_submit, context, 1L, &one) != 1) die("io_submit");
    ++under_way;
  };

  for (long done = 0; done < requests; ++done) {
    while (under_way == kAtOnce) wait(1);
    Request* r = nullptr;
    for (Request& each : all)
      if (!each.busy) r = &each;
    unsigned kind = static_cast<unsigned>(random() % 100);
    if (kind < 90) {
      place(*r, random() % 4 ? 8 : kMost);
      submit(*r, kind < 50);
    } else if (kind < 98) {
      place(*r, kMost);
      uint64_t range[2] = {r->first * kSector, uint64_t{r->count} * kSector};
      bool zero = kind >= 94;
      if (::ioctl(fd, zero ? BLKZEROOUT : BLKDISCARD, range) < 0)
        die(zero ? "BLKZEROOUT" : "BLKDISCARD");
      for (unsigned k = 0; k < r->count; ++k) generations[r->first + k] = zero ? kZero : kAny;
    } else if (::fsync(fd) < 0) {
      die("fsync");
    }
  }
  while (under_way) wait(1);
  for (uint64_t at = 0; at < sectors; at += kMost) {
    Request& r = all[0];
    r.first = at;
    r.count = static_cast<unsigned>(std::min<uint64_t>(kMost, sectors - at));
    submit(r, false);
    wait(1);
  }
  std::printf("verified %s\n", argv[1]);
  return 0;
}

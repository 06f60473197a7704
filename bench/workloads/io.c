// Requests to a disk: a file of /tmp/data, an ext4 in an image that lies in the host's memory. A
// guest has the image as a disk of its own, natively it is a loop device.
//
// rand_*: requests of 4 KiB at random places, past the page cache (O_DIRECT), one at a time (_1) or
// 32 at once (_32). seq_*: through the page cache, which does not have the file when it is read;
// what is written is on the disk at the end (fsync).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

#define NEED(condition)                \
  do                                   \
    if (!(condition)) die(#condition); \
  while (0)

enum { block = 4096, chunk = 1 << 18, ones = 2000, many = 8000, depth = 32 };
static const char path[] = "/tmp/data/io";
static const uint64_t file_size = 256u << 20, seq_size = 128u << 20;
static int file;

static void fill(uint64_t* at, uint64_t first, uint64_t size) {
  for (uint64_t i = 0; i < size / 8; ++i) at[i] = (first + i) * 0x9e3779b97f4a7c15u;
}

// The file is the same before and after every workload: what is written is what was there.
static void prepare(int flags) {
  if (access("/tmp/data", W_OK)) {
    puts("SKIP there is no /tmp/data: natively only root can mount it");
    exit(0);
  }
  file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  NEED(file >= 0);
  off_t size = lseek(file, 0, SEEK_END);
  uint64_t* data = allocate(chunk);
  for (uint64_t at = 0; size < (off_t)file_size && at < file_size; at += chunk) {
    fill(data, at / 8, chunk);
    NEED(pwrite(file, data, chunk, (off_t)at) == chunk);
  }
  free(data);
  NEED(fsync(file) == 0);
  if (!flags) return;
  close(file);
  file = open(path, O_RDWR | O_CLOEXEC | flags);
  if (file < 0 && errno == EINVAL) {
    puts("SKIP its file system has no O_DIRECT");
    exit(0);
  }
  NEED(file >= 0);
}
static uint64_t random_run(int writing, unsigned at_once, unsigned requests) {
  aio_context_t context = 0;
  NEED(syscall(SYS_io_setup, depth, &context) == 0);
  uint64_t* data = aligned_alloc(block, (size_t)block * depth);
  NEED(data);
  static struct iocb slots[depth];
  uint64_t random = 7, sum = 0;
  unsigned begun = 0, done = 0, free_slots[depth], free_count = at_once;
  for (unsigned i = 0; i < at_once; ++i) free_slots[i] = i;
  while (done < requests) {
    struct iocb* batch[depth];
    long n = 0;
    while (free_count && begun < requests) {
      unsigned slot = free_slots[--free_count];
      uint64_t number = random_next(&random) % (file_size / block);
      uint64_t* to = data + slot * (block / 8);
      if (writing) fill(to, number * (block / 8), block);
      slots[slot] = (struct iocb){.aio_data = slot,
                                  .aio_lio_opcode = writing ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                                  .aio_fildes = (uint32_t)file,
                                  .aio_buf = (uint64_t)(uintptr_t)to,
                                  .aio_nbytes = block,
                                  .aio_offset = (int64_t)(number * block)};
      batch[n++] = &slots[slot];
      ++begun;
    }
    if (n) NEED(syscall(SYS_io_submit, context, n, batch) == n);
    struct io_event events[depth];
    long ended = syscall(SYS_io_getevents, context, 1L, (long)depth, events, NULL);
    NEED(ended > 0);
    for (long i = 0; i < ended; ++i) {
      unsigned slot = (unsigned)events[i].data;
      NEED(events[i].res == block);
      const uint64_t* got = data + slot * (block / 8);
      uint64_t first = (uint64_t)slots[slot].aio_offset / 8;
      NEED(got[0] == first * 0x9e3779b97f4a7c15u &&
           got[511] == (first + 511) * 0x9e3779b97f4a7c15u);
      sum += got[0];
      free_slots[free_count++] = slot;
      ++done;
    }
  }
  syscall(SYS_io_destroy, context);
  free(data);
  return sum;
}

static uint64_t rand_read_1(void) {
  return random_run(0, 1, ones);
}
static uint64_t rand_write_1(void) {
  return random_run(1, 1, ones);
}
static uint64_t rand_read_32(void) {
  return random_run(0, depth, many);
}
static uint64_t rand_write_32(void) {
  return random_run(1, depth, many);
}

static uint64_t seq_read(void) {
  uint64_t *data = allocate(chunk), sum = 0;
  NEED(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0);
  for (uint64_t at = 0; at < seq_size; at += chunk) {
    NEED(pread(file, data, chunk, (off_t)at) == chunk);
    sum += data[0] + data[chunk / 8 - 1];
  }
  free(data);
  return sum;
}

static uint64_t seq_write(void) {
  uint64_t* data = allocate(chunk);
  for (uint64_t at = 0; at < seq_size; at += chunk) {
    fill(data, at / 8, chunk);
    NEED(pwrite(file, data, chunk, (off_t)at) == chunk);
  }
  NEED(fsync(file) == 0);
  free(data);
  return seq_size;
}

// Once before anything is timed: guest memory that is touched for the first time, and code that is
// translated, are not what is measured.
#define WORKLOAD(name, flags)        \
  static void prepare_##name(void) { \
    prepare(flags);                  \
    name();                          \
  }
WORKLOAD(rand_read_1, O_DIRECT)
WORKLOAD(rand_write_1, O_DIRECT)
WORKLOAD(rand_read_32, O_DIRECT)
WORKLOAD(rand_write_32, O_DIRECT)
WORKLOAD(seq_read, 0)
WORKLOAD(seq_write, 0)

int main(int argc, char** argv) {
#define ROW(name) \
  { #name, prepare_##name, name }
  static const struct workload table[] = {
      ROW(rand_read_1),   ROW(rand_write_1), ROW(rand_read_32),
      ROW(rand_write_32), ROW(seq_read),     ROW(seq_write),
  };
  return bench_main(argc, argv, table, sizeof table / sizeof *table);
}

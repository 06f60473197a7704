#include "engine/soft/thunk_code.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "base/log.hpp"
#include "engine/soft/assembler.hpp"

namespace skerry::soft {
namespace {

constexpr size_t kArenaSize = 4 * MiB;
constexpr u8 kRdi = 7, kRsi = 6;

// ---- signals
// --------------------------------------------------------------------------------------

// The arenas that exist, for the signal handler: fixed slots, written before the arena is used.
struct Range {
  std::atomic<u64> begin{0}, end{0};
  std::atomic<u64> x87_from{0};  ///< x87 thunks lie above
};
constexpr unsigned kMaxArenas = 1024;
Range g_ranges[kMaxArenas];
struct sigaction g_previous[65];

struct Translated {
  std::atomic<u64> begin{0}, end{0}, gate{0};
};
Translated g_translated[kMaxArenas];

const Translated* find_translated(u64 pc) {
  for (const Translated& t : g_translated)
    if (pc >= t.begin.load(std::memory_order_relaxed) && pc < t.end.load(std::memory_order_relaxed))
      return &t;
  return nullptr;
}

// Offsets of the fixed parts at the start of every arena.
constexpr size_t kHostMxcsrAt = 0, kFpExitAt = 16, kIllegalExitAt = 64, kX87FpExitAt = 112,
                 kPendingExitAt = 160, kFirstThunk = 224;

const Range* find_range(u64 pc) {
  for (const Range& r : g_ranges)
    if (pc >= r.begin.load(std::memory_order_relaxed) && pc < r.end.load(std::memory_order_relaxed))
      return &r;
  return nullptr;
}

void print_and_abort(int signal, u64 pc, u64 address) {
  char text[200];
  int n =
      snprintf(text, sizeof text,
               "skerry: signal %d in a host thunk at %#llx, address %#llx: a bug\ncode:", signal,
               static_cast<unsigned long long>(pc), static_cast<unsigned long long>(address));
  for (unsigned i = 0; i < 16 && n < static_cast<int>(sizeof text) - 4; i++)
    n += snprintf(text + n, sizeof text - static_cast<size_t>(n), " %02x",
                  reinterpret_cast<const u8*>(pc)[i]);
  text[n++] = '\n';
  if (write(2, text, static_cast<size_t>(n)) < 0) {
  }
  abort();
}

// Async-signal-safe: reads only the interrupted context and g_ranges. A thunk has pushed nothing,
// so its stack pointer is as on entry and the exits can return to the caller.
void on_signal(int signal, siginfo_t* info, void* context) {
  auto* uc = static_cast<ucontext_t*>(context);
  u64 pc = static_cast<u64>(uc->uc_mcontext.gregs[REG_RIP]);
  if (const Range* range = find_range(pc)) {
    u64 begin = range->begin.load(std::memory_order_relaxed);
    if (signal == SIGFPE || signal == SIGILL) {
      size_t exit = kFpExitAt;
      if (signal == SIGILL)
        exit = kIllegalExitAt;
      else if (uc->uc_mcontext.gregs[REG_TRAPNO] == 16)
        exit = kPendingExitAt;
      else if (pc >= range->x87_from.load(std::memory_order_relaxed))
        exit = kX87FpExitAt;
      uc->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(begin + exit);
      return;
    }
    print_and_abort(signal, pc, reinterpret_cast<u64>(info->si_addr));
  }
  if (const Translated* t = find_translated(pc)) {
    constexpr greg_t kGeneralProtection = 13;
    if (signal != SIGFPE && uc->uc_mcontext.gregs[REG_TRAPNO] != kGeneralProtection)
      print_and_abort(signal, pc, reinterpret_cast<u64>(info->si_addr));
    const u64 base = static_cast<u64>(uc->uc_mcontext.gregs[REG_RSP]);
    store<u64>(reinterpret_cast<u8*>(base) + at::kScratch, pc);
    store<u64>(reinterpret_cast<u8*>(base) + at::kFaultFlags,
               static_cast<u64>(uc->uc_mcontext.gregs[REG_EFL]));
    uc->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(t->gate.load(std::memory_order_relaxed));
    return;
  }
  const struct sigaction& old = g_previous[signal];
  if (old.sa_flags & SA_SIGINFO) {
    old.sa_sigaction(signal, info, context);
  } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
    old.sa_handler(signal);
  } else {
    ::signal(signal, SIG_DFL);  // the instruction faults again, and now ends the process
  }
}

void install_handlers() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (int signal : {SIGFPE, SIGILL, SIGSEGV, SIGBUS}) {
      struct sigaction action {};
      action.sa_sigaction = on_signal;
      action.sa_flags = SA_SIGINFO | SA_ONSTACK;
      sigemptyset(&action.sa_mask);
      sigaction(signal, &action, &g_previous[signal]);
    }
  });
}

bool host_has_avx() {
  static const bool has = __builtin_cpu_supports("avx");
  return has;
}

}  // namespace

void register_translated_code(u64 begin, u64 size, u64 gate) {
  install_handlers();
  for (Translated& t : g_translated) {
    u64 free = 0;
    if (!t.begin.compare_exchange_strong(free, begin)) continue;
    t.gate.store(gate);
    t.end.store(begin + size);
    return;
  }
  SKERRY_CHECK(false, "too many vCPUs with translated code in one process");
}

void unregister_translated_code(u64 begin) {
  for (Translated& t : g_translated)
    if (t.begin.load() == begin) {
      t.end.store(0);
      t.begin.store(0);
    }
}

// ---- emitter
// ----------------------------------------------------------------------------------------

void Emitter::dword(u32 v) {
  for (int i = 0; i < 4; i++) byte(static_cast<u8>(v >> (8 * i)));
}

void Emitter::operand(u8 reg, u8 base, i32 disp) {
  byte(static_cast<u8>(0x80 | (reg & 7) << 3 | base));
  dword(static_cast<u32>(disp));
}

void Emitter::load_gpr(u8 host, u8 guest) {
  byte(static_cast<u8>(0x48 | (host >> 3) << 2));
  byte(0x8b);
  operand(host, kRdi, 8 * guest);
}
void Emitter::store_gpr(u8 host, u8 guest) {
  byte(static_cast<u8>(0x48 | (host >> 3) << 2));
  byte(0x89);
  operand(host, kRdi, 8 * guest);
}
void Emitter::load_xmm(u8 n) {
  if (n >= 8) byte(0x44);
  bytes({0x0f, 0x10});
  operand(n, kRsi, area::kXmm + 16 * n);
}
void Emitter::store_xmm(u8 n) {
  if (n >= 8) byte(0x44);
  bytes({0x0f, 0x11});
  operand(n, kRsi, area::kXmm + 16 * n);
}

// SDM 2A 2.3.5: three-byte VEX, base RSI.
void Emitter::vex(u8 map, u8 pp, bool w, u8 vvvv, bool l, u8 reg, u8 opcode, i32 disp) {
  bytes({0xc4, static_cast<u8>((reg & 8 ? 0 : 0x80) | 0x60 | map),
         static_cast<u8>(w << 7 | (~vvvv & 15) << 3 | l << 2 | pp), opcode});
  operand(reg, kRsi, disp);
}
// SDM 2A 2.7.1: 512-bit EVEX, unmasked, base RSI.
void Emitter::evex(u8 map, u8 pp, bool w, u8 vvvv, u8 reg, u8 opcode, i32 disp) {
  bytes({0x62, static_cast<u8>((reg & 8 ? 0 : 0x80) | 0x60 | (reg & 16 ? 0 : 0x10) | map),
         static_cast<u8>(w << 7 | (~vvvv & 15) << 3 | 4 | pp),
         static_cast<u8>(0x40 | (vvvv & 16 ? 0 : 8)), opcode});
  operand(reg, kRsi, disp);
}

void Emitter::load_vector(u8 n, unsigned size) {
  if (n >= 16) {
    evex(1, 0, false, 0, n, 0x10, area::kHi16 + 64 * (n - 16));  // vmovups zmm
    return;
  }
  vex(1, 0, false, 0, false, n, 0x10, area::kXmm + 16 * n);  // vmovups xmm
  if (size > 16) {                                           // vinsertf128
    vex(3, 1, false, n, true, n, 0x18, area::kYmm + 16 * n);
    byte(1);
  }
  if (size > 32) {  // vinsertf64x4
    evex(3, 1, true, n, n, 0x1a, area::kZmmHigh + 32 * n);
    byte(1);
  }
}

void Emitter::store_vector(u8 n, bool host_avx512) {
  if (n >= 16) {
    evex(1, 0, false, 0, n, 0x11, area::kHi16 + 64 * (n - 16));
    return;
  }
  vex(1, 0, false, 0, false, n, 0x11, area::kXmm + 16 * n);
  vex(3, 1, false, 0, true, n, 0x19, area::kYmm + 16 * n);  // vextractf128
  byte(1);
  if (host_avx512) {  // vextractf64x4
    evex(3, 1, true, 0, n, 0x1b, area::kZmmHigh + 32 * n);
    byte(1);
  }
}

void Emitter::load_mask(u8 n, bool wide) {
  vex(1, 0, wide, 0, false, n, 0x90, area::kOpmask + 8 * n);
}
void Emitter::store_mask(u8 n, bool wide) {
  vex(1, 0, wide, 0, false, n, 0x91, area::kOpmask + 8 * n);
}

// ---- arena
// -----------------------------------------------------------------------------------------

CodeArena* CodeArena::of_this_thread() {
  thread_local std::unique_ptr<CodeArena> arena = []() -> std::unique_ptr<CodeArena> {
    auto made = std::unique_ptr<CodeArena>(new CodeArena);
    if (!made->map()) return nullptr;
    install_handlers();
    return made;
  }();
  return arena.get();
}

bool CodeArena::map() {
  int fd = memfd_create("skerry-thunks", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, kArenaSize) < 0) {
    log_warn(fmt::format("no memory for host thunks: {}", strerror(errno)));
    if (fd >= 0) close(fd);
    return false;
  }
  void* w = mmap(nullptr, kArenaSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  void* r = mmap(nullptr, kArenaSize, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
  int error = errno;
  close(fd);
  if (w == MAP_FAILED || r == MAP_FAILED) {
    if (w != MAP_FAILED) munmap(w, kArenaSize);
    if (r != MAP_FAILED) munmap(r, kArenaSize);
    log_warn(fmt::format("no executable memory for host thunks: {}", strerror(error)));
    return false;
  }
  write_ = static_cast<u8*>(w);
  run_ = static_cast<u8*>(r);
  for (Range& range : g_ranges) {
    u64 none = 0;
    if (range.begin.compare_exchange_strong(none, reinterpret_cast<u64>(run_))) {
      published_x87_from_ = &range.x87_from;
      flush();
      range.end = reinterpret_cast<u64>(run_) + kArenaSize;
      return true;
    }
  }
  log_warn("too many threads with host thunks");
  return false;
}

CodeArena::~CodeArena() {
  if (!write_) return;
  for (Range& range : g_ranges) {
    if (range.begin == reinterpret_cast<u64>(run_)) {
      range.end = 0;
      range.begin = 0;
    }
  }
  munmap(write_, kArenaSize);
  munmap(run_, kArenaSize);
}

void CodeArena::flush() {
  static std::atomic<u64> generations{0};
  generation_ = ++generations;
  // The exits: MXCSR to the guest's state (an unmasked exception has set its flags), the host's
  // state back, and the reason.
  auto put_exit = [&](size_t at, u64 reason) {
    Emitter e;
    // The change to MMX state comes before the exception of CVTPS2PI and its kin.
    if (at == kX87FpExitAt) e.fxsave();
    if (at == kFpExitAt) e.store_mxcsr();
    e.fninit();
    e.bytes({0x0f, 0xae, 0x15});  // ldmxcsr [rip + ...]
    e.dword(static_cast<u32>(kHostMxcsrAt - (at + e.size() + 4)));
    if (host_has_avx()) e.vzeroupper();
    e.bytes({0x48, 0xb8});  // mov rax, reason
    e.dword(static_cast<u32>(reason));
    e.dword(static_cast<u32>(reason >> 32));
    e.byte(0xc3);
    std::memcpy(write_ + at, e.code().data(), e.size());
  };
  store(write_ + kHostMxcsrAt, kHostMxcsr);
  put_exit(kFpExitAt, kThunkFpException);
  put_exit(kX87FpExitAt, kThunkFpException);
  put_exit(kPendingExitAt, kThunkX87Exception);
  put_exit(kIllegalExitAt, kThunkIllegal);
  used_ = kFirstThunk;
  x87_from_ = kArenaSize;
  *published_x87_from_ = reinterpret_cast<u64>(run_) + x87_from_;
}

ThunkCode CodeArena::add(const Emitter& code, bool mxcsr, bool x87) {
  size_t size = align_up(code.size() + 16, 32);
  if (used_ + size > x87_from_) return nullptr;
  size_t at = x87 ? x87_from_ -= size : used_;
  if (x87)
    *published_x87_from_ = reinterpret_cast<u64>(run_) + at;
  else
    used_ += size;
  std::memcpy(write_ + at, code.code().data(), code.size());
  Emitter tail;
  if (mxcsr || x87) {
    tail.bytes({0x0f, 0xae, 0x15});
    tail.dword(static_cast<u32>(kHostMxcsrAt - (at + code.size() + tail.size() + 4)));
  }
  tail.byte(0xc3);
  std::memcpy(write_ + at + code.size(), tail.code().data(), tail.size());
  return reinterpret_cast<ThunkCode>(run_ + at);
}

}  // namespace skerry::soft

#include "oracle/native.hpp"

#include <cpuid.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/bits.hpp"

namespace skerry::oracle {
namespace {

constexpr u64 kStub = 0x6001'0000, kExchange = 0x6002'0000;
constexpr u32 kHostArea = 8192;  ///< room for the host's XSAVE area

/// What the stub works on, at kExchange.
struct Exchange {
  Registers in, out;
  u64 host_rsp = 0;
  u64 cs = 0x33, ss = 0x2b;
  u32 host_mxcsr = 0x1f80;
  u32 trap = kNoFault, error = 0;
  u64 cr2 = 0;
  alignas(64) u8 xsave_in[kHostArea];
  alignas(64) u8 xsave_out[kHostArea];
};
constexpr u64 kExchangeSize = (sizeof(Exchange) + kPage - 1) & ~(kPage - 1);
Exchange& exchange() {
  return *reinterpret_cast<Exchange*>(kExchange);
}

u64 g_resume;  ///< where the stub goes on after a signal
u32 g_area_size;

/// Writes the stub; see the head of native.hpp. Nothing between loading and storing the registers
/// may touch one: addresses are RIP-relative, the flags travel with IRETQ.
class StubWriter {
 public:
  u8* p = reinterpret_cast<u8*>(kStub);
  void bytes(std::initializer_list<int> list) {
    for (int b : list) *p++ = static_cast<u8>(b);
  }
  void relative(const void* to, int after = 0) {
    i64 d = reinterpret_cast<i64>(to) - reinterpret_cast<i64>(p + 4 + after);
    store<i32>(p, static_cast<i32>(d));
    p += 4;
  }
  void move(bool to_memory, int reg, const u64* at) {
    bytes({reg >= 8 ? 0x4c : 0x48, to_memory ? 0x89 : 0x8b, 0x05 | (reg & 7) << 3});
    relative(at);
  }
  void push(const u64* at) {
    bytes({0xff, 0x35});
    relative(at);
  }
  /// x87, SSE, AVX, AVX-512; not AMX, which needs permission.
  void components() { bytes({0xb8, 0xe7, 0, 0, 0, 0xba, 0, 0, 0, 0}); }
  void clean() {
    bytes({0xfc, 0xdb, 0xe3, 0x0f, 0xae, 0x15});  // cld; fninit; ldmxcsr
    relative(&exchange().host_mxcsr);
    if (__builtin_cpu_supports("avx")) bytes({0xc5, 0xf8, 0x77});
    bytes({0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5b, 0x5d, 0xc3});
  }
};

using Stub = void (*)();
Stub g_stub;
const u8* g_epilogue;

void write_stub() {
  Exchange& x = exchange();
  StubWriter w;
  g_stub = reinterpret_cast<Stub>(w.p);
  w.bytes({0x55, 0x53, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57});
  w.move(true, 4, &x.host_rsp);
  w.components();
  w.bytes({0x48, 0x0f, 0xae, 0x2d});  // xrstor64
  w.relative(x.xsave_in);
  w.push(&x.ss);
  w.push(&x.in.gpr[4]);
  w.push(&x.in.rflags);
  w.push(&x.cs);
  w.push(&x.in.rip);
  for (int r = 0; r < 16; r++)
    if (r != 4) w.move(false, r, &x.in.gpr[static_cast<size_t>(r)]);
  w.bytes({0x48, 0xcf});  // iretq
  g_epilogue = w.p;
  for (int r = 0; r < 16; r++) w.move(true, r, &x.out.gpr[static_cast<size_t>(r)]);
  w.move(false, 4, &x.host_rsp);
  w.bytes({0x9c, 0x8f, 0x05});  // pushfq; pop
  w.relative(&x.out.rflags);
  w.components();
  w.bytes({0x48, 0x0f, 0xae, 0x25});  // xsave64
  w.relative(x.xsave_out);
  w.clean();
  g_resume = reinterpret_cast<u64>(w.p);
  w.move(false, 4, &x.host_rsp);
  w.clean();
}

void write_landings(u8* code_alias) {
  for (u64 at : {kNearLanding, kFarLanding}) {
    u8* p = code_alias + (at - kCode);
    auto put32 = [&](u64 target, u64 end) {
      store<i32>(p, static_cast<i32>(target - end));
      p += 4;
    };
    *p++ = 0xc7, *p++ = 0x05;  // mov dword [out.rip], at
    put32(reinterpret_cast<u64>(&exchange().out.rip), at + 10);
    store<u32>(p, static_cast<u32>(at));
    p += 4;
    *p++ = 0xe9;
    put32(reinterpret_cast<u64>(g_epilogue), at + 15);
  }
}

void on_fault(int, siginfo_t*, void* context) {
  auto* uc = static_cast<ucontext_t*>(context);
  greg_t* g = uc->uc_mcontext.gregs;
  static constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                     REG_R12, REG_R13, REG_R14, REG_R15};
  Exchange& x = exchange();
  for (size_t i = 0; i < 16; i++) x.out.gpr[i] = static_cast<u64>(g[kOrder[i]]);
  x.out.rip = static_cast<u64>(g[REG_RIP]);
  x.out.rflags = static_cast<u64>(g[REG_EFL]);
  x.trap = static_cast<u32>(g[REG_TRAPNO]);
  x.error = static_cast<u32>(g[REG_ERR]);
  x.cr2 = static_cast<u64>(g[REG_CR2]);
  std::memcpy(x.xsave_out, uc->uc_mcontext.fpregs, g_area_size);
  g[REG_RIP] = static_cast<greg_t>(g_resume);
}

}  // namespace

// ---- layout
// -----------------------------------------------------------------------------------------

namespace {
struct OurComponent {
  u32 offset, size;
};
constexpr OurComponent kOurs[8] = {{}, {},         {576, 256},  {},
                                   {}, {1088, 64}, {1152, 512}, {1664, 1024}};
}  // namespace

Layout::Layout() {
  u32 a, b, c, d;
  __cpuid(1, a, b, c, d);
  if (!(c & 1u << 27)) return;
  u32 low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  xcr0_ = (static_cast<u64>(high) << 32 | low) & 0xe7;
  size_ = 576;
  for (u32 i = 2; i < 8; i++) {
    if (!(xcr0_ >> i & 1)) continue;
    __cpuid_count(0xd, i, a, b, c, d);
    offset_[i] = b;
    size_ = std::max(size_, a + b);
  }
}

void Layout::to_host(const u8* ours, u8* host) const {
  std::memcpy(host, ours, 512);
  std::memset(host + 512, 0, 64);
  store<u64>(host + 512, xcr0_);
  for (u32 i = 2; i < 8; i++)
    if (offset_[i]) std::memcpy(host + offset_[i], ours + kOurs[i].offset, kOurs[i].size);
}

void Layout::from_host(const u8* host, u8* ours) const {
  u64 present = load<u64>(host + 512);
  std::memset(ours, 0, machine::kXsaveSize);
  std::memcpy(ours, host, 416);
  if (!(present & 1)) {
    std::memset(ours, 0, 24);
    store<u16>(ours, 0x37f);
    std::memset(ours + 32, 0, 128);
  }
  if (!(present & 2)) std::memset(ours + 160, 0, 256);
  for (u32 i = 2; i < 8; i++)
    if (offset_[i] && present >> i & 1)
      std::memcpy(ours + kOurs[i].offset, host + offset_[i], kOurs[i].size);
}

// ---- the child
// --------------------------------------------------------------------------------------

struct Native::Job {
  u8 code[16];
  u32 length;
  Registers in, out;
  u32 trap, error;
  u64 cr2;
  alignas(64) u8 xsave_in[kHostArea];
  u8 xsave_out[kHostArea];
  u8 data[kDataSize];
};

struct Native::Shared {
  volatile u32 count, current;
  Layout layout;
  Job jobs[kBatch];
};

Result<std::unique_ptr<Native>> Native::create() {
  std::unique_ptr<Native> n(new Native);
  TRY_VOID(n->map());
  TRY_VOID(n->start_child());
  return n;
}

Native::~Native() {
  stop_child();
}

Result<> Native::map() {
  Layout layout;
  if (!layout.xcr0() || layout.size() > kHostArea) return fail("the host has no usable XSAVE");
  g_area_size = layout.size();
  auto fixed = [](u64 at, u64 size, int protection, int fd) {
    void* p = mmap(reinterpret_cast<void*>(at), size, protection,
                   MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED), fd, 0);
    return p == reinterpret_cast<void*>(at);
  };
  int code = memfd_create("oracle-code", MFD_CLOEXEC);
  if (code < 0 || ftruncate(code, kPage) < 0) return fail_errno("memfd for code");
  bool ok = fixed(kCode, kPage, PROT_READ | PROT_EXEC, code) &&
            fixed(kStub, kPage, PROT_READ | PROT_WRITE | PROT_EXEC, -1) &&
            fixed(kExchange, kExchangeSize, PROT_READ | PROT_WRITE, -1) &&
            fixed(kReadOnly, kPage, PROT_READ, -1) &&
            fixed(kData, kDataSize, PROT_READ | PROT_WRITE, -1);
  void* alias = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
  close(code);
  void* shared =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (!ok || alias == MAP_FAILED || shared == MAP_FAILED)
    return fail_errno("mapping the low addresses 0x60000000-0x61004000");
  code_alias_ = static_cast<u8*>(alias);
  shared_ = new (shared) Shared{};
  new (&exchange()) Exchange;
  write_stub();
  write_landings(code_alias_);
  return {};
}

Result<> Native::start_child() {
  int to[2], from[2];
  if (pipe(to) < 0 || pipe(from) < 0) return fail_errno("pipe");
  child_ = fork();
  if (child_ < 0) return fail_errno("fork");
  if (child_ == 0) {
    close(to[1]), close(from[0]);
    child_main(to[0], from[1]);
  }
  close(to[0]), close(from[1]);
  commands_ = to[1], answers_ = from[0];
  char ready = 0;
  if (read(answers_, &ready, 1) != 1) {
    stop_child();
    return fail("the sandboxed child did not start: seccomp is not allowed here");
  }
  return {};
}

void Native::stop_child() {
  if (child_ < 0) return;
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, 0);
  close(commands_), close(answers_);
  child_ = -1;
}

void Native::child_main(int commands, int answers) {
  static u8 signal_stack[65536];
  stack_t stack{};
  stack.ss_sp = signal_stack;
  stack.ss_size = sizeof signal_stack;
  sigaltstack(&stack, nullptr);
  for (int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(s, &action, nullptr);
  }
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) < 0) _exit(1);
  char byte = 1;
  if (write(answers, &byte, 1) != 1) syscall(SYS_exit, 1);
  Exchange& x = exchange();
  // Present from the start, so that error codes tell "read-only" from "not there".
  for (u64 at : {kReadOnly, kData, kData + kPage}) *reinterpret_cast<volatile u8*>(at);
  while (read(commands, &byte, 1) == 1) {
    for (u32 i = shared_->current; i < shared_->count; i++) {
      shared_->current = i;
      Job& job = shared_->jobs[i];
      std::memcpy(reinterpret_cast<void*>(kData), job.data, kDataSize);
      u8* p = code_alias_ + (kInsnAt - kCode);
      std::memcpy(p, job.code, job.length);
      p[job.length] = 0xe9;
      u64 after = kInsnAt + job.length + 5;
      store<i32>(p + job.length + 1, static_cast<i32>(reinterpret_cast<u64>(g_epilogue) - after));
      x.in = job.in;
      x.out = job.in;
      x.out.rip = kInsnAt + job.length;
      x.trap = kNoFault;
      x.error = 0;
      std::memcpy(x.xsave_in, job.xsave_in, g_area_size);
      g_stub();
      job.out = x.out;
      job.trap = x.trap;
      job.error = x.error;
      job.cr2 = x.cr2;
      std::memcpy(job.xsave_out, x.xsave_out, g_area_size);
      std::memcpy(job.data, reinterpret_cast<void*>(kData), kDataSize);
    }
    shared_->current = shared_->count;
    if (write(answers, &byte, 1) != 1) break;
  }
  syscall(SYS_exit, 0);
  __builtin_unreachable();
}

void Native::run(std::span<const Case> cases, std::span<Outcome> outcomes) {
  Shared& s = *shared_;
  for (size_t i = 0; i < cases.size(); i++) {
    Job& job = s.jobs[i];
    std::memcpy(job.code, cases[i].code, 16);
    job.length = cases[i].insn.length;
    job.in = cases[i].in.regs;
    s.layout.to_host(cases[i].in.xsave.data(), job.xsave_in);
    std::memcpy(job.data, cases[i].data.data(), kDataSize);
    job.trap = kNotRun;
  }
  s.count = static_cast<u32>(cases.size());
  s.current = 0;
  while (s.current < s.count) {
    u8 lost = 0;
    char byte = 1;
    pollfd p{answers_, POLLIN, 0};
    if (write(commands_, &byte, 1) != 1) {
      lost = kHostDied;
    } else if (poll(&p, 1, 3000) == 0) {
      lost = kHostHung;
    } else if (read(answers_, &byte, 1) != 1) {
      lost = kHostDied;
    }
    if (!lost) break;
    s.jobs[s.current].trap = lost;
    s.current = s.current + 1;
    stop_child();
    restarts_++;
    auto restarted = start_child();
    SKERRY_CHECK(restarted, "the child cannot be started again");
  }
  for (size_t i = 0; i < cases.size(); i++) {
    const Job& job = s.jobs[i];
    Outcome& o = outcomes[i];
    o.state.regs = job.out;
    s.layout.from_host(job.xsave_out, o.state.xsave.data());
    o.vector = static_cast<u8>(job.trap);
    o.error = job.error;
    o.address = job.cr2;
    std::memcpy(o.data.data(), job.data, kDataSize);
  }
}

}  // namespace skerry::oracle

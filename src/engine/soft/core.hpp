// Core: the rest of a software vCPU, which instruction handlers seldom need: physical memory, MMU
// state, the I/O log, decoded blocks, debug state, its LAPIC and its siblings.
//
// One Core per vCPU, owned by its thread. Other threads touch only Cpu::attention and the members
// marked "any thread".
#pragma once

#include <mutex>
#include <vector>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "engine/soft/access.hpp"
#include "engine/soft/block.hpp"
#include "engine/soft/pv.hpp"
#include "isa/feature.hpp"
#include "machine/engine.hpp"

namespace skerry::soft {

/// Bits of Cpu::attention.
enum Attention : u32 {
  kInterrupt = 1,  ///< look at the LAPIC
  kKick = 2,       ///< return Interrupted
  kNmi = 4,        ///< an NMI was injected
  kFlush = 8,      ///< other threads want write TLB entries gone
  kCareful = 16,   ///< one instruction at a time: TF, breakpoints, interrupt shadow, replay
  kCode = 32,      ///< pages that code was translated from were written
  kTimer = 64,     ///< the time of the LAPIC timer has come
};

class Jit;

/// What the vCPUs of one machine share.
struct Shared {
  machine::EngineSetup setup;
  std::vector<memory::Slot> slots;
  u64 physical_mask = 0;  ///< bits of a guest-physical address that exist (CPUID 0x80000008)
  isa::FeatureSet features = isa::FeatureSet::all();  ///< what the guest's CPUID allows
  std::mutex watch_mutex;                             ///< held while a page becomes a code page
  std::mutex mutex;                                   ///< guards `cores`
  std::vector<Cpu::Core*> cores;                      ///< any thread, with `mutex`

  /// One line of guest time for all vCPUs' kvmclock pages (kvmclock.cpp).
  std::mutex kvmclock_mutex;  ///< guards the three
  u64 kvmclock_tsc = 0;       ///< Clock::ticks() ...
  Nanos kvmclock_now = -1;    ///< ... and the Clock at one moment; -1: none yet
  u32 kvmclock_line = 0;      ///< changes when the line does (the machine was paused)

  struct Doorbell {
    memory::Gpa at;
    u32 size;
    int eventfd;
  };
  std::mutex doorbell_mutex;  ///< guards `doorbells`
  std::vector<Doorbell> doorbells;
  std::atomic<bool> any_doorbell{false};
  /// A store to a doorbell: signalled, nothing else to do.
  bool ring(memory::Gpa at, u32 size);

  /// Makes every vCPU but `self` drop its write entries for this host page (0: all of them), and
  /// waits until none of them can use one any more. Any thread; `self` may be null.
  void flush_writes(Cpu::Core* self, u64 host_page);
  /// The same at the next block of each vCPU, `self` too, and without waiting.
  void post_flush_writes(u64 host_page);
  /// Tells every vCPU that code in this page of the memfd was written. Any thread.
  void code_written(u64 page);
};

/// One access to a device that an unfinished instruction has made (see cpu.hpp).
struct IoEntry {
  u64 at;
  u64 value;
  u8 size;
  bool write, port;
};

/// The outcome of a page walk.
struct Walk {
  u64 gpa = 0;
  unsigned shift = 12;  ///< of the page
  bool writable = true, user = true, execute = true, global = false, dirty = true;
};

struct Cpu::Core {
  Core(Cpu& cpu, Shared& shared, unsigned index, machine::LocalApic* lapic);
  ~Core();

  Cpu& cpu;
  Shared& shared;
  const unsigned index;
  machine::LocalApic* const lapic;  ///< may be null in tests
  memory::GuestMemory& memory;

  // ---- physical memory (physical.cpp)
  struct Page {
    u8* host = nullptr;  ///< null: no memory there
    u64 offset = 0;      ///< in the memfd
    bool writable = false;
  };
  Page page(u64 gpa) const;
  bool device_access(u64 at, u8 size, bool write, bool port, u64& value);
  u64 read_physical(u64 gpa, u32 size) const;  ///< all ones outside memory
  bool write_physical(u64 gpa, const void* from, u32 size);

  std::vector<IoEntry> io_log;
  u32 io_next = 0;

  // ---- page tables (walk.cpp)
  std::array<u64, 4> pdptr{};  ///< PAE, as loaded by MOV CR3
  /// Loads pdptr; false if a reserved bit is set (#GP).
  bool load_pdptrs(u64 cr3);
  enum class Use : u8 { read, write, execute };
  /// A walk has used this page as a table: from the next block on no vCPU's store there is unseen.
  void trace_table(const Page& p) {
    if (p.host && memory.dirty().covers(p.offset) && memory.dirty().table_walked(p.offset))
      shared.post_flush_writes(reinterpret_cast<u64>(p.host));
  }
  /// Translates; sets accessed and dirty bits if `touch`. False: `error` is the #PF code.
  bool walk(u64 linear, Use use, bool user, bool system, bool touch, Walk& out, u32& error);

  // ---- MMU (mmu.cpp)
  bool translate(u64 linear, bool write, bool system, Access::Piece& out);
  /// Guest-physical address of an instruction byte; fills the fetch TLB. False: fault recorded.
  bool translate_code(u64 linear, u64& gpa);
  bool watched(u64 linear_page) const;
  bool any_watched() const { return (cpu.s.dr7 & 0xff) || !debug.watches.empty(); }
  void check_watches(u64 linear, u32 size, bool write);

  // ---- code (block.cpp)
  BlockCache blocks;

  bool vectors_touched = true;  ///< s.xsave may have been written while no translated code ran
  /// Translated code; null where the interpreter alone runs.
  std::unique_ptr<Jit> jit;
  std::mutex code_mutex;
  std::vector<u64> code_pages;  ///< with code_mutex: pages of the memfd whose code was written
  std::atomic<bool> code_posted{false};
  void post_code(u64 page);  ///< any thread
  void serve_code() {
    if (code_posted.load(std::memory_order_acquire)) serve_posted_code();
  }
  void serve_posted_code();

  // ---- a host timer for the LAPIC's, while translated code runs (host_timer.cpp)
  /// After the LAPIC's timer may have changed.
  void timer_changed() {
    if (jit && !deterministic()) set_host_timer();
  }
  void set_host_timer();
  void delete_host_timer();
  struct HostTimer {
    void* id = nullptr;  ///< timer_t
    int thread = 0;      ///< 0: none yet
    Nanos deadline = -1;
  } host_timer;

  // ---- the run loop (interpreter.cpp)
  machine::Exit run();
  /// Executes instructions from `block` on until something other than code wants attention.
  void run_blocks(Block* block);
  /// One instruction with everything looked at: traps, breakpoints, shadows, replay. True: `out`
  /// leaves.
  bool step_carefully(machine::Exit& out);
  bool attend(machine::Exit& out);
  void poll_timer();
  void forget();               ///< the I/O log of a finished instruction
  void log_access(u64 value);  ///< the device access of cpu.exit is done
  void trace_instruction(const Op& op);
  u32 budget = 0;  ///< blocks until the timer is looked at again

  // ---- exceptions and interrupts (exceptions.cpp)
  enum class Kind : u8 { external, nmi, fault, trap, software, int3, into, int1 };
  /// Delivers through IDT or IVT, with faults that happen meanwhile; false: triple fault.
  [[nodiscard]] bool deliver(u8 vector, Kind kind, bool has_error, u32 error, u64 return_rip);
  void deliver_traps();                ///< #DB for trap_bits
  [[nodiscard]] bool deliver_fault();  ///< cpu.fault, at cpu.rip
  bool deliver_once(u8 vector, Kind kind, bool has_error, u32 error, u64 return_rip);
  bool deliver_real(u8 vector, u64 return_rip);
  bool deliver_protected(u8 vector, Kind kind, bool has_error, u32 error, u64 return_rip);
  bool deliver_long(u8 vector, Kind kind, bool has_error, u32 error, u64 return_rip);
  bool delivering = false;  ///< device accesses cannot leave now
  bool shutdown = false;    ///< triple fault

  // ---- interrupts and debugging (events.cpp)
  u64 trap_bits = 0;  ///< DR6 bits of #DB traps due after the current instruction
  machine::DebugRequest debug;
  u64 debug_hit = 0;  ///< watchpoint address that hit
  bool debug_stop = false;
  bool careful() const;
  void update_careful();              ///< sets or clears kCareful
  std::atomic<bool> nmi_line{false};  ///< any thread
  bool interrupt_waiting = false;     ///< the LAPIC has one, but IF is 0
  /// Call after IF may have become 1.
  void interrupts_enabled() {
    if (interrupt_waiting) cpu.attention.fetch_or(kInterrupt, std::memory_order_relaxed);
  }
  u64 resume_rip = ~u64{0};      ///< breakpoints do not hit here once: the debugger has seen it
  bool mid_instruction = false;  ///< an exit was returned from the middle of one
  bool answered = false;

  // ---- other threads' requests
  std::atomic<bool> running{false};  ///< inside run()
  std::atomic<u64> flush_posted{0}, flush_done{0};
  std::mutex flush_mutex;
  std::vector<u64> flush_pages;  ///< host pages, 0 for all; with flush_mutex
  /// Any thread. It is served when flush_done has reached what this returns.
  u64 post_flush(u64 host_page);
  void serve_flush();

  // ---- time
  u64 tsc_offset = 0;  ///< guest TSC = Clock::ticks() + this
  u64 ticks() const { return shared.setup.clock ? shared.setup.clock->ticks() : host_tsc(); }
  u64 guest_tsc() const { return ticks() + tsc_offset; }

  Pv pv{cpu};                ///< KVM's paravirtual interfaces
  u32 kvmclock_line = 0;     ///< the Shared line that this vCPU's page follows
  bool clock_check = false;  ///< the machine may have been paused or loaded: run() must begin with
                             ///< check_clock()
  void check_clock();

  u64 instructions = 0;
  u64 deliveries = 0;  ///< exceptions and interrupts delivered, without INT n and its kin
  u32 pauses = 0;

  // ---- deterministic execution (deterministic.hpp): run() stops at a place of the program instead
  // of at a time
  static constexpr u64 kNoStop = ~u64{0};
  u64 stop_at = kNoStop;      ///< run() returns Interrupted when position() is this or more
  bool single_block = false;  ///< and after each block
  bool deterministic() const { return stop_at != kNoStop; }
  /// Where the vCPU is in its execution: grows with every instruction that ends (a repeated string
  /// instruction with its last element) and every exception or interrupt that is delivered.
  u64 position() const { return instructions + deliveries; }
  /// A repeated string instruction gave way: nothing stops in its middle.
  bool mid_repeat = false;
  /// Whether run(), which began at `start`, is to return now.
  bool at_stop(u64 start) {
    if (mid_instruction || std::exchange(mid_repeat, false)) return false;
    return position() >= stop_at || (single_block && position() != start);
  }
  /// run_blocks(), but not beyond stop_at.
  void run_to_stop(Block* block);
};

}  // namespace skerry::soft

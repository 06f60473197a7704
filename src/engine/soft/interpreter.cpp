// The run loop. Blocks run back to back; between them only one word (Cpu::attention) and a budget
// are looked at. Everything that needs a look at every instruction (single-step, breakpoints,
// interrupt shadows, RF, the completion of an instruction that waited for a device) goes through
// step_carefully.
#include "engine/soft/core.hpp"
#include "engine/soft/jit.hpp"
#include "engine/soft/vector_state.hpp"
#include "isa/row.hpp"

namespace skerry::soft {
namespace {

constexpr u32 kTimerBudget = 1000;  ///< blocks; some tens of microseconds

u64 linear_rip(const Cpu& cpu) {
  return cpu.flat ? cpu.rip : static_cast<u32>(cpu.seg_base[machine::cs] + cpu.rip);
}

/// Whether instruction bytes [rip, rip + length) may be fetched; raises #GP otherwise.
bool fetchable(Cpu& cpu, u32 length) {
  bool ok = cpu.flat ? canonical(cpu.rip) : cpu.rip + length - 1 <= cpu.seg[machine::cs].limit;
  if (!ok) cpu.raise(GP, 0);
  return ok;
}

}  // namespace

void Cpu::Core::deliver_traps() {
  cpu.s.dr6 = (cpu.s.dr6 & ~u64{0xf}) | trap_bits;
  trap_bits = 0;
  if (!deliver(DB, Kind::trap, false, 0, cpu.rip)) shutdown = true;
}

void Cpu::Core::poll_timer() {
  budget = kTimerBudget;
  if (!lapic || deterministic()) return;
  auto deadline = lapic->timer_deadline();
  if (deadline && shared.setup.clock && shared.setup.clock->now() >= *deadline) lapic->run_timer();
}

// Leaves with cpu.rip at the next instruction to run.
void Cpu::Core::run_blocks(Block* b) {
  Cpu& cpu = this->cpu;  // in a register, which a member cannot be
  u64 linear = linear_rip(cpu);
  for (;;) {
    blocks.running = b;
    const Op* op = b->ops;
    const Op* const end = op + b->count;
    Flow flow;
    const u64 mask = cpu.rip_mask;
    u64 rip = cpu.rip;  // a local: the next address must not wait for a store and a load
    do {
      const u64 next = rip + op->length;
      cpu.gpr[17] = next;
      flow = op->run(cpu, *op);
      if (__builtin_expect(flow != Flow::next, 0)) break;
      rip = next & mask;
      cpu.rip = rip;
    } while (++op != end);
    instructions += static_cast<u64>(op - b->ops) + (op != end);

    if (__builtin_expect(flow > Flow::branch, 0)) {
      blocks.running = nullptr;
      if (flow == Flow::end) {
        cpu.rip = cpu.gpr[17] & cpu.rip_mask;
      } else if (flow == Flow::fault) {
        --instructions;
        if (!deliver_fault()) shutdown = true;
      } else if (flow == Flow::exit) {
        --instructions;
      }
      return;
    }
    if (cpu.attention.load(std::memory_order_relaxed) || --budget == 0) break;

    // The next block. In the same page its translation is the same, so a link made earlier holds.
    u64 target = linear_rip(cpu);
    if ((target ^ linear) < 4096) [[likely]] {
      u32 at = static_cast<u32>(target & 0xfff);
      Block* to = b->link[0].at == at   ? b->link[0].to
                  : b->link[1].at == at ? b->link[1].to
                                        : nullptr;
      linear = target;
      if (to && to->current() && !to->code2 &&
          (cpu.flat || cpu.rip + to->bytes - 1 <= cpu.seg[machine::cs].limit)) [[likely]] {
        b = to;
        continue;
      }
      const u64 clears = blocks.clears;
      const bool linkable = !b->code2;
      Block* found = blocks.find(target);
      if (!found) break;  // run() finds out once more and delivers
      if (blocks.clears == clears && linkable && !found->code2) {
        b->link[1] = b->link[0];
        b->link[0] = {at, found};
      }
      b = found;
    } else {
      linear = target;
      const u64 key = cpu.tlb.fetch_key();
      Block* found = blocks.find_again(target, b->mode, key);
      if (!found) {
        if (!canonical(target)) break;
        found = blocks.find(target);
        if (!found) break;
        blocks.remember(target, key, *found);
      }
      b = found;
    }
    if (!cpu.flat && cpu.rip + b->bytes - 1 > cpu.seg[machine::cs].limit) break;
  }
  blocks.running = nullptr;
}

bool Cpu::Core::attend(machine::Exit& out) {
  u32 a = cpu.attention.load(std::memory_order_seq_cst);
  if (a & kFlush) {
    cpu.attention.fetch_and(~u32{kFlush}, std::memory_order_seq_cst);
    serve_flush();
  }
  // Also when the pages are served already: posting sets the bit last.
  if (a & kCode) cpu.attention.fetch_and(~u32{kCode}, std::memory_order_seq_cst);
  serve_code();
  if (a & kTimer) {
    cpu.attention.fetch_and(~u32{kTimer}, std::memory_order_seq_cst);
    if (lapic) lapic->run_timer();
    timer_changed();
  }
  bool between = !mid_instruction;
  if (between && (a & kKick)) {
    cpu.attention.fetch_and(~u32{kKick}, std::memory_order_seq_cst);
    out = machine::Interrupted{};
    clock_check = true;
    return true;
  }
  if (between && (a & kNmi) && cpu.s.interrupt_shadow != 2) {
    cpu.attention.fetch_and(~u32{kNmi}, std::memory_order_seq_cst);
    // While NMIs are blocked it waits for IRET, which asks again.
    if (!cpu.s.nmi_blocked && nmi_line.exchange(false)) {
      cpu.s.nmi_blocked = true;
      if (!deliver(NMI, Kind::nmi, false, 0, cpu.rip)) {
        shutdown = true;
        return false;
      }
    }
  }
  // A debugger's step is to the next instruction, not into the handler of what became due
  // meanwhile.
  if (between && (a & kInterrupt) && !debug.single_step) {
    if (!(cpu.rflags & IF) || cpu.s.interrupt_shadow) {
      if (!cpu.s.interrupt_shadow) {
        interrupt_waiting = true;
        cpu.attention.fetch_and(~u32{kInterrupt}, std::memory_order_seq_cst);
      }
    } else {
      interrupt_waiting = false;
      cpu.attention.fetch_and(~u32{kInterrupt}, std::memory_order_seq_cst);
      if (lapic && lapic->deliverable())
        if (auto vector = lapic->acknowledge()) {
          // More may wait behind it.
          cpu.attention.fetch_or(kInterrupt, std::memory_order_relaxed);
          trace(Trace::cpu, "cpu{} interrupt {:#x} at {:#x}", index, *vector, cpu.rip);
          if (!deliver(*vector, Kind::external, false, 0, cpu.rip)) shutdown = true;
        }
    }
  }
  return false;
}

bool Cpu::Core::step_carefully(machine::Exit& out) {
  const bool replay = mid_instruction;
  mid_instruction = false;
  io_next = 0;
  const u64 at = linear_rip(cpu);
  const bool resumed = replay || (cpu.rflags & RF);

  if (!replay && resume_rip != at)
    for (u64 breakpoint : debug.breakpoints)
      if (breakpoint == at) {
        resume_rip = at;
        out = machine::Debug{cpu.rip, 0};
        return true;
      }
  resume_rip = ~u64{0};

  // Traps that were due before (a task switch, an instruction behind MOV SS).
  if (!replay && trap_bits && cpu.s.interrupt_shadow != 2) {
    deliver_traps();
    return false;
  }
  if (!resumed && (cpu.s.dr7 & 0xff)) {
    u64 hits = 0;
    for (unsigned i = 0; i < 4; ++i)
      if (((cpu.s.dr7 >> (2 * i)) & 3) && ((cpu.s.dr7 >> (16 + 4 * i)) & 3) == 0 &&
          cpu.s.dr[i] == at)
        hits |= u64{1} << i;
    if (hits && cpu.s.interrupt_shadow != 2) {
      cpu.s.dr6 = (cpu.s.dr6 & ~u64{0xf}) | hits;
      cpu.raise(DB);
      if (!deliver_fault()) shutdown = true;
      return false;
    }
  }

  Block* b = fetchable(cpu, 1) ? blocks.find(at) : nullptr;
  if (!b || !fetchable(cpu, b->ops[0].length)) {
    if (!deliver_fault()) shutdown = true;
    forget();
    return false;
  }

  const bool step = cpu.rflags & TF;
  const u8 shadow = cpu.s.interrupt_shadow;
  const u64 rf = cpu.rflags & RF;
  cpu.s.interrupt_shadow = 0;
  cpu.rflags &= ~u64{RF};
  const u64 pending_traps = trap_bits;
  debug_stop = false;
  blocks.running = b;
  const Op& op = b->ops[0];
  vectors_touched |= touches_vectors(*op.insn);
  const u64 start = cpu.rip;
  if (tracing(Trace::exec)) trace_instruction(op);
  cpu.gpr[17] = cpu.rip + op.length;
  Flow flow = op.run(cpu, op);
  blocks.running = nullptr;

  switch (flow) {
    case Flow::exit:
      // HLT is over: what waited behind STI may come now.
      if (std::holds_alternative<machine::Halt>(cpu.exit)) {
        ++instructions;
        forget();
        update_careful();
        interrupts_enabled();
        return false;
      }
      // Runs again: as if it had not begun.
      cpu.s.interrupt_shadow = shadow;
      cpu.rflags |= rf;
      trap_bits = pending_traps;
      return false;
    case Flow::fault:
      forget();
      trap_bits = 0;
      if (!deliver_fault()) shutdown = true;
      return false;
    case Flow::next:
    case Flow::end: cpu.rip = cpu.gpr[17] & cpu.rip_mask; break;
    default:
      if (cpu.rip == start && flow == Flow::branch && (op.insn->rep || op.insn->repne))
        cpu.rflags |= rf;  // between two elements of a string
  }
  ++instructions;
  forget();

  // INT n and its kin clear TF on their way, which takes their own trap with it (SDM 3B 18.3.1.4);
  // SYSCALL's is what the mask left of TF.
  const isa::Sem sem = op.insn->sem;
  const bool masked = sem == isa::Sem::int_ || sem == isa::Sem::int3 || sem == isa::Sem::into ||
                      (sem == isa::Sem::syscall && !(cpu.rflags & TF));
  if (step && !masked) trap_bits |= u64{1} << 14;
  if (trap_bits && cpu.s.interrupt_shadow != 2) deliver_traps();
  update_careful();
  interrupts_enabled();
  if (debug_stop || debug.single_step) {
    out = machine::Debug{cpu.rip, debug_stop ? debug_hit : 0};
    resume_rip = linear_rip(cpu);
    return true;
  }
  return false;
}

machine::Exit Cpu::Core::run() {
  running.store(true, std::memory_order_seq_cst);
  struct Leave {
    Core& core;
    ~Leave() { core.running.store(false, std::memory_order_seq_cst); }
  } leave{*this};

  machine::Exit out = machine::Interrupted{};
  if (mid_instruction && !answered) {
    // A store (or a halt) needs no answer.
    log_access(0);
  }
  answered = false;
  if (clock_check) check_clock();
  if (budget == 0) budget = kTimerBudget;
  timer_changed();
  if (lapic && lapic->deliverable()) cpu.attention.fetch_or(kInterrupt, std::memory_order_relaxed);

  const u64 start = position();
  for (;;) {
    if (shutdown) return machine::Shutdown{};
    if (deterministic() && at_stop(start)) return machine::Interrupted{};
    if (cpu.attention.load(std::memory_order_relaxed)) {
      const u64 before = position();
      if (attend(out)) return out;
      if (shutdown) return machine::Shutdown{};
      if (deterministic() && position() != before && at_stop(start)) return machine::Interrupted{};
      if (cpu.attention.load(std::memory_order_relaxed) & kCareful) {
        if (step_carefully(out)) return out;
        if (cpu.pending_exit) break;
        if (--budget == 0) poll_timer();
        continue;
      }
    }
    const bool room = !deterministic() || stop_at - position() > Jit::kMostInsns;
    if (jit && room && jit->suits() && canonical(cpu.rip) && !tracing(Trace::exec)) {
      jit->run();
      if (cpu.pending_exit) break;
      continue;
    }
    Block* b = nullptr;
    u64 at = linear_rip(cpu);
    if (fetchable(cpu, 1)) b = blocks.find(at);
    if (!b) {
      if (!deliver_fault()) shutdown = true;
      continue;
    }
    if (!cpu.flat && cpu.rip + b->bytes - 1 > cpu.seg[machine::cs].limit) {
      // Some of it lies beyond the limit: one instruction at a time.
      cpu.attention.fetch_or(kCareful, std::memory_order_relaxed);
      if (step_carefully(out)) return out;
    } else {
      if (tracing(Trace::exec)) {
        cpu.attention.fetch_or(kCareful, std::memory_order_relaxed);
        continue;
      }
      vectors_touched = true;
      if (deterministic())
        run_to_stop(b);
      else
        run_blocks(b);
    }
    if (cpu.pending_exit) break;
    if (budget <= 1)
      poll_timer();
    else
      --budget;
  }
  cpu.pending_exit = false;
  if (std::holds_alternative<machine::PortIo>(cpu.exit) ||
      std::holds_alternative<machine::Mmio>(cpu.exit)) {
    mid_instruction = true;
    cpu.attention.fetch_or(kCareful, std::memory_order_relaxed);
  }
  return cpu.exit;
}

void Cpu::Core::forget() {
  if (cpu.io_used) cpu.forget_io();
}

void Cpu::Core::log_access(u64 value) {
  if (auto* port = std::get_if<machine::PortIo>(&cpu.exit))
    io_log.push_back({port->port, value, port->size, port->write, true});
  else if (auto* mmio = std::get_if<machine::Mmio>(&cpu.exit))
    io_log.push_back({mmio->at, value, mmio->size, mmio->write, false});
  cpu.io_used = true;
}

}  // namespace skerry::soft

// For tests of single handlers: a flat 64-bit Cpu without an engine around it. Accesses outside
// map()ped pages, or across pages, need an engine and must not happen.
#pragma once

#include <algorithm>

#include "engine/soft/block.hpp"
#include "engine/soft/integer.hpp"
#include "engine/soft/room.hpp"

namespace skerry::soft::testing_guest {

struct Regs {
  u64 gpr[16];
  u64 flags;
};

/// A flat 64-bit Cpu that sees the host's addresses of some pages.
struct Guest {
  Guest() {
    cpu->flat = true;
    cpu->long_mode = cpu->protected_mode = true;
    cpu->code_bits = 64;
    cpu->rip_mask = ~u64{0};
    cpu->stack_size = 8;
  }
  void map(const u8* from, u64 size) {
    for (u64 at = reinterpret_cast<u64>(from), end = at + size; at < end; at += 4096) {
      cpu->tlb.current->fill(at, at, false, true);
    }
  }
  /// One instruction, decoded in 64-bit mode, on these registers.
  Flow run(const isa::Insn& insn, Handler handler, Regs& regs) {
    std::copy_n(regs.gpr, 16, cpu->gpr.begin());
    cpu->set_eflags(regs.flags);
    Op op = {};
    prepare_op(op, insn);
    op.run = handler;
    cpu->rip = 0x1000;
    cpu->gpr[17] = cpu->rip + op.length;
    Flow flow = handler(*cpu, op);
    std::copy_n(cpu->gpr.begin(), 16, regs.gpr);
    regs.flags = cpu->eflags();
    return flow;
  }
  Room room;
  Cpu* const cpu = &room.cpu();
};

}  // namespace skerry::soft::testing_guest

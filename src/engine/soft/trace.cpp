// The exec trace: one line per instruction, before it runs.
#include "engine/soft/core.hpp"
#include "isa/disassemble.hpp"

namespace skerry::soft {

void Cpu::Core::trace_instruction(const Op& op) {
  trace(Trace::exec, "cpu{} {:x}:{:#x} {} rax {:#x} rcx {:#x} rdx {:#x} rbx {:#x} rsp {:#x}", index,
        cpu.seg[machine::cs].selector, cpu.rip, isa::disassemble(*op.insn, cpu.rip), cpu.gpr[0],
        cpu.gpr[1], cpu.gpr[2], cpu.gpr[3], cpu.gpr[4]);
}

}  // namespace skerry::soft

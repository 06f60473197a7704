// Translator: x87 and MMX instructions. The host's x87 registers are the guest's whenever its
// vector registers are (Cpu::vector_live), so these instructions are copied as SSE instructions
// are.
//
// Pending and unmasked exceptions come as SIGFPE at the next waiting instruction; the interpreter
// runs that one and raises #MF. What lays out the environment (FNSTENV, FNSAVE and their kin) stays
// the interpreter's: pointers and formats are the guest's there. The pointers to the last
// instruction and operand are the host's while the registers are live; Jit::vectors_saved does
// not let them into guest state.
#include "engine/soft/translator.hpp"

namespace skerry::soft {

using isa::Class;
using isa::Insn;
using isa::Operand;
using isa::OperandKind;
using isa::Sem;

/// Whether it works on x87 or MMX registers.
bool Translator::on_x87(const Insn& insn) {
  if (insn.cls == Class::x87 || insn.cls == Class::mmx) return true;
  if (insn.sem == Sem::wait) return true;
  for (const Operand& o : insn.op)
    if (o.kind == OperandKind::mmx) return true;
  return false;
}

bool Translator::x87_copyable(const Insn& insn) const {
  if (!(mode_ & kModeX87)) return false;
  if (insn.cls == Class::sse && !(mode_ & kModeSse)) return false;
  switch (insn.sem) {
    case Sem::fstenv:
    case Sem::fldenv:
    case Sem::fsave:
    case Sem::frstor:
    case Sem::feni:
    case Sem::fdisi:
    case Sem::fsetpm:
    case Sem::maskmovq: return false;
    default: return true;
  }
}

}  // namespace skerry::soft

// select_integer: asks the families in turn. Runs once per decoded instruction.
#include "engine/soft/integer.hpp"

namespace skerry::soft {

Handler select_integer(const isa::Insn& insn) {
  using namespace integer;
  for (auto select : {select_alu, select_move, select_control, select_stack, select_shift,
                      select_bits, select_muldiv, select_string, select_flags})
    if (Handler h = select(insn)) return h;
  return nullptr;
}

}  // namespace skerry::soft

// PUSH, POP (not of segment registers, except storing them), PUSHA, POPA, ENTER, LEAVE.
//
// The stack pointer moves only after the last possible fault; several stores of one instruction go
// to offsets counted from the old pointer.
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using machine::rbp;
using machine::rsp;

constexpr u8 kStack = machine::ss;

/// 64-bit pushes exist in 64-bit mode only, where the stack address has 64 bits too.
template <class T>
[[gnu::always_inline]] inline bool push_value(Cpu& cpu, T value) {
  if constexpr (sizeof(T) == 8) {
    u64 sp = cpu.gpr[rsp] - 8;
    if (!cpu.write<u64>(kStack, sp, value)) return false;
    cpu.gpr[rsp] = sp;
    return true;
  } else {
    return cpu.push(value, sizeof(T));
  }
}

template <class T>
Flow push_register(Cpu& cpu, const Op& op) {
  return push_value<T>(cpu, get<T>(cpu, op.dst)) ? Flow::next : cpu.failed();
}
template <class T>
Flow push_immediate(Cpu& cpu, const Op& op) {
  return push_value<T>(cpu, static_cast<T>(op.imm)) ? Flow::next : cpu.failed();
}
template <class T>
Flow push_memory(Cpu& cpu, const Op& op) {
  T v;
  if (!cpu.read<T>(op.segment, cpu.ea(op), v) || !push_value<T>(cpu, v)) return cpu.failed();
  return Flow::next;
}
/// With a 32-bit operand size processors store the selector's 16 bits only and leave the rest of
/// the stack slot alone (SDM 2B PUSH).
template <class T>
Flow push_segment(Cpu& cpu, const Op& op) {
  u16 selector = cpu.seg[op.dst].selector;
  if constexpr (sizeof(T) == 8) {
    return push_value<T>(cpu, selector) ? Flow::next : cpu.failed();
  } else {
    u64 sp = (cpu.gpr[rsp] - sizeof(T)) & stack_mask(cpu);
    if (!cpu.write<u16>(kStack, sp, selector)) return cpu.failed();
    cpu.set_sp(sp);
    return Flow::next;
  }
}

template <class T>
Flow pop_register(Cpu& cpu, const Op& op) {
  if constexpr (sizeof(T) == 8) {
    u64 v, sp = cpu.gpr[rsp];
    if (!cpu.read<u64>(kStack, sp, v)) return cpu.failed();
    cpu.gpr[rsp] = sp + 8;
    put<u64>(cpu, op.dst, v);
  } else {
    u64 v;
    if (!cpu.pop(v, sizeof(T))) return cpu.failed();
    put<T>(cpu, op.dst, static_cast<T>(v));
  }
  return Flow::next;
}
/// The destination's address is computed with the stack pointer already moved.
template <class T>
Flow pop_memory(Cpu& cpu, const Op& op) {
  u64 v, before = cpu.gpr[rsp];
  if (!cpu.pop(v, sizeof(T))) return cpu.failed();
  if (cpu.write<T>(op.segment, cpu.ea(op), static_cast<T>(v))) return Flow::next;
  cpu.gpr[rsp] = before;
  return cpu.failed();
}

template <class T>
Flow pusha(Cpu& cpu, const Op&) {
  u64 sp = cpu.gpr[rsp];
  for (u8 i = 0; i < 8; ++i) {
    sp = (sp - sizeof(T)) & stack_mask(cpu);
    if (!cpu.write<T>(kStack, sp, reg<T>(cpu, i))) return cpu.failed();
  }
  cpu.set_sp(sp);
  return Flow::next;
}
template <class T>
Flow popa(Cpu& cpu, const Op&) {
  T v[8];
  u64 sp = cpu.gpr[rsp];
  for (int i = 7; i >= 0; --i, sp += sizeof(T))
    if (!cpu.read<T>(kStack, sp & stack_mask(cpu), v[i])) return cpu.failed();
  for (u8 i = 0; i < 8; ++i)
    if (i != rsp) set_reg<T>(cpu, i, v[i]);
  cpu.set_sp(sp);
  return Flow::next;
}

/// ENTER size, level (SDM 2A): the display of `level` frame pointers is copied, and the final stack
/// pointer must be writable.
template <class T>
Flow enter(Cpu& cpu, const Op& op) {
  u64 mask = stack_mask(cpu), sp = cpu.gpr[rsp], bp = cpu.gpr[rbp];
  unsigned level = op.insn->imm2 & 31;
  auto push = [&](T v) {
    sp = (sp - sizeof(T)) & mask;
    return cpu.write<T>(kStack, sp, v);
  };
  if (!push(reg<T>(cpu, rbp))) return cpu.failed();
  u64 frame = sp;
  for (unsigned i = 1; i < level; ++i) {
    T v;
    bp = (bp - sizeof(T)) & mask;
    if (!cpu.read<T>(kStack, bp, v) || !push(v)) return cpu.failed();
  }
  if (level != 0 && !push(static_cast<T>(frame))) return cpu.failed();
  sp = (sp - (op.imm & 0xffff)) & mask;
  if (!fast<sizeof(T), true>(cpu, kStack, sp) && !cpu.probe_write(kStack, sp, sizeof(T)))
    return cpu.failed();
  set_reg<T>(cpu, rbp, static_cast<T>(frame));
  cpu.set_sp(sp);
  return Flow::next;
}
template <class T>
Flow leave(Cpu& cpu, const Op&) {
  u64 sp = cpu.gpr[rbp] & stack_mask(cpu);
  T v;
  if (!cpu.read<T>(kStack, sp, v)) return cpu.failed();
  cpu.set_sp(sp + sizeof(T));
  set_reg<T>(cpu, rbp, v);
  return Flow::next;
}

}  // namespace

Handler select_stack(const Insn& i) {
  const isa::Operand& o = i.op[0];
  switch (i.sem) {
    case Sem::push:
      return by_word_size(i.opsize, [&]<class T>() -> Handler {
        if (is_memory(o)) return push_memory<T>;
        if (is_immediate(o)) return push_immediate<T>;
        return o.kind == OperandKind::segment ? push_segment<T> : push_register<T>;
      });
    case Sem::pop:
      if (o.kind == OperandKind::segment) return nullptr;
      return by_word_size(i.opsize, [&]<class T>() -> Handler {
        return is_memory(o) ? pop_memory<T> : pop_register<T>;
      });
    case Sem::pusha: return by_word_size(i.opsize, []<class T>() -> Handler { return pusha<T>; });
    case Sem::popa: return by_word_size(i.opsize, []<class T>() -> Handler { return popa<T>; });
    case Sem::enter: return by_word_size(i.opsize, []<class T>() -> Handler { return enter<T>; });
    case Sem::leave: return by_word_size(i.opsize, []<class T>() -> Handler { return leave<T>; });
    default: return nullptr;
  }
}

}  // namespace skerry::soft::integer

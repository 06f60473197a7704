// Data movement: MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI, MOVDIRI, MOVDIR64B, LEA, CMOVcc, SETcc,
// BSWAP, CBW and CWD families.
#include "engine/soft/integer.hpp"

namespace skerry::soft::integer {
namespace {

using namespace arith;

// ---- MOV

template <class T>
Flow mov_register(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst, get<T>(cpu, op.src));
  return Flow::next;
}
template <class T>
Flow mov_immediate(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst, static_cast<T>(op.imm));
  return Flow::next;
}
template <class T, bool kWide>
Flow mov_load(Cpu& cpu, const Op& op) {
  T v;
  if (!cpu.read<T>(op.segment, address<kWide>(cpu, op), v)) return cpu.failed();
  put<T>(cpu, op.dst, v);
  return Flow::next;
}
template <class T, bool kWide>
Flow mov_store(Cpu& cpu, const Op& op) {
  if (!cpu.write<T>(op.segment, address<kWide>(cpu, op), get<T>(cpu, op.src))) return cpu.failed();
  return Flow::next;
}
template <class T, bool kWide>
Flow mov_store_immediate(Cpu& cpu, const Op& op) {
  if (!cpu.write<T>(op.segment, address<kWide>(cpu, op), static_cast<T>(op.imm)))
    return cpu.failed();
  return Flow::next;
}
/// MOV AL/rAX, moffs and back: the only displacement that may have 64 bits.
template <class T>
Flow mov_load_absolute(Cpu& cpu, const Op& op) {
  T v;
  u64 at = static_cast<u64>(op.insn->mem.disp) & address_mask(op.addrsize);
  if (!cpu.read<T>(op.segment, at, v)) return cpu.failed();
  put<T>(cpu, op.dst, v);
  return Flow::next;
}
template <class T>
Flow mov_store_absolute(Cpu& cpu, const Op& op) {
  u64 at = static_cast<u64>(op.insn->mem.disp) & address_mask(op.addrsize);
  if (!cpu.write<T>(op.segment, at, get<T>(cpu, op.src))) return cpu.failed();
  return Flow::next;
}
/// MOV r/m, Sreg: a register takes the operand size, zero-extended; memory 16 bits.
template <class T>
Flow mov_from_segment(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst, cpu.seg[op.src].selector);
  return Flow::next;
}
Flow store_segment(Cpu& cpu, const Op& op) {
  if (!cpu.write<u16>(op.segment, cpu.ea(op), cpu.seg[op.src].selector)) return cpu.failed();
  return Flow::next;
}

Handler select_mov(const Insn& i) {
  const isa::Operand &to = i.op[0], &from = i.op[1];
  if (from.kind == OperandKind::segment) {
    if (is_memory(to)) return store_segment;
    return by_word_size(i.opsize, []<class T>() -> Handler { return mov_from_segment<T>; });
  }
  bool absolute = i.map == 0 && i.opcode >= 0xa0 && i.opcode <= 0xa3;
  bool wide = i.addrsize == 8;
  return by_size(to.size, [&]<class T>() -> Handler {
    if (is_register(to)) {
      if (is_register(from)) return mov_register<T>;
      if (is_immediate(from)) return mov_immediate<T>;
      if (!is_memory(from)) return nullptr;
      if (absolute) return mov_load_absolute<T>;
      return wide ? mov_load<T, true> : mov_load<T, false>;
    }
    if (!is_memory(to)) return nullptr;
    if (absolute) return mov_store_absolute<T>;
    if (is_immediate(from))
      return wide ? mov_store_immediate<T, true> : mov_store_immediate<T, false>;
    if (!is_register(from)) return nullptr;
    return wide ? mov_store<T, true> : mov_store<T, false>;
  });
}

// ---- MOVZX, MOVSX, MOVSXD

template <class T, class S, bool kSigned>
constexpr T extend(S v) {
  if constexpr (kSigned)
    return static_cast<T>(sext(v));
  else
    return static_cast<T>(v);
}
template <class T, class S, bool kSigned>
Flow extend_register(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst, extend<T, S, kSigned>(get<S>(cpu, op.src)));
  return Flow::next;
}
template <class T, class S, bool kSigned, bool kWide>
Flow extend_load(Cpu& cpu, const Op& op) {
  S v;
  if (!cpu.read<S>(op.segment, address<kWide>(cpu, op), v)) return cpu.failed();
  put<T>(cpu, op.dst, extend<T, S, kSigned>(v));
  return Flow::next;
}
template <bool kSigned>
Handler select_extend(const Insn& i) {
  return by_word_size(i.op[0].size, [&]<class T>() -> Handler {
    return by_size(i.op[1].size, [&]<class S>() -> Handler {
      if constexpr (sizeof(S) > sizeof(T))
        return mov_register<T>;  // MOVSXD with a 16-bit operand size, register form
      else if (!is_memory(i.op[1]))
        return extend_register<T, S, kSigned>;
      else
        return i.addrsize == 8 ? extend_load<T, S, kSigned, true>
                               : extend_load<T, S, kSigned, false>;
    });
  });
}

// ---- LEA, CMOVcc, SETcc

template <class T, bool kWide>
Flow lea(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst, static_cast<T>(address<kWide>(cpu, op)));
  return Flow::next;
}

template <int c, class T, bool kMemory>
Flow cmov(Cpu& cpu, const Op& op) {
  T v;
  if constexpr (kMemory) {
    if (!cpu.read<T>(op.segment, cpu.ea(op), v)) return cpu.failed();
  } else {
    v = get<T>(cpu, op.src);
  }
  T old = get<T>(cpu, op.dst);
  put<T>(cpu, op.dst, condition<c>(cpu.flags) ? v : old);
  return Flow::next;
}
template <int c, bool kMemory>
Flow setcc(Cpu& cpu, const Op& op) {
  u8 v = condition<c>(cpu.flags);
  if constexpr (kMemory) {
    if (!cpu.write<u8>(op.segment, cpu.ea(op), v)) return cpu.failed();
  } else {
    put<u8>(cpu, op.dst, v);
  }
  return Flow::next;
}

/// f<c>() for the condition of `i`.
template <class F, int... c>
Handler by_condition(u8 wanted, F f, std::integer_sequence<int, c...>) {
  Handler h = nullptr;
  ((wanted == c ? void(h = f.template operator()<c>()) : void()), ...);
  return h;
}
constexpr auto kConditions = std::make_integer_sequence<int, 16>{};

Handler select_cmov(const Insn& i) {
  return by_condition(
      i.condition & 15,
      [&]<int c>() -> Handler {
        return by_word_size(i.op[0].size, [&]<class T>() -> Handler {
          return is_memory(i.op[1]) ? cmov<c, T, true> : cmov<c, T, false>;
        });
      },
      kConditions);
}
Handler select_setcc(const Insn& i) {
  return by_condition(
      i.condition & 15,
      [&]<int c>() -> Handler { return is_memory(i.op[0]) ? setcc<c, true> : setcc<c, false>; },
      kConditions);
}

// ---- byte order, sign extension of the accumulator

template <class T>
constexpr T swap_bytes(T v) {
  if constexpr (sizeof(T) == 2)
    return __builtin_bswap16(v);
  else if constexpr (sizeof(T) == 4)
    return __builtin_bswap32(v);
  else
    return __builtin_bswap64(v);
}
/// With 16 bits (undefined) processors leave 0.
template <class T>
Flow bswap(Cpu& cpu, const Op& op) {
  put<T>(cpu, op.dst, sizeof(T) == 2 ? T{0} : swap_bytes<T>(get<T>(cpu, op.dst)));
  return Flow::next;
}
template <class T>
Flow movbe_load(Cpu& cpu, const Op& op) {
  T v;
  if (!cpu.read<T>(op.segment, cpu.ea(op), v)) return cpu.failed();
  put<T>(cpu, op.dst, swap_bytes<T>(v));
  return Flow::next;
}
template <class T>
Flow movbe_store(Cpu& cpu, const Op& op) {
  if (!cpu.write<T>(op.segment, cpu.ea(op), swap_bytes<T>(get<T>(cpu, op.src))))
    return cpu.failed();
  return Flow::next;
}

Flow cbw(Cpu& cpu, const Op&) {
  set_reg<u16>(cpu, machine::rax, static_cast<u16>(sext(reg<u8>(cpu, machine::rax))));
  return Flow::next;
}
Flow cwde(Cpu& cpu, const Op&) {
  set_reg<u32>(cpu, machine::rax, static_cast<u32>(sext(reg<u16>(cpu, machine::rax))));
  return Flow::next;
}
Flow cdqe(Cpu& cpu, const Op&) {
  set_reg<u64>(cpu, machine::rax, sext(reg<u32>(cpu, machine::rax)));
  return Flow::next;
}
template <class T>
Flow cwd(Cpu& cpu, const Op&) {
  set_reg<T>(cpu, machine::rdx, msb(reg<T>(cpu, machine::rax)) ? static_cast<T>(~T{0}) : T{0});
  return Flow::next;
}

/// MOVDIR64B: 64 bytes from memory to ES:[register], which is 64-byte aligned (#GP).
Flow movdir64b(Cpu& cpu, const Op& op) {
  u8 data[64];
  u64 to = cpu.gpr[op.insn->op[0].reg] & address_mask(op.addrsize);
  if (!cpu.read_bytes(op.segment, cpu.ea(op), data, 64)) return cpu.failed();
  if ((cpu.seg_base[machine::es] + to) & 63) return cpu.raise(GP, 0);
  if (!cpu.write_bytes(machine::es, to, data, 64)) return cpu.failed();
  return Flow::next;
}

}  // namespace

Handler select_exchange(const Insn& insn);  // integer_exchange.cpp

Handler select_move(const Insn& i) {
  switch (i.sem) {
    case Sem::mov: return select_mov(i);
    case Sem::movnti:
    case Sem::movdiri:
      return by_vex_size(i.op[0].size, []<class T>() -> Handler { return mov_store<T, false>; });
    case Sem::movdir64b: return movdir64b;
    case Sem::movzx: return select_extend<false>(i);
    case Sem::movsx:
    case Sem::movsxd: return select_extend<true>(i);
    case Sem::lea:
      return by_word_size(i.op[0].size, [&]<class T>() -> Handler {
        return i.addrsize == 8 ? lea<T, true> : lea<T, false>;
      });
    case Sem::cmovcc: return select_cmov(i);
    case Sem::setcc: return select_setcc(i);
    case Sem::bswap:
      return by_word_size(i.op[0].size, []<class T>() -> Handler { return bswap<T>; });
    case Sem::movbe:
      return by_word_size(i.opsize, [&]<class T>() -> Handler {
        return is_memory(i.op[0]) ? movbe_store<T> : movbe_load<T>;
      });
    case Sem::cbw: return i.opsize == 8 ? cdqe : i.opsize == 4 ? cwde : cbw;
    case Sem::cwd: return by_word_size(i.opsize, []<class T>() -> Handler { return cwd<T>; });
    default: return select_exchange(i);
  }
}

}  // namespace skerry::soft::integer

// Vector memory accesses element by element: gather and scatter, MASKMOV, VMASKMOV, and EVEX memory
// operands under an opmask.
//
// Faults: a gather or scatter that faults keeps the elements it has done and clears their mask bits
// (SDM 2C VGATHERDPS, 1 15.6.4); it continues when restarted. All others change nothing before the
// last access has succeeded. An access to a device (Flow::exit) never leaves partial results.
#include "engine/soft/access.hpp"
#include "engine/soft/vector_state.hpp"

namespace skerry::soft {
namespace {

using isa::Insn;
using isa::OperandKind;
using isa::Sem;

u64 low_bits(unsigned n) {
  return n >= 64 ? ~u64{0} : (u64{1} << n) - 1;
}

// ---- gather and scatter
// ----------------------------------------------------------------------------

struct Vsib {
  unsigned index_size, data_size, count;
};

/// From the name: v[p]gather|scatter<index d|q><data d|q|ps|pd>.
Vsib vsib_of(const Insn& insn) {
  std::string_view n = sem_name(insn.sem);
  n.remove_prefix(n.find("er") + 2);
  Vsib v;
  v.index_size = n[0] == 'd' ? 4 : 8;
  v.data_size = n.back() == 'q' || n.ends_with("pd") ? 8 : 4;
  v.count = (16u << insn.vector_length) / std::max(v.index_size, v.data_size);
  return v;
}

u64 element_address(const Cpu& cpu, const Insn& insn, const Vsib& v, const u8* indices,
                    unsigned i) {
  u64 index = v.index_size == 8 ? load<u64>(indices + 8 * i)
                                : static_cast<u64>(i64{load<i32>(indices + 4 * i)});
  u64 offset = cpu.gpr[insn.mem.base] + (index << insn.mem.scale) + static_cast<u64>(insn.mem.disp);
  return insn.addrsize == 8 ? offset : static_cast<u32>(offset);
}

unsigned index_bytes(const Vsib& v) {
  return std::max(16u, v.count * v.index_size);
}

/// Overwrites some bytes of a vector register's lower half.
void put_bytes(Cpu& cpu, u8 n, unsigned at, unsigned size, const u8* from) {
  u8* x = cpu.s.xsave.data();
  std::memcpy(at < 16 ? x + area::kXmm + 16 * n + at : x + area::kYmm + 16 * n + at - 16, from,
              size);
}

/// AVX2: the mask is the sign bits of a vector register, zeroed as elements arrive.
Flow gather_vex(Cpu& cpu, const Op& op) {
  const Insn& insn = *op.insn;
  if (!pass_gate(cpu, gate_of(insn))) return Flow::fault;
  Vsib v = vsib_of(insn);
  u8 dst = insn.op[0].reg, mask_reg = insn.op[2].reg;
  u8 indices[64], data[64], mask[64];
  read_vector(cpu, insn.mem.index, 32, indices);
  read_vector(cpu, dst, 32, data);
  read_vector(cpu, mask_reg, 32, mask);
  auto selected = [&](unsigned i) { return mask[(i + 1) * v.data_size - 1] & 0x80; };
  unsigned done = 0;
  for (; done < v.count; done++)
    if (selected(done) &&
        !load_operand(cpu, insn.mem.segment, element_address(cpu, insn, v, indices, done),
                      data + done * v.data_size, v.data_size))
      break;
  u8 zero[16] = {};
  if (done == v.count) {
    write_vector(cpu, dst, v.count * v.data_size, data);
    write_vector(cpu, mask_reg, 16, zero);
    return Flow::next;
  }
  if (!cpu.pending_exit)
    for (unsigned i = 0; i < done; i++) {
      put_bytes(cpu, dst, i * v.data_size, v.data_size, data + i * v.data_size);
      put_bytes(cpu, mask_reg, i * v.data_size, v.data_size, zero);
    }
  return cpu.failed();
}

Flow gather_evex(Cpu& cpu, const Op& op) {
  const Insn& insn = *op.insn;
  if (!pass_gate(cpu, gate_of(insn))) return Flow::fault;
  Vsib v = vsib_of(insn);
  unsigned bytes = v.count * v.data_size;
  u8 indices[64], data[64];
  read_vector(cpu, insn.mem.index, index_bytes(v), indices);
  read_vector(cpu, insn.op[0].reg, 64, data);
  u64 mask = opmask(cpu, insn.evex_aaa);
  bool done = true, any = false;
  for (unsigned i = 0; i < v.count; i++) {
    if (!(mask >> i & 1)) continue;
    u8 element[8];
    done = load_operand(cpu, insn.mem.segment, element_address(cpu, insn, v, indices, i), element,
                        v.data_size);
    if (!done) break;
    std::memcpy(data + i * v.data_size, element, v.data_size);
    mask &= ~(u64{1} << i);
    any = true;
  }
  if (!done && cpu.pending_exit) return cpu.failed();
  // Every element that arrives writes the register, and so zeroes what is above.
  write_vector(cpu, insn.op[0].reg, done || any ? bytes : 64, data);
  set_opmask(cpu, insn.evex_aaa, done ? 0 : mask);
  return done ? Flow::next : cpu.failed();
}

Flow scatter(Cpu& cpu, const Op& op) {
  const Insn& insn = *op.insn;
  if (!pass_gate(cpu, gate_of(insn))) return Flow::fault;
  Vsib v = vsib_of(insn);
  u8 indices[64], data[64];
  read_vector(cpu, insn.mem.index, index_bytes(v), indices);
  read_vector(cpu, insn.op[1].reg, 64, data);
  u64 mask = opmask(cpu, insn.evex_aaa);
  for (unsigned i = 0; i < v.count; i++) {
    if (!(mask >> i & 1)) continue;
    if (!store_operand(cpu, insn.mem.segment, element_address(cpu, insn, v, indices, i),
                       data + i * v.data_size, v.data_size)) {
      if (!cpu.pending_exit) set_opmask(cpu, insn.evex_aaa, mask);
      return cpu.failed();
    }
    mask &= ~(u64{1} << i);
  }
  set_opmask(cpu, insn.evex_aaa, 0);
  return Flow::next;
}

// ---- elements of one contiguous operand
// ------------------------------------------------------------

/// Reads the selected elements; the others become 0. `whole` first tries it in one go.
bool load_elements(Cpu& cpu, u8 segment, u64 offset, u8* to, unsigned element, unsigned count,
                   u64 mask) {
  mask &= low_bits(count);
  if (mask == low_bits(count)) return load_operand(cpu, segment, offset, to, element * count);
  std::memset(to, 0, element * count);
  for (unsigned i = 0; i < count; i++)
    if (mask >> i & 1 &&
        !load_operand(cpu, segment, offset + i * element, to + i * element, element))
      return false;
  return true;
}

/// Writes the selected elements: every page is checked before the first byte is written.
bool store_elements(Cpu& cpu, u8 segment, u64 offset, const u8* from, unsigned element,
                    unsigned count, u64 mask) {
  mask &= low_bits(count);
  if (mask == low_bits(count)) return store_operand(cpu, segment, offset, from, element * count);
  for (bool write : {false, true}) {
    for (unsigned i = 0; i < count;) {
      if (!(mask >> i & 1)) {
        i++;
        continue;
      }
      unsigned run = 1;
      while (i + run < count && mask >> (i + run) & 1) run++;
      u64 at = offset + i * element;
      if (!(write ? store_operand(cpu, segment, at, from + i * element, run * element)
                  : cpu.probe_write(segment, at, run * element)))
        return false;
      i += run;
    }
  }
  return true;
}

/// The sign bits of the elements.
u64 sign_mask(const u8* vector, unsigned element, unsigned count) {
  u64 mask = 0;
  for (unsigned i = 0; i < count; i++)
    mask |= u64{vector[i * element + element - 1] >> 7 & 1u} << i;
  return mask;
}

/// VMASKMOVPS/PD, VPMASKMOVD/Q (SDM 2C): no faults for elements that are not selected.
Flow maskmov_vex(Cpu& cpu, const Op& op) {
  const Insn& insn = *op.insn;
  if (!pass_gate(cpu, gate_of(insn))) return Flow::fault;
  std::string_view n = sem_name(insn.sem);
  unsigned element = n.back() == 'q' || n.ends_with("pd") ? 8 : 4;
  unsigned bytes = 16u << insn.vector_length, count = bytes / element;
  u8 mask[64], data[64];
  read_vector(cpu, insn.op[1].reg, bytes, mask);
  u64 selected = sign_mask(mask, element, count);
  u64 offset = cpu.ea(op);
  if (insn.op[0].kind == OperandKind::memory) {
    read_vector(cpu, insn.op[2].reg, bytes, data);
    return store_elements(cpu, op.segment, offset, data, element, count, selected) ? Flow::next
                                                                                   : cpu.failed();
  }
  if (!load_elements(cpu, op.segment, offset, data, element, count, selected)) return cpu.failed();
  write_vector(cpu, insn.op[0].reg, bytes, data);
  return Flow::next;
}

/// The explicit register operand i, counted among the non-memory ones.
const isa::Operand& register_operand(const Insn& insn, unsigned i) {
  for (const auto& o : insn.op) {
    if (o.kind != OperandKind::vector && o.kind != OperandKind::mmx) continue;
    if (i-- == 0) return o;
  }
  return insn.op[0];
}

/// MASKMOVDQU, VMASKMOVDQU: bytes of the first register, selected by the second, to [rDI].
Flow maskmovdqu(Cpu& cpu, const Op& op) {
  const Insn& insn = *op.insn;
  if (!pass_gate(cpu, gate_of(insn))) return Flow::fault;
  u8 data[16], mask[16];
  read_vector(cpu, register_operand(insn, 0).reg, 16, data);
  read_vector(cpu, register_operand(insn, 1).reg, 16, mask);
  static constexpr u64 kMask[9] = {0, 0, 0xffff, 0, 0xffffffff, 0, 0, 0, ~u64{0}};
  u64 offset = cpu.gpr[machine::rdi] & kMask[op.addrsize];
  return store_elements(cpu, insn.mem.segment, offset, data, 1, 16, sign_mask(mask, 1, 16))
             ? Flow::next
             : cpu.failed();
}

/// MASKMOVQ. As an MMX instruction it sets TOP to 0 and all tags to valid.
Flow maskmovq(Cpu& cpu, const Op& op) {
  const Insn& insn = *op.insn;
  if (!pass_gate(cpu, gate_of(insn))) return Flow::fault;
  unsigned top = fsw(cpu) >> 11 & 7;
  u8 registers[8][16];  // by physical number
  for (unsigned r = 0; r < 8; r++)
    std::memcpy(registers[r], &cpu.s.xsave[area::kSt + 16 * ((r - top) & 7)], 16);
  static constexpr u64 kMask[9] = {0, 0, 0xffff, 0, 0xffffffff, 0, 0, 0, ~u64{0}};
  u64 offset = cpu.gpr[machine::rdi] & kMask[op.addrsize];
  const u8* data = registers[register_operand(insn, 0).reg & 7];
  const u8* mask = registers[register_operand(insn, 1).reg & 7];
  if (!store_elements(cpu, insn.mem.segment, offset, data, 1, 8, sign_mask(mask, 1, 8)))
    return cpu.failed();
  std::memcpy(&cpu.s.xsave[area::kSt], registers, sizeof registers);
  set_fsw(cpu, fsw(cpu) & 0xc7ff);
  cpu.s.xsave[area::kFtw] = 0xff;
  return Flow::next;
}

}  // namespace

Flow run_masked(Cpu& cpu, const Op& op) {
  const Thunk* t = find_thunk(op);
  if (!t) return cpu.raise(UD);
  if (!pass_gate(cpu, t->gate)) return Flow::fault;
  alignas(64) u8 memory[64];
  u64 offset = cpu.ea(op), mask = opmask(cpu, t->mask_reg) & low_bits(t->lanes);
  if (t->broadcast_lanes) {
    u64 all = opmask(cpu, t->mask_reg) & low_bits(t->broadcast_lanes);
    for (mask = 0; all; all = t->lanes < 64 ? all >> t->lanes : 0) mask |= all;
    mask &= low_bits(t->lanes);
  }
  u32 old_mxcsr = mxcsr(cpu);
  // Without an element to access there is no access that could be misaligned.
  if (t->align && mask && misaligned(cpu, op.segment, offset, t->align)) return cpu.raise(GP, 0);
  unsigned active = static_cast<unsigned>(std::popcount(mask));
  switch (t->masking) {
    case Masking::expand:
      std::memset(memory, 0, sizeof memory);
      if (active && !load_operand(cpu, op.segment, offset, memory, active * t->element))
        return cpu.failed();
      break;
    case Masking::load:
    case Masking::none:
      if (t->read && !load_operand(cpu, op.segment, offset, memory, t->read)) {
        if (t->masking == Masking::none || cpu.pending_exit ||
            !load_elements(cpu, op.segment, offset, memory, t->element, t->lanes, mask))
          return cpu.failed();
      }
      break;
    default: std::memset(memory, 0, sizeof memory); break;
  }
  if (t->probe_all && !cpu.probe_write(op.segment, offset, t->write)) return cpu.failed();
  bool ok = run_code(cpu, *t, memory);
  Fault numeric = cpu.fault;
  u32 flags = mxcsr(cpu);
  bool stored = true;
  if (t->masking == Masking::store) {
    stored = ok ? store_elements(cpu, op.segment, offset, memory, t->element, t->lanes, mask)
                : cpu.probe_write(op.segment, offset, t->write);
  } else if (t->masking == Masking::compress) {
    stored = !active || store_operand(cpu, op.segment, offset, memory, active * t->element);
  } else if (t->write) {
    stored = store_operand(cpu, op.segment, offset, memory, t->write);
  }
  if (!stored) {
    set_mxcsr(cpu, old_mxcsr);
    return cpu.failed();
  }
  if (ok) return Flow::next;
  set_mxcsr(cpu, flags);
  cpu.fault = numeric;
  return Flow::fault;
}

Handler select_special_vector(const Insn& insn) {
  switch (insn.sem) {
    case Sem::vgatherdpd:
    case Sem::vgatherdps:
    case Sem::vgatherqpd:
    case Sem::vgatherqps:
    case Sem::vpgatherdd:
    case Sem::vpgatherdq:
    case Sem::vpgatherqd:
    case Sem::vpgatherqq: return insn.encoding == Insn::Encoding::evex ? gather_evex : gather_vex;
    case Sem::vscatterdpd:
    case Sem::vscatterdps:
    case Sem::vscatterqpd:
    case Sem::vscatterqps:
    case Sem::vpscatterdd:
    case Sem::vpscatterdq:
    case Sem::vpscatterqd:
    case Sem::vpscatterqq: return scatter;
    case Sem::vmaskmovps:
    case Sem::vmaskmovpd:
    case Sem::vpmaskmovd:
    case Sem::vpmaskmovq: return maskmov_vex;
    case Sem::maskmovdqu:
    case Sem::vmaskmovdqu: return maskmovdqu;
    case Sem::maskmovq: return maskmovq;
    default: return nullptr;
  }
}

}  // namespace skerry::soft

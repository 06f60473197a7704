// The disassembler: names come from the table row, operands from Insn.
#include "isa/disassemble.hpp"

#include <fmt/format.h>

#include "isa/row.hpp"

namespace skerry::isa {
namespace {

using std::string;
using std::string_view;

constexpr string_view kConditions[] = {"o", "no", "b", "ae", "e", "ne", "be", "a",
                                       "s", "ns", "p", "np", "l", "ge", "le", "g"};
constexpr string_view kSegments[] = {"es", "cs", "ss", "ds", "fs", "gs"};

string gpr(unsigned reg, unsigned size) {
  constexpr string_view kLow8[] = {"al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"};
  constexpr string_view kOld[] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
  if (reg >= 8) {
    string_view suffix = size == 1 ? "b" : size == 2 ? "w" : size == 4 ? "d" : "";
    return fmt::format("r{}{}", reg, suffix);
  }
  if (size == 1) return string(kLow8[reg]);
  return string(size == 2 ? "" : size == 4 ? "e" : "r") + string(kOld[reg]);
}

string_view pointer(unsigned size) {
  switch (size) {
    case 1: return "byte ptr ";
    case 2: return "word ptr ";
    case 4: return "dword ptr ";
    case 6: return "fword ptr ";
    case 8: return "qword ptr ";
    case 10: return "tbyte ptr ";
    case 16: return "xmmword ptr ";
    case 32: return "ymmword ptr ";
    case 64: return "zmmword ptr ";
    default: return "";
  }
}

string memory(const Insn& insn, const Operand& o, u64 next) {
  const Memory& m = insn.mem;
  string s(pointer(o.size));
  if (m.segment_override || (m.segment >= 4)) s += string(kSegments[m.segment]) + ":";
  s += '[';
  u64 mask = insn.addrsize == 8 ? ~u64{0} : (u64{1} << insn.addrsize * 8) - 1;
  if (m.base == Memory::kRip)
    return s + fmt::format("{:#x}]", (next + static_cast<u64>(m.disp)) & mask);
  bool any = false;
  if (m.base != Memory::kNone) s += gpr(m.base, insn.addrsize), any = true;
  if (m.index != Memory::kNone) {
    if (any) s += '+';
    s += m.vsib ? fmt::format("v{}", m.index) : gpr(m.index, insn.addrsize);
    if (insn.addrsize > 2) s += fmt::format("*{}", 1 << m.scale);
    any = true;
  }
  if (!any)
    s += fmt::format("{:#x}", static_cast<u64>(m.disp) & mask);
  else if (m.disp < 0)
    s += fmt::format("-{:#x}", -static_cast<u64>(m.disp));
  else if (m.disp > 0)
    s += fmt::format("+{:#x}", m.disp);
  s += ']';
  if (insn.evex_b) s += "{1to}";
  return s;
}

string operand(const Insn& insn, const Operand& o, u64 next) {
  switch (o.kind) {
    case OperandKind::none: return "";
    case OperandKind::gpr: return gpr(o.reg, o.size);
    case OperandKind::gpr_high: return fmt::format("{}h", "acdb"[o.reg]);
    case OperandKind::segment: return string(kSegments[o.reg]);
    case OperandKind::control: return fmt::format("cr{}", o.reg);
    case OperandKind::debug: return fmt::format("dr{}", o.reg);
    case OperandKind::st: return fmt::format("st{}", o.reg);
    case OperandKind::mmx: return fmt::format("mm{}", o.reg);
    case OperandKind::vector:
      return fmt::format("{}mm{}", o.size == 64 ? 'z' : o.size == 32 ? 'y' : 'x', o.reg);
    case OperandKind::mask: return fmt::format("k{}", o.reg);
    case OperandKind::memory: return memory(insn, o, next);
    case OperandKind::immediate: return fmt::format("{:#x}", insn.imm);
    case OperandKind::immediate2: return fmt::format("{:#x}", insn.imm2);
    case OperandKind::relative: {
      u64 target = next + insn.imm;
      if (insn.opsize == 2) target &= 0xffff;
      if (insn.opsize == 4) target &= 0xffffffff;
      return fmt::format("{:#x}", target);
    }
    case OperandKind::far_pointer: return fmt::format("{:#x}:{:#x}", insn.imm2, insn.imm);
  }
  return "";
}

}  // namespace

string mnemonic(const Insn& insn) {
  if (insn.sem == Sem::invalid) return "(bad)";
  const Row& row = row_of(insn);
  string_view names = row.names;
  if (insn.sem == Sem::jcxz)
    return insn.addrsize == 2 ? "jcxz" : insn.addrsize == 4 ? "jecxz" : "jrcxz";
  if (size_t bar = names.find('|'); bar != string_view::npos) {
    string_view rest = names.substr(bar + 1);
    size_t second = rest.find('|');
    if (insn.opsize == 2)
      names = names.substr(0, bar);
    else if (insn.opsize == 4 || second == string_view::npos)
      names = rest.substr(0, second);
    else
      names = rest.substr(second + 1);
  }
  string s(names);
  if (row.opcode_bits == 4) s += kConditions[insn.condition];
  if (insn.cls == Class::string && insn.op[0].implicit) {  // not IN and OUT
    for (const Operand& o : insn.op)
      if (o.kind == OperandKind::memory) {
        s += o.size == 1 ? 'b' : o.size == 2 ? 'w' : o.size == 4 ? 'd' : 'q';
        break;
      }
  }
  return s;
}

string disassemble(const Insn& insn, u64 rip) {
  if (insn.sem == Sem::invalid) return "(bad)";
  string s;
  if (insn.lock) s += "lock ";
  if (insn.cls == Class::string && insn.op[0].implicit) {
    bool compares = insn.sem == Sem::cmps || insn.sem == Sem::scas;
    if (insn.rep) s += compares ? "repe " : "rep ";
    if (insn.repne) s += compares ? "repne " : "rep ";
  }
  s += mnemonic(insn);
  u64 next = rip + insn.length;
  for (unsigned i = 0; i < insn.operands && !insn.op[i].implicit; ++i) {
    s += i ? ", " : " ";
    s += operand(insn, insn.op[i], next);
    if (i == 0 && insn.evex_aaa)
      s += fmt::format(" {{k{}}}{}", insn.evex_aaa, insn.evex_z ? "{z}" : "");
  }
  if (insn.evex_b && insn.modrm >= 0xc0) {
    constexpr string_view kRounding[] = {"rn", "rd", "ru", "rz"};
    s += row_of(insn).rounding ? fmt::format(", {{{}-sae}}", kRounding[insn.evex_rc]) : ", {sae}";
  }
  return s;
}

}  // namespace skerry::isa

#include "vmm/crash_report.hpp"

#include "isa/disassemble.hpp"

namespace skerry::vmm {
namespace {

std::vector<u8> peek(machine::Machine& machine, machine::Vcpu& vcpu, u64 address, size_t length) {
  std::vector<u8> bytes;
  while (bytes.size() < length) {
    auto gpa = vcpu.translate(address + bytes.size());
    auto value = gpa ? machine.memory().read_value<u8>(*gpa) : std::nullopt;
    if (!value) break;
    bytes.push_back(*value);
  }
  return bytes;
}

const char* mode_name(const machine::CpuState& s) {
  if (!(s.cr0 & 1)) return "real mode";
  if (s.rflags & 0x20000) return "virtual-8086 mode";
  if (s.efer & 0x400) return s.seg[machine::cs].is_long() ? "64-bit mode" : "compatibility mode";
  return s.seg[machine::cs].is_big() ? "32-bit protected mode" : "16-bit protected mode";
}

}  // namespace

std::string crash_report(machine::Machine& machine, unsigned cpu) {
  return "\nskerry: the guest crashed: triple fault on " + cpu_report(machine, cpu);
}

std::string cpu_report(machine::Machine& machine, unsigned cpu) {
  machine::CpuState s;
  machine::VcpuThread& thread = machine.cpu(cpu < machine.cpus() ? cpu : 0);
  if (auto saved = thread.save(s); !saved)
    return fmt::format("CPU {}, whose state cannot be read\n", cpu);
  using namespace machine;
  std::string text =
      fmt::format("CPU {} in {}, CPL {}\n", cpu, mode_name(s), s.seg[cs].selector & 3);
  static constexpr const char* kNames[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP",
                                             "RSI", "RDI", "R8 ", "R9 ", "R10", "R11",
                                             "R12", "R13", "R14", "R15"};
  for (unsigned i = 0; i < 16; ++i)
    text += fmt::format("  {} {:016x}{}", kNames[i], s.gpr[i], i % 4 == 3 ? "\n" : "");
  text += fmt::format("  RIP {:04x}:{:016x}  RFLAGS {:08x}\n", s.seg[cs].selector, s.rip, s.rflags);
  text += fmt::format("  CR0 {:08x}  CR2 {:016x}  CR3 {:016x}  CR4 {:08x}  EFER {:08x}\n", s.cr0,
                      s.cr2, s.cr3, s.cr4, s.efer);
  text += fmt::format("  GDT {:016x}+{:04x}  IDT {:016x}+{:04x}  TR {:04x} {:016x}\n", s.gdtr.base,
                      s.gdtr.limit, s.idtr.base, s.idtr.limit, s.tr.selector, s.tr.base);
  static constexpr const char* kSegments[6] = {"ES", "CS", "SS", "DS", "FS", "GS"};
  for (unsigned i = 0; i < 6; ++i)
    text += fmt::format("  {} {:04x} base {:016x} limit {:08x} attributes {:05x}\n", kSegments[i],
                        s.seg[i].selector, s.seg[i].base, s.seg[i].limit, s.seg[i].attributes);
  u64 at = s.seg[cs].base + s.rip;
  std::vector<u8> code = peek(machine, thread.vcpu(), at, 48);
  if (code.empty()) text += "  code: RIP is not mapped\n";
  isa::DecodeMode mode;
  mode.bits = s.efer & 0x400 && s.seg[cs].is_long() ? 64 : s.seg[cs].is_big() ? 32 : 16;
  mode.protected_mode = s.cr0 & 1 && !(s.rflags & 0x20000);
  size_t offset = 0;
  for (int i = 0; i < 5 && offset < code.size(); ++i) {
    isa::Insn insn;
    if (isa::decode(std::span(code).subspan(offset), mode, insn) != isa::DecodeStatus::ok) {
      text += fmt::format("  {:016x}: {:02x} (not an instruction)\n", s.rip + offset, code[offset]);
      break;
    }
    text += fmt::format("  {:016x}: {}\n", s.rip + offset, isa::disassemble(insn, s.rip + offset));
    offset += insn.length;
  }
  unsigned width = mode.bits / 8;
  std::vector<u8> stack = peek(machine, thread.vcpu(), s.seg[ss].base + s.gpr[rsp], 8 * width);
  text += "  stack:";
  for (size_t i = 0; i + width <= stack.size(); i += width) {
    u64 value = 0;
    std::memcpy(&value, &stack[i], width);
    text += fmt::format(" {:0{}x}", value, 2 * width);
  }
  return text + (stack.empty() ? " not mapped\n" : "\n");
}

}  // namespace skerry::vmm

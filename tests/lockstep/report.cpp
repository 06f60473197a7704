#include "lockstep/report.hpp"

#include "isa/disassemble.hpp"

namespace skerry::lockstep {
namespace {

using machine::CpuState;
constexpr size_t kHistory = 24;

std::string hex(std::span<const u8> bytes) {
  std::string text;
  for (u8 byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

/// One instruction of `bytes` and its length; 0 if it is none.
std::pair<std::string, size_t> instruction(std::span<const u8> bytes, const CpuState& s, u64 rip) {
  isa::Insn insn;
  if (isa::decode(bytes, mode_of(s), insn) != isa::DecodeStatus::ok)
    return {bytes.empty() ? "not mapped"
                          : "(bad) " + hex(bytes.first(std::min<size_t>(bytes.size(), 8))),
            0};
  return {fmt::format("{:30} {}", hex(bytes.first(insn.length)), isa::disassemble(insn, rip)),
          insn.length};
}

std::string registers(const CpuState& s) {
  static constexpr const char* kNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                             "rsi", "rdi", "r8 ", "r9 ", "r10", "r11",
                                             "r12", "r13", "r14", "r15"};
  std::string text;
  for (unsigned i = 0; i < 16; ++i)
    text += fmt::format("  {} {:016x}{}", kNames[i], s.gpr[i], i % 4 == 3 ? "\n" : "");
  const auto mode = mode_of(s);
  return text + fmt::format(
                    "  rip {:016x}  rflags {:08x}  {} bits, CPL {}\n"
                    "  cr0 {:08x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}  fs {:x} gs {:x}\n",
                    s.rip, s.rflags, mode.bits, s.seg[machine::ss].dpl(), s.cr0, s.cr2, s.cr3,
                    s.cr4, s.efer, s.seg[machine::fs].base, s.seg[machine::gs].base);
}

}  // namespace

std::string text_of(const Findings& f) {
  std::string text;
  for (const Difference& d : f.registers)
    text += fmt::format("  {:20} A {:#x}  B {:#x}  differ in {:#x}\n", d.name, d.a, d.b, d.a ^ d.b);
  if (f.ram)
    text += fmt::format("  memory at {:#x}      A {}  B {}  ({} pages differ)\n", f.ram->at,
                        hex(f.ram->a), hex(f.ram->b), f.ram->pages);
  for (const std::string& note : f.notes) text += "  " + note + "\n";
  return text;
}

BlockReport::BlockReport(Side& a, const CpuState& before)
    : before_(before), begin_(a.position()), linear_(linear_rip(before)) {
  bytes_ = a.code_at(linear_, 512);
}

std::string BlockReport::code() const {
  std::string text = fmt::format("block at {:#x}, position {} to {}:\n", linear_, begin_, end_);
  size_t at = 0;
  for (u64 i = begin_; i < std::max(end_, begin_ + 1); ++i) {
    auto [line, length] = instruction(std::span(bytes_).subspan(at), before_, before_.rip + at);
    text += fmt::format("  {:#x}: {}\n", before_.rip + at, line);
    if (length == 0) break;
    at += length;
  }
  return text;
}

std::string BlockReport::text(Side& b) const {
  std::string steps;
  const CpuState* from = &before_;
  for (const CpuState& to : steps_) {
    steps += fmt::format("  {:#x}: {}\n", from->rip,
                         instruction(b.code_at(linear_rip(*from), 15), *from, from->rip).first);
    std::string changes;
    for (const Difference& d :
         differences(*from, to, {.flags = 0, .fields = {}, .devices = false, .pointers = false}))
      if (d.name != "rip" && d.name != "tsc") changes += fmt::format(" {}={:#x}", d.name, d.b);
    if (!changes.empty()) steps += "      " + changes + "\n";
    from = &to;
  }
  return "the first divergent block, A's " + code() + "before it, on both sides:\n" +
         registers(before_) + "B's steps through it:\n" + steps + "after it:\n";
}

void History::add(const BlockReport& block) {
  lines_.push_back({block.begin(), block.linear(), block.steps()});
  if (lines_.size() > kHistory) lines_.pop_front();
}

std::string History::text() const {
  std::string text = "blocks before (position, address, steps):\n";
  for (const Line& line : lines_)
    text += fmt::format("  {:12} {:#018x} {:4}\n", line.position, line.linear, line.steps);
  return text;
}

}  // namespace skerry::lockstep

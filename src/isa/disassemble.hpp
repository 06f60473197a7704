// Intel syntax, for traces, logs and test messages. Pure; any thread.
#pragma once

#include <string>

#include "isa/insn.hpp"

namespace skerry::isa {

/// The mnemonic alone: "jne", "cdqe", "movsb", "fcmovbe".
std::string mnemonic(const Insn& insn);

/// "add qword ptr [rsp+0x10], rax". `rip` is the instruction's own address: branch targets and
/// RIP-relative operands are shown as addresses.
std::string disassemble(const Insn& insn, u64 rip);

}  // namespace skerry::isa

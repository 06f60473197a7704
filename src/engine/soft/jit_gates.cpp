// The gates: code between translated code and C++ (jit.hpp), made once per code cache.
#include "engine/soft/assembler.hpp"
#include "engine/soft/jit.hpp"

namespace skerry::soft {

void Jit::make_gates() {
  Assembler a;
  constexpr u8 kSaved[] = {hbx, hbp, h12, h13, h14, h15};
  // The base register's value less the Cpu's address is its size.
  constexpr i32 kSize = static_cast<i32>(sizeof(Cpu));

  // enter(cpu, target): on a frame that leaves the stack aligned for calls.
  gate_.enter = a.size();
  for (u8 r : kSaved) {
    if (r >= 8) a.byte(0x41);
    a.byte(static_cast<u8>(0x50 | (r & 7)));
  }
  a.alu_imm(5, hsp, 8);
  a.store({hdi, kNoReg, 0, kSize + at::kHostStack}, hsp);
  a.mov(hbx, hdi);
  a.mov(hax, hsi);

  // Goes on at RAX with the Cpu in RBX; null: returns from enter().
  gate_.resume = a.size();
  a.op_reg(0x85, hax, hax);
  const Fixup leave = a.jcc32(cE);
  a.load(hsp, {hbx, kNoReg, 0, kSize + at::kJitBase});
  a.store(a.base(at::kScratch), hax);
  a.restore_flags(kT1);
  for (u8 guest = 0; guest < 16; ++guest)
    if (kHome[guest] != kNoReg) a.load(kHome[guest], a.base(at::gpr(guest)));
  a.load(kT0, a.base(at::kResumeT0));
  a.load(kT1, a.base(at::kResumeT1));
  a.jmp_mem(a.base(at::kScratch));
  a.patch32(leave, a.size());
  a.alu_imm(0, hsp, 8);
  for (unsigned i = 6; i-- > 0;) {
    if (kSaved[i] >= 8) a.byte(0x41);
    a.byte(static_cast<u8>(0x58 | (kSaved[i] & 7)));
  }
  a.byte(0xc3);

  auto make = [&](u8* (*function)(Cpu*, u64), u8 argument, bool flags) {
    while (a.size() % 16) a.byte(0xcc);
    const u32 at = a.size();
    if (flags) a.save_flags(argument == kT0 ? kT1 : kT0);
    for (u8 guest = 0; guest < 16; ++guest)
      if (kHome[guest] != kNoReg) a.store(a.base(at::gpr(guest)), kHome[guest]);
    a.store(a.base(at::kJitBase), hsp);
    a.load(hbx, a.base(at::kSelf));
    a.mov(hsi, argument);
    a.mov(hdi, hbx);
    a.load(hsp, {hbx, kNoReg, 0, kSize + at::kHostStack});
    a.mov_imm(hax, reinterpret_cast<u64>(function));
    a.bytes({0xff, 0xd0});  // call rax
    a.patch32(a.jmp32(), gate_.resume);
    return at;
  };
  gate_.slow = make(gate_slow, kT1, false);
  gate_.interpret = make(Jit::gate<&Jit::interpret>, kT1, false);
  gate_.link = make(Jit::gate<&Jit::link>, kT1, false);
  gate_.link_live = make(Jit::gate<&Jit::link>, kT1, true);
  gate_.dispatch = make(gate_dispatch, kT0, false);
  gate_.iret = make(gate_iret, kT1, false);
  gate_.sysenter = make(narrow_gate<&Jit::narrow_sysenter>, kT1, false);
  gate_.sysexit = make(narrow_gate<&Jit::narrow_sysexit>, kT1, false);
  gate_.segment = make(narrow_gate<&Jit::narrow_segment>, kT1, false);
  gate_.stop = make(Jit::gate<&Jit::stop>, kT1, false);
  gate_.stop_live = make(Jit::gate<&Jit::stop>, kT1, true);
  gate_.stale = make(Jit::gate<&Jit::stale>, kT1, false);
  gate_.stale_live = make(Jit::gate<&Jit::stale>, kT1, true);
  gate_.load_vectors = make(Jit::gate<&Jit::load_vectors>, kT1, true);
  gate_.native_fault = make(Jit::gate<&Jit::native_fault>, kT0, false);
  while (a.size() % 64) a.byte(0xcc);
  std::memcpy(write_, a.code.get(), a.size());
  first_block_at_ = a.size();
  SKERRY_CHECK(first_block_at_ <= kGateRoom, "the gates are small");
  open(0);
}

}  // namespace skerry::soft

#include "oracle/guest.hpp"

#include "engine/soft/jit.hpp"
#include "engine/soft/thunk.hpp"

namespace skerry::oracle {
namespace {

constexpr u64 kPml4 = 0x1000, kPdpt = 0x2000, kDirectory = 0x3000, kFirstTable = 0x4000;
constexpr u64 kCodeGpa = 0x10000, kReadOnlyGpa = 0x11000, kDataGpa = 0x12000;
// What the run loop needs besides, mapped from kKernel on for CPL 0 alone.
constexpr u64 kKernel = 0xffff'8000'0000'0000, kKernelTables = 0x8000, kGdt = 0x20000,
              kIdt = 0x21000, kTss = 0x22000, kHandlers = 0x23000, kStackTop = 0x26000;
constexpr u64 kPresent = 1, kWrite = 2, kUser = 4, kNoExecute = u64{1} << 63;

machine::Segment segment(u16 selector, u32 attributes) {
  return {selector, 0, 0xffffffff, attributes};
}

}  // namespace

Result<std::unique_ptr<Guest>> Guest::create(bool translated) {
  std::unique_ptr<Guest> g(new Guest);
  g->memory_ = TRY(memory::GuestMemory::create(4 * MiB));
  g->shared_.setup.memory = g->memory_.get();
  g->shared_.slots = g->memory_->slots();
  g->shared_.physical_mask = (u64{1} << 40) - 1;
  g->core_ = std::make_unique<soft::Cpu::Core>(*g->cpu_, g->shared_, 0, nullptr);
  g->build_tables();

  soft::Cpu& cpu = *g->cpu_;
  machine::CpuState& s = cpu.s;
  s.cr0 = 0x80050033;  // PG AM WP NE ET MP PE
  s.cr3 = kPml4;
  s.cr4 = 0x40620;  // OSXSAVE OSXMMEXCPT OSFXSR PAE
  s.efer = 0xd01;   // NXE LMA LME SCE
  s.xcr0 = soft::supported_vector_features().xcr0;
  cpu.cpl = 3;
  cpu.seg.fill(segment(0, machine::Segment::kUnusable));
  cpu.seg[machine::cs] = segment(0x33, 0xa0fb);
  cpu.seg[machine::ss] = segment(0x2b, 0xc0f3);
  cpu.rflags = 0x202;
  cpu.update_mode();
  if (translated) {
    g->build_kernel();
    g->core_->jit = soft::Jit::create(*g->core_);
    if (!g->core_->jit) return fail("no memory for translated code");
  }
  return g;
}

void Guest::build_kernel() {
  auto put = [&](u64 at, u64 value) { store<u64>(memory_->host(at, 8), value); };
  put(kPml4 + 8 * 256, kKernelTables | kPresent | kWrite);
  put(kKernelTables, (kKernelTables + kPage) | kPresent | kWrite);
  put(kKernelTables + kPage, kPresent | kWrite | 0x80);
  put(kGdt + 0x08, 0x00af'9b00'0000'ffff);  // 64-bit code
  put(kTss + 4, kKernel + kStackTop);
  for (u64 v = 0; v < 32; ++v) {
    const u64 to = kKernel + kHandlers + 16 * v;
    *memory_->host(kHandlers + 16 * v, 1) = 0xf4;
    put(kIdt + 16 * v, (to & 0xffff) | u64{8} << 16 | u64{0x8e} << 40 | (to & 0xffff'0000) << 32);
    put(kIdt + 16 * v + 8, to >> 32);
  }
  std::memset(memory_->host(kCodeGpa, kPage), 0xf4, kPage);
  machine::CpuState& s = cpu_->s;
  s.gdtr = {kKernel + kGdt, 0xff};
  s.idtr = {kKernel + kIdt, 32 * 16 - 1};
  s.tr = {0x40, kKernel + kTss, 0x67, 0x8b};
}

void Guest::build_tables() {
  auto entry = [&](u64 table, u64 index, u64 value) {
    u64* at = reinterpret_cast<u64*>(memory_->host(table + 8 * index, 8));
    *at = value;
  };
  u64 next = kFirstTable;
  entry(kPml4, 0, kPdpt | kPresent | kWrite | kUser);
  entry(kPdpt, 1, kDirectory | kPresent | kWrite | kUser);
  auto map = [&](u64 at, u64 gpa, u64 flags) {
    u64 slot = at >> 21 & 511;
    u64 table = load<u64>(memory_->host(kDirectory + 8 * slot, 8)) & ~u64{0xfff};
    if (!table) {
      table = next;
      next += kPage;
      entry(kDirectory, slot, table | kPresent | kWrite | kUser);
    }
    entry(table, at >> 12 & 511, gpa | flags | kPresent | kUser);
  };
  map(kCode, kCodeGpa, 0);
  map(kReadOnly, kReadOnlyGpa, kNoExecute);
  map(kData, kDataGpa, kWrite | kNoExecute);
  map(kData + kPage, kDataGpa + kPage, kWrite | kNoExecute);
}

void Guest::set_mode(bool bits32) {
  if (bits32 == (cpu_->code_bits == 32)) return;
  cpu_->seg[machine::cs] = segment(0x33, bits32 ? 0xc0fb : 0xa0fb);
  for (machine::Seg s : {machine::ds, machine::es})
    cpu_->seg[s] = bits32 ? segment(0x2b, 0xc0f3) : segment(0, machine::Segment::kUnusable);
  cpu_->update_mode();
}

void Guest::run_translated(const Case& c, Outcome& out) {
  soft::Cpu& cpu = *cpu_;
  soft::Cpu::Core& core = *core_;
  if (++runs_ % 4096 == 0) core.jit->flush();
  out.translated = true;
  u8 code[17];
  std::copy_n(c.code, c.insn.length, code);
  code[c.insn.length] = 0xf4;
  const u64 size = c.insn.length + 1u;
  (void)memory_->write(kCodeGpa + (kInsnAt - kCode), {code, size});
  cpu.cpl = 3;
  cpu.seg[machine::cs] = segment(0x33, c.bits32 ? 0xc0fb : 0xa0fb);
  cpu.seg[machine::ss] = segment(0x2b, 0xc0f3);
  cpu.update_mode();
  const machine::Exit exit = core.run();
  (void)memory_->fill(kCodeGpa + (kInsnAt - kCode), 0xf4, size);
  const u64 handler = (cpu.rip - 1 - kKernel - kHandlers) / 16;
  if (!std::holds_alternative<machine::Halt>(exit) || handler >= 32) {
    out.vector = kNotRun;
    return;
  }
  // The frame of the exception: SS, RSP, RFLAGS, CS, RIP, and perhaps an error code.
  auto frame = [&](u64 n) { return load<u64>(memory_->host(kStackTop - 8 * n, 8)); };
  const bool has_error = cpu.gpr[machine::rsp] == kKernel + kStackTop - 48;
  out.vector = static_cast<u8>(handler);
  out.error = has_error ? static_cast<u32>(frame(6)) : 0;
  out.address = handler == soft::PF ? cpu.s.cr2 : 0;
  out.state.regs.rip = frame(5);
  out.state.regs.rflags = frame(3);
  if (handler == soft::GP && out.state.regs.rip != kInsnAt) {
    out.vector = kNoFault;
    out.error = 0;
  } else if (c.insn.cls != isa::Class::string) {
    // Flags that the instruction would have overwritten are not kept for its fault. A string's are
    // those of its last element.
    u64& flags = out.state.regs.rflags;
    flags = (flags & ~soft::kArithmeticFlags) | (c.in.regs.rflags & soft::kArithmeticFlags);
  }
  std::copy_n(cpu.gpr.begin(), 16, out.state.regs.gpr.begin());
  out.state.regs.gpr[machine::rsp] = frame(2);
  out.state.xsave = cpu.s.xsave;
}

void Guest::run(const Case& c, Outcome& out) {
  soft::Cpu& cpu = *cpu_;
  std::memcpy(memory_->host(kDataGpa, kDataSize), c.data.data(), kDataSize);
  std::copy_n(c.in.regs.gpr.begin(), 16, cpu.gpr.begin());
  cpu.set_eflags(c.in.regs.rflags);
  cpu.s.xsave = c.in.xsave;
  cpu.core->vectors_touched = true;
  machine::CpuState& s = cpu.s;
  store<u64>(&s.xsave[512], s.xcr0);
  soft::vector_state_loaded(s);
  set_mode(c.bits32);
  const isa::Insn& insn = c.bits32 ? c.insn32 : c.insn;
  cpu.pending_exit = false;
  cpu.rip = kInsnAt;
  out.vector = kNoFault;
  out.error = 0;
  out.address = 0;
  if (core_->jit) {
    run_translated(c, out);
    std::memcpy(out.data.data(), memory_->host(kDataGpa, kDataSize), kDataSize);
    return;
  }
  std::memcpy(memory_->host(kCodeGpa + (kInsnAt - kCode), 16), c.code, c.insn.length);

  soft::Op op{};
  soft::prepare_op(op, insn);
  op.run = soft::handler_for(insn);
  soft::Flow flow = soft::Flow::fault;
  if (!op.run) {
    cpu.raise(soft::UD);
  } else {
    unsigned again = 0;
    do {  // a repeated string instruction may stop between two elements
      cpu.gpr[17] = kInsnAt + c.insn.length;
      flow = op.run(cpu, op);
    } while (flow == soft::Flow::branch && cpu.rip == kInsnAt && ++again < 100000);
  }
  switch (flow) {
    case soft::Flow::next:
    case soft::Flow::end: cpu.rip = cpu.gpr[17]; break;
    case soft::Flow::fault:
      out.vector = cpu.fault.vector;
      out.error = cpu.fault.has_error ? cpu.fault.error : 0;
      out.address = cpu.fault.address;
      break;
    case soft::Flow::exit: out.vector = kNotRun; break;
    default: break;
  }
  std::copy_n(cpu.gpr.begin(), 16, out.state.regs.gpr.begin());
  out.state.regs.rip = cpu.rip;
  out.state.regs.rflags = cpu.eflags();
  out.state.xsave = cpu.s.xsave;
  std::memcpy(out.data.data(), memory_->host(kDataGpa, kDataSize), kDataSize);
}

}  // namespace skerry::oracle

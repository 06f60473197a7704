#include "oracle/guest.hpp"

#include "engine/soft/thunk.hpp"

namespace skerry::oracle {
namespace {

constexpr u64 kPml4 = 0x1000, kPdpt = 0x2000, kDirectory = 0x3000, kFirstTable = 0x4000;
constexpr u64 kCodeGpa = 0x10000, kReadOnlyGpa = 0x11000, kDataGpa = 0x12000;
constexpr u64 kPresent = 1, kWrite = 2, kUser = 4, kNoExecute = u64{1} << 63;

machine::Segment segment(u16 selector, u32 attributes) {
  return {selector, 0, 0xffffffff, attributes};
}

}  // namespace

Result<std::unique_ptr<Guest>> Guest::create() {
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
  return g;
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

void Guest::run(const Case& c, Outcome& out) {
  soft::Cpu& cpu = *cpu_;
  std::memcpy(memory_->host(kDataGpa, kDataSize), c.data.data(), kDataSize);
  std::memcpy(memory_->host(kCodeGpa + (kInsnAt - kCode), 16), c.code, c.insn.length);
  std::copy_n(c.in.regs.gpr.begin(), 16, cpu.gpr.begin());
  cpu.set_eflags(c.in.regs.rflags);
  cpu.s.xsave = c.in.xsave;
  machine::CpuState& s = cpu.s;
  store<u64>(&s.xsave[512], s.xcr0);
  soft::vector_state_loaded(s);
  set_mode(c.bits32);
  const isa::Insn& insn = c.bits32 ? c.insn32 : c.insn;
  cpu.pending_exit = false;
  cpu.rip = kInsnAt;

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
  out.vector = kNoFault;
  out.error = 0;
  out.address = 0;
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

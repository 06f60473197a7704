#include "engine/soft/block.hpp"

#include <sched.h>

#include "engine/soft/core.hpp"
#include "isa/row.hpp"

#include <algorithm>

namespace skerry::soft {
namespace {

using isa::OperandKind;

u8 mode_of(const Cpu& cpu) {
  return static_cast<u8>(cpu.code_bits | (cpu.protected_mode && !cpu.v86 ? 0x80 : 0));
}

u32 bucket_of(u64 gpa, u8 mode, u32 buckets) {
  return static_cast<u32>(((gpa ^ (u64{mode} << 57)) * 0x9e3779b97f4a7c15) >> 40) & (buckets - 1);
}

Flow undefined(Cpu& cpu, const Op&) {
  return cpu.raise(UD);
}
Flow too_long(Cpu& cpu, const Op&) {
  return cpu.raise(GP, 0);
}
/// What is left of a block that was overwritten while it ran.
Flow leave(Cpu& cpu, const Op&) {
  --cpu.core->instructions;  // it will be counted when it is executed
  return Flow::far_branch;
}  // rip is already this instruction's

u64 granules(u64 offset, u64 bytes) {
  u64 first = offset / 64, last = (offset + bytes - 1) / 64;
  return (~u64{0} << first) & (~u64{0} >> (63 - last));
}

u8 location(const isa::Operand& o) {
  switch (o.kind) {
    case OperandKind::gpr: return static_cast<u8>(o.reg * 8);
    case OperandKind::gpr_high: return static_cast<u8>(o.reg * 8 + 1);
    case OperandKind::memory:
    case OperandKind::none:
    case OperandKind::immediate:
    case OperandKind::immediate2:
    case OperandKind::relative:
    case OperandKind::far_pointer: return 0xff;
    default: return o.reg;
  }
}

}  // namespace

bool ends_block(const isa::Insn& insn) {
  using isa::Sem;
  switch (insn.sem) {
    case Sem::jmp:
    case Sem::call:
    case Sem::ret:
    case Sem::jmp_far:
    case Sem::call_far:
    case Sem::ret_far:
    case Sem::iret:
    case Sem::int_:
    case Sem::int3:
    case Sem::int1:
    case Sem::syscall:
    case Sem::sysret:
    case Sem::sysenter:
    case Sem::sysexit:
    case Sem::hlt:
    case Sem::ud0:
    case Sem::ud1:
    case Sem::ud2: return true;
    default: return false;
  }
}

void prepare_op(Op& op, const isa::Insn& insn) {
  op.insn = &insn;
  op.imm = insn.imm;
  op.disp = static_cast<i32>(insn.mem.disp);
  op.length = insn.length;
  op.opsize = insn.opsize;
  op.base = insn.mem.base;
  op.index = insn.mem.vsib ? isa::Memory::kNone : insn.mem.index;
  op.scale = insn.mem.scale;
  op.segment = insn.mem.segment;
  op.addrsize = insn.addrsize;
  op.dst = location(insn.op[0]);
  op.src = location(insn.op[1]);
  if (static_cast<i64>(op.disp) != insn.mem.disp) op.imm = static_cast<u64>(insn.mem.disp);
}

Handler handler_for(const isa::Insn& insn) {
  switch (insn.cls) {
    case isa::Class::x87:
    case isa::Class::mmx:
    case isa::Class::sse:
    case isa::Class::avx:
    case isa::Class::avx512:
    case isa::Class::mask: return select_vector(insn);
    default: break;
  }
  if (Handler h = select_system(insn)) return h;
  if (Handler h = select_integer(insn)) return h;
  return select_vector(insn);
}

Handler decode_one(std::span<const u8> bytes, isa::DecodeMode mode, const isa::FeatureSet& features,
                   isa::Insn& insn) {
  insn = isa::Insn{};
  const isa::DecodeStatus status = isa::decode(bytes, mode, insn);
  if (status != isa::DecodeStatus::ok) {
    const u8 length = insn.length;
    insn = isa::Insn{};
    insn.length = std::clamp<u8>(length, 1, 15);
    return status == isa::DecodeStatus::too_long ? too_long : undefined;
  }
  if (!isa::feature_allowed(insn, features)) {
    const isa::Row& row = isa::row_of(insn);
    if (row.fallback == isa::Sem::invalid) return undefined;
    insn.sem = row.fallback;
  }
  Handler handler = handler_for(insn);
  return handler ? handler : undefined;
}

BlockCache::BlockCache(Cpu::Core& core)
    : core_(core), tables_(kBuckets * sizeof(Block*) + kJumps * sizeof(Jump)) {
  jumps_ = new (tables_.get()) Jump[kJumps];
  buckets_ = new (tables_.get() + kJumps * sizeof(Jump)) Block* [kBuckets] {};
}
BlockCache::~BlockCache() = default;

void BlockCache::clear() {
  std::fill_n(buckets_, kBuckets, nullptr);
  std::fill_n(jumps_, kJumps, Jump{});
  hot_ = {};
  cold_ = {};
  running = nullptr;
  ++clears;
}

void* BlockCache::Arena::allocate(u64 size, u64 alignment) {
  used = align_up(used, alignment);
  if (used + size > kChunk) {
    chunks.emplace_back(kChunk);
    used = 0;
  }
  void* at = chunks.back().get() + used;
  used += size;
  return at;
}

void BlockCache::retire(Block& block) {
  block.gpa = ~u64{0};
  block.code = &unwritable_;
  block.code2 = nullptr;
  block.version = 1;
}

void BlockCache::abandon(Block& block) {
  for (u32 i = 0; i < block.count; ++i) block.ops[i].run = leave;
  retire(block);
}

memory::PageDescriptor& BlockCache::code_page(u64 gpa, u64& host_page) {
  Cpu::Core::Page p = core_.page(gpa);
  host_page = reinterpret_cast<u64>(p.host);
  memory::DirtyMap& dirty = core_.memory.dirty();
  if (!p.host || !dirty.covers(p.offset)) return unwritable_;
  return dirty.descriptor(p.offset);
}

// From here on every store into these bytes changes the page's version. The mutex makes sure that
// whoever sees a granule already set also sees the write entries of that page gone.
void BlockCache::watch(u64 gpa, u64 bytes) {
  u64 host_page;
  memory::PageDescriptor& code = code_page(gpa, host_page);
  if (&code == &unwritable_) return;
  u64 mask = granules(gpa & 0xfff, bytes);
  Shared& shared = core_.shared;
  for (unsigned spins = 0; !shared.watch_mutex.try_lock(); ++spins) {
    core_.serve_flush();  // its holder may be waiting for us
    if (spins < 200)
      __builtin_ia32_pause();
    else
      sched_yield();
  }
  if (code.granules.fetch_or(mask, std::memory_order_seq_cst) == 0)
    shared.flush_writes(&core_, host_page);
  shared.watch_mutex.unlock();
}

// A store on another vCPU forgets all granules of the page and changes the version after that. If
// ours are there after the version was read, they were not among the forgotten ones, or the version
// is still to change.
u32 BlockCache::watch_version(u64 gpa, u64 bytes) {
  u64 host_page;
  memory::PageDescriptor& code = code_page(gpa, host_page);
  const u64 mask = granules(gpa & 0xfff, bytes);
  for (;;) {
    watch(gpa, bytes);
    const u32 version = code.version.load(std::memory_order_seq_cst);
    if (&code == &unwritable_ || (code.granules.load(std::memory_order_seq_cst) & mask) == mask)
      return version;
  }
}

bool BlockCache::revalidate(Block& b) {
  u64 first = std::min<u64>(b.bytes, 4096 - (b.gpa & 0xfff));
  const u32 v = watch_version(b.gpa, first);
  const u32 v2 = b.code2 ? watch_version(b.gpa2, b.bytes - first) : 0;
  Cpu::Core::Page p = core_.page(b.gpa);
  if (!p.host || std::memcmp(p.host + (b.gpa & 0xfff), b.copy, first)) return false;
  if (b.code2) {
    Cpu::Core::Page p2 = core_.page(b.gpa2);
    if (!p2.host || std::memcmp(p2.host, b.copy + first, b.bytes - first)) return false;
  }
  b.version = v;
  b.version2 = v2;
  return true;
}

bool BlockCache::decode(Block& b, u64 linear) {
  const Cpu& cpu = core_.cpu;
  u8 bytes[16];
  const u32 offset = static_cast<u32>(b.gpa & 0xfff);
  const u32 available = 4096 - offset;
  u64 host_page;
  b.code = &code_page(b.gpa, host_page);
  b.code2 = nullptr;
  b.gpa2 = ~u64{0};
  b.count = 0;
  b.link[0] = b.link[1] = {};

  // A copy of the page's rest, taken after the stores into it are watched. The granules watched are
  // those of the longest block; fewer would need a second pass.
  b.version = watch_version(b.gpa, std::min<u32>(available, 16));
  u8 copy[4096];
  u32 watched = std::min<u32>(available, 16);
  auto fetch = [&](u32 from, u32 size) {
    if (host_page)
      std::memcpy(copy + from, reinterpret_cast<const u8*>(host_page) + offset + from, size);
    else
      std::memset(copy + from, 0xff, size);  // nobody answers
  };
  fetch(0, watched);

  isa::DecodeMode mode{cpu.code_bits, (b.mode & 0x80) != 0};
  isa::Insn insns[kMaxOps];
  u32 at = 0;
  auto invalid = [&](isa::Insn& insn, u32 length) {
    insn = isa::Insn{};
    insn.length = static_cast<u8>(std::clamp<u32>(length, 1, 15));
  };
  Handler handlers[kMaxOps];
  while (b.count < kMaxOps && at < available) {
    if (u32 need = std::min(at + 15, available); need > watched) {
      // Watch on in larger steps; the version must not have moved since the first bytes were read.
      u32 step = std::min(available, std::max(need, watched + 64));
      watch(b.gpa + watched, step - watched);
      fetch(watched, step - watched);
      watched = step;
    }
    isa::Insn& insn = insns[b.count];
    insn = isa::Insn{};
    u32 size = std::min<u32>(15, available - at);
    isa::DecodeStatus status = isa::decode({copy + at, size}, mode, insn);
    Handler handler = nullptr;
    if (status == isa::DecodeStatus::truncated && size < 15) {
      if (b.count) break;
      // Crosses into the next page: a block of its own.
      u64 next = (linear & ~u64{0xfff}) + 4096;
      if (!cpu.flat) next &= 0xffff'ffff;
      u64 gpa2;
      if (!core_.translate_code(next, gpa2)) return false;
      b.gpa2 = gpa2;
      u64 host2;
      b.code2 = &code_page(gpa2, host2);
      b.version2 = watch_version(gpa2, 15 - size);
      std::memcpy(bytes, copy, size);
      if (host2)
        std::memcpy(bytes + size, reinterpret_cast<const u8*>(host2), 15 - size);
      else
        std::memset(bytes + size, 0xff, 15 - size);
      std::memcpy(copy, bytes, 15);
      status = isa::decode({bytes, 15}, mode, insn);
    }
    if (status != isa::DecodeStatus::ok) {
      if (b.count) break;
      invalid(insn, insn.length);
      handler = status == isa::DecodeStatus::too_long ? too_long : undefined;
    } else if (!isa::feature_allowed(insn, core_.shared.features)) {
      const isa::Row& row = isa::row_of(insn);
      if (row.fallback != isa::Sem::invalid) {
        insn.sem = row.fallback;
        handler = handler_for(insn);
      }
    } else {
      handler = handler_for(insn);
    }
    handlers[b.count] = handler ? handler : undefined;
    ++b.count;
    at += insn.length;
    if (!handler || handler == undefined || handler == too_long || ends_block(insn) || b.code2)
      break;
  }

  b.bytes = static_cast<u16>(std::min<u32>(at, b.code2 ? 15 : available));
  b.ops = static_cast<Op*>(hot_.allocate(b.count * sizeof(Op), alignof(Op)));
  auto* kept =
      static_cast<isa::Insn*>(cold_.allocate(b.count * sizeof(isa::Insn), alignof(isa::Insn)));
  b.copy = static_cast<u8*>(cold_.allocate(b.bytes, 1));
  std::memcpy(b.copy, copy, b.bytes);
  for (u32 i = 0; i < b.count; ++i) {
    new (&kept[i]) isa::Insn(insns[i]);
    Op* op = new (&b.ops[i]) Op{};
    prepare_op(*op, kept[i]);
    op->run = handlers[i];
  }
  return true;
}

Block* BlockCache::find(u64 linear) {
  Cpu& cpu = core_.cpu;
  u64 gpa;
  if (!core_.translate_code(linear, gpa)) return nullptr;
  u8 mode = mode_of(cpu);
  Block*& head = buckets_[bucket_of(gpa, mode, kBuckets)];
  for (Block* b = head; b; b = b->chain) {
    if (b->gpa != gpa || b->mode != mode) continue;
    if (b->code2) [[unlikely]] {
      u64 next = (linear & ~u64{0xfff}) + 4096, gpa2;
      if (!cpu.flat) next &= 0xffff'ffff;
      if (!core_.translate_code(next, gpa2)) return nullptr;
      if (gpa2 != b->gpa2) {
        retire(*b);
        break;
      }
    }
    if (b->current()) return b;
    if (revalidate(*b)) return b;
    retire(*b);
    break;
  }
  if ((hot_.chunks.size() + cold_.chunks.size()) * kChunk >= kLimit) {
    clear();
    return find(linear);
  }
  Block* b = new (hot_.allocate(sizeof(Block), 64)) Block{};
  b->gpa = gpa;
  b->mode = mode;
  if (!decode(*b, linear)) return nullptr;
  b->chain = head;
  head = b;
  return b;
}

}  // namespace skerry::soft

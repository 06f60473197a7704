#include "board/boot_state.hpp"

namespace skerry::board {

namespace {

using machine::CpuState;
using machine::Segment;

constexpr u32 kCode32 = 0xc09b, kCode64 = 0xa09b, kData = 0xc093;

// A descriptor (SDM 3A 3.4.5) of a flat segment with these attributes.
constexpr u64 flat_descriptor(u32 attributes) {
  return 0x000f'0000'0000'ffff | (static_cast<u64>(attributes) << 40);
}

Result<> set_segments(CpuState& s, Places& places, u32 code) {
  // The task is only there because protected mode has one; nothing switches to it.
  const u64 gdt[] = {0, 0, flat_descriptor(code), flat_descriptor(kData), 0x0000'8b00'0000'0067, 0};
  Gpa at = TRY(places.put({reinterpret_cast<const u8*>(gdt), sizeof gdt}, "the boot GDT"));
  s.gdtr = {at, sizeof gdt - 1};
  s.idtr = {0, 0};
  for (Segment& seg : s.seg) seg = {kBootData, 0, 0xffffffff, kData};
  s.seg[machine::cs] = {kBootCode, 0, 0xffffffff, code};
  s.tr = {kBootTask, 0, 0x67, 0x8b};
  s.ldtr = {0, 0, 0, 0x82 | Segment::kUnusable};
  s.gpr.fill(0);
  s.rflags = 2;
  return {};
}

}  // namespace

Result<CpuState> protected_mode_state(Places& places, u32 entry) {
  CpuState s;
  TRY_VOID(set_segments(s, places, kCode32));
  s.cr0 = 0x11;  // PE, ET; caches on
  s.rip = entry;
  return s;
}

Result<CpuState> long_mode_state(Places& places, u64 entry) {
  CpuState s;
  TRY_VOID(set_segments(s, places, kCode64));

  // PML4, PDPT and four page directories, one after the other (SDM 3A 4.5).
  constexpr u64 kTable = 512, kFlags = 3;  // present, writable
  Gpa at = TRY(places.put_zeros(6 * memory::kPageSize, "the boot page tables", memory::kPageSize));
  std::vector<u64> tables(6 * kTable);
  tables[0] = (at + memory::kPageSize) | kFlags;
  for (u64 i = 0; i < 4; ++i) tables[kTable + i] = (at + (2 + i) * memory::kPageSize) | kFlags;
  for (u64 i = 0; i < 4 * kTable; ++i) tables[2 * kTable + i] = (i * 2 * MiB) | kFlags | 0x80;
  if (!places.memory().write(at, {reinterpret_cast<const u8*>(tables.data()), tables.size() * 8}))
    return fail("cannot write the boot page tables");

  s.cr3 = at;
  s.cr4 = 0x20;        // PAE
  s.cr0 = 0x80000011;  // PG, ET, PE
  s.efer = 0x500;      // LME, LMA
  s.rip = entry;
  return s;
}

void set_memory_types(CpuState& state, unsigned physical_bits) {
  constexpr u64 kUncached = 0, kWriteBack = 6, kValid = 1 << 11, kEnable = 1 << 11;
  u64 address_mask = ((u64{1} << physical_bits) - 1) & ~u64{0xfff};
  auto range = [&](unsigned n, u64 start, u64 size) {
    state.mtrr_variable[2 * n] = start | kUncached;
    state.mtrr_variable[2 * n + 1] = (address_mask & ~(size - 1)) | kValid;
  };
  state.mtrr_def_type = kEnable | kWriteBack;
  range(0, kEcam.start, kEcam.size);  // 0xb0000000-0xbfffffff
  range(1, kEcam.end(), GiB);         // 0xc0000000-0xffffffff
}

}  // namespace skerry::board

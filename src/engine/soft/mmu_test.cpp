// Paging of every kind, by direct accesses of a Cpu: translations, error codes, accessed and dirty
// bits, page crossings, TLB maintenance.
#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using machine::ds;
using machine::ss;

constexpr u64 kFar = u64{5} << 30;  // a linear address of its own for 4 KiB mappings

class Mmu : public SoftTest {
 protected:
  Mmu() { long_mode(); }
  template <class T = u32>
  std::optional<T> read(u64 at, u8 segment = ds) {
    T v{};
    if (!cpu().read<T>(segment, at, v)) return std::nullopt;
    return v;
  }
  template <class T = u32>
  bool write(u64 at, T v, u8 segment = ds) {
    return cpu().write<T>(segment, at, v);
  }
  void expect_fault(u8 vector, u32 error, u64 address = 0) {
    EXPECT_EQ(cpu().fault.vector, vector);
    EXPECT_EQ(cpu().fault.error, error);
    if (vector == PF) {
      EXPECT_EQ(cpu().fault.address, address);
    }
  }
};

TEST_F(Mmu, sets_accessed_and_dirty_bits) {
  u64 pte = map_page(kFar, 0x100000, 3);
  put<u32>(0x100010, 0x1234);
  start();
  EXPECT_EQ(read(kFar + 0x10), 0x1234u);
  EXPECT_EQ(get<u64>(pte), 0x100000u | 0x23);
  EXPECT_TRUE(write<u32>(kFar + 0x10, 7));
  EXPECT_EQ(get<u64>(pte), 0x100000u | 0x63);
  EXPECT_EQ(get<u32>(0x100010), 7u);
  EXPECT_EQ(get<u64>(kPagesAt) & 0x60, 0x20u);  // upper levels: accessed only
}

TEST_F(Mmu, reports_faults_with_their_error_codes) {
  map_page(kFar, 0x100000, 1);                   // read-only supervisor
  map_page(kFar + 0x1000, 0x101000, 0);          // absent
  map_page(kFar + 0x2000, u64{1} << 50 | 3, 0);  // reserved address bit
  map_page(kFar + 0x3000, 0x103000, 5);          // read-only user
  start();
  EXPECT_FALSE(write<u8>(kFar, 1));
  expect_fault(PF, 3, kFar);
  EXPECT_FALSE(read(kFar + 0x1004));
  expect_fault(PF, 0, kFar + 0x1004);
  EXPECT_FALSE(read(kFar + 0x2000));
  expect_fault(PF, 9, kFar + 0x2000);
  cpu().set_cpl(3);
  EXPECT_FALSE(read(kFar));
  expect_fault(PF, 5, kFar);
  EXPECT_FALSE(write<u8>(kFar + 0x3000, 1));
  expect_fault(PF, 7, kFar + 0x3000);
  EXPECT_FALSE(read(kFar + 0x1000));
  expect_fault(PF, 4, kFar + 0x1000);
}

TEST_F(Mmu, lets_supervisors_write_read_only_pages_without_wp) {
  map_page(kFar, 0x100000, 1);
  state.cr0 &= ~u64{1 << 16};
  start();
  EXPECT_TRUE(write<u32>(kFar, 1));
  EXPECT_EQ(get<u32>(0x100000), 1u);
}

TEST_F(Mmu, keeps_supervisors_from_user_pages_under_smap_and_smep) {
  map_page(kFar, 0x100000, 7);
  state.cr4 |= 1 << 20 | 1 << 21;
  start();
  EXPECT_FALSE(read(kFar));
  expect_fault(PF, 1, kFar);
  u64 gpa;
  EXPECT_FALSE(cpu().core->translate_code(kFar, gpa));
  expect_fault(PF, 0x11, kFar);
  cpu().rflags |= AC_;
  cpu().select_tlb();
  EXPECT_TRUE(read(kFar));
  u32 v;
  EXPECT_FALSE(cpu().system_read(kFar, v));  // implicit accesses ignore AC
  cpu().rflags &= ~u64{AC_};
  cpu().select_tlb();
  EXPECT_FALSE(read(kFar)) << "the entry made under AC must not serve without it";
  cpu().set_cpl(3);
  EXPECT_TRUE(read(kFar));
}

TEST_F(Mmu, honours_no_execute) {
  map_page(kFar, 0x100000, u64{1} << 63 | 3);
  start();
  u64 gpa;
  EXPECT_FALSE(cpu().core->translate_code(kFar + 5, gpa));
  expect_fault(PF, 0x11, kFar + 5);
  EXPECT_TRUE(read(kFar));
  cpu().s.efer &= ~u64{1 << 11};  // without NXE the bit is reserved
  cpu().tlb.flush_all();
  EXPECT_FALSE(read(kFar));
  expect_fault(PF, 9, kFar);
}

TEST_F(Mmu, checks_both_pages_before_it_writes_either) {
  map_page(kFar, 0x100000, 3);
  map_page(kFar + 0x1000, 0x101000, 1);
  start();
  EXPECT_FALSE(write<u64>(kFar + 0xffc, ~u64{0}));
  expect_fault(PF, 3, kFar + 0x1000);
  EXPECT_EQ(get<u32>(0x100ffc), 0u);
  map_page(kFar + 0x1000, 0x108000, 3);
  cpu().tlb.flush_page(kFar + 0x1000);
  EXPECT_TRUE(write<u64>(kFar + 0xffc, 0x1122334455667788));
  EXPECT_EQ(get<u32>(0x100ffc), 0x55667788u);
  EXPECT_EQ(get<u32>(0x108000), 0x11223344u);
  EXPECT_EQ(read<u64>(kFar + 0xffc), 0x1122334455667788u);
}

TEST_F(Mmu, raises_gp_or_ss_for_non_canonical_addresses) {
  start();
  EXPECT_FALSE(read(u64{1} << 47));
  expect_fault(GP, 0);
  EXPECT_FALSE(read(u64{1} << 47, ss));
  expect_fault(SS, 0);
  EXPECT_FALSE(read<u64>((u64{1} << 47) - 4));
  expect_fault(GP, 0);
}

TEST_F(Mmu, forgets_a_page_by_invlpg_and_keeps_global_ones_over_cr3) {
  state.cr4 |= 0x80;
  u64 pte = map_page(kFar, 0x100000, 3);
  u64 global = map_page(kFar + 0x1000, 0x101000, 0x103);
  put<u32>(0x100000, 1), put<u32>(0x101000, 2), put<u32>(0x102000, 3);
  start();
  EXPECT_EQ(read(kFar), 1u);
  EXPECT_EQ(read(kFar + 0x1000), 2u);
  put<u64>(pte, 0x102003);
  put<u64>(global, 0x102003);
  EXPECT_EQ(read(kFar), 1u);
  cpu().tlb.flush_nonglobal();
  EXPECT_EQ(read(kFar), 3u);
  EXPECT_EQ(read(kFar + 0x1000), 2u);
  cpu().tlb.flush_page(kFar + 0x1000);
  EXPECT_EQ(read(kFar + 0x1000), 3u);
}

TEST_F(Mmu, forgets_all_of_a_large_page) {
  start();
  put<u32>(0x200000, 1), put<u32>(0x3ff000, 2), put<u32>(0x400000, 3), put<u32>(0x5ff000, 4);
  EXPECT_EQ(read(0x200000), 1u);
  EXPECT_EQ(read(0x3ff000), 2u);
  put<u64>(kPagesAt + 0x2000 + 8, 0x400087);  // now maps the next 2 MiB
  cpu().tlb.flush_page(0x234567);
  EXPECT_EQ(read(0x200000), 3u);
  EXPECT_EQ(read(0x3ff000), 4u);
}

TEST_F(Mmu, maps_a_gibibyte_at_once) {
  put<u64>(kPagesAt + 0x1000 + 8 * 6, 0x83);
  put<u32>(0x123458, 99);
  start();
  EXPECT_EQ(read((u64{6} << 30) + 0x123458), 99u);
  put<u64>(kPagesAt + 0x1000 + 8 * 7, 0x2083);  // bit 13 is reserved
  EXPECT_FALSE(read(u64{7} << 30));
  expect_fault(PF, 9, u64{7} << 30);
}

TEST_F(Mmu, survives_tables_outside_memory) {
  put<u64>(kPagesAt + 0x1000 + 8 * 6, u64{1} << 35 | 3);
  start();
  EXPECT_FALSE(read(u64{6} << 30));
  expect_fault(PF, 9, u64{6} << 30);
}

TEST_F(Mmu, checks_alignment_for_users_who_ask) {
  state.cr0 |= 1 << 18;
  user();
  state.rflags |= AC_;
  start();
  EXPECT_TRUE(read(0x100000));
  EXPECT_FALSE(read(0x100002));
  expect_fault(AC, 0);
  EXPECT_FALSE(write<u16>(0x100001, 1));
  EXPECT_TRUE(read<u8>(0x100001));
  cpu().set_cpl(0);
  EXPECT_TRUE(read(0x100002));
}

TEST_F(Mmu, marks_the_dirty_log_again_after_it_was_taken) {
  start();
  EXPECT_TRUE(write<u32>(0x100000, 1));
  EXPECT_TRUE(memory->dirty().test(0x100000));
  memory->dirty().take();
  EXPECT_TRUE(write<u32>(0x100000, 2));
  EXPECT_FALSE(memory->dirty().test(0x100000)) << "the request waits until the vCPU runs";
  cpu().core->serve_flush();
  EXPECT_TRUE(write<u32>(0x100000, 3));
  EXPECT_TRUE(memory->dirty().test(0x100000));
}

class LegacyMmu : public Mmu {
 protected:
  LegacyMmu() {
    protected_mode();
    state.efer = 0;
    state.cr4 = 0x10;  // PSE
    state.cr0 = 0x80010011;
    state.cr3 = 0x50000;
    for (u32 i = 0; i < 1024; ++i) put<u32>(0x50000 + 4 * i, 0);
    put<u32>(0x50000, 0x87);  // 4 MiB identity
  }
};

TEST_F(LegacyMmu, walks_two_levels) {
  put<u32>(0x50000 + 4 * 3, 0x51007);
  put<u32>(0x51000 + 4 * 5, 0x100003);
  put<u32>(0x100008, 77);
  start();
  u32 linear = 3u << 22 | 5u << 12;
  EXPECT_EQ(read(linear + 8), 77u);
  EXPECT_EQ(get<u32>(0x51000 + 4 * 5), 0x100023u);
  EXPECT_TRUE(write<u32>(linear + 8, 1));
  EXPECT_EQ(get<u32>(0x51000 + 4 * 5), 0x100063u);
  EXPECT_FALSE(read(4u << 22));
  expect_fault(PF, 0, 4u << 22);
}

TEST_F(LegacyMmu, checks_reserved_bits_of_4_mib_pages) {
  put<u32>(0x50000 + 4 * 3, 0x200083);  // bit 21
  start();
  EXPECT_FALSE(read(3u << 22));
  expect_fault(PF, 9, 3u << 22);
}

TEST_F(LegacyMmu, walks_pae) {
  state.cr4 = 0x20;
  state.cr3 = 0x50020;
  put<u64>(0x50020, 0x52001);
  put<u64>(0x50028, 0);
  put<u64>(0x50030, 0x53001);
  put<u64>(0x50038, 0);
  put<u64>(0x52000, 0x83);
  put<u64>(0x53000 + 8, 0x200083);
  put<u32>(0x200010, 5);
  start();
  EXPECT_EQ(read(0x80200010), 5u);
  EXPECT_FALSE(read(0x40000000));
  expect_fault(PF, 0, 0x40000000);
  put<u64>(0x53000 + 16, u64{1} << 60 | 0x400083);
  EXPECT_FALSE(read(0x80400000));
  expect_fault(PF, 9, 0x80400000);
}

TEST_F(LegacyMmu, wraps_at_4_gib) {
  state.cr0 = 0x11;
  state.seg[ds].base = 0xffff'fff0;
  start();
  put<u32>(0x10, 0xabcd);
  EXPECT_EQ(read(0x20), 0xabcdu);
}

TEST_F(LegacyMmu, checks_limits_and_types) {
  state.cr0 = 0x11;
  gdt(kUserData, descriptor(0x100000, 0xfff, 0x4097));  // expand-down: offsets above 0xfff
  start();
  EXPECT_TRUE(load_segment(cpu(), machine::es, kUserData & 0xfff8));
  EXPECT_FALSE(read(0xfff, machine::es));
  expect_fault(GP, 0);
  EXPECT_TRUE(read(0x1000, machine::es));
  EXPECT_FALSE(write<u8>(kCodeAt, 1, machine::cs));
  expect_fault(GP, 0);
  EXPECT_TRUE(load_segment(cpu(), machine::es, 0));
  EXPECT_FALSE(read(0, machine::es));
  expect_fault(GP, 0);
}

}  // namespace
}  // namespace skerry::soft

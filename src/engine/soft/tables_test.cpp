// Traced page tables: no store into a page that a walk has used as a table goes unseen, whatever
// makes it, on the interpreter and in translated code.
#include <thread>

#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using namespace machine;

constexpr u64 kFar = u64{5} << 30;         // a linear address of its own for 4 KiB mappings
constexpr u64 kTable = kPagesAt + 0x5000;  // which map_page() uses
constexpr u64 kUnused = kTable + 8 * 100;  // entries that map nothing anybody looks at

constexpr u64 kBits = 8;  // accessed and dirty bits that the first walks set count as well

class Tables : public SoftTest {
 protected:
  explicit Tables(unsigned cpus = 1) : SoftTest(cpus, test_code_cache(), true) {
    long_mode();
    map_page(kFar, 0x100000, 3);
  }
  u64 stores() const { return memory->dirty().table_stores; }
  u64 released() const { return memory->dirty().tables_released; }
};

TEST_F(Tables, sees_every_store_of_a_loop) {
  // mov [rdi], rax; mov rdx, [rsi]; 1: mov [rdi+8], rax; add rdi, 8; dec ecx; jnz 1b; hlt
  code(kCodeAt, {0x48, 0x89, 0x07, 0x48, 0x8b, 0x16, 0x48, 0x89, 0x47, 0x08, 0x48, 0x83, 0xc7, 0x08,
                 0xff, 0xc9, 0x75, 0xf4, 0xf4});
  state.gpr[rdi] = kUnused;
  state.gpr[rsi] = kFar;
  state.gpr[rcx] = 20;
  state.gpr[rax] = 0x2;
  start();
  // The first store precedes the walk that makes a table of the page. So may the second, in the
  // same block.
  run_to_halt();
  EXPECT_GE(stores(), 19u);
  EXPECT_LE(stores(), 20u + kBits);
  for (u64 i = 0; i <= 20; ++i) EXPECT_EQ(get<u64>(kUnused + 8 * i), 2u) << i;
  EXPECT_EQ(released(), 0u);
}

TEST_F(Tables, sees_stores_of_every_kind) {
  // mov rdx, [rsi]; jmp 1f; 1: xchg [rdi], rax; lock or qword [rdi], 4; lock cmpxchg [rdi], rbx;
  // movups [rdi+16], xmm0; push through rsp; mov byte [rdi], 2; rep stosq; hlt
  code(kCodeAt, {0x48, 0x8b, 0x16, 0xeb, 0x00,        // read; jump
                 0x48, 0x87, 0x07,                    // xchg
                 0xf0, 0x48, 0x83, 0x0f, 0x04,        // lock or
                 0xf0, 0x48, 0x0f, 0xb1, 0x1f,        // lock cmpxchg
                 0x0f, 0x11, 0x47, 0x10,              // movups
                 0xc6, 0x07, 0x02,                    // mov byte
                 0x48, 0x8d, 0x67, 0x40, 0x6a, 0x00,  // lea rsp, [rdi+64]; push 0
                 0xf3, 0x48, 0xab,                    // rep stosq
                 0xf4});
  state.gpr[rdi] = kUnused;
  state.gpr[rsi] = kFar;
  state.gpr[rcx] = 3;
  start();
  run_to_halt();
  EXPECT_GE(stores(), 7u);  // a REP counts as one or as its elements
  EXPECT_LE(stores(), 9u + kBits);
}

TEST_F(Tables, a_table_that_is_only_written_is_one_no_longer) {
  // mov rdx, [rsi]; 1: mov [rdi], rax; dec ecx; jnz 1b; hlt
  code(kCodeAt, {0x48, 0x8b, 0x16, 0x48, 0x89, 0x07, 0xff, 0xc9, 0x75, 0xf9, 0xf4});
  state.gpr[rdi] = kUnused;
  state.gpr[rsi] = kFar;
  state.gpr[rcx] = 1000;
  start();
  run_to_halt();
  EXPECT_GE(stores(), memory::kTableStores);
  EXPECT_LE(stores(), memory::kTableStores + 1 + kBits);
  EXPECT_EQ(released(), 1u);
  // Until the next walk.
  cpu().tlb.flush_all();
  state.gpr[rcx] = 1;
  start();
  run_to_halt();
  EXPECT_EQ(memory->dirty().tables_released, 1u);
  EXPECT_FALSE(memory->dirty().unwatched(kTable));
}

TEST_F(Tables, a_device_that_writes_there_is_seen) {
  code(kCodeAt, {0x48, 0x8b, 0x16, 0xf4});
  state.gpr[rsi] = kFar;
  start();
  run_to_halt();
  const u64 before = stores();
  put<u64>(kUnused, 2);
  EXPECT_EQ(stores(), before + 1);
}

class TablesSmp : public Tables {
 protected:
  TablesSmp() : Tables(2) {}
};

// One vCPU has written a page all along when another begins to use it as a table.
TEST_F(TablesSmp, a_store_of_another_vcpu_is_seen) {
  // cpu 0: 1: mov [rdi], rax; inc qword [r8]; cmp qword [r9], 0; je 1b; mov ecx, 10;
  //        2: mov [rdi], rax; dec ecx; jnz 2b; hlt
  code(kCodeAt, {0x48, 0x89, 0x07, 0x49, 0xff, 0x00, 0x49, 0x83, 0x39, 0x00, 0x74, 0xf4, 0xb9,
                 0x0a, 0x00, 0x00, 0x00, 0x48, 0x89, 0x07, 0xff, 0xc9, 0x75, 0xf9, 0xf4});
  // cpu 1: 1: cmp qword [r8], 1000; jb 1b; mov rdx, [rsi]; inc qword [r9]; hlt
  code(kCodeAt + 0x1000, {0x49, 0x81, 0x38, 0xe8, 0x03, 0x00, 0x00, 0x72, 0xf7, 0x48, 0x8b, 0x16,
                          0x49, 0xff, 0x01, 0xf4});
  state.gpr[rdi] = kUnused;
  state.gpr[rsi] = kFar;
  state.gpr[r8] = 0x200000;
  state.gpr[r9] = 0x200040;
  for (unsigned i : {0u, 1u}) {
    state.rip = kCodeAt + 0x1000 * i;
    state.gpr[rsp] = kStackAt + 0x800 * i;
    start(i);
  }
  std::thread other([this] { run_to_halt(0); });
  run_to_halt(1);
  other.join();
  EXPECT_GE(stores(), 9u);  // the flush may come with the block that follows
}

}  // namespace
}  // namespace skerry::soft

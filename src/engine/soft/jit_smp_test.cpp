// Several vCPUs in translated code, each on a thread of its own: memory ordering (litmus tests,
// Intel SDM 3A 9.2.3), LOCK across pages, code written by another vCPU, the dirty log taken
// meanwhile.
#include <thread>

#include "engine/soft/soft_fixture.hpp"

namespace skerry::soft {
namespace {

using namespace machine;

class TranslatedSmp : public SoftTest {
 protected:
  explicit TranslatedSmp(unsigned cpus = 2) : SoftTest(cpus), cpus_(cpus) { long_mode(); }
  /// Each vCPU from its own `at`, all to a HLT.
  void run_all() {
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < cpus_; ++i)
      threads.emplace_back([this, i] {
        const Exit exit = run(i);
        EXPECT_TRUE(std::holds_alternative<Halt>(exit)) << i << ": exit " << exit.index();
      });
    for (std::thread& t : threads) t.join();
  }
  static u64 code_of(unsigned i) { return kCodeAt + 0x1000 * i; }
  void begin(unsigned i, std::initializer_list<std::pair<Gpr, u64>> registers) {
    for (auto [reg, value] : registers) state.gpr[reg] = value;
    state.gpr[rsp] = kStackAt + 0x800 * i;
    state.rip = code_of(i);
    start(i);
  }
  const unsigned cpus_;
};

constexpr u64 kFlags = 0x200000, kCells = 0x210000, kResults = 0x400000;
constexpr u64 kRounds = 150;

class StoreBuffering : public TranslatedSmp,
                       public testing::WithParamInterface<std::pair<const char*, std::vector<u8>>> {
};

// x = 1; fence; r1 = y beside y = 1; fence; r2 = x: not both 0.
TEST_P(StoreBuffering, does_not_pass_a_fence) {
  // 1: mov [r8], rcx; 2: cmp [r9], rcx; ja 2b; (x = 1, fence); mov eax, [rdi]; mov [rdx], eax;
  // add rsi, 128; add rdi, 128; add rdx, 4; dec rcx; jnz 1b; mov qword [r8], 0; hlt
  std::vector<u8> text = {0x49, 0x89, 0x08, 0x49, 0x39, 0x09, 0x77, 0xfb};
  const auto& fenced = GetParam().second;
  text.insert(text.end(), fenced.begin(), fenced.end());
  text.insert(text.end(),
              {0x8b, 0x07, 0x89, 0x02, 0x48, 0x81, 0xc6, 0x80, 0,    0,    0,    0x48, 0x81,
               0xc7, 0x80, 0,    0,    0,    0x48, 0x83, 0xc2, 0x04, 0x48, 0xff, 0xc9, 0x75});
  text.push_back(static_cast<u8>(-static_cast<i64>(text.size() + 1)));
  text.insert(text.end(), {0x49, 0xc7, 0x00, 0, 0, 0, 0, 0xf4});
  for (unsigned i : {0u, 1u}) {
    ASSERT_TRUE(memory->write(code_of(i), text));
    put<u64>(kFlags + 64 * i, kRounds + 1);
    begin(i, {{r8, kFlags + 64 * i},
              {r9, kFlags + 64 * (1 - i)},
              {rcx, kRounds},
              {rsi, kCells + 64 * i},
              {rdi, kCells + 64 * (1 - i)},
              {rdx, kResults + 0x10000 * i}});
  }
  run_all();
  u64 both = 0;
  for (u64 n = 0; n < kRounds; ++n)
    both += !get<u32>(kResults + 4 * n) && !get<u32>(kResults + 0x10000 + 4 * n);
  EXPECT_EQ(both, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Fences, StoreBuffering,
    testing::Values(
        // mov dword [rsi], 1; mfence
        std::pair{"mfence", std::vector<u8>{0xc7, 0x06, 1, 0, 0, 0, 0x0f, 0xae, 0xf0}},
        // mov dword [rsi], 1; lock or dword [rsp], 0
        std::pair{"lock", std::vector<u8>{0xc7, 0x06, 1, 0, 0, 0, 0xf0, 0x83, 0x0c, 0x24, 0}},
        // mov eax, 1; xchg [rsi], eax
        std::pair{"xchg", std::vector<u8>{0xb8, 1, 0, 0, 0, 0x87, 0x06}}),
    [](const auto& info) { return std::string(info.param.first); });

TEST_F(TranslatedSmp, a_message_is_not_seen_before_its_data) {
  // 1: mov [r8], rcx; 2: cmp [r9], rcx; ja 2b; mov dword [rsi], 1; mov dword [rdi], 1; add rsi,
  // 128; add rdi, 128; dec rcx; jnz 1b; mov qword [r8], 0; hlt
  code(code_of(0),
       {0x49, 0x89, 0x08, 0x49, 0x39, 0x09, 0x77, 0xfb, 0xc7, 0x06, 1, 0,    0,    0,    0xc7, 0x07,
        1,    0,    0,    0,    0x48, 0x81, 0xc6, 0x80, 0,    0,    0, 0x48, 0x81, 0xc7, 0x80, 0,
        0,    0,    0x48, 0xff, 0xc9, 0x75, 0xd9, 0x49, 0xc7, 0x00, 0, 0,    0,    0,    0xf4});
  // the same with mov eax, [rdi]; mov ebx, [rsi]; mov [rdx], eax; mov [rdx+4], ebx ... add rdx, 8
  code(code_of(1), {0x49, 0x89, 0x08, 0x49, 0x39, 0x09, 0x77, 0xfb, 0x8b, 0x07, 0x8b, 0x1e,
                    0x89, 0x02, 0x89, 0x5a, 0x04, 0x48, 0x81, 0xc6, 0x80, 0,    0,    0,
                    0x48, 0x81, 0xc7, 0x80, 0,    0,    0,    0x48, 0x83, 0xc2, 0x08, 0x48,
                    0xff, 0xc9, 0x75, 0xd8, 0x49, 0xc7, 0x00, 0,    0,    0,    0,    0xf4});
  for (unsigned i : {0u, 1u}) {
    put<u64>(kFlags + 64 * i, kRounds + 1);
    begin(i, {{r8, kFlags + 64 * i},
              {r9, kFlags + 64 * (1 - i)},
              {rcx, kRounds},
              {rsi, kCells},
              {rdi, kCells + 64},
              {rdx, kResults}});
  }
  run_all();
  for (u64 n = 0; n < kRounds; ++n)
    EXPECT_FALSE(get<u32>(kResults + 8 * n) && !get<u32>(kResults + 8 * n + 4)) << n;
}

class FourCpus : public TranslatedSmp {
 protected:
  FourCpus() : TranslatedSmp(4) {}
};

TEST_F(FourCpus, writes_are_seen_in_one_order) {
  // 1: mov dword [rsi], 1; add rsi, 64; pause; dec rcx; jnz 1b; hlt
  for (unsigned i : {0u, 1u})
    code(code_of(i), {0xc7, 0x06, 1, 0, 0, 0, 0x48, 0x83, 0xc6, 0x40, 0xf3, 0x90, 0x48, 0xff, 0xc9,
                      0x75, 0xef, 0xf4});
  // 1: mov eax, [rsi]; mov ebx, [rdi]; mov [rdx], eax; mov [rdx+4], ebx; add rsi, 64; add rdi, 64;
  // add rdx, 8; dec rcx; jnz 1b; hlt
  for (unsigned i : {2u, 3u})
    code(code_of(i),
         {0x8b, 0x06, 0x8b, 0x1f, 0x89, 0x02, 0x89, 0x5a, 0x04, 0x48, 0x83, 0xc6, 0x40, 0x48,
          0x83, 0xc7, 0x40, 0x48, 0x83, 0xc2, 0x08, 0x48, 0xff, 0xc9, 0x75, 0xe6, 0xf4});
  constexpr u64 kMany = 20000, kX = 0x400000, kY = 0x600000, kSeen = 0x800000;
  begin(0, {{rcx, kMany}, {rsi, kX}});
  begin(1, {{rcx, kMany}, {rsi, kY}});
  begin(2, {{rcx, kMany}, {rsi, kX}, {rdi, kY}, {rdx, kSeen}});
  begin(3, {{rcx, kMany}, {rsi, kY}, {rdi, kX}, {rdx, kSeen + 0x100000}});
  run_all();
  for (u64 n = 0; n < kMany; ++n) {
    const bool x_first = get<u32>(kSeen + 8 * n) && !get<u32>(kSeen + 8 * n + 4);
    const bool y_first =
        get<u32>(kSeen + 0x100000 + 8 * n) && !get<u32>(kSeen + 0x100000 + 8 * n + 4);
    ASSERT_FALSE(x_first && y_first) << n;
  }
}

TEST_F(TranslatedSmp, compare_and_exchange_across_a_page_is_atomic) {
  // 1: mov eax, [rsi]; 2: lea edx, [rax+1]; lock cmpxchg [rsi], edx; jne 2b; dec rcx; jnz 1b; hlt
  for (unsigned i : {0u, 1u}) {
    code(code_of(i), {0x8b, 0x06, 0x8d, 0x50, 0x01, 0xf0, 0x0f, 0xb1, 0x16, 0x75, 0xf7, 0x48, 0xff,
                      0xc9, 0x75, 0xf0, 0xf4});
    begin(i, {{rcx, 20000}, {rsi, 0x200ffe}});
  }
  run_all();
  EXPECT_EQ(get<u32>(0x200ffe), 40000u);
}

TEST_F(TranslatedSmp, a_loop_sees_that_it_was_rewritten) {
  // 1: mov eax, 0; add rbx, 1; cmp eax, 7; jne 1b; hlt
  code(code_of(0), {0xb8, 0, 0, 0, 0, 0x48, 0x83, 0xc3, 0x01, 0x83, 0xf8, 0x07, 0x75, 0xf2, 0xf4});
  // 1: mov eax, ecx; and eax, 3; mov [rsi+1], al; dec ecx; jnz 1b; mov byte [rsi+1], 7; hlt
  code(code_of(1), {0x89, 0xc8, 0x83, 0xe0, 0x03, 0x88, 0x46, 0x01, 0xff, 0xc9, 0x75, 0xf4, 0xc6,
                    0x46, 0x01, 0x07, 0xf4});
  begin(0, {{rbx, 0}});
  begin(1, {{rcx, 20000}, {rsi, code_of(0)}});
  run_all();
  EXPECT_EQ(cpu(0).gpr[rax], 7u);
}

TEST_F(TranslatedSmp, stores_after_the_dirty_log_was_taken_are_in_the_next) {
  // 1: inc qword [rsi]; jmp 1b
  for (unsigned i : {0u, 1u}) {
    code(code_of(i), {0x48, 0xff, 0x06, 0xeb, 0xfb});
    begin(i, {{rsi, 0x300000 + 0x1000 * i}});
  }
  std::vector<std::thread> threads;
  for (unsigned i : {0u, 1u}) threads.emplace_back([this, i] { vcpu(i).run(); });
  auto count = [&](unsigned i) {
    return std::atomic_ref(*reinterpret_cast<u64*>(memory->host(0x300000 + 0x1000 * i, 8))).load();
  };
  for (int round = 0; round < 50; ++round) {
    (void)memory->dirty().take();
    const u64 before[2] = {count(0), count(1)};
    const Nanos end = HostClock::monotonic() + 5'000'000'000;
    while ((count(0) < before[0] + 2 || count(1) < before[1] + 2) && HostClock::monotonic() < end)
      std::this_thread::yield();
    const auto words = memory->dirty().take();
    for (u64 page : {0x300, 0x301})
      ASSERT_TRUE(words[page / 64] >> (page % 64) & 1) << "round " << round;
  }
  for (unsigned i : {0u, 1u}) vcpu(i).kick();
  for (std::thread& t : threads) t.join();
}

}  // namespace
}  // namespace skerry::soft

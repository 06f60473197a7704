// Virtual-8086 mode: entry by IRET, real-mode addressing, what is sensitive to IOPL, interrupts out
// of it with the segments on the stack, the I/O bitmap, and VME's redirection if the processor has
// it.
#include "kit/kit.hpp"

constexpr u32 kCodeAt = 0x20000, kStackAt = 0x30000;
static u8* const code = reinterpret_cast<u8*>(kCodeAt);

/// Runs these bytes at 2000:0000 until they fault.
template <u32 n>
static Fault run(const u8 (&bytes)[n], u32 eflags = 0) {
  memset(code, 0xf4, 64);  // HLT: always faults
  memcpy(code, bytes, n);
  u32 frame[9] = {0,      kCodeAt >> 4, 0x20002 | eflags, 0x1000, kStackAt >> 4,
                  0x1111, 0x2222,       0x3333,           0x4444};
  caught = Fault{};
  attempt_v86_raw(frame);
  return caught;
}
/// It got to the HLT at `at`.
static bool reached(const Fault& f, u32 at) {
  return f.is(13, 0) && f.rip == at && (f.rflags & 0x20000);
}

static u32 v86_segments[5];
static void note_segments(Frame& f) {
  const u32* more = reinterpret_cast<const u32*>(&f.ss);
  v86_segments[0] = f.cs;
  for (int i = 0; i < 4; ++i) v86_segments[i + 1] = more[1 + i];
  f.rip = f.rip & 0xffff;
}

int main() {
  Fault f =
      run({0xb8, 0x34, 0x12, 0x8e, 0xd8, 0xa3, 0x10, 0x00});  // mov ds:[10], ax with DS = 1234
  CHECK(reached(f, 8));
  CHECK(read<u16>(0x12340 + 0x10) == 0x1234);
  CHECK(f.cs == kCodeAt >> 4 && f.rsp == 0x1000);
  // Limits are 64 KiB: a word at ffff faults.
  f = run({0xa1, 0xff, 0xff});
  CHECK(lenient || (f.is(13, 0) && f.rip == 0));
  f = run({0x67, 0xa1, 0x00, 0x00, 0x01, 0x00});  // 32-bit address 0x10000
  CHECK(lenient || (f.is(13, 0) && f.rip == 0));
  // 1 MiB and beyond by segment:offset.
  f = run({0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xb0, 0x5a, 0xa2, 0xff, 0x0f});  // ffff:0fff
  CHECK(reached(f, 10));
  // Sensitive to IOPL.
  const Fault all[] = {run({0xfa}), run({0xfb}), run({0x9c}),
                       run({0x9d}), run({0xcf}), run({0xcd, 0x40})};
  for (const Fault& one : all) CHECK(one.is(13, 0) && one.rip == 0);
  CHECK(reached(run({0xfa, 0xfb, 0x9c, 0x9d}, 0x3000), 4));
  f = run({0xcd, 0x40}, 0x3000);  // through the IDT, which needs DPL 3
  CHECK(f.is(13, 0x40 * 8 + 2) && f.rip == 0);
  set_gate(0x40, entries[0x40], 0xee);
  on(0x40, note_segments);
  f = run({0xcd, 0x40, 0x40}, 0x3000);
  CHECK(reached(f, 3));
  CHECK(v86_segments[0] == kCodeAt >> 4);
  CHECK((v86_segments[1] & 0xffff) == 0x1111 && (v86_segments[2] & 0xffff) == 0x2222);
  CHECK((v86_segments[3] & 0xffff) == 0x3333 && (v86_segments[4] & 0xffff) == 0x4444);
  // A handler in a conforming or ring 3 segment is refused.
  set_gate(0x42, entries[0x42], 0xee, kUserCode32);
  f = run({0xcd, 0x42}, 0x3000);
  CHECK(f.is(13, kUserCode32 & ~3));
  // Privileged and protected-mode-only instructions.
  const Fault privileged[] = {run({0x0f, 0x20, 0xc0}), run({0x0f, 0x06}), run({0x0f, 0x32}),
                              run({0x0f, 0x01, 0x16, 0, 0})};
  for (const Fault& one : privileged) CHECK(one.is(13, 0));
  const Fault undefined[] = {run({0x0f, 0x00, 0xc0}) /* sldt */, run({0x0f, 0x00, 0xd8}) /* ltr */,
                             run({0x0f, 0x02, 0xc0}) /* lar */, run({0x63, 0xc0}) /* arpl */};
  for (const Fault& one : undefined) CHECK(one.is(6));
  // Ports go by the bitmap whatever IOPL says.
  f = run({0xe4, 0x80}, 0x3000);
  CHECK(f.is(13, 0) && f.rip == 0);
  tss.bitmap[0x80 / 8] = 0;
  CHECK(reached(run({0xe4, 0x80}), 2));
  // Far calls and returns are those of real mode.
  f = run({0x9a, 0x08, 0x00, 0x00, 0x20, 0xf4, 0x90, 0x90, 0xcb});
  CHECK(reached(f, 5));
  // INT3 is not sensitive to IOPL.
  set_gate(3, entries[3], 0xee);
  f = run({0xcc});
  CHECK(f.is(3) && f.rip == 1);
  if (cpuid(1).d & 2) {  // VME
    // The redirection bitmap sits below the I/O bitmap: bit clear = through the guest's own table.
    memcpy(reinterpret_cast<u8*>(&tss) + 104 + 32, tss.bitmap, 64);
    tss.iomap = 104 + 32;
    memset(reinterpret_cast<u8*>(&tss) + 104, 0, 32);
    write_cr4(read_cr4() | 1);
    write<u32>(0x50 * 4, (kCodeAt >> 4) << 16 | 0x20);
    memset(code, 0xf4, 64);
    code[0x20] = 0xcf;  // iret
    u8 program[] = {0xcd, 0x50, 0xf4};
    memcpy(code, program, 3);
    u32 frame[9] = {0, kCodeAt >> 4, 0x20002, 0x1000, kStackAt >> 4, 0, 0, 0, 0};
    caught = Fault{};
    attempt_v86_raw(frame);
    CHECK(caught.is(13, 0) && caught.rip == 2);
    // CLI and STI work on VIF.
    u8 flags_program[] = {0xfb, 0x9c, 0x58, 0xf4};
    memcpy(code, flags_program, 4);
    caught = Fault{};
    attempt_v86_raw(frame);
    CHECK(caught.is(13, 0) && caught.rip == 3 && (caught.rflags & 0x80000));
  } else {
    print("no VME\n");
  }
  return 0;
}

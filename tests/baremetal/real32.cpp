// Real mode, entered from protected mode and left again (real32.S): segments, interrupts through
// the vector table, 64 KiB limits, unreal mode, 16-bit strings and loops.
#include "kit/kit.hpp"

extern "C" u8 real_blob[], real_blob_end[];
extern "C" void real_enter();

int main() {
  gdt[kSpare / 8] = descriptor(0, 0xffff, 0x9b, 0);
  gdt[kSpare / 8 + 1] = descriptor(0, 0xffff, 0x93, 0);
  gdt[kSpare / 8 + 2] = descriptor(0, 0xfffff, 0x93, 12);
  memset(reinterpret_cast<void*>(0x7000), 0, 64);
  memcpy(reinterpret_cast<void*>(0x8000), real_blob, static_cast<uptr>(real_blob_end - real_blob));
  real_enter();
  CHECK(read<u16>(0x7000) == 1);
  CHECK(read<u16>(0x7002) == 0xbeef);
  if (!lenient) {  // limits
    CHECK(read<u16>(0x7004) == 2);
    CHECK(read<u16>(0x7006) == 1);
  }
  CHECK(read<u32>(0x700c) == 0x600df00d && read<u32>(0x200000) == 0x600df00d);
  CHECK(read<u32>(0x7010) == 0x600df00d);
  CHECK(read<u16>(0x7014) == 3);
  CHECK(read<u16>(0x7016) == 1);
  CHECK(read<u16>(0x7018) == 1);
  CHECK(read<u16>(0x701a) - read<u16>(0x701c) == 16);
  CHECK(read<u16>(0x701e) == read<u16>(0x701a));
  CHECK(read<u16>(0x7020) == 0xa55a);
  CHECK(read<u16>(0x7022) == 1);
  CHECK(read<u16>(0x7024) == 3 && read<u32>(0x7028) == 0x10000);
  CHECK(read<u16>(0x702c) == 0x800);
  CHECK((read<u16>(0x702e) & 1) == 0);
  CHECK(read_cr0() & 1);
  return 0;
}

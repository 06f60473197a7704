// Tiny hostile guests, and what the tests measure of a process.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "base/bits.hpp"

namespace skerry::hostile {

using Code = std::vector<u8>;
constexpr u32 kLoad = 0x100000, kEntry = kLoad + 32;

inline Code operator+(Code a, const Code& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
inline Code le32(u32 v) {
  return {u8(v), u8(v >> 8), u8(v >> 16), u8(v >> 24)};
}

// Runs at kEntry in flat 32-bit protected mode, interrupts off.
inline Code no_idt() {  // an IDT with no gates: sub esp, 8; zeros; lidt [esp]
  return {0xbc, 0, 0, 0x20, 0, 0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24};
}
inline Code triple_fault() {
  return no_idt() + Code{0x0f, 0x0b};  // ud2
}
inline Code jump_to(u32 address) {  // mov eax, address; jmp eax
  return no_idt() + Code{0xb8} + le32(address) + Code{0xff, 0xe0};
}
inline Code say(char c) {  // mov dx, 0x3f8; mov al, c; out dx, al
  return {0x66, 0xba, 0xf8, 0x03, 0xb0, static_cast<u8>(c), 0xee};
}
inline Code spin() {  // cli; jmp $
  return {0xfa, 0xeb, 0xfe};
}
inline Code halt_for_ever() {  // cli; hlt; jmp back
  return {0xfa, 0xf4, 0xeb, 0xfd};
}
inline Code endless_string() {  // cld; xor esi, esi; mov edi, 0x200000; mov ecx, -1; rep lodsb; jmp
  return {0xfc, 0x31, 0xf6, 0xb9, 0xff, 0xff, 0xff, 0xff, 0xf3, 0xac, 0xeb, 0xf7};
}
/// #UD whose handler is another UD2, for ever. The handler resets ESP first.
inline Code fault_storm() {
  constexpr u32 kIdt = 0x180000, kGdt = 0x181000, kHandler = 0x110000;
  auto store = [](u32 at, u32 value) { return Code{0xc7, 0x05} + le32(at) + le32(value); };
  // push base; push word limit; lgdt or lidt [esp]
  auto table = [](u32 base, u8 modrm) {
    return Code{0x68} + le32(base) + Code{0x66, 0x68, 0xff, 0x07, 0x0f, 0x01, modrm, 0x24};
  };
  return Code{0xbc, 0, 0, 0x20, 0} +                                      // mov esp, 0x200000
         store(kGdt + 8, 0xffff) + store(kGdt + 12, 0xcf9a00) +           // flat code
         store(kIdt + 6 * 8, 8 << 16 | (kHandler & 0xffff)) +             // interrupt gate
         store(kIdt + 6 * 8 + 4, (kHandler & 0xffff0000) | 0x8e00) +      //
         store(kHandler, 0x200000bc) + store(kHandler + 4, 0x000b0f00) +  // mov esp; ud2
         table(kGdt, 0x14) + table(kIdt, 0x1c) + Code{0x0f, 0x0b};
}
inline Code flood() {  // mov dx, 0x3f8; mov al, 'x'; again: out dx, al; jmp again
  return {0x66, 0xba, 0xf8, 0x03, 0xb0, 'x', 0xee, 0xeb, 0xfd};
}

/// A Multiboot image with address fields around the code.
inline Code multiboot(const Code& code) {
  constexpr u32 kMagic = 0x1badb002, kFlags = 0x10000;
  Code image;
  for (u32 word : {kMagic, kFlags, 0u - kMagic - kFlags, kLoad, kLoad, 0u, 0u, kEntry})
    image = image + le32(word);
  return image + code;
}

/// Resident memory of a process, in bytes; 0 if it is gone.
inline u64 resident(const std::string& pid = "self") {
  std::ifstream file("/proc/" + pid + "/statm");
  u64 size = 0, pages = 0;
  file >> size >> pages;
  return pages * static_cast<u64>(::sysconf(_SC_PAGESIZE));
}

}  // namespace skerry::hostile

// Small kernels of every format, made for tests: nothing in them runs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/bits.hpp"

namespace skerry::board::synthetic {

using Image = std::vector<u8>;

template <class T>
void put(Image& image, size_t at, T value) {
  if (image.size() < at + sizeof(T)) image.resize(at + sizeof(T));
  store(&image[at], value);
}
inline void text(Image& image, size_t at, std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) put(image, at + i, static_cast<u8>(text[i]));
}

struct BzOptions {
  u16 version = 0x20f;
  bool is_64 = true;
  bool relocatable = true;
  u64 pref_address = 0x1000000;
  u32 alignment = 0x200000;
  u32 init_size = 0x300000;
  u32 initrd_max = 0x7fffffff;
  u32 cmdline_size = 2047;
};

/// A bzImage of one setup sector beside the boot sector and 1 KiB of code that counts up.
inline Image bz_image(const BzOptions& o = {}) {
  Image i(1024 + 1024);
  put(i, 0x1f1, u8{1});
  put(i, 0x1f4, u32{1024 / 16});
  put(i, 0x1fe, u16{0xaa55});
  put(i, 0x200, u16{0x66eb});  // jmp: the header ends at 0x268
  text(i, 0x202, "HdrS");
  put(i, 0x206, o.version);
  put(i, 0x211, u8{1});
  put(i, 0x214, u32{0x100000});
  put(i, 0x22c, o.initrd_max);
  put(i, 0x230, o.alignment);
  put(i, 0x234, u8{o.relocatable});
  put(i, 0x236, static_cast<u16>(o.is_64 ? 3 : 0));
  put(i, 0x238, o.cmdline_size);
  put(i, 0x258, o.pref_address);
  put(i, 0x260, o.init_size);
  for (size_t n = 0; n < 1024; ++n) i[1024 + n] = static_cast<u8>(n * 7);
  return i;
}

struct Segment {
  u32 type = 1;
  u64 physical = 0x200000, virtual_address = 0x200000;
  Image bytes;
  u64 memory = 0;  ///< at least the bytes
  u64 alignment = 4;
};

/// An ELF executable; segments' contents follow the program headers, 16-aligned.
inline Image elf(bool is_64, u64 entry, const std::vector<Segment>& segments) {
  Image i(is_64 ? 64 : 52);
  text(i, 0,
       "\x7f"
       "ELF");
  i[4] = is_64 ? 2 : 1, i[5] = 1, i[6] = 1;
  put(i, 16, u16{2});
  put(i, 18, static_cast<u16>(is_64 ? 62 : 3));
  put(i, 20, u32{1});
  size_t size = is_64 ? 56 : 32, table = i.size();
  size_t at = align_up(table + size * segments.size(), 16);
  auto word = [&](size_t at32, size_t at64, u64 value) {
    if (is_64)
      put(i, at64, value);
    else
      put(i, at32, static_cast<u32>(value));
  };
  word(24, 24, entry);
  word(28, 32, table);
  put(i, is_64 ? 54 : 42, static_cast<u16>(size));
  put(i, is_64 ? 56 : 44, static_cast<u16>(segments.size()));
  for (const Segment& s : segments) {
    put(i, table, s.type);
    word(table + 4, table + 8, at);
    word(table + 8, table + 16, s.virtual_address);
    word(table + 12, table + 24, s.physical);
    word(table + 16, table + 32, s.bytes.size());
    word(table + 20, table + 40, std::max<u64>(s.memory, s.bytes.size()));
    word(table + 28, table + 48, s.alignment);
    for (size_t n = 0; n < s.bytes.size(); ++n) put(i, at + n, s.bytes[n]);
    at = align_up(at + s.bytes.size(), 16);
    table += size;
  }
  return i;
}

/// An ELF note.
inline Image note(std::string_view owner, u32 type, const Image& descriptor) {
  Image i;
  put(i, 0, static_cast<u32>(owner.size() + 1));
  put(i, 4, static_cast<u32>(descriptor.size()));
  put(i, 8, type);
  text(i, 12, owner);
  i.resize(align_up(12 + owner.size() + 1, 4));
  i.insert(i.end(), descriptor.begin(), descriptor.end());
  i.resize(align_up(i.size(), 4));
  return i;
}

inline Image pvh(bool is_64 = true, u32 entry = 0x200010) {
  Image descriptor;
  put(descriptor, 0, entry);
  if (is_64) put(descriptor, 4, u32{0});
  Image notes = note("Linux", 18, {1, 2, 3, 4});
  Image xen = note("Xen", 18, descriptor);
  notes.insert(notes.end(), xen.begin(), xen.end());
  return elf(is_64, 0xffffffff81000000,
             {{1, 0x200000, 0x200000, Image(100, 0xcc), 0x1000}, {4, 0, 0, notes, 0}});
}

/// The Multiboot header of these flags, without the address fields.
inline Image multiboot_header(u32 flags) {
  Image i;
  put(i, 0, u32{0x1badb002});
  put(i, 4, flags);
  put(i, 8, static_cast<u32>(0u - 0x1badb002 - flags));
  return i;
}

inline Image multiboot_elf(bool is_64 = false, u32 flags = 3) {
  Image code = multiboot_header(flags);
  code.resize(200, 0x90);
  return elf(is_64, 0x200020, {{1, 0x200000, 0x200000, code, 0x2000}});
}

/// With address fields: 64 bytes of something else, then the header at 0x100040.
inline Image multiboot_flat(u32 load_end = 0, u32 bss_end = 0x102000) {
  Image i(64, 0xaa);
  Image header = multiboot_header(0x10000);
  i.insert(i.end(), header.begin(), header.end());
  for (u32 field : {0x100040u, 0x100000u, load_end, bss_end, 0x100080u}) put(i, i.size(), field);
  i.resize(512, 0x90);
  return i;
}

}  // namespace skerry::board::synthetic

#include "board/elf.hpp"

#include <algorithm>

namespace skerry::board {

namespace {

enum : u32 { kPtLoad = 1, kPtNote = 4 };
// More than any kernel has; keeps the work that a hostile file can cause small.
constexpr u64 kMaxSegments = 64;

struct Fields {
  Bytes image;
  bool is_64;
  // Offsets are checked by the caller.
  u64 word(u64 at, u64 offset32, u64 offset64) const {
    return is_64 ? load<u64>(&image[at + offset64]) : load<u32>(&image[at + offset32]);
  }
  u32 u(u64 at, u64 offset32, u64 offset64) const {
    return load<u32>(&image[at + (is_64 ? offset64 : offset32)]);
  }
  u16 half(u64 offset32, u64 offset64) const {
    return load<u16>(&image[is_64 ? offset64 : offset32]);
  }
};

void find_sections(const Fields& f, ElfImage& elf) {
  u64 table = f.word(0, 0x20, 0x28);
  u32 size = f.half(0x2e, 0x3a), count = f.half(0x30, 0x3c);
  if (table == 0 || count == 0 || size != (f.is_64 ? 64 : 40)) return;
  if (!within(f.image, table, u64{size} * count)) return;
  elf.section_table = table;
  elf.section_size = size;
  elf.sections = count;
  elf.section_names = f.half(0x32, 0x3e);
}

}  // namespace

bool is_elf(Bytes image) {
  return value_at<u32>(image, 0) == 0x464c457f;
}

Result<ElfImage> parse_elf(Bytes image, const std::string& name) {
  auto truncated = [&](std::string_view what) {
    return fail_hint("copy or build the kernel again", "{} is truncated: {} is beyond its {} bytes",
                     name, what, image.size());
  };
  if (image.size() < 20) return truncated("the ELF header");
  u8 wordsize = image[4];
  if ((wordsize != 1 && wordsize != 2) || image[5] != 1)
    return fail("{} is not a little-endian ELF of 32 or 64 bits", name);
  ElfImage elf;
  elf.is_64 = wordsize == 2;
  Fields f{image, elf.is_64};
  u64 header = elf.is_64 ? 64 : 52;
  if (image.size() < header) return truncated("the ELF header");
  u16 type = load<u16>(&image[16]), machine = load<u16>(&image[18]);
  if (machine != 3 && machine != 62)
    return fail("{} is an ELF for another processor (machine {}); it must be x86", name, machine);
  if (type != 2 && type != 3) return fail("{} is an ELF of type {}, not an executable", name, type);
  elf.entry = f.word(0, 0x18, 0x18);

  u64 table = f.word(0, 0x1c, 0x20);
  u64 size = f.half(0x2a, 0x36), count = f.half(0x2c, 0x38);
  if (count == 0) return fail("{} has no program headers: nothing to load", name);
  if (count > kMaxSegments)
    return fail("{} has {} program headers, more than {}", name, count, kMaxSegments);
  if (size != (elf.is_64 ? 56 : 32))
    return fail("{} has program headers of {} bytes, not {}", name, size, elf.is_64 ? 56 : 32);
  if (!within(image, table, size * count)) return truncated("the program header table");
  for (u64 i = 0; i < count; ++i) {
    u64 at = table + i * size;
    ElfSegment s;
    s.type = load<u32>(&image[at]);
    s.offset = f.word(at, 4, 8);
    s.virtual_address = f.word(at, 8, 16);
    s.physical_address = f.word(at, 12, 24);
    s.file_size = f.word(at, 16, 32);
    s.memory_size = f.word(at, 20, 40);
    s.alignment = f.word(at, 28, 48);
    if ((s.type == kPtLoad || s.type == kPtNote) && !within(image, s.offset, s.file_size))
      return truncated(
          fmt::format("segment {} (offset {:#x}, {:#x} bytes)", i, s.offset, s.file_size));
    if (s.type == kPtLoad && s.file_size > s.memory_size)
      return fail("{}: segment {} has more bytes in the file ({:#x}) than in memory ({:#x})", name,
                  i, s.file_size, s.memory_size);
    elf.segments.push_back(s);
  }
  find_sections(f, elf);
  return elf;
}

u64 ElfImage::physical_entry() const {
  for (const ElfSegment& s : segments)
    if (s.type == kPtLoad && entry >= s.virtual_address &&
        entry - s.virtual_address < s.memory_size)
      return entry - s.virtual_address + s.physical_address;
  return entry;
}

u64 ElfImage::end() const {
  u64 end = 0;
  for (const ElfSegment& s : segments)
    if (s.type == kPtLoad) end = std::max(end, s.physical_address + s.memory_size);
  return end;
}

Result<> load_elf_segments(Boot& boot, const ElfImage& elf) {
  memory::GuestMemory& memory = boot.places.memory();
  bool any = false;
  for (size_t i = 0; i < elf.segments.size(); ++i) {
    const ElfSegment& s = elf.segments[i];
    if (s.type != kPtLoad || s.memory_size == 0) continue;
    any = true;
    std::string what = fmt::format("segment {} of {}", i, boot.files.kernel.name);
    TRY_VOID(boot.places.take(s.physical_address, s.memory_size, what));
    if (!memory.write(s.physical_address, boot.image().subspan(s.offset, s.file_size)) ||
        !memory.fill(s.physical_address + s.file_size, 0, s.memory_size - s.file_size))
      return fail("cannot write {} to guest memory", what);
  }
  if (!any) return fail("{} has no segment to load", boot.files.kernel.name);
  return {};
}

Bytes find_note(Bytes image, const ElfImage& elf, std::string_view owner, u32 type) {
  for (const ElfSegment& s : elf.segments) {
    if (s.type != kPtNote) continue;
    Bytes notes = image.subspan(s.offset, s.file_size);
    u64 alignment = s.alignment == 8 ? 8 : 4;
    for (u64 at = 0; within(notes, at, 12);) {
      u64 name_size = load<u32>(&notes[at]), size = load<u32>(&notes[at + 4]);
      u64 name = at + 12, descriptor = align_up(name + name_size, alignment);
      if (!within(notes, name, name_size) || !within(notes, descriptor, size)) break;
      // The name counts its terminating zero.
      if (load<u32>(&notes[at + 8]) == type && name_size == owner.size() + 1 &&
          std::equal(owner.begin(), owner.end(), notes.begin() + static_cast<i64>(name)))
        return notes.subspan(descriptor, size);
      at = align_up(descriptor + size, alignment);
    }
  }
  return {};
}

}  // namespace skerry::board

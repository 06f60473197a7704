// ELF executables as boot loaders need them (System V gABI 4.1 chapter 5; psABI i386 and x86-64).
#pragma once

#include "board/formats.hpp"

namespace skerry::board {

struct ElfSegment {
  u32 type = 0;
  u64 offset = 0, file_size = 0;  ///< inside the file: checked
  u64 virtual_address = 0, physical_address = 0, memory_size = 0;
  u64 alignment = 0;
};

struct ElfImage {
  bool is_64 = false;
  u64 entry = 0;
  std::vector<ElfSegment> segments;  ///< all program headers
  // The section header table; all zero if it is absent or not wholly in the file.
  u64 section_table = 0;
  u32 sections = 0, section_size = 0, section_names = 0;
  /// The entry point as a physical address: e_entry may be virtual.
  u64 physical_entry() const;
  /// End of the highest loaded segment.
  u64 end() const;
};

bool is_elf(Bytes image);
/// An executable for x86; `name` is for messages.
Result<ElfImage> parse_elf(Bytes image, const std::string& name);
/// Puts the PT_LOAD segments at their physical addresses.
Result<> load_elf_segments(Boot& boot, const ElfImage& elf);
/// Descriptor of the note with this owner and type, or empty.
Bytes find_note(Bytes image, const ElfImage& elf, std::string_view owner, u32 type);

}  // namespace skerry::board

// Places: which guest memory a loader may use, and what of it is taken.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "board/e820.hpp"

namespace skerry::board {

/// Boot structures (command line, page tables, tables of modules) go below this: above it, Linux's
/// decompressor puts its trampoline before it has left the loader's page tables.
constexpr Gpa kLowLimit = 0x90000;
/// Below it are the interrupt vectors and the BIOS data area.
constexpr Gpa kLowStart = 0x1000;

class Places {
 public:
  Places(memory::GuestMemory& memory, const E820Map& map);

  /// True if all of the range is RAM that the guest may use and nothing has taken it.
  bool free(Gpa start, u64 size) const;
  /// Takes a range; an error says what is in the way. `what` names it: "segment 2 of kernel".
  Result<> take(Gpa start, u64 size, const std::string& what);

  /// Takes `size` bytes (at least 1) within [from, to); nullopt if there is no room. `alignment`
  /// is a power of two.
  std::optional<Gpa> lowest(u64 size, u64 alignment, Gpa from, Gpa to = ~Gpa{0});
  std::optional<Gpa> highest(u64 size, u64 alignment, Gpa from, Gpa to);

  /// Places and writes a boot structure in low memory.
  Result<Gpa> put(std::span<const u8> bytes, const std::string& what, u64 alignment = 16);
  /// With a terminating zero.
  Result<Gpa> put_string(const std::string& text, const std::string& what);
  /// `size` zero bytes in low memory.
  Result<Gpa> put_zeros(u64 size, const std::string& what, u64 alignment = 16);

  memory::GuestMemory& memory() { return memory_; }
  /// "not enough memory for WHAT", with how much would be enough. `end` is the address up to which
  /// RAM would have to reach.
  std::unexpected<Error> too_small(const std::string& what, u64 end) const;
  /// End of the usable RAM that begins at 1 MiB, or 1 MiB.
  Gpa low_ram_end() const;

 private:
  struct Range {
    Gpa start, end;
    std::string what;
  };
  const Range* in_the_way(Gpa start, Gpa end) const;

  memory::GuestMemory& memory_;
  std::vector<Window> usable_;
  std::vector<Range> taken_;
};

}  // namespace skerry::board

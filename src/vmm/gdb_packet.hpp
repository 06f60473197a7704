// Framing of GDB's remote serial protocol (GDB manual, appendix E): "$body#checksum",
// acknowledgements, escapes, and the interrupt byte. Pure: no sockets.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/types.hpp"

namespace skerry::vmm {

std::string gdb_frame(std::string_view body);

std::string to_hex(std::span<const u8> bytes);
/// nullopt if it is not an even number of hexadecimal digits.
std::optional<std::string> from_hex(std::string_view hex);
/// The number at the start of `text`, which is advanced past it; nullopt if there is none.
std::optional<u64> take_hex(std::string_view& text);

/// Cuts a byte stream into packets. Bounded: a packet longer than kLimit is dropped.
class GdbStream {
 public:
  static constexpr size_t kLimit = 64 * 1024;
  struct Item {
    enum class Kind { packet, damaged, interrupt } kind;
    std::string body;
  };
  void feed(std::span<const u8> data) {
    buffer_.append(reinterpret_cast<const char*>(data.data()), data.size());
  }
  std::optional<Item> next();

 private:
  std::string buffer_;
};

}  // namespace skerry::vmm

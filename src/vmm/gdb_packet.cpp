#include "vmm/gdb_packet.hpp"

#include <fmt/format.h>
#include <charconv>

namespace skerry::vmm {
namespace {
u8 checksum(std::string_view body) {
  u8 sum = 0;
  for (char c : body) sum = static_cast<u8>(sum + static_cast<u8>(c));
  return sum;
}
int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}
}  // namespace

std::string gdb_frame(std::string_view body) {
  std::string escaped;
  for (char c : body) {
    if (c == '$' || c == '#' || c == '}' || c == '*') {
      escaped += '}';
      c = static_cast<char>(c ^ 0x20);
    }
    escaped += c;
  }
  return fmt::format("${}#{:02x}", escaped, checksum(escaped));
}

std::string to_hex(std::span<const u8> bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (u8 b : bytes) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

std::optional<std::string> from_hex(std::string_view hex) {
  if (hex.size() % 2) return std::nullopt;
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    int high = digit(hex[i]), low = digit(hex[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes += static_cast<char>(high << 4 | low);
  }
  return bytes;
}

std::optional<u64> take_hex(std::string_view& text) {
  u64 value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

std::optional<GdbStream::Item> GdbStream::next() {
  // '+' and '-' acknowledge what we sent over a reliable socket: nothing to do.
  size_t skip = 0;
  while (skip < buffer_.size() && buffer_[skip] != '$' && buffer_[skip] != '\x03') ++skip;
  buffer_.erase(0, skip);
  if (buffer_.empty()) return std::nullopt;
  if (buffer_[0] == '\x03') {
    buffer_.erase(0, 1);
    return Item{Item::Kind::interrupt, {}};
  }
  size_t hash = buffer_.find('#');
  if (hash == std::string::npos || hash + 2 >= buffer_.size()) {
    if (buffer_.size() > kLimit) buffer_.clear();
    return std::nullopt;
  }
  std::string raw = buffer_.substr(1, hash - 1);
  int high = digit(buffer_[hash + 1]), low = digit(buffer_[hash + 2]);
  buffer_.erase(0, hash + 3);
  if (high < 0 || low < 0 || (high << 4 | low) != checksum(raw))
    return Item{Item::Kind::damaged, {}};
  std::string body;
  for (size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] == '}' && i + 1 < raw.size()) {
      body += static_cast<char>(raw[++i] ^ 0x20);
    } else {
      body += raw[i];
    }
  }
  return Item{Item::Kind::packet, body};
}

}  // namespace skerry::vmm

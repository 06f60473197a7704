// A versioned container of described state: a saved machine and a migration stream are the same
// bytes.
//
// Layout, little-endian: magic "SKERRYIM", u32 container version, u32 section count; then each
// section as {u16 name length, name, u32 version, u64 body length, u32 CRC-32C of the body, body}.
// Names and versions can be read without decoding a body. parse() checks everything before it
// returns anything.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "state/describe.hpp"

namespace skerry::state {

struct Section {
  u32 version = 1;
  std::vector<u8> body;
  /// The schema text of what is in it; null if it was parsed or is bytes.
  std::string (*schema)() = nullptr;
};

class Image {
 public:
  template <class T>
  void put(const std::string& name, const T& state, u32 version = 1) {
    sections_[name] = {version, encode(state), &state::schema<T>};
  }
  /// The section must exist and decode; the error names it.
  template <class T>
  Result<> get(const std::string& name, T& state) const {
    const Section* s = find(name);
    if (!s) return fail("the image has no section '{}'", name);
    auto done = decode(s->body, state, s->version);
    if (!done) return std::unexpected(std::move(done.error()).in("section " + name));
    return {};
  }

  void put_bytes(const std::string& name, std::vector<u8> body, u32 version = 1) {
    sections_[name] = {version, std::move(body), nullptr};
  }
  const Section* find(const std::string& name) const;
  const std::map<std::string, Section>& sections() const { return sections_; }

  std::vector<u8> serialize() const;
  static Result<Image> parse(std::span<const u8> data);

 private:
  std::map<std::string, Section> sections_;
};

/// CRC-32C (Castagnoli), as iSCSI and the crc32 instruction compute it.
u32 crc32c(std::span<const u8> data);

}  // namespace skerry::state

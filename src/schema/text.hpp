// Words and numbers as people write them, and the messages when they are wrong.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "schema/field.hpp"

namespace skerry::schema {

/// Decimal or 0x hexadecimal, nothing else around it.
std::optional<u64> parse_number(std::string_view text);
/// A number of bytes, or one with K, M, G or T (powers of 1024; "KiB", "MB" and lower case also).
std::optional<Bytes> parse_bytes(std::string_view text);
/// The shortest exact form: "512M", "4097".
std::string to_text(Bytes size);

/// The number of single-character insertions, removals, changes and swaps between two words.
size_t edit_distance(std::string_view a, std::string_view b);
/// The choice that was probably meant, or empty when none is near.
std::string_view nearest(std::string_view word, std::span<const std::string_view> choices);
/// "unknown KIND 'WORD'" with "did you mean ...?" and the choices.
Error unknown_word(std::string_view kind, std::string_view word,
                   std::span<const std::string_view> choices);
/// "a, b, c".
std::string join(std::span<const std::string_view> words, std::string_view between = ", ");

/// Out of range: names the field, the bounds and what was given.
Result<> check_range(const Field& field, u64 value);
Result<> check_range(const Field& field, Bytes value);

/// `out` from what stands after `name=`. The error names the field, what is wrong and what is
/// allowed.
Result<> value_from_text(const Field& field, std::string_view text, bool& out);
Result<> value_from_text(const Field& field, std::string_view text, u32& out);
Result<> value_from_text(const Field& field, std::string_view text, u64& out);
Result<> value_from_text(const Field& field, std::string_view text, Bytes& out);
Result<> value_from_text(const Field& field, std::string_view text, std::string& out);

/// The index of `text` in `names`.
Result<size_t> word_from_text(const Field& field, std::string_view text,
                              std::span<const std::string_view> names);
template <Named E>
Result<> value_from_text(const Field& field, std::string_view text, E& out) {
  auto names = enum_names(E{});
  out = static_cast<E>(TRY(word_from_text(field, text, names)));
  return {};
}

}  // namespace skerry::schema

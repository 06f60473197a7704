#include "schema/text.hpp"

#include <algorithm>
#include <charconv>
#include <limits>

namespace skerry::schema {

std::optional<u64> parse_number(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  }
  u64 value = 0;
  auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (status != std::errc{} || end != text.data() + text.size() || text.empty()) return {};
  return value;
}

std::optional<Bytes> parse_bytes(std::string_view text) {
  std::string_view number = text;
  unsigned shift = 0;
  if (!text.starts_with("0x")) {
    for (std::string_view tail : {"iB", "ib", "B", "b"}) {
      if (number.ends_with(tail)) {
        number.remove_suffix(tail.size());
        break;
      }
    }
    if (number.empty()) return {};
    switch (number.back()) {
      case 'k':
      case 'K': shift = 10; break;
      case 'm':
      case 'M': shift = 20; break;
      case 'g':
      case 'G': shift = 30; break;
      case 't':
      case 'T': shift = 40; break;
      default: break;
    }
    if (shift) number.remove_suffix(1);
  }
  auto value = parse_number(number);
  if (!value || *value > (std::numeric_limits<u64>::max() >> shift)) return {};
  return Bytes{*value << shift};
}

std::string to_text(Bytes size) {
  constexpr std::pair<unsigned, char> units[] = {{40, 'T'}, {30, 'G'}, {20, 'M'}, {10, 'K'}};
  for (auto [shift, letter] : units) {
    if (size.count && (size.count & ((u64{1} << shift) - 1)) == 0) {
      return fmt::format("{}{}", size.count >> shift, letter);
    }
  }
  return fmt::format("{}", size.count);
}

size_t edit_distance(std::string_view a, std::string_view b) {
  // Damerau's distance with adjacent swaps; three rows suffice. The words are bounded, for a long
  // argument by mistake must not cost the product of the lengths.
  a = a.substr(0, 64);
  b = b.substr(0, 64);
  std::vector<size_t> two_back(b.size() + 1), back(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) back[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t change = back[j - 1] + (a[i - 1] != b[j - 1]);
      row[j] = std::min({back[j] + 1, row[j - 1] + 1, change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], two_back[j - 2] + 1);
      }
    }
    two_back = back;
    back = row;
  }
  return back[b.size()];
}

std::string_view nearest(std::string_view word, std::span<const std::string_view> choices) {
  std::string_view best;
  if (word.size() > 64) return best;  // no name is that long
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (auto choice : choices) {
    size_t distance = edit_distance(word, choice);
    // "mem" for "memory": the beginning of exactly what was meant.
    if (word.size() >= 2 && choice.starts_with(word)) distance = 1;
    if (distance < best_distance) {
      best = choice;
      best_distance = distance;
    }
  }
  return best;
}

std::string join(std::span<const std::string_view> words, std::string_view between) {
  return fmt::format("{}", fmt::join(words, between));
}

Error unknown_word(std::string_view kind, std::string_view word,
                   std::span<const std::string_view> choices) {
  Error error;
  error.what = fmt::format("unknown {} '{}'", kind, word);
  if (auto meant = nearest(word, choices); !meant.empty()) {
    error.what += fmt::format("; did you mean '{}'?", meant);
  }
  // A word with a comma in it would look like two.
  std::string known;
  for (auto choice : choices) {
    std::string_view quote = choice.find(',') != choice.npos ? "'" : "";
    known += fmt::format("{}{}{}{}", known.empty() ? "" : ", ", quote, choice, quote);
  }
  error.hint = "known: " + known;
  return error;
}

Result<> check_range(const Field& field, u64 value) {
  if (value >= field.min && value <= field.max) return {};
  return fail_hint(fmt::format("give a number from {} to {}", field.min, field.max),
                   "{}: {} is out of range", field.name, value);
}

Result<> check_range(const Field& field, Bytes value) {
  if (value.count >= field.min && value.count <= field.max) return {};
  return fail_hint(
      fmt::format("give from {} to {}", to_text(Bytes{field.min}), to_text(Bytes{field.max})),
      "{}: {} is too {}", field.name, to_text(value), value.count < field.min ? "little" : "much");
}

Result<> value_from_text(const Field& field, std::string_view text, bool& out) {
  constexpr std::string_view names[] = {"on", "true", "yes", "1", "off", "false", "no", "0"};
  auto at = std::find(std::begin(names), std::end(names), text) - std::begin(names);
  if (at == 8) {
    return fail_hint("give on or off", "{}: '{}' is neither on nor off", field.name, text);
  }
  out = at < 4;
  return {};
}

Result<> value_from_text(const Field& field, std::string_view text, u64& out) {
  auto value = parse_number(text);
  if (!value) {
    return fail_hint(field.max == ~u64{0}
                         ? std::string("give a whole number")
                         : fmt::format("give a number from {} to {}", field.min, field.max),
                     "{}: '{}' is not a number", field.name, text);
  }
  TRY_VOID(check_range(field, *value));
  out = *value;
  return {};
}

Result<> value_from_text(const Field& field, std::string_view text, u32& out) {
  Field bounded = field;
  bounded.max = std::min<u64>(field.max, std::numeric_limits<u32>::max());
  u64 value = 0;
  TRY_VOID(value_from_text(bounded, text, value));
  out = static_cast<u32>(value);
  return {};
}

Result<> value_from_text(const Field& field, std::string_view text, Bytes& out) {
  auto value = parse_bytes(text);
  if (!value) {
    return fail_hint("give bytes, or a number with K, M, G or T, as 512M", "{}: '{}' is not a size",
                     field.name, text);
  }
  TRY_VOID(check_range(field, *value));
  out = *value;
  return {};
}

Result<> value_from_text(const Field& field, std::string_view text, std::string& out) {
  if (text.find('\0') != text.npos) return fail("{}: contains a zero byte", field.name);
  out = text;
  return {};
}

Result<size_t> word_from_text(const Field& field, std::string_view text,
                              std::span<const std::string_view> names) {
  auto at = std::find(names.begin(), names.end(), text);
  if (at == names.end()) return std::unexpected(unknown_word(field.name, text, names));
  return static_cast<size_t>(at - names.begin());
}

}  // namespace skerry::schema

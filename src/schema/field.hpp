// How an option struct describes itself, once, for every use.
//
//     struct DiskSpec {
//       std::string path;
//       bool readonly = false;
//       static void describe(auto& s, auto& v) {
//         v.field({.name = "path", .doc = "image file", .value = "FILE", .required = true},
//         s.path); v.field({.name = "readonly", .doc = "refuse writes"}, s.readonly);
//       }
//     };
//
// Initialisers are the defaults and the only place where they are written. Visitors derive the
// rest: JSON (schema/json.hpp), `key=value,...` text (schema/key_value.hpp), help (schema/help.hpp)
// and the command line's options (cli/run_options). A struct may have a grammar of its own on the
// command line: `static Result<T> from_text(std::string_view)`, and then `static constexpr
// std::string_view grammar`.
//
// Field types: bool, u32, u64, Bytes, std::string, enums with enum_names(), described structs and
// std::vector of any of these.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.hpp"

namespace skerry::schema {

/// A quantity of memory, in bytes. Written as 512M, 2G or a plain number.
struct Bytes {
  u64 count = 0;
  bool operator==(const Bytes&) const = default;
};

/// What is said about one field beside its type and default.
struct Field {
  std::string_view name;         ///< in JSON and key=value text: snake_case
  std::string_view doc;          ///< one line for help
  std::string_view value = {};   ///< what stands for the value in help, as FILE
  std::string_view option = {};  ///< command-line name where it is not `name` with dashes
  bool required = false;
  u64 min = 0, max = ~u64{0};  ///< inclusive; numbers and Bytes
};

struct NullVisitor {
  template <class T>
  void field(const Field&, T&) {}
};
template <class T>
concept Described = requires(T& s, NullVisitor& v) {
  std::remove_const_t<T>::describe(s, v);
};

/// A struct with a grammar of its own in place of key=value.
template <class T>
concept OwnGrammar = requires(std::string_view text) {
  T::from_text(text);
};

/// An enum whose words are given by `constexpr std::array<std::string_view, N> enum_names(E)`,
/// found by argument-dependent lookup; the value is the index.
template <class T>
concept Named = std::is_enum_v<T> && requires(T e) {
  enum_names(e);
};

template <Named E>
std::string_view name_of(E value) {
  return enum_names(value)[static_cast<size_t>(value)];
}

template <class T>
struct is_vector : std::false_type {};
template <class T>
struct is_vector<std::vector<T>> : std::true_type {};

}  // namespace skerry::schema

// One description of a State, many uses.
//
// A State is plain data whose initialisers are its reset values, with one static describe() that
// names every field once:
//
//     struct State {
//       u8 ier = 0;
//       std::array<u8, 16> fifo{};
//       Nanos timeout = 0;
//       static void describe(auto& s, auto& v) {
//         v.field("ier", s.ier);
//         v.field("fifo", s.fifo);
//         v.field("timeout", s.timeout, state::since(2));
//       }
//     };
//
// From it come encode(), decode(), dump() (text for people), schema() (text for review) and
// uncovered() (a test that no field was forgotten).
//
// Encoding: fields as {u32 tag = FNV-1a of the name, u32 length, value}, little-endian, nested
// States as nested fields. A field is added with since(n) (absent in older data: keeps its reset
// value), never retyped. Unknown, repeated, missing or wrongly sized fields refuse the load with
// the field's name. Field types: integers, bool, enums, double, std::string, std::vector,
// std::optional, std::array and other States. Decoding bounds every length by the data at hand.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/bits.hpp"
#include "base/result.hpp"

namespace skerry::state {

/// The version of the description that a field first appeared in.
struct Since {
  u32 version = 1;
};
constexpr Since since(u32 version) {
  return {version};
}

constexpr u32 tag_of(std::string_view name) {
  u32 hash = 2166136261u;
  for (char c : name) hash = (hash ^ static_cast<u8>(c)) * 16777619u;
  return hash;
}

template <class T>
concept Scalar = std::is_arithmetic_v<T> || std::is_enum_v<T>;

struct NullVisitor {
  template <class T>
  void field(std::string_view, T&, Since = {}) {}
};
template <class T>
concept Described = requires(T& s, NullVisitor& v) {
  std::remove_const_t<T>::describe(s, v);
};

template <class T>
struct is_vector : std::false_type {};
template <class T>
struct is_vector<std::vector<T>> : std::true_type {};
template <class T>
struct is_array : std::false_type {};
template <class T, size_t N>
struct is_array<std::array<T, N>> : std::true_type {};
template <class T>
struct is_optional : std::false_type {};
template <class T>
struct is_optional<std::optional<T>> : std::true_type {};

/// Appends encoded fields to a byte vector.
class Writer {
 public:
  explicit Writer(std::vector<u8>& out) : out_(out) {}

  template <class T>
  void field(std::string_view name, const T& value, Since = {}) {
    put(tag_of(name));
    size_t length_at = out_.size();
    put(u32{0});
    write_value(value);
    store<u32>(out_.data() + length_at, static_cast<u32>(out_.size() - length_at - 4));
  }

  template <class T>
  void write_value(const T& value) {
    if constexpr (Scalar<T>) {
      put(value);
    } else if constexpr (std::is_same_v<T, std::string>) {
      out_.insert(out_.end(), value.begin(), value.end());
    } else if constexpr (is_optional<T>::value) {
      if (value) write_value(*value);
    } else if constexpr (is_vector<T>::value || is_array<T>::value) {
      for (const auto& element : value) write_element(element);
    } else {
      T::describe(value, *this);
    }
  }

 private:
  template <class T>
  void write_element(const T& element) {
    if constexpr (Scalar<T>) {
      put(element);
    } else {
      size_t length_at = out_.size();
      put(u32{0});
      write_value(element);
      store<u32>(out_.data() + length_at, static_cast<u32>(out_.size() - length_at - 4));
    }
  }
  template <class T>
  void put(T value) {
    size_t at = out_.size();
    out_.resize(at + sizeof value);
    std::memcpy(out_.data() + at, &value, sizeof value);
  }

  std::vector<u8>& out_;
};

/// Fills a State from encoded fields; collects the first error.
class Reader {
 public:
  /// `version` is the version of the description that wrote `data`.
  Reader(std::span<const u8> data, u32 version, std::string where = {})
      : data_(data), version_(version), where_(std::move(where)) {
    index();
  }

  template <class T>
  void field(std::string_view name, T& value, Since since = {}) {
    if (!error_.empty()) return;
    u32 tag = tag_of(name);
    for (Entry& e : entries_) {
      if (e.tag != tag) continue;
      if (e.used) return refuse(name, "appears twice");
      e.used = true;
      if (!read_value(name, e.value, value))
        refuse(name, "does not have the expected size or content");
      return;
    }
    if (since.version <= version_) refuse(name, "is missing");
  }

  /// To be called after describe(): the first error, or an unknown field.
  Result<> finish();

  template <class T>
  bool read_value(std::string_view name, std::span<const u8> bytes, T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      if (bytes.size() != 1 || bytes[0] > 1) return false;
      value = bytes[0];
      return true;
    } else if constexpr (Scalar<T>) {
      if (bytes.size() != sizeof value) return false;
      std::memcpy(&value, bytes.data(), sizeof value);
      return true;
    } else if constexpr (std::is_same_v<T, std::string>) {
      value.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return true;
    } else if constexpr (is_optional<T>::value) {
      value.reset();
      return bytes.empty() || read_value(name, bytes, value.emplace());
    } else if constexpr (is_vector<T>::value) {
      value.clear();
      while (!bytes.empty())
        if (!read_element(name, bytes, value.emplace_back())) return false;
      return true;
    } else if constexpr (is_array<T>::value) {
      for (auto& element : value)
        if (!read_element(name, bytes, element)) return false;
      return bytes.empty();
    } else {
      Reader nested(bytes, version_, where_ + std::string(name) + ".");
      T::describe(value, nested);
      if (auto done = nested.finish(); !done) {
        error_ = done.error().what;
      }
      return true;
    }
  }

 private:
  struct Entry {
    u32 tag;
    bool used;
    std::span<const u8> value;
  };
  template <class T>
  bool read_element(std::string_view name, std::span<const u8>& bytes, T& element) {
    if constexpr (Scalar<T>) {
      if (bytes.size() < sizeof element) return false;
      auto head = bytes.first(sizeof element);
      bytes = bytes.subspan(sizeof element);
      return read_value(name, head, element);
    } else {
      if (bytes.size() < 4) return false;
      u32 length = load<u32>(bytes.data());
      if (length > bytes.size() - 4) return false;
      auto body = bytes.subspan(4, length);
      bytes = bytes.subspan(4 + length);
      return read_value(name, body, element);
    }
  }
  void index();
  void refuse(std::string_view name, std::string_view why);

  std::span<const u8> data_;
  u32 version_;
  std::string where_, error_;
  std::vector<Entry> entries_;
};

/// "path = value" lines, for people and for diffs.
class Dump {
 public:
  explicit Dump(std::string& out, std::string prefix = {})
      : out_(out), prefix_(std::move(prefix)) {}
  template <class T>
  void field(std::string_view name, const T& value, Since = {}) {
    show(prefix_ + std::string(name), value);
  }

 private:
  template <class T>
  void show(const std::string& path, const T& value) {
    if constexpr (std::is_floating_point_v<T>) {
      out_ += fmt::format("{} = {}\n", path, value);
    } else if constexpr (Scalar<T>) {
      out_ += fmt::format("{} = {:#x}\n", path, static_cast<u64>(value));
    } else if constexpr (std::is_same_v<T, std::string>) {
      out_ += fmt::format("{} = \"{}\"\n", path, value);
    } else if constexpr (is_optional<T>::value) {
      if (value) show(path, *value);
    } else if constexpr (is_vector<T>::value || is_array<T>::value) {
      size_t i = 0;
      for (const auto& element : value) {
        show_unless_reset(fmt::format("{}[{}]", path, i++), element);
      }
    } else {
      Dump nested(out_, path + ".");
      T::describe(value, nested);
    }
  }
  // Elements of long arrays that are still zero would drown the rest.
  template <class T>
  void show_unless_reset(const std::string& path, const T& element) {
    if constexpr (Scalar<T>) {
      if (element == T{}) return;
    }
    show(path, element);
  }
  std::string& out_;
  std::string prefix_;
};

/// "path: type since n" lines. Checked in and compared, so that no field changes by accident.
class Schema {
 public:
  explicit Schema(std::string& out, std::string prefix = {})
      : out_(out), prefix_(std::move(prefix)) {}
  template <class T>
  void field(std::string_view name, const T& value, Since since = {}) {
    type(prefix_ + std::string(name), value, since);
  }

 private:
  template <class T>
  void type(const std::string& path, const T& value, Since since) {
    if constexpr (std::is_same_v<T, bool>) {
      line(path, "bool", since);
    } else if constexpr (std::is_floating_point_v<T>) {
      line(path, fmt::format("f{}", 8 * sizeof(T)), since);
    } else if constexpr (Scalar<T>) {
      line(path,
           fmt::format("{}{}",
                       std::is_enum_v<T>     ? "enum"
                       : std::is_signed_v<T> ? "i"
                                             : "u",
                       8 * sizeof(T)),
           since);
    } else if constexpr (std::is_same_v<T, std::string>) {
      line(path, "string", since);
    } else if constexpr (is_optional<T>::value) {
      type(path + "?", typename T::value_type{}, since);
    } else if constexpr (is_vector<T>::value) {
      type(path + "[]", typename T::value_type{}, since);
    } else if constexpr (is_array<T>::value) {
      type(fmt::format("{}[{}]", path, value.size()), typename T::value_type{}, since);
    } else {
      Schema nested(out_, path + ".");
      T::describe(value, nested);
    }
  }
  void line(const std::string& path, std::string_view type, Since since) {
    out_ += fmt::format("{}: {} since {}\n", path, type, since.version);
  }
  std::string& out_;
  std::string prefix_;
};

template <class T>
std::vector<u8> encode(const T& state) {
  std::vector<u8> out;
  Writer writer(out);
  T::describe(state, writer);
  return out;
}

/// All or nothing: `state` changes only when every field is good.
template <class T>
Result<> decode(std::span<const u8> data, T& state, u32 version = 1) {
  T fresh{};
  Reader reader(data, version);
  T::describe(fresh, reader);
  TRY_VOID(reader.finish());
  state = std::move(fresh);
  return {};
}

template <class T>
std::string dump(const T& state) {
  std::string out;
  Dump visitor(out);
  T::describe(state, visitor);
  return out;
}

template <class T>
std::string schema() {
  std::string out;
  Schema visitor(out);
  T state{};
  T::describe(std::as_const(state), visitor);
  return out;
}

struct Cover {
  const u8* base;
  std::vector<bool> seen;
  template <class F>
  void field(std::string_view, F& f, Since = {}) {
    if constexpr (Described<F>) {
      F::describe(f, *this);
    } else {
      auto at = static_cast<size_t>(reinterpret_cast<const u8*>(&f) - base);
      for (size_t i = 0; i < sizeof f; ++i) seen[at + i] = true;
    }
  }
};

/// Offsets of bytes of T that describe() does not reach: forgotten fields (or padding). For tests
/// of trivially copyable States.
template <class T>
std::vector<size_t> uncovered() {
  static_assert(std::is_trivially_copyable_v<T>);
  T state{};
  Cover cover{reinterpret_cast<const u8*>(&state), std::vector<bool>(sizeof state)};
  T::describe(state, cover);
  std::vector<size_t> missing;
  for (size_t i = 0; i < sizeof state; ++i)
    if (!cover.seen[i]) missing.push_back(i);
  return missing;
}

}  // namespace skerry::state

// The `path=disk.img,format=raw,readonly` grammar of command-line values, for any described struct.
//
// Items are separated by commas; a comma within a value is written twice. An item without '=' sets
// a bool; one of a list may stand there several times. Keys may be written with dashes for
// underscores. Other repeated, unknown and missing keys are
// errors that name the keys there are.
#pragma once

#include <algorithm>

#include "schema/text.hpp"

namespace skerry::schema {

class KeyValueReader {
 public:
  static Result<KeyValueReader> split(std::string_view text);

  template <class T>
  void field(const Field& field, T& value) {
    known_.push_back(field.name);
    Item* item = find(field.name);
    if (!item) {
      if (field.required) missing_.push_back(field.name);
      return;
    }
    if constexpr (is_vector<T>::value) {
      value.clear();
      for (const Item& each : items_)
        if (each.key == field.name) read(field, each, value.emplace_back());
      return;
    } else {
      for (const Item& each : items_)
        if (&each != item && each.key == field.name)
          return keep(fail("'{}' is given twice in '{}'", field.name, text_));
      read(field, *item, value);
    }
  }

  /// After describe(): the first error.
  Result<> finish();

 private:
  struct Item {
    std::string key, value;
    bool has_value = false;
  };
  template <class T>
  void read(const Field& field, const Item& item, T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      if (!item.has_value) {
        value = true;
        return;
      }
    }
    if (!item.has_value) {
      keep(fail_hint(fmt::format("write {}=VALUE", field.name), "'{}' needs a value", field.name));
    } else if (auto done = value_from_text(field, item.value, value); !done) {
      keep(done);
    }
  }
  Item* find(std::string_view key);
  void keep(Result<> failed) {
    if (error_) error_ = std::move(failed);
  }

  std::string text_;
  std::vector<Item> items_;
  std::vector<std::string_view> known_, missing_;
  Result<> error_;
};

/// A described struct from its text: its own grammar if it has one, else key=value.
template <Described T>
Result<T> from_text(std::string_view text) {
  if constexpr (OwnGrammar<T>) {
    return T::from_text(text);
  } else {
    T value{};
    auto reader = TRY(KeyValueReader::split(text));
    T::describe(value, reader);
    TRY_VOID(reader.finish());
    return value;
  }
}

}  // namespace skerry::schema

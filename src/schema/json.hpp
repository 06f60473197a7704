// JSON from and to any described struct. Heavy to include: only .cpp files do.
//
// Writing names every field, defaults too, so that a written Spec means the same under a later
// release. Reading starts from what the struct holds: absent keys keep it. An element that has a
// text form may be given as that text ("disks": ["path=a.img,readonly"]).
#pragma once

#include <nlohmann/json.hpp>

#include "schema/key_value.hpp"

namespace skerry::schema {

using Json = nlohmann::ordered_json;

/// The document, or where and why it is not JSON. `name` is the file's, for the message.
Result<Json> parse_json(std::string_view text, std::string_view name);

template <class T>
Json to_json(const T& value);

class JsonWriter {
 public:
  explicit JsonWriter(Json& out) : out_(out) {}
  template <class T>
  void field(const Field& field, const T& value) {
    out_[std::string(field.name)] = to_json(value);
  }

 private:
  Json& out_;
};

template <class T>
Json to_json(const T& value) {
  if constexpr (std::is_same_v<T, Bytes>) {
    return to_text(value);
  } else if constexpr (Named<T>) {
    return std::string(name_of(value));
  } else if constexpr (is_vector<T>::value) {
    Json list = Json::array();
    for (const auto& element : value) list.push_back(to_json(element));
    return list;
  } else if constexpr (Described<T>) {
    Json object = Json::object();
    JsonWriter writer(object);
    T::describe(value, writer);
    return object;
  } else {
    return value;
  }
}

class JsonReader {
 public:
  /// `in` outlives the reader. `where` is the path of `in` in the document, "" at its root.
  JsonReader(const Json& in, std::string where) : in_(in), where_(std::move(where)) {}

  template <class T>
  void field(const Field& field, T& value) {
    known_.push_back(field.name);
    if (!error_) return;
    auto at = in_.find(std::string(field.name));
    if (at == in_.end()) {
      if (field.required) error_ = fail("'{}' is missing", path_to(field.name));
      return;
    }
    // Messages give the path in the document in place of the bare name.
    std::string path = path_to(field.name);
    Field named = field;
    named.name = path;
    error_ = read(named, *at, value);
  }

  /// After describe(): the first error, or an unknown key.
  Result<> finish();

  template <class T>
  static Result<> read_object(const Json& in, const std::string& where, T& value) {
    if (!in.is_object())
      return fail("{}: an object {{...}} is needed", where.empty() ? "top" : where);
    JsonReader reader(in, where);
    T::describe(value, reader);
    return reader.finish();
  }

 private:
  template <class T>
  static Result<> read(const Field& field, const Json& in, T& value) {
    if constexpr (is_vector<T>::value) {
      if (!in.is_array()) return fail("{}: a list [...] is needed", field.name);
      value.clear();
      for (size_t i = 0; i < in.size(); ++i) {
        std::string path = fmt::format("{}[{}]", field.name, i);
        Field element = field;
        element.name = path;
        TRY_VOID(read(element, in[i], value.emplace_back()));
      }
      return {};
    } else if constexpr (Described<T>) {
      if (!in.is_string()) return read_object(in, std::string(field.name), value);
      auto parsed = from_text<T>(in.template get_ref<const std::string&>());
      if (!parsed) return std::unexpected(std::move(parsed.error()).in(field.name));
      value = std::move(*parsed);
      return {};
    } else if constexpr (std::is_same_v<T, bool>) {
      if (!in.is_boolean()) return fail("{}: true or false is needed", field.name);
      value = in.template get<bool>();
      return {};
    } else if constexpr (std::is_integral_v<T> || std::is_same_v<T, Bytes>) {
      // One parser and one range check for both forms: 4 and "4", 536870912 and "512M".
      if (in.is_number_unsigned()) {
        return value_from_text(field, fmt::format("{}", in.template get<u64>()), value);
      }
      if (!in.is_string()) return value_from_text(field, in.dump(), value);
      return value_from_text(field, in.template get_ref<const std::string&>(), value);
    } else {
      if (!in.is_string()) return fail("{}: a string is needed", field.name);
      return value_from_text(field, in.template get_ref<const std::string&>(), value);
    }
  }
  std::string path_to(std::string_view name) const {
    return where_.empty() ? std::string(name) : fmt::format("{}.{}", where_, name);
  }

  const Json& in_;
  std::string where_;
  std::vector<std::string_view> known_;
  Result<> error_;
};

}  // namespace skerry::schema

// One line of help per field of a described struct: "  format=raw|...  image format (default raw)".
#pragma once

#include "schema/key_value.hpp"

namespace skerry::schema {

/// What a field holds, for people. Defaults are read from a default-made struct.
struct FieldHelp {
  std::string name, option, value, doc, preset;
  bool required = false, flag = false, list = false;
};

namespace detail {
template <class T>
std::string placeholder(const Field& field) {
  if (!field.value.empty()) return std::string(field.value);
  if constexpr (std::is_same_v<T, bool>) {
    return {};
  } else if constexpr (is_vector<T>::value) {
    return placeholder<typename T::value_type>(field);
  } else if constexpr (Named<T>) {
    return join(enum_names(T{}), "|");
  } else if constexpr (OwnGrammar<T>) {
    return std::string(T::grammar);
  } else if constexpr (std::is_same_v<T, Bytes>) {
    return "SIZE";
  } else if constexpr (std::is_integral_v<T>) {
    return "N";
  } else {
    return "TEXT";
  }
}
template <class T>
std::string preset(const T& value) {
  if constexpr (std::is_same_v<T, Bytes>) {
    return to_text(value);
  } else if constexpr (Named<T>) {
    return std::string(name_of(value));
  } else if constexpr (std::is_same_v<T, std::string>) {
    return value;
  } else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    return fmt::format("{}", value);
  } else {
    return {};
  }
}
}  // namespace detail

class Help {
 public:
  template <class T>
  void field(const Field& field, const T& value) {
    FieldHelp& help = fields_.emplace_back();
    help.name = field.name;
    help.option = field.option.empty() ? help.name : std::string(field.option);
    for (char& c : help.option) c = c == '_' ? '-' : c;
    help.value = detail::placeholder<T>(field);
    help.doc = field.doc;
    help.preset = field.required ? std::string() : detail::preset(value);
    help.required = field.required;
    help.flag = std::is_same_v<T, bool>;
    help.list = is_vector<T>::value;
  }
  const std::vector<FieldHelp>& fields() const { return fields_; }

 private:
  std::vector<FieldHelp> fields_;
};

template <Described T>
std::vector<FieldHelp> help_of() {
  Help help;
  const T preset{};
  T::describe(preset, help);
  return help.fields();
}

/// "path=FILE[,format=raw][,readonly]".
template <Described T>
std::string key_value_grammar() {
  std::string text;
  for (const auto& f : help_of<T>()) {
    std::string item = f.flag ? f.name : f.name + "=" + f.value;
    if (!text.empty()) item = "," + item;
    text += f.required ? item : "[" + item + "]";
  }
  return text;
}

}  // namespace skerry::schema

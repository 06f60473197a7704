#include "schema/key_value.hpp"

namespace skerry::schema {

Result<KeyValueReader> KeyValueReader::split(std::string_view text) {
  KeyValueReader reader;
  reader.text_ = text;
  std::string current;
  auto finish_item = [&]() -> Result<> {
    if (current.empty()) {
      return fail_hint(
          "write KEY=VALUE items with one comma between them; a comma in a value is ',,'",
          "empty item in '{}'", text);
    }
    Item item;
    size_t equals = current.find('=');
    item.key = current.substr(0, equals);
    std::replace(item.key.begin(), item.key.end(), '-', '_');  // as in names of options
    item.has_value = equals != current.npos;
    if (item.has_value) item.value = current.substr(equals + 1);
    reader.items_.push_back(std::move(item));
    current.clear();
    return {};
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      current += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      current += ',';
      ++i;
    } else {
      TRY_VOID(finish_item());
    }
  }
  TRY_VOID(finish_item());
  return reader;
}

KeyValueReader::Item* KeyValueReader::find(std::string_view key) {
  auto at = std::find_if(items_.begin(), items_.end(), [&](const Item& i) { return i.key == key; });
  return at == items_.end() ? nullptr : &*at;
}

Result<> KeyValueReader::finish() {
  for (const Item& item : items_) {
    if (std::ranges::find(known_, item.key) != known_.end()) continue;
    Error error = unknown_word("key", item.key, known_);
    // "--disk disk.img": the likeliest slip, and no key is near.
    if (!item.has_value && !missing_.empty()) {
      error.hint = fmt::format("write {}={}; keys: {}", missing_[0], item.key, join(known_));
    }
    return std::unexpected(std::move(error));
  }
  if (!error_) return error_;
  if (!missing_.empty()) {
    return fail_hint(fmt::format("add {}=VALUE", missing_[0]), "'{}' is missing", missing_[0]);
  }
  return {};
}

}  // namespace skerry::schema

#include "schema/json.hpp"

namespace skerry::schema {

Result<Json> parse_json(std::string_view text, std::string_view name) {
  // The library tells where a document is bad only by exception; it stops here.
  try {
    return Json::parse(text, nullptr, true, /*ignore_comments=*/true);
  } catch (const Json::parse_error& e) {
    size_t at = std::min<size_t>(e.byte ? e.byte - 1 : 0, text.size());
    auto before = text.substr(0, at);
    size_t line = 1 + std::count(before.begin(), before.end(), '\n');
    size_t column = at - (before.rfind('\n') == before.npos ? 0 : before.rfind('\n') + 1) + 1;
    std::string why = e.what();
    if (size_t colon = why.find(": "); colon != why.npos) why = why.substr(colon + 2);
    return fail("{}:{}:{}: not JSON: {}", name, line, column, why);
  } catch (const Json::exception& e) {  // a number beyond any type, as 1e999
    return fail("{}: not JSON: {}", name, e.what());
  }
}

Result<> JsonReader::finish() {
  if (!error_) return error_;
  for (const auto& [key, value] : in_.items()) {
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    Error error = unknown_word("key", key, known_);
    return std::unexpected(where_.empty() ? std::move(error) : std::move(error).in(where_));
  }
  return {};
}

}  // namespace skerry::schema

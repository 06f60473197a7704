// From a request's line to the typed Action, and from answers and events to lines. Heavy to
// include: only .cpp files do.
#pragma once

#include <functional>

#include "schema/action.hpp"
#include "schema/json.hpp"

namespace skerry::schema {

/// A request line taken apart: {"id": ANY, "action": NAME, "arguments": {...}}.
struct RequestLine {
  Json id = nullptr;  ///< given back with the answer
  std::string action;
  Json arguments = Json::object();
};
/// On an error, `id` holds the request's if it could be read.
Answer<RequestLine> parse_request(std::string_view line, Json& id);

// Lines without their newline. Strings that are no UTF-8 come out with U+FFFD.
std::string answer_line(const Json& id, const Json& result);
std::string error_line(const Json& id, const ActionError& error);
std::string hello_line(const Hello& hello);
template <class E>
std::string event_line(u64 number, const E& event) {
  Json line = Json::object();
  line["event"] = std::string(E::info.name);
  line["number"] = number;
  line["data"] = to_json(event);
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// The documentation of all actions, events and errors.
Json schema_json();

inline std::unexpected<ActionError> refuse(ErrorCode code, Error error) {
  return std::unexpected(ActionError{code, std::move(error)});
}

/// Calls `take(A{}, const A::Request&)` for the action A that is asked for, with arguments that are
/// valid. The error is that there is none, or what is wrong with the arguments.
template <class Take>
Answer<void> dispatch(const RequestLine& request, Take take) {
  Answer<void> result;
  bool found = false;
  auto look = [&]<class A>(A action) {
    if (found || A::info.name != request.action) return;
    found = true;
    typename A::Request arguments{};
    if (auto read = JsonReader::read_object(request.arguments, "", arguments); !read) {
      result = refuse(ErrorCode::bad_arguments, std::move(read.error()).in(request.action));
      return;
    }
    take(action, arguments);
  };
  std::apply([&](auto... actions) { (look(actions), ...); }, Actions{});
  if (found) return result;
  std::vector<std::string_view> names;
  std::apply([&](auto... actions) { (names.push_back(decltype(actions)::info.name), ...); },
             Actions{});
  return refuse(ErrorCode::unknown_action, unknown_word("action", request.action, names));
}

}  // namespace skerry::schema

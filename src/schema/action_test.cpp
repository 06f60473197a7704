#include <gtest/gtest.h>

#include <set>

#include "schema/dispatch.hpp"

namespace skerry::schema {
namespace {

Answer<RequestLine> parsed(std::string_view line) {
  Json id = nullptr;
  return parse_request(line, id);
}
std::string message_of(std::string_view line) {
  auto request = parsed(line);
  if (!request) return request.error().error.what;
  auto done = dispatch(*request, [](auto, const auto&) {});
  return done ? "accepted" : done.error().error.message();
}
ErrorCode code_of(std::string_view line) {
  auto request = parsed(line);
  if (!request) return request.error().code;
  auto done = dispatch(*request, [](auto, const auto&) {});
  EXPECT_FALSE(done) << line;
  return done ? ErrorCode::internal : done.error().code;
}

TEST(Action, RequestLinesAreTakenApart) {
  auto request =
      parsed(R"({"id": "a7", "action": "screen", "arguments": {"line": "console0", "bytes": 12}})");
  ASSERT_TRUE(request);
  EXPECT_EQ(request->id, Json("a7"));
  ScreenAction::Request seen;
  auto done = dispatch(*request, [&]<class A>(A, const typename A::Request& r) {
    if constexpr (std::is_same_v<A, ScreenAction>) seen = r;
  });
  ASSERT_TRUE(done);
  EXPECT_EQ(seen.line, "console0");
  EXPECT_EQ(seen.bytes, 12u);
}

TEST(Action, BadRequestsSayWhatIsWrong) {
  EXPECT_EQ(code_of("pause"), ErrorCode::bad_request);
  EXPECT_EQ(code_of("[]"), ErrorCode::bad_request);
  EXPECT_EQ(code_of("{}"), ErrorCode::bad_request);
  EXPECT_EQ(code_of(R"({"action": 3})"), ErrorCode::bad_request);
  EXPECT_EQ(code_of(R"({"id": [1], "action": "status"})"), ErrorCode::bad_request);
  EXPECT_EQ(code_of(R"({"acton": "status"})"), ErrorCode::bad_request);
  EXPECT_NE(message_of(R"({"acton": "status"})").find("did you mean 'action'"), std::string::npos);
  EXPECT_EQ(code_of(R"({"action": "puase"})"), ErrorCode::unknown_action);
  EXPECT_NE(message_of(R"({"action": "puase"})").find("did you mean 'pause'"), std::string::npos);
  EXPECT_EQ(code_of(R"({"action": "pause", "arguments": {"x": 1}})"), ErrorCode::bad_arguments);
  EXPECT_EQ(code_of(R"({"action": "screen", "arguments": {"bytes": 0}})"),
            ErrorCode::bad_arguments);
  EXPECT_EQ(code_of(R"({"action": "screen", "arguments": {"bytes": -1}})"),
            ErrorCode::bad_arguments);
  EXPECT_EQ(code_of(R"({"action": "screen", "arguments": {"line": 1}})"), ErrorCode::bad_arguments);
  EXPECT_NE(message_of(R"({"action": "screen", "arguments": {"bytes": 0}})").find("1 to 65536"),
            std::string::npos);
}

// The documents are kept small, but their nesting could still eat the stack of what walks them.
TEST(Action, DeepNestingIsRefusedBeforeItIsParsed) {
  std::string deep = R"({"action": "screen", "arguments": {"bytes": )" + std::string(60000, '[') +
                     std::string(60000, ']') + "}}";
  EXPECT_EQ(code_of(deep), ErrorCode::bad_request);
  EXPECT_EQ(
      code_of(
          R"({"action": "screen", "arguments": {"line": "\"[[[[[[[[[[[[[[[[[[[[[[[", "x": 1}})"),
      ErrorCode::bad_arguments);
}

TEST(Action, AnErrorKeepsTheRequestsId) {
  Json id = nullptr;
  EXPECT_FALSE(parse_request(R"({"id": 9, "what": 1})", id));
  EXPECT_EQ(id, Json(9));
}

TEST(Action, LinesAreOneLineWhateverIsInThem) {
  ScreenAction::Response response{"two\nlines \xff and no UTF-8", 26};
  std::string line = answer_line(7, to_json(response));
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(
      line,
      "{\"id\":7,\"result\":{\"text\":\"two\\nlines \xEF\xBF\xBD and no UTF-8\",\"written\":26}}");
  EXPECT_EQ(error_line("x", {ErrorCode::not_found, {"no line", "see status", 0}}),
            R"({"id":"x","error":{"code":"not_found","message":"no line","hint":"see status"}})");
  EXPECT_EQ(
      event_line(3, StateEvent{Phase::paused, "by request", 0}),
      R"({"event":"state","number":3,"data":{"state":"paused","reason":"by request","status":0}})");
}

TEST(Action, SchemaNamesEverythingOnce) {
  Json schema = schema_json();
  std::set<std::string> names;
  for (const Json& action : schema["actions"]) {
    EXPECT_TRUE(names.insert(action["name"].get<std::string>()).second);
    EXPECT_FALSE(action["doc"].get<std::string>().empty());
    EXPECT_FALSE(action["phases"].empty());
    for (const char* part : {"arguments", "result"})
      for (const Json& field : action[part])
        EXPECT_FALSE(field["doc"].get<std::string>().empty()) << action["name"];
  }
  EXPECT_EQ(names.size(), std::tuple_size_v<Actions>);
  EXPECT_EQ(schema["events"].size(), std::tuple_size_v<Events>);
  EXPECT_EQ(schema["errors"].size(), enum_names(ErrorCode{}).size());
  auto screen = std::find_if(schema["actions"].begin(), schema["actions"].end(),
                             [](const Json& a) { return a["name"] == "screen"; });
  ASSERT_NE(screen, schema["actions"].end());
  EXPECT_EQ(
      (*screen)["arguments"][1].dump(),
      R"({"name":"bytes","type":"integer","doc":"at most this much","required":false,"default":4096,"min":1,"max":65536})");
}

}  // namespace
}  // namespace skerry::schema

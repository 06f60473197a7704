// A line on the control socket: taken apart, its action found and its arguments read; what is said
// about it is one line of JSON.
#include "fuzz/input.hpp"
#include "schema/dispatch.hpp"

namespace skerry::fuzz {
namespace {

using namespace schema;

void expect_line(const std::string& line) {
  expect(line.find('\n') == line.npos, "an answer is one line");
  expect(Json::accept(line), "an answer is JSON");
}

void one(std::string_view line) {
  Json id = nullptr;
  auto request = parse_request(line, id);
  if (!request) return expect_line(error_line(id, request.error()));
  expect_line(answer_line(request->id, request->arguments));
  auto done = dispatch(*request, [](auto, const auto& arguments) {
    // What was read can be written, and reads the same again.
    auto again = std::remove_cvref_t<decltype(arguments)>{};
    Json text = to_json(arguments);
    expect(JsonReader::read_object(text, "", again).has_value(), "arguments are read again");
    expect(to_json(again) == text, "arguments come back");
  });
  if (!done) expect_line(error_line(request->id, done.error()));
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::one({reinterpret_cast<const char*>(data), size});
  return 0;
}

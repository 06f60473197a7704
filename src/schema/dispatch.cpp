#include "schema/dispatch.hpp"

#include "schema/help.hpp"

namespace skerry::schema {
namespace {

std::string dumped(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Each field of a described struct as {"name", "type", "doc"...}.
class FieldDocs {
 public:
  explicit FieldDocs(bool request) : request_(request) {}

  template <class T>
  void field(const Field& field, const T& value) {
    Json doc = Json::object();
    doc["name"] = std::string(field.name);
    add_type<T>(doc);
    doc["doc"] = std::string(field.doc);
    if (request_) {
      doc["required"] = field.required;
      // The largest number stands for "left out".
      if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
        if (!field.required && u64{value} != ~u64{0}) doc["default"] = value;
        if (field.min != 0) doc["min"] = field.min;
        if (field.max != ~u64{0}) doc["max"] = field.max;
      } else if constexpr (!is_vector<T>::value && !Described<T>) {
        if constexpr (std::is_same_v<T, Bytes>) {
          if (value.count == ~u64{0}) {
            fields_.push_back(std::move(doc));
            return;
          }
        }
        if (!field.required) doc["default"] = to_json(value);
      }
    }
    fields_.push_back(std::move(doc));
  }
  Json take() { return std::move(fields_); }

  template <Described T>
  static Json of(bool request) {
    FieldDocs docs(request);
    const T preset{};
    T::describe(preset, docs);
    return docs.take();
  }

 private:
  template <class T>
  void add_type(Json& doc) {
    if constexpr (is_vector<T>::value) {
      doc["type"] = "list";
      Json element = Json::object();
      add_type<typename T::value_type>(element);
      doc["of"] = std::move(element);
    } else if constexpr (std::is_same_v<T, bool>) {
      doc["type"] = "bool";
    } else if constexpr (std::is_same_v<T, Bytes>) {
      doc["type"] = "size";
    } else if constexpr (Named<T>) {
      doc["type"] = "word";
      Json words = Json::array();
      for (std::string_view word : enum_names(T{})) words.push_back(std::string(word));
      doc["words"] = std::move(words);
    } else if constexpr (Described<T>) {
      doc["type"] = "object";
      doc["fields"] = of<T>(request_);
    } else if constexpr (std::is_integral_v<T>) {
      doc["type"] = "integer";
    } else {
      doc["type"] = "string";
    }
  }

  bool request_;
  Json fields_ = Json::array();
};

/// Whether brackets nest deeper than any request: what recurses over a document must not be made to
/// overflow the stack.
bool nests_deeply(std::string_view text) {
  constexpr int kDeepest = 16;
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDeepest) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

Answer<RequestLine> parse_request(std::string_view line, Json& id) {
  auto bad = [](Error error) { return refuse(ErrorCode::bad_request, std::move(error)); };
  if (nests_deeply(line)) return bad({"request: nested too deeply", {}, 0});
  auto parsed = parse_json(line, "request");
  if (!parsed) return bad(std::move(parsed.error()));
  if (!parsed->is_object()) return bad({"request: an object {...} is needed", {}, 0});
  RequestLine request;
  for (auto& [key, value] : parsed->items()) {
    if (key == "id") {
      if (!value.is_string() && !value.is_number() && !value.is_null())
        return bad({"request: the id must be a string or a number", {}, 0});
      id = request.id = value;
    } else if (key == "action" && value.is_string()) {
      request.action = value.get<std::string>();
    } else if (key == "arguments" && value.is_object()) {
      request.arguments = std::move(value);
    } else {
      constexpr std::string_view keys[] = {"id", "action", "arguments"};
      if (key == "action") return bad({"request: the action must be a string", {}, 0});
      if (key == "arguments") return bad({"request: the arguments must be an object", {}, 0});
      return bad(unknown_word("key", key, keys).in("request"));
    }
  }
  if (request.action.empty())
    return bad({"request: no action", "write {\"id\": 1, \"action\": \"status\"}", 0});
  return request;
}

std::string answer_line(const Json& id, const Json& result) {
  Json line = Json::object();
  line["id"] = id;
  line["result"] = result;
  return dumped(line);
}

std::string error_line(const Json& id, const ActionError& error) {
  Json line = Json::object();
  line["id"] = id;
  Json& body = line["error"] = Json::object();
  body["code"] = std::string(name_of(error.code));
  body["message"] = error.error.what;
  body["hint"] = error.error.hint;
  return dumped(line);
}

std::string hello_line(const Hello& hello) {
  Json line = Json::object();
  line["hello"] = to_json(hello);
  return dumped(line);
}

Json schema_json() {
  Json schema = Json::object();
  schema["protocol"] = kProtocol;
  Json& actions = schema["actions"] = Json::array();
  auto add_action = [&]<class A>(A) {
    Json action = Json::object();
    action["name"] = std::string(A::info.name);
    action["doc"] = std::string(A::info.doc);
    action["phases"] = Json::array();
    if (A::info.running) action["phases"].push_back("running");
    if (A::info.paused) action["phases"].push_back("paused");
    action["arguments"] = FieldDocs::of<typename A::Request>(true);
    action["result"] = FieldDocs::of<typename A::Response>(false);
    actions.push_back(std::move(action));
  };
  std::apply([&](auto... each) { (add_action(each), ...); }, Actions{});
  Json& events = schema["events"] = Json::array();
  auto add_event = [&]<class E>(const E&) {
    Json event = Json::object();
    event["name"] = std::string(E::info.name);
    event["doc"] = std::string(E::info.doc);
    event["data"] = FieldDocs::of<E>(false);
    events.push_back(std::move(event));
  };
  std::apply([&](const auto&... each) { (add_event(each), ...); }, Events{});
  Json& errors = schema["errors"] = Json::array();
  constexpr auto codes = enum_names(ErrorCode{});
  for (size_t i = 0; i < codes.size(); ++i) {
    Json error = Json::object();
    error["code"] = std::string(codes[i]);
    error["doc"] = std::string(error_docs()[i]);
    errors.push_back(std::move(error));
  }
  return schema;
}

}  // namespace skerry::schema

// Answers for people.
#include <algorithm>

#include "cli/ctl.hpp"
#include "schema/action.hpp"
#include "schema/dispatch.hpp"

namespace skerry::cli {
namespace {

using schema::Json;

std::string grouped(u64 value) {
  std::string digits = fmt::format("{}", value);
  for (size_t at = digits.size(); at > 3;)
    digits.insert(digits.begin() + static_cast<long>(at -= 3), ',');
  return digits;
}

std::string size_text(u64 bytes) {
  return fmt::format("{}.{} MiB", bytes / MiB, bytes % MiB * 10 / MiB);
}

std::string time_text(u64 nanoseconds) {
  return fmt::format("{}.{:03} s", nanoseconds / 1'000'000'000, nanoseconds / 1'000'000 % 1000);
}

bool is_size(std::string_view name) {
  constexpr std::string_view sizes[] = {"memory", "resident", "peak_resident", "guest_memory",
                                        "wanted", "lent",     "size",          "before"};
  return std::find(std::begin(sizes), std::end(sizes), name) != std::end(sizes);
}

std::string scalar(std::string_view name, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_number_unsigned()) {
    u64 number = value.get<u64>();
    if (is_size(name)) return size_text(number);
    if (name == "time") return time_text(number);
    return name == "pid" ? fmt::format("{}", number) : grouped(number);
  }
  return value.dump();
}

std::string label(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

std::string counters_text(const std::string& title, const Json& counters) {
  std::string text = title + "\n";
  for (const Json& counter : counters)
    text += fmt::format("  {:<34}{:>18}\n", counter.value("name", ""),
                        grouped(counter.value("value", u64{0})));
  return text;
}

/// "name  value" for each field; lists of words in one line; lists of objects below.
std::string object_text(const Json& object) {
  std::string text, below;
  unsigned index = 0;
  for (auto& [name, value] : object.items()) {
    if (value.is_array() && !value.empty() && value[0].contains("value")) {
      below += counters_text(label(name), value);
    } else if (value.is_array() && !value.empty() && value[0].is_object()) {
      index = 0;
      for (const Json& element : value) {
        std::string title = element.contains("name")
                                ? element.value("name", "")
                                : fmt::format("{}{}", name.substr(0, name.size() - 1), index);
        if (element.contains("counters")) {
          below += counters_text(title, element["counters"]);
        } else {
          below += title + "\n" + object_text(element);
        }
        ++index;
      }
    } else if (value.is_array()) {
      std::string words;
      for (const Json& word : value) words += (words.empty() ? "" : " ") + scalar(name, word);
      text += fmt::format("{:<16}{}\n", label(name), words);
    } else if (!value.is_string() || !value.get_ref<const std::string&>().empty()) {
      text += fmt::format("{:<16}{}\n", label(name), scalar(name, value));
    }
  }
  return text + below;
}

std::string type_text(const Json& field) {
  std::string type = field.value("type", "");
  if (type == "list" && field.contains("of")) return "list of " + type_text(field["of"]);
  if (type == "word") {
    std::string words;
    for (const Json& word : field["words"])
      words += (words.empty() ? "" : "|") + word.get<std::string>();
    return words;
  }
  return type;
}

std::string fields_text(const Json& fields, const std::string& indent) {
  std::string text;
  for (const Json& field : fields) {
    std::string about = field.value("doc", "");
    if (field.value("required", false)) about += "; required";
    if (field.contains("default")) about += "; default " + scalar("", field["default"]);
    if (field.contains("min")) about += "; from " + scalar("", field["min"]);
    if (field.contains("max")) about += "; up to " + scalar("", field["max"]);
    text += fmt::format("{}{}: {}. {}\n", indent, field.value("name", ""), type_text(field), about);
    const Json& inner = field.contains("of") ? field["of"] : field;
    if (inner.contains("fields")) text += fields_text(inner["fields"], indent + "  ");
  }
  return text;
}

std::string schema_text(const Json& schema) {
  std::string text = fmt::format("Protocol {}\n\nActions\n", schema.value("protocol", 0));
  for (const Json& action : schema["actions"]) {
    std::string phases;
    for (const Json& phase : action["phases"])
      phases += (phases.empty() ? "" : " or ") + phase.get<std::string>();
    text +=
        fmt::format("\n{} ({})\n  {}\n", action.value("name", ""), phases, action.value("doc", ""));
    if (!action["arguments"].empty())
      text += "  arguments\n" + fields_text(action["arguments"], "    ");
    if (!action["result"].empty()) text += "  result\n" + fields_text(action["result"], "    ");
  }
  text += "\nEvents\n";
  for (const Json& event : schema["events"])
    text += fmt::format("\n{}\n  {}\n", event.value("name", ""), event.value("doc", "")) +
            fields_text(event["data"], "    ");
  text += "\nErrors\n";
  for (const Json& error : schema["errors"])
    text += fmt::format("  {:<16}{}\n", error.value("code", ""), error.value("doc", ""));
  return text;
}

std::string done_text(std::string_view name) {
  std::string_view done;
  std::apply(
      [&](auto... a) {
        ((decltype(a)::info.name == name ? void(done = decltype(a)::info.done) : void()), ...);
      },
      schema::Actions{});
  return done.empty() ? "" : std::string(done) + "\n";
}

}  // namespace

std::string ctl_text(std::string_view action, std::string_view result) {
  auto parsed = schema::parse_json(result, "answer");
  if (!parsed || !parsed->is_object()) return std::string(result) + "\n";
  if (action == schema::SchemaAction::info.name) return schema_text(*parsed);
  if (action == schema::ScreenAction::info.name) {
    std::string text = parsed->value("text", "");
    std::erase(text, '\r');
    if (!text.empty() && !text.ends_with('\n')) text += '\n';
    return text;
  }
  if (parsed->empty()) return done_text(action);
  return object_text(*parsed);
}

}  // namespace skerry::cli

#include "cli/ctl.hpp"

#include <algorithm>

#include "schema/action.hpp"
#include "schema/dispatch.hpp"
#include "schema/help.hpp"

namespace skerry::cli {
namespace {

using schema::Field;

std::string verb_of(std::string_view name) {
  std::string verb(name);
  std::replace(verb.begin(), verb.end(), '_', '-');
  return verb;
}

std::vector<std::string> all_verbs() {
  std::vector<std::string> verbs;
  std::apply([&](auto... a) { (verbs.push_back(verb_of(decltype(a)::info.name)), ...); },
             schema::Actions{});
  return verbs;
}

/// What stands on the command line, by field: --name VALUE, --flag, and bare words for the fields
/// in order.
struct Given {
  std::vector<std::pair<std::string, std::string>> named;
  std::vector<std::string> bare;
};

class ArgumentReader {
 public:
  explicit ArgumentReader(Given given) : given_(std::move(given)) {}

  template <class T>
  void field(const Field& field, T& value) {
    std::string option = verb_of(field.name);
    options_.push_back(option);
    std::optional<std::string> text;
    for (auto& [name, given] : given_.named) {
      if (name != option) continue;
      text = given;
      name.clear();
    }
    constexpr bool flag = std::is_same_v<T, bool>;
    if (!text && !flag && next_bare_ < given_.bare.size()) text = given_.bare[next_bare_++];
    if (!result_) return;
    if (!text) {
      if (field.required) result_ = fail_hint("see --help", "'{}' is missing", option);
      return;
    }
    if (auto read = schema::value_from_text(field, *text, value); !read) result_ = read;
  }

  Result<> finish() const {
    std::vector<std::string_view> known(options_.begin(), options_.end());
    for (const auto& [name, text] : given_.named) {
      if (name.empty()) continue;
      Error error = schema::unknown_word("option", "--" + name, known);
      if (known.empty()) error.hint = "it takes none";
      return std::unexpected(std::move(error));
    }
    if (!result_) return result_;
    if (next_bare_ < given_.bare.size())
      return fail("unexpected argument '{}'", given_.bare[next_bare_]);
    return {};
  }

 private:
  Given given_;
  std::vector<std::string> options_;
  size_t next_bare_ = 0;
  Result<> result_;
};

template <class T>
bool is_flag(std::string_view option) {
  for (const schema::FieldHelp& f : schema::help_of<T>())
    if (verb_of(f.name) == option) return f.flag;
  return false;
}

template <class A>
Result<std::string> read_arguments(A, const std::vector<std::string>& words) {
  Given given;
  bool options_end = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (options_end || !word.starts_with("--")) {
      given.bare.push_back(word);
    } else if (word == "--") {
      options_end = true;
    } else if (size_t equals = word.find('='); equals != word.npos) {
      given.named.emplace_back(word.substr(2, equals - 2), word.substr(equals + 1));
    } else if (is_flag<typename A::Request>(word.substr(2))) {
      given.named.emplace_back(word.substr(2), "on");
    } else if (i + 1 < words.size()) {
      given.named.emplace_back(word.substr(2), words[++i]);
    } else {
      return fail("{} needs a value", word);
    }
  }
  typename A::Request request{};
  ArgumentReader reader(std::move(given));
  A::Request::describe(request, reader);
  TRY_VOID(reader.finish());
  return schema::to_json(request).dump(-1, ' ', false, schema::Json::error_handler_t::replace);
}

std::string row(std::string_view left, std::string_view right) {
  constexpr size_t kColumn = 30, kWidth = 100;
  std::string text = fmt::format("  {:<{}}", left, kColumn - 2);
  if (left.size() + 3 > kColumn) text += fmt::format("\n{:{}}", "", kColumn);
  size_t column = kColumn;
  for (size_t at = 0; at < right.size();) {
    size_t end = std::min(right.find(' ', at), right.size());
    if (column > kColumn && column + 1 + end - at > kWidth) {
      text += fmt::format("\n{:{}}", "", kColumn);
      column = kColumn;
    }
    if (column > kColumn) text += ' ', ++column;
    text.append(right.substr(at, end - at));
    column += end - at;
    at = end + 1;
  }
  return text + "\n";
}

template <class A>
std::string verb_help(A) {
  std::string text = fmt::format("Usage: skerry ctl PATH {}", verb_of(A::info.name));
  std::string options;
  for (const schema::FieldHelp& f : schema::help_of<typename A::Request>()) {
    std::string item = f.flag       ? "--" + verb_of(f.name)
                       : f.required ? f.value
                                    : "--" + verb_of(f.name) + " " + f.value;
    text += f.required ? " " + item : " [" + item + "]";
    std::string preset = f.preset.empty() || f.preset == fmt::format("{}", ~u64{0})
                             ? ""
                             : " (default " + f.preset + ")";
    options += row("--" + verb_of(f.name) + (f.flag ? "" : " " + f.value), f.doc + preset);
  }
  text += "\n\n" + row("", A::info.doc);
  if (!options.empty()) text += "\n" + options;
  return text;
}

}  // namespace

std::string ctl_help(std::string_view verb) {
  std::string text;
  std::apply(
      [&](auto... actions) {
        ((verb_of(decltype(actions)::info.name) == verb ? void(text = verb_help(actions)) : void()),
         ...);
      },
      schema::Actions{});
  if (!text.empty()) return text;
  text =
      "Usage: skerry ctl PATH VERB [OPTIONS] [--json]\n\n"
      "Commands a machine that was started with --control unix:PATH.\n\n";
  std::apply(
      [&](auto... actions) {
        ((text += row(verb_of(decltype(actions)::info.name), decltype(actions)::info.doc)), ...);
      },
      schema::Actions{});
  text += "\n" + row("--json", "print the answer as JSON, one line");
  text +=
      "\nskerry help ctl VERB has a verb's options; docs/control.md has the protocol.\n"
      "\nExamples:\n"
      "  skerry ctl /tmp/vm.sock status\n"
      "  skerry ctl /tmp/vm.sock pause\n"
      "  skerry ctl /tmp/vm.sock screen --bytes 2000\n"
      "  skerry ctl /tmp/vm.sock console          (Ctrl-A x leaves it)\n"
      "  skerry ctl /tmp/vm.sock events --json\n"
      "\nExit status: 0 done, 1 the machine refused, 64 usage, 71 no machine answers there.\n";
  return text;
}

Result<CtlCommand> parse_ctl(const std::vector<std::string>& args) {
  CtlCommand command;
  std::vector<std::string> words;
  for (const std::string& arg : args) {
    if (arg == "--json") {
      command.json = true;
    } else {
      words.push_back(arg);
    }
  }
  if (words.empty())
    return fail_hint("write skerry ctl PATH VERB; see: skerry help ctl", "no control socket given");
  command.path = words[0].starts_with("unix:") ? words[0].substr(5) : words[0];
  if (words.size() < 2)
    return fail_hint("write skerry ctl PATH VERB, as status; see: skerry help ctl",
                     "no verb given");
  std::string verb = verb_of(words[1]);
  Result<std::string> read = std::string();
  std::apply(
      [&](auto... actions) {
        auto look = [&]<class A>(A action) {
          if (verb_of(A::info.name) != verb) return;
          command.action = A::info.name;
          read = read_arguments(action, {words.begin() + 2, words.end()});
        };
        (look(actions), ...);
      },
      schema::Actions{});
  if (command.action.empty()) {
    auto verbs = all_verbs();
    std::vector<std::string_view> views(verbs.begin(), verbs.end());
    return std::unexpected(schema::unknown_word("verb", verb, views));
  }
  if (!read) return std::unexpected(std::move(read.error()).in(verb));
  command.arguments = std::move(*read);
  // The largest number stands for "left out".
  const std::string left_out = fmt::format("{}", ~u64{0});
  auto json = schema::Json::parse(command.arguments), sent = schema::Json::object();
  for (auto& [name, value] : json.items())
    if (value.dump().find(left_out) == std::string::npos) sent[name] = value;
  command.arguments = sent.dump();
  return command;
}

}  // namespace skerry::cli

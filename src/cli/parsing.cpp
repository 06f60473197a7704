#include "cli/parsing.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>

#include "schema/text.hpp"

namespace skerry::cli {

namespace {

/// The first argument that no option took: an unknown option, or a stray word.
Error leftover(const std::string& word, const CLI::App& app, std::string_view command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    if (option->get_name().starts_with("--")) names.push_back(option->get_name());
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  std::vector<std::string_view> views(names.begin(), names.end());

  Error error;
  error.hint = fmt::format("see: skerry help {}", command);
  if (word.size() < 2 || word[0] != '-') {
    error.what = fmt::format("unexpected argument '{}'", word);
    auto as_option = "--" + word;
    if (std::find(views.begin(), views.end(), as_option) != views.end()) {
      error.what += fmt::format("; did you mean {}?", as_option);
    }
    return error;
  }
  std::string name = word.substr(0, word.find('='));
  error.what = fmt::format("unknown option '{}'", name);
  // "-memory" is as near as "--memroy".
  std::string bare =
      name.substr(name.find_first_not_of('-') == name.npos ? 0 : name.find_first_not_of('-'));
  for (auto& view : views) view.remove_prefix(2);
  if (auto meant = schema::nearest(bare, views); !meant.empty()) {
    error.what += fmt::format("; did you mean --{}?", meant);
  }
  return error;
}

}  // namespace

std::string wrapped(std::string_view left, std::string_view right) {
  constexpr size_t column = 34;
  if (left.size() + 4 > column) {
    return fmt::format("  {}\n{:{}}{}\n", left, "", column, right);
  }
  return fmt::format("  {:<{}}{}\n", left, column - 2, right);
}

Result<bool> split(CLI::App& app, std::vector<std::string> args, std::string_view command) {
  app.set_help_flag();
  auto* help = app.add_flag("-h,--help");
  app.allow_extras();
  std::reverse(args.begin(), args.end());  // CLI11 takes its vector from the back
  try {
    app.parse(std::move(args));
  } catch (const CLI::ArgumentMismatch& e) {
    std::string_view option = e.what();
    return fail_hint(fmt::format("see: skerry help {}", command), "{} needs a value",
                     option.substr(0, option.find(':')));
  } catch (const CLI::ParseError& e) {
    return fail_hint(fmt::format("see: skerry help {}", command), "{}", e.what());
  }
  if (help->count()) return true;
  if (auto rest = app.remaining(); !rest.empty()) {
    auto option =
        std::find_if(rest.begin(), rest.end(), [](auto& w) { return w.starts_with('-'); });
    return std::unexpected(leftover(option != rest.end() ? *option : rest.front(), app, command));
  }
  return false;
}

}  // namespace skerry::cli

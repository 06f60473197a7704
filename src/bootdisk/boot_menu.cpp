#include "bootdisk/boot_menu.hpp"

#include <algorithm>

#include "bootdisk/boot_files.hpp"

namespace skerry::bootdisk {

namespace {

constexpr size_t kMostExpanded = 4 * MiB;  ///< bytes of all words of a menu
constexpr size_t kMostValue = 4096;        ///< of a variable
constexpr size_t kMostDepth = 8;           ///< of submenus, and of > in a choice
constexpr size_t kMostVariables = 1024;

bool is_name(char c, bool first) {
  return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (!first && c >= '0' && c <= '9');
}
bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r';
}

/// The name of a variable that begins behind the $ at `at`, which is moved behind it.
std::string_view variable_name(std::string_view text, size_t& at) {
  size_t begin = at + 1;
  bool braces = begin < text.size() && text[begin] == '{';
  if (braces) ++begin;
  size_t end = begin;
  while (end < text.size() && is_name(text[end], end == begin)) ++end;
  at = braces && end < text.size() && text[end] == '}' ? end + 1 : end;
  return text.substr(begin, end - begin);
}

/// One command of GRUB's script.
struct Command {
  std::vector<std::string> words;
  bool opens = false;   ///< ended by {
  bool closes = false;  ///< no words: a }
};

class GrubReader {
 public:
  GrubReader(std::string_view text, const Variables& saved) : text_(text), saved_(saved) {
    menu_.variables = saved;
    menu_.variables["menuentry_id_option"] = "--id";
  }

  std::optional<GrubMenu> read() {
    if (text_.size() > kMostMenuBytes) return std::nullopt;
    read_block(menu_.entries, nullptr, 0, false);
    if (failed_) return std::nullopt;
    return std::move(menu_);
  }

 private:
  /// Until its }, or the end. `entry`: the menuentry whose body it is.
  void read_block(std::vector<BootEntry>& into, BootEntry* entry, size_t depth, bool ignored) {
    if (depth > kMostDepth) failed_ = true;
    while (!failed_) {
      auto command = next();
      if (!command || command->closes) return;
      if (command->words.empty() && !command->opens) continue;
      const std::string verb = command->words.empty() ? "" : command->words[0];
      if (command->opens) {
        bool item = !ignored && !entry && (verb == "menuentry" || verb == "submenu");
        if (!item) {
          read_block(into, entry, depth + 1, true);  // a function's body
          continue;
        }
        if (++entries_ > kMostEntries) {
          failed_ = true;
          return;
        }
        BootEntry made = head_of(*command);
        if (verb == "submenu") {
          read_block(made.children, nullptr, depth + 1, false);
        } else {
          std::vector<BootEntry> none;
          read_block(none, &made, depth + 1, false);
        }
        into.push_back(std::move(made));
      } else if (!ignored) {
        run(*command, entry);
      }
    }
  }

  static BootEntry head_of(const Command& command) {
    BootEntry made;
    bool titled = false;
    for (size_t i = 1; i < command.words.size(); ++i) {
      const std::string& word = command.words[i];
      bool more = i + 1 < command.words.size();
      if (word == "--id" && more) {
        made.id = command.words[++i];
      } else if ((word == "--class" || word == "--users" || word == "--hotkey") && more) {
        ++i;
      } else if (word.starts_with("--id=")) {
        made.id = word.substr(5);
      } else if (!titled && !word.starts_with("--")) {
        made.title = word;
        titled = true;
      }
    }
    return made;
  }

  void run(const Command& command, BootEntry* entry) {
    const auto& words = command.words;
    // "if CONDITION ; then set ...": the keyword stands before the command.
    size_t at = 0;
    while (at < words.size() && (words[at] == "then" || words[at] == "else" || words[at] == "do"))
      ++at;
    if (at == words.size()) return;
    const std::string& verb = words[at];
    if (entry) {
      bool kernel = verb == "linux" || verb == "linux16" || verb == "linuxefi";
      bool initrd = verb == "initrd" || verb == "initrd16" || verb == "initrdefi";
      if (kernel && entry->kernel.empty() && at + 1 < words.size()) {
        entry->kernel = words[at + 1];
        for (size_t i = at + 2; i < words.size(); ++i) {
          // As GRUB does: what was one word stays one.
          const char* quote = words[i].find(' ') == std::string::npos ? "" : "\"";
          entry->options += (i > at + 2 ? " " : "") + (quote + words[i]) + quote;
        }
        if (entry->options.size() > kMostOptions) failed_ = true;
      }
      if (initrd && entry->initrds.empty())
        for (size_t i = at + 1; i < words.size(); ++i)
          if (!words[i].starts_with("--")) entry->initrds.push_back(words[i]);
    } else if (verb == "blscfg") {
      menu_.has_bls = true;
    } else if (verb == "set" && at + 1 < words.size()) {
      size_t equals = words[at + 1].find('=');
      if (equals == std::string::npos) return;
      std::string name = words[at + 1].substr(0, equals), value = words[at + 1].substr(equals + 1);
      if (value.size() > kMostValue || menu_.variables.size() > kMostVariables) {
        failed_ = true;
      } else if (name == "default") {
        // The branch for a one-time choice comes out empty, that for a saved one has its value.
        if (!value.empty()) menu_.chosen = value;
      } else if (!saved_.contains(name) && name != "next_entry" && name != "menuentry_id_option") {
        menu_.variables[name] = value;
      }
    }
  }

  /// GRUB manual, 16.1: words, quotes, variables.
  std::optional<Command> next() {
    Command command;
    std::string word;
    bool has_word = false;
    auto end_word = [&] {
      if (has_word) command.words.push_back(std::move(word));
      word.clear();
      has_word = false;
    };
    auto expand = [&] {
      auto name = variable_name(text_, at_);
      auto found = name == "next_entry" ? menu_.variables.end() : menu_.variables.find(name);
      if (found == menu_.variables.end() || found->second.empty()) return;
      word += found->second;
      expanded_ += found->second.size();
      has_word = true;
    };
    for (;;) {
      if (expanded_ + text_.size() > kMostExpanded) failed_ = true;
      if (failed_) return std::nullopt;
      if (at_ >= text_.size()) {
        end_word();
        if (command.words.empty()) return std::nullopt;
        return command;
      }
      char c = text_[at_];
      if (c == '\n' || c == ';') {
        ++at_;
        end_word();
        if (!command.words.empty()) return command;
      } else if (is_blank(c)) {
        ++at_;
        end_word();
      } else if (c == '#' && !has_word) {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if ((c == '{' || c == '}') && !has_word) {
        if (c == '}' && !command.words.empty()) return command;  // and comes again
        ++at_;
        (c == '{' ? command.opens : command.closes) = true;
        return command;
      } else if (c == '\'') {
        size_t end = std::min(text_.find('\'', at_ + 1), text_.size());
        word += text_.substr(at_ + 1, end - at_ - 1);
        at_ = std::min(end + 1, text_.size());
        has_word = true;
      } else if (c == '"') {
        ++at_;
        has_word = true;
        while (at_ < text_.size() && text_[at_] != '"' && expanded_ <= kMostExpanded) {
          if (text_[at_] == '$') {
            expand();
            continue;
          }
          if (text_[at_] == '\\' && at_ + 1 < text_.size() &&
              std::string_view("$\"\\").find(text_[at_ + 1]) != std::string_view::npos)
            ++at_;
          word += text_[at_++];
        }
        if (at_ < text_.size()) ++at_;
      } else if (c == '\\') {
        if (at_ + 1 < text_.size() && text_[at_ + 1] != '\n')
          word += text_[at_ + 1], has_word = true;
        at_ = std::min(at_ + 2, text_.size());
      } else if (c == '$') {
        expand();
      } else {
        word += c;
        ++at_;
        has_word = true;
      }
    }
  }

  std::string_view text_;
  const Variables& saved_;
  GrubMenu menu_;
  size_t at_ = 0, expanded_ = 0, entries_ = 0;
  bool failed_ = false;
};

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

/// Calls take(line) for each line without blanks around it.
template <class Take>
void each_line(std::string_view text, Take take) {
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    take(trimmed(text.substr(0, end)));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

/// * and ?, in at most the product of both lengths.
bool glob(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = pattern.npos, from = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p, ++t;
    } else if (star != pattern.npos) {
      p = star + 1;
      t = ++from;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

const BootEntry* with_kernel(const BootEntry* entry) {
  for (size_t depth = 0; depth <= kMostDepth && !entry->children.empty(); ++depth)
    entry = &entry->children.front();
  return entry->kernel.empty() ? nullptr : entry;
}

const BootEntry* named(const std::vector<BootEntry>& entries, std::string_view name) {
  for (const BootEntry& entry : entries)
    if (!name.empty() && (entry.id == name || entry.title == name)) return &entry;
  if (name.empty() || name.size() > 4 || name.find_first_not_of("0123456789") != name.npos)
    return nullptr;
  size_t index = 0;
  for (char c : name) index = index * 10 + static_cast<size_t>(c - '0');
  return index < entries.size() ? &entries[index] : nullptr;
}

}  // namespace

Variables parse_grubenv(std::string_view text) {
  Variables variables;
  each_line(text.substr(0, kMostEntryBytes), [&](std::string_view line) {
    size_t equals = line.find('=');
    if (line.starts_with('#') || equals == line.npos || equals == 0) return;
    variables[std::string(line.substr(0, equals))] = line.substr(equals + 1, kMostValue);
  });
  return variables;
}

std::optional<GrubMenu> parse_grub(std::string_view text, const Variables& saved) {
  return GrubReader(text, saved).read();
}

std::optional<BootEntry> parse_bls(std::string_view name, std::string_view text,
                                   const Variables& variables) {
  if (text.size() > kMostEntryBytes) return std::nullopt;
  BootEntry entry;
  entry.id = name.ends_with(".conf") ? name.substr(0, name.size() - 5) : name;
  std::string options;
  each_line(text, [&](std::string_view line) {
    size_t end = std::min(line.find_first_of(" \t"), line.size());
    auto key = line.substr(0, end), value = trimmed(line.substr(end));
    if (value.empty()) return;
    if (key == "title") entry.title = value;
    if (key == "version") entry.version = value;
    if (key == "linux") entry.kernel = value;
    if (key == "options") options += (options.empty() ? "" : " ") + std::string(value);
    if (key != "initrd") return;
    for (size_t at = 0; at < value.size();) {
      size_t stop = std::min(value.find_first_of(" \t", at), value.size());
      // $tuned_initrd and the like, which are mostly empty.
      if (stop > at && value[at] != '$') entry.initrds.emplace_back(value.substr(at, stop - at));
      at = stop + 1;
    }
  });
  for (size_t at = 0; at < options.size() && entry.options.size() <= kMostOptions;) {
    if (options[at] != '$') {
      entry.options += options[at++];
      continue;
    }
    auto found = variables.find(variable_name(options, at));
    if (found != variables.end()) entry.options += found->second;
  }
  entry.options = trimmed(entry.options);
  if (entry.kernel.empty() || entry.options.size() > kMostOptions) return std::nullopt;
  return entry;
}

void sort_bls(std::vector<BootEntry>& entries) {
  std::sort(entries.begin(), entries.end(), [](const BootEntry& a, const BootEntry& b) {
    // Rescue kernels last, whatever their name.
    bool a_rescue = a.id.find("rescue") != a.id.npos, b_rescue = b.id.find("rescue") != b.id.npos;
    if (a_rescue != b_rescue) return b_rescue;
    bool less = older(a.version, b.version), more = older(b.version, a.version);
    if (less != more) return more;
    return b.id < a.id;
  });
}

const BootEntry* choose_entry(const std::vector<BootEntry>& entries, std::string_view chosen) {
  if (entries.empty()) return nullptr;
  const std::vector<BootEntry>* level = &entries;
  // A title may hold a >, too.
  if (const BootEntry* whole = named(entries, chosen)) return with_kernel(whole);
  for (size_t depth = 0; depth <= kMostDepth; ++depth) {
    size_t cut = std::min(chosen.find('>'), chosen.size());
    const BootEntry* entry = named(*level, chosen.substr(0, cut));
    if (!entry) break;
    if (cut == chosen.size() || entry->children.empty()) return with_kernel(entry);
    level = &entry->children;
    chosen.remove_prefix(cut + 1);
  }
  return with_kernel(&entries.front());
}

const BootEntry* match_entry(const std::vector<BootEntry>& entries, std::string_view pattern) {
  if (entries.empty()) return nullptr;
  if (pattern.size() <= 256)
    for (const BootEntry& entry : entries)
      if (!pattern.empty() && entry.id.size() <= 256 &&
          (glob(pattern, entry.id) || glob(pattern, entry.id + ".conf")))
        return &entry;
  return &entries.front();
}

}  // namespace skerry::bootdisk

#include "state/describe.hpp"

namespace skerry::state {

void Reader::index() {
  std::span<const u8> rest = data_;
  while (!rest.empty()) {
    if (rest.size() < 8) return refuse("(end)", "is cut short");
    u32 tag = load<u32>(rest.data()), length = load<u32>(rest.data() + 4);
    if (length > rest.size() - 8) return refuse("(end)", "is cut short");
    for (const Entry& e : entries_)
      if (e.tag == tag) return refuse(fmt::format("tag {:#x}", tag), "appears twice");
    entries_.push_back({tag, false, rest.subspan(8, length)});
    rest = rest.subspan(8 + length);
  }
}

void Reader::refuse(std::string_view name, std::string_view why) {
  if (error_.empty()) error_ = fmt::format("field '{}{}' {}", where_, name, why);
}

Result<> Reader::finish() {
  for (const Entry& e : entries_)
    if (!e.used) refuse(fmt::format("tag {:#x}", e.tag), "is unknown: a newer version wrote it");
  if (!error_.empty()) return fail("{}", error_);
  return {};
}

}  // namespace skerry::state

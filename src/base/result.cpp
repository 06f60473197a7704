#include "base/result.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace skerry {

Error Error::in(std::string_view context) && {
  what = fmt::format("{}: {}", context, what);
  return std::move(*this);
}

std::string Error::message() const {
  return hint.empty() ? what : what + "\n  " + hint;
}

std::unexpected<Error> fail_errno(std::string_view what) {
  int code = errno;
  return std::unexpected(Error{fmt::format("{}: {}", what, std::strerror(code)), {}, code});
}

void check_failed(const char* file, int line, const char* condition, std::string_view text) {
  std::fprintf(stderr, "skerry: bug at %s:%d: %s %.*s\n", file, line, condition,
               static_cast<int>(text.size()), text.data());
  std::abort();
}

}  // namespace skerry

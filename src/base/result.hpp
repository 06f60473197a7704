// How an operation that the host or the user can make fail says so.
//
// Three kinds of trouble are kept apart: what a guest does wrong has a defined effect and is no
// Error; what the host or the user does wrong is an Error; a bug of ours aborts through
// SKERRY_CHECK.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "base/types.hpp"

namespace skerry {

/// What went wrong, where, and how to mend it.
struct Error {
  std::string what;  ///< "cannot open disk.img: No such file or directory"
  std::string hint;  ///< "create it with: truncate -s 1G disk.img", or empty
  int code = 0;      ///< the errno behind it, or 0

  /// The same error with what the caller was doing put in front: "context: what".
  Error in(std::string_view context) &&;
  /// "what" and, on a line of its own, the hint.
  std::string message() const;
};

template <class T = void>
using Result = std::expected<T, Error>;

/// return fail("no kernel in {}", path);
template <class... Args>
[[nodiscard]] std::unexpected<Error> fail(fmt::format_string<Args...> text, Args&&... args) {
  return std::unexpected(Error{fmt::format(text, std::forward<Args>(args)...), {}, 0});
}
/// return fail_hint("make it bigger", "...{}", x);
template <class... Args>
[[nodiscard]] std::unexpected<Error> fail_hint(std::string hint, fmt::format_string<Args...> text,
                                               Args&&... args) {
  return std::unexpected(Error{fmt::format(text, std::forward<Args>(args)...), std::move(hint), 0});
}
/// The current errno, as "what: strerror".
[[nodiscard]] std::unexpected<Error> fail_errno(std::string_view what);

/// Evaluates to the value, or returns the error from the enclosing function.
#define TRY(expression)                                                       \
  ({                                                                          \
    auto try_result_ = (expression);                                          \
    if (!try_result_) return std::unexpected(std::move(try_result_).error()); \
    std::move(try_result_).value();                                           \
  })
/// For Result<void>: returns the error from the enclosing function.
#define TRY_VOID(expression)                                                  \
  do {                                                                        \
    auto try_result_ = (expression);                                          \
    if (!try_result_) return std::unexpected(std::move(try_result_).error()); \
  } while (0)

[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               std::string_view text);

/// A bug of ours: says what and aborts. SKERRY_DCHECK is compiled out of release builds.
#define SKERRY_CHECK(condition, ...)  \
  (__builtin_expect(!!(condition), 1) \
       ? void(0)                      \
       : ::skerry::check_failed(__FILE__, __LINE__, #condition, "" __VA_ARGS__))
#ifdef SKERRY_ASSERTS
#define SKERRY_DCHECK(condition, ...) SKERRY_CHECK(condition, ##__VA_ARGS__)
#else
#define SKERRY_DCHECK(condition, ...) void(0)
#endif

}  // namespace skerry

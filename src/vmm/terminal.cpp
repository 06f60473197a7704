#include "vmm/terminal.hpp"

#include <termios.h>
#include <unistd.h>
#include <atomic>
#include <cstdlib>

namespace skerry::vmm {
namespace {
termios saved;
std::atomic<bool> raw{false};
}  // namespace

void make_terminal_raw() {
  if (raw || !::isatty(STDIN_FILENO) || ::tcgetattr(STDIN_FILENO, &saved) < 0) return;
  // A background job must not take the terminal from its shell.
  if (::tcgetpgrp(STDIN_FILENO) != ::getpgrp()) return;
  termios t = saved;
  ::cfmakeraw(&t);
  t.c_oflag |= OPOST;  // our own messages keep their line ends
  if (::tcsetattr(STDIN_FILENO, TCSANOW, &t) < 0) return;
  raw = true;
  std::atexit(restore_terminal);
}

void restore_terminal() {
  if (raw.exchange(false)) ::tcsetattr(STDIN_FILENO, TCSANOW, &saved);
}

}  // namespace skerry::vmm

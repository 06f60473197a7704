#include "schema/seed_spec.hpp"

#include <algorithm>

#include "schema/machine_spec.hpp"

namespace skerry::schema {

namespace {

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// RFC 1123, section 2.1: labels of letters, digits and inner hyphens. Linux takes 64 bytes.
bool is_hostname(std::string_view name) {
  if (name.empty() || name.size() > 64) return false;
  char before = '.';
  for (char c : name) {
    bool edge = before == '.';
    if (c == '.' ? edge || before == '-' : c == '-' ? edge : !is_letter(c) && !is_digit(c))
      return false;
    before = c;
  }
  return before != '.' && before != '-';
}

/// As useradd(8) takes them by default.
bool is_user_name(std::string_view name) {
  if (name.empty() || name.size() > 32) return false;
  if (!(name[0] >= 'a' && name[0] <= 'z') && name[0] != '_') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || is_digit(c) || c == '_' || c == '-';
  });
}

}  // namespace

bool wants_seed(const MachineSpec& spec) {
  return !spec.cloud_init.empty() || !spec.ssh_keys.empty() || !spec.hostname.empty() ||
         !spec.user.empty();
}

Result<> validate_seed(const MachineSpec& spec) {
  if (!spec.hostname.empty() && !is_hostname(spec.hostname)) {
    return fail_hint("use letters, digits and inner hyphens, in labels with dots between them",
                     "hostname: '{}' is no host name", spec.hostname);
  }
  if (!spec.hostname.empty() && !spec.cloud_init.meta_data.empty()) {
    return fail_hint("write local-hostname into that file, or leave the file out",
                     "hostname and cloud-init's meta-data file are both given");
  }
  if (!spec.user.empty()) {
    if (!is_user_name(spec.user)) {
      return fail_hint("use small letters, digits, - and _, with a letter first",
                       "user: '{}' is no user name", spec.user);
    }
    if (spec.user == "root") {
      return fail_hint("name another user; it may use sudo",
                       "user: cloud-init does not let root log in");
    }
    if (spec.ssh_keys.empty()) {
      return fail_hint("add --ssh-key FILE.pub", "user: '{}' could not log in without an ssh key",
                       spec.user);
    }
  }
  return {};
}

}  // namespace skerry::schema

#include "seed/cloud_init.hpp"

#include <algorithm>
#include <filesystem>

#include "base/fd.hpp"

namespace skerry::seed {

namespace {

constexpr u64 kMaxFileBytes = 4 * MiB;
constexpr size_t kMaxKeys = 1000;

Result<std::string> read(const std::string& path, std::string_view option) {
  auto content = read_file(path, kMaxFileBytes);
  if (!content) return std::unexpected(std::move(content.error()).in(option));
  return content;
}

/// A YAML double-quoted scalar of printable text.
std::string yaml_quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

/// The lines of a public key file: each "[OPTIONS] TYPE BASE64 [COMMENT]".
Result<std::vector<std::string>> read_keys(const std::string& path) {
  std::string text = TRY(read(path, "--ssh-key"));
  std::error_code ignored;
  bool beside = std::filesystem::exists(path + ".pub", ignored);
  std::string hint = beside ? fmt::format("give its public half: --ssh-key {}.pub", path)
                            : "give a public key, as ~/.ssh/id_ed25519.pub; ssh-keygen makes one";
  if (text.find("PRIVATE KEY-----") != text.npos)
    return fail_hint(hint, "--ssh-key: {} is a private key, which no guest should see", path);
  std::vector<std::string> keys;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.find_first_not_of(" \t") == line.npos || line[0] == '#') continue;
    bool printable = std::all_of(line.begin(), line.end(),
                                 [](char c) { return static_cast<u8>(c) >= ' ' && c != 0x7f; });
    bool known = false;
    for (std::string_view type : {"ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"}) {
      size_t found = line.find(type);
      known |= found == 0 || (found != line.npos && line[found - 1] == ' ');
    }
    if (!printable || !known) return fail_hint(hint, "--ssh-key: {} is no public key", path);
    keys.push_back(std::move(line));
    if (keys.size() > kMaxKeys) return fail("--ssh-key: {} has more than {} keys", path, kMaxKeys);
  }
  if (keys.empty()) return fail_hint(hint, "--ssh-key: {} holds no key", path);
  return keys;
}

/// cloud-config for the short options.
std::string config_of(const schema::MachineSpec& spec, const std::vector<std::string>& keys) {
  std::string list, indent = spec.user.empty() ? "" : "    ";
  for (const std::string& key : keys) list += fmt::format("{}  - {}\n", indent, yaml_quoted(key));
  std::string text = "#cloud-config\n";
  if (keys.empty()) return text + "{}\n";
  if (!spec.user.empty()) {
    text += fmt::format(
        "users:\n"
        "  - name: {}\n"
        "    shell: /bin/bash\n"
        "    sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n"
        "    lock_passwd: true\n",
        yaml_quoted(spec.user));
  }
  return text + indent + "ssh_authorized_keys:\n" + list;
}

/// FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv): tells contents apart, guards nothing.
u64 hash_of(const std::vector<File>& files, std::string_view hostname) {
  u64 hash = 0xcbf29ce484222325;
  auto mix = [&](std::string_view bytes) {
    for (char c : bytes) hash = (hash ^ static_cast<u8>(c)) * 0x100000001b3;
    hash = (hash ^ 0xff) * 0x100000001b3;  // "ab" "c" is not "a" "bc"
  };
  for (const File& file : files) {
    mix(file.name);
    mix(file.content);
  }
  mix(hostname);
  return hash;
}

}  // namespace

Result<std::vector<File>> cloud_init_files(const schema::MachineSpec& spec) {
  const schema::CloudInitSpec& own = spec.cloud_init;
  std::vector<std::string> keys;
  for (const std::string& path : spec.ssh_keys) {
    for (std::string& key : TRY(read_keys(path))) keys.push_back(std::move(key));
  }
  std::vector<File> files;
  files.push_back({"user-data", "#cloud-config\n{}\n"});
  if (!own.user_data.empty())
    files[0].content = TRY(read(own.user_data, "--cloud-init: user-data"));
  files.push_back({"vendor-data", config_of(spec, keys)});
  if (!own.network_config.empty()) {
    files.push_back(
        {"network-config", TRY(read(own.network_config, "--cloud-init: network-config"))});
  }
  if (!own.meta_data.empty()) {
    files.push_back({"meta-data", TRY(read(own.meta_data, "--cloud-init: meta-data"))});
  } else {
    std::string meta = fmt::format("instance-id: skerry-{:016x}\n", hash_of(files, spec.hostname));
    if (!spec.hostname.empty()) meta += "local-hostname: " + yaml_quoted(spec.hostname) + "\n";
    files.push_back({"meta-data", meta});
  }
  return files;
}

Result<std::vector<u8>> cloud_init_disk(const schema::MachineSpec& spec) {
  return make_iso9660("CIDATA", TRY(cloud_init_files(spec)));
}

}  // namespace skerry::seed

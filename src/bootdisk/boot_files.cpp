#include "bootdisk/boot_files.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>

#include "bootdisk/boot_menu.hpp"
#include "bootdisk/ext4.hpp"

namespace skerry::bootdisk {

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Debian, Fedora and Arch name an initrd after its kernel's version in these ways.
std::string initrd_for(std::string_view version, const std::vector<std::string>& names) {
  for (std::string_view pattern :
       {"initrd.img-{}", "initramfs-{}.img", "initrd-{}", "initrd-{}.img", "initramfs-{}"}) {
    std::string name = fmt::format(fmt::runtime(pattern), version);
    if (std::find(names.begin(), names.end(), name) != names.end()) return name;
  }
  return {};
}

struct Found {
  std::string kernel;                ///< paths
  std::vector<std::string> initrds;  ///< to be joined
  std::string options;
};

/// The newest kernel of a directory.
std::optional<Found> choose(const std::string& directory, const std::vector<std::string>& names) {
  constexpr std::string_view prefix = "vmlinuz-";
  std::string_view newest;
  for (const std::string& name : names) {
    if (!name.starts_with(prefix)) continue;
    auto version = std::string_view(name).substr(prefix.size());
    // Fedora's rescue kernel is the newest by its bytes, and made to be the last resort.
    if (version.empty() || version.find("rescue") != version.npos || version.ends_with(".old"))
      continue;
    if (newest.empty() || older(newest, version)) newest = version;
  }
  auto found = [&](std::string_view kernel, std::string_view initrd) {
    std::string prefix = directory == "/" ? "/" : directory + "/";
    Found f{prefix + std::string(kernel), {}, {}};
    if (!initrd.empty()) f.initrds.push_back(prefix + std::string(initrd));
    return f;
  };
  if (!newest.empty()) return found(fmt::format("vmlinuz-{}", newest), initrd_for(newest, names));
  for (std::string_view plain : {"vmlinuz", "bzImage"}) {
    if (std::find(names.begin(), names.end(), plain) == names.end()) continue;
    for (std::string_view initrd : {"initrd.img", "initramfs.img", "initrd"})
      if (std::find(names.begin(), names.end(), initrd) != names.end()) return found(plain, initrd);
    return found(plain, {});
  }
  return std::nullopt;
}

Result<bool> exists(const Ext4& fs, std::string_view path) {
  auto inode = fs.find(path);
  if (inode) return true;
  if (inode.error().code == ENOENT) return false;
  return std::unexpected(std::move(inode.error()));
}

/// One filesystem of the disk.
struct Volume {
  unsigned partition;  ///< 0: the whole disk
  PartSource source;
};

struct Root {
  std::string uuid;
  unsigned partition;
};

/// The text of a small file; "" if there is none that can be read.
std::string text_of(const Ext4& fs, const std::string& path, size_t most) {
  auto inode = fs.find(path);
  if (!inode || !inode->is_file()) return {};
  auto bytes = fs.read(*inode, most);
  return bytes ? std::string(bytes->begin(), bytes->end()) : std::string();
}

std::vector<BootEntry> bls_entries(const Ext4& fs, const std::string& directory,
                                   const Variables& variables) {
  std::vector<BootEntry> entries;
  auto inode = fs.find(directory);
  if (!inode || !inode->is_directory()) return entries;
  auto names = fs.list(*inode);
  if (!names) return entries;
  size_t read = 0;
  for (const std::string& name : *names) {
    if (!name.ends_with(".conf") || ++read > kMostEntries) continue;
    auto entry = parse_bls(name, text_of(fs, directory + "/" + name, kMostEntryBytes), variables);
    if (entry) entries.push_back(std::move(*entry));
  }
  sort_bls(entries);
  return entries;
}

/// The files of a menu's entry, if all are there. `boot` is where the menu was: "/boot" or "".
std::optional<Found> found_by(const Ext4& fs, const BootEntry& entry, const std::string& boot) {
  Found found;
  found.options = entry.options;
  auto place = [&](std::string path) -> std::optional<std::string> {
    if (path.starts_with('('))  // a device: "($root)", "(hd0,gpt2)"
      path.erase(0, std::min(path.find(')'), path.size() - 1) + 1);
    if (path.size() > 1024 || !path.starts_with('/')) return std::nullopt;
    for (const std::string& whole : {path, boot + path}) {
      auto inode = fs.find(whole);
      if (inode && inode->is_file()) return whole;
    }
    return std::nullopt;
  };
  auto kernel = place(entry.kernel);
  if (!kernel || entry.initrds.size() > 16) return std::nullopt;
  found.kernel = *kernel;
  for (const std::string& initrd : entry.initrds) {
    auto path = place(initrd);
    if (!path) return std::nullopt;
    found.initrds.push_back(*path);
  }
  return found;
}

/// What a boot loader's menu in `boot` starts by default.
std::optional<Found> default_of_menu(const Ext4& fs, const std::string& boot) {
  auto bls = [&](const Variables& variables) {
    return bls_entries(fs, boot + "/loader/entries", variables);
  };
  for (const char* grub : {"/grub", "/grub2"}) {
    std::string text = text_of(fs, boot + grub + "/grub.cfg", kMostMenuBytes);
    if (text.empty()) continue;
    auto saved = parse_grubenv(text_of(fs, boot + grub + "/grubenv", kMostEntryBytes));
    auto menu = parse_grub(text, saved);
    if (!menu) continue;
    if (menu->has_bls) {
      auto entries = bls(menu->variables);
      menu->entries.insert(menu->entries.begin(), entries.begin(), entries.end());
    }
    const BootEntry* entry = choose_entry(menu->entries, menu->chosen);
    if (!entry) continue;
    if (auto found = found_by(fs, *entry, boot)) return found;
  }
  auto entries = bls({});
  std::string pattern;
  std::string config = text_of(fs, boot + "/loader/loader.conf", kMostEntryBytes);
  if (size_t at = config.starts_with("default") ? 0 : config.find("\ndefault"); at != config.npos) {
    at = config.find_first_of(" \t", at);
    if (at != config.npos) at = config.find_first_not_of(" \t", at);
    if (at != config.npos) pattern = config.substr(at, config.find_first_of(" \t\r\n", at) - at);
  }
  const BootEntry* entry = match_entry(entries, pattern);
  return entry ? found_by(fs, *entry, boot) : std::nullopt;
}

Result<std::optional<Found>> look_in(const Ext4& fs) {
  for (const char* boot : {"/boot", ""})
    if (auto found = default_of_menu(fs, boot)) return found;
  for (const char* directory : {"/boot", "/"}) {
    auto inode = fs.find(directory);
    if (!inode && inode.error().code == ENOENT) continue;
    if (!inode) return std::unexpected(std::move(inode.error()));
    if (!inode->is_directory()) continue;
    if (auto found = choose(directory, TRY(fs.list(*inode)))) return found;
  }
  return std::nullopt;
}

Result<bool> is_root(const Ext4& fs) {
  for (const char* path : {"/etc/os-release", "/usr/lib/os-release", "/sbin/init", "/etc/fstab"})
    if (TRY(exists(fs, path))) return true;
  return false;
}

}  // namespace

bool older(std::string_view a, std::string_view b) {
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      while (i < a.size() && a[i] == '0') ++i;
      while (j < b.size() && b[j] == '0') ++j;
      size_t i0 = i, j0 = j;
      while (i < a.size() && is_digit(a[i])) ++i;
      while (j < b.size() && is_digit(b[j])) ++j;
      auto x = a.substr(i0, i - i0), y = b.substr(j0, j - j0);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      continue;
    }
    if (a[i] != b[j]) return a[i] < b[j];
    ++i;
    ++j;
  }
  return a.size() - i < b.size() - j;
}

Result<BootFiles> read_boot_files(const Source& disk, u64 limit) {
  std::vector<Volume> volumes;
  volumes.push_back({0, {disk, 0, disk.size()}});
  if (!Ext4::looks_like(volumes[0].source)) {
    volumes.clear();
    for (const Partition& p : TRY(read_partitions(disk))) {
      Volume volume{p.number, {disk, p.start, p.size}};
      if (Ext4::looks_like(volume.source)) volumes.push_back(volume);
    }
  }
  constexpr const char* hint =
      "give the kernel with --kernel and --initrd; only ext2, ext3 and ext4 are read";
  if (volumes.empty()) return fail_hint(hint, "it has no ext4 filesystem");

  // What cannot be read is only told if something is missing in the end.
  std::optional<Error> trouble;
  std::optional<Found> found;
  std::optional<Ext4> where;
  std::optional<Root> root;
  for (const Volume& volume : volumes) {
    auto fs = Ext4::open(volume.source);
    auto visit = [&]() -> Result<> {
      if (!fs) return std::unexpected(fs.error());
      if (!found) {
        found = TRY(look_in(*fs));
        if (found) where.emplace(*fs);
      }
      if (!root && TRY(is_root(*fs))) root = Root{fs->uuid(), volume.partition};
      return {};
    };
    if (auto done = visit(); !done && !trouble) trouble = std::move(done.error());
  }
  if ((!found || !root) && trouble) return std::unexpected(std::move(*trouble));
  if (!found) {
    return fail_hint(hint, "there is no kernel (vmlinuz-*) in its /boot");
  }

  BootFiles files;
  files.options = found->options;
  if (root && found->initrds.empty()) {  // only an initrd can look for a UUID
    files.root = fmt::format("root=/dev/vda{} ro",
                             root->partition == 0 ? "" : std::to_string(root->partition));
  } else if (root) {
    files.root = fmt::format("root=UUID={} ro", root->uuid);
  }
  auto get = [&](const std::string& path) -> Result<std::vector<u8>> {
    auto inode = where->find(path);
    if (inode && !inode->is_file()) return fail("{} is no file", path);
    auto read = inode ? where->read(*inode, limit) : std::unexpected(inode.error());
    if (!read) return std::unexpected(std::move(read.error()).in(path));
    return read;
  };
  files.kernel_name = found->kernel;
  files.kernel = TRY(get(found->kernel));
  for (const std::string& path : found->initrds) {
    auto part = TRY(get(path));
    // Each archive begins at a multiple of 4 (Linux, Documentation/driver-api/early-userspace).
    files.initrd.resize((files.initrd.size() + 3) / 4 * 4);
    if (part.size() > limit - std::min<u64>(limit, files.initrd.size()))
      return fail("its initrds together are larger than the guest's memory");
    files.initrd.insert(files.initrd.end(), part.begin(), part.end());
    files.initrd_name += (files.initrd_name.empty() ? "" : "+") + path;
  }
  return files;
}

}  // namespace skerry::bootdisk

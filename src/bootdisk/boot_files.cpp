#include "bootdisk/boot_files.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>

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
  std::string directory, kernel, initrd;
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
  if (!newest.empty())
    return Found{directory, fmt::format("vmlinuz-{}", newest), initrd_for(newest, names)};
  for (std::string_view plain : {"vmlinuz", "bzImage"}) {
    if (std::find(names.begin(), names.end(), plain) == names.end()) continue;
    for (std::string_view initrd : {"initrd.img", "initramfs.img", "initrd"})
      if (std::find(names.begin(), names.end(), initrd) != names.end())
        return Found{directory, std::string(plain), std::string(initrd)};
    return Found{directory, std::string(plain), {}};
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

Result<std::optional<Found>> look_in(const Ext4& fs) {
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
  if (root && found->initrd.empty()) {  // only an initrd can look for a UUID
    files.root = fmt::format("root=/dev/vda{} ro",
                             root->partition == 0 ? "" : std::to_string(root->partition));
  } else if (root) {
    files.root = fmt::format("root=UUID={} ro", root->uuid);
  }
  auto get = [&](const std::string& name, std::string& path, std::vector<u8>& bytes) -> Result<> {
    path = found->directory + (found->directory == "/" ? "" : "/") + name;
    auto inode = where->find(path);
    if (inode && !inode->is_file()) return fail("{} is no file", path);
    auto read = inode ? where->read(*inode, limit) : std::unexpected(inode.error());
    if (!read) return std::unexpected(std::move(read.error()).in(path));
    bytes = std::move(*read);
    return {};
  };
  TRY_VOID(get(found->kernel, files.kernel_name, files.kernel));
  if (!found->initrd.empty()) TRY_VOID(get(found->initrd, files.initrd_name, files.initrd));
  return files;
}

}  // namespace skerry::bootdisk

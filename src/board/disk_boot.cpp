#include "board/disk_boot.hpp"

#include "bootdisk/boot_files.hpp"

namespace skerry::board {

namespace {

/// Whether a word of `line` begins with `start`.
bool has_word(std::string_view line, std::string_view start) {
  for (size_t at = line.find(start); at != line.npos; at = line.find(start, at + 1))
    if (at == 0 || line[at - 1] == ' ') return true;
  return false;
}

}  // namespace

std::string disk_command_line(std::string_view root, const std::string& options, bool serial,
                              const std::string& append) {
  std::string line;
  auto add = [&](std::string_view words) {
    if (!words.empty()) line += (line.empty() ? "" : " ") + std::string(words);
  };
  if (!has_word(append, "root=") && !has_word(options, "root=")) add(root);
  add(options);
  // An entry made for a screen leads nowhere here.
  if (serial && !has_word(append, "console=") && !has_word(options, "console=ttyS0"))
    add("console=ttyS0");
  add(append);
  return line;
}

Result<machine::CpuState> load_from_disk(memory::GuestMemory& memory, storage::Disk& disk,
                                         const schema::MachineSpec& spec,
                                         const BootContext& context) {
  auto found = bootdisk::read_boot_files(bootdisk::DiskSource(disk), memory.size());
  if (!found)
    return std::unexpected(
        std::move(found.error()).in(fmt::format("cannot boot from disk {}", disk.path())));
  BootFiles files;
  files.kernel = {
      disk.path() + ":" + found->kernel_name, found->kernel,
      disk_command_line(found->root, found->options, !spec.serials.empty(), spec.append)};
  files.has_initrd = !found->initrd_name.empty();
  if (files.has_initrd)
    files.modules.push_back({disk.path() + ":" + found->initrd_name, found->initrd, ""});
  return load_kernel_bytes(memory, files, context);
}

}  // namespace skerry::board

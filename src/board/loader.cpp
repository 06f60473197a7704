#include "board/loader.hpp"

#include <filesystem>

#include "base/fd.hpp"
#include "board/elf.hpp"
#include "board/formats.hpp"

namespace skerry::board {

namespace {

using namespace std::literals;

constexpr std::string_view kSupported =
    "a Linux bzImage, an ELF kernel with a PVH note, or a Multiboot 1 kernel";

// What else it might be, for the message.
std::string_view looks_like(Bytes image) {
  struct Magic {
    std::string_view bytes, what;
  };
  static constexpr Magic kMagics[] = {
      {"\x1f\x8b"sv, "gzip-compressed data: decompress it with gunzip"},
      {"\xfd"
       "7zXZ"sv,
       "xz-compressed data: decompress it with unxz"},
      {"\x28\xb5\x2f\xfd"sv, "zstd-compressed data: decompress it with unzstd"},
      {"BZh"sv, "bzip2-compressed data: decompress it with bunzip2"},
      {"070701"sv, "a cpio archive: give it to --initrd"},
      {"!<arch>"sv, "an archive or a Debian package: unpack it with dpkg -x"},
      {"QFI\xfb"sv, "a qcow2 disk image: give it to --disk"},
      {"MZ"sv, "an EFI application"},
      {"#!"sv, "a script"},
  };
  for (const Magic& m : kMagics)
    if (image.size() >= m.bytes.size() &&
        std::equal(m.bytes.begin(), m.bytes.end(), image.begin(),
                   [](char a, u8 b) { return static_cast<u8>(a) == b; }))
      return m.what;
  if (value_at<u16>(image, 0x1fe) == 0xaa55) return "a boot sector or a disk image";
  return "";
}

Result<machine::CpuState> dispatch(Boot& boot) {
  Bytes image = boot.image();
  const std::string& name = boot.files.kernel.name;
  if (is_linux(image)) return load_linux(boot);
  if (auto header = find_multiboot(image)) return load_multiboot(boot, *header);
  if (is_elf(image)) {
    ElfImage elf = TRY(parse_elf(image, name));
    constexpr u32 kPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
    Bytes note = find_note(image, elf, "Xen", kPhys32Entry);
    if (note.size() != 4 && note.size() != 8)
      return fail_hint(
          "for Linux, build with CONFIG_PVH=y or take arch/x86/boot/bzImage instead of vmlinux",
          "{} is an ELF file with neither a PVH note nor a Multiboot header", name);
    u64 entry = note.size() == 8 ? load<u64>(note.data()) : load<u32>(note.data());
    if (entry > 0xffffffff) return fail("{}: its PVH entry {:#x} is beyond 4 GiB", name, entry);
    TRY_VOID(load_elf_segments(boot, elf));
    return load_pvh(boot, static_cast<u32>(entry));
  }
  if (image.empty())
    return fail_hint(fmt::format("give --kernel {}", kSupported), "{} is empty", name);
  std::string_view like = looks_like(image);
  return fail_hint(fmt::format("give --kernel {}", kSupported), "{} is not a kernel{}{}", name,
                   like.empty() ? "" : "; it looks like ", like);
}

Result<std::string> read_image(const std::string& path, const memory::GuestMemory& memory) {
  // Said here because a size beats "too big" from the reader; racing changes only worsen the text.
  std::error_code ignored;
  u64 size = std::filesystem::file_size(path, ignored);
  if (!ignored && size > memory.size())
    return fail_hint(fmt::format("use --memory {}M", align_up(size, MiB) / MiB + 64),
                     "{} has {} MiB, more than the guest's {} MiB of memory", path, size / MiB,
                     memory.size() / MiB);
  return read_file(path, memory.size());
}

}  // namespace

Result<machine::CpuState> load_kernel_bytes(memory::GuestMemory& memory, const BootFiles& files,
                                            const BootContext& context) {
  Places places(memory, context.e820);
  Boot boot{places, files, context};
  TRY_VOID(install_bios_data(memory));
  machine::CpuState state = TRY(dispatch(boot));
  set_memory_types(state, context.physical_bits);
  return state;
}

Result<machine::CpuState> load_kernel(memory::GuestMemory& memory, const BootRequest& request,
                                      const BootContext& context) {
  std::string kernel = TRY(read_image(request.kernel_path, memory));
  std::vector<std::string> contents;
  contents.reserve(request.modules.size() + 1);
  auto bytes = [](const std::string& s) {
    return Bytes{reinterpret_cast<const u8*>(s.data()), s.size()};
  };

  BootFiles files;
  files.kernel = {request.kernel_path, bytes(kernel), request.cmdline};
  files.has_initrd = !request.initrd_path.empty();
  if (files.has_initrd) {
    contents.push_back(TRY(read_image(request.initrd_path, memory)));
    files.modules.push_back({request.initrd_path, bytes(contents.back()), ""});
  }
  for (const BootRequest::Module& m : request.modules) {
    contents.push_back(TRY(read_image(m.path, memory)));
    files.modules.push_back({m.path, bytes(contents.back()), m.args});
  }
  return load_kernel_bytes(memory, files, context);
}

}  // namespace skerry::board

// Multiboot 1 (specification 0.6.96).
//
// Not done: video modes with a frame buffer (there is none), drives, configuration table, APM.
#include "board/elf.hpp"
#include "board/formats.hpp"

namespace skerry::board {

namespace {

constexpr u32 kHeaderMagic = 0x1badb002, kLoaderMagic = 0x2badb002;
// More than any kernel has, and few enough that placing them takes no time.
constexpr u32 kMaxSections = 4096;
constexpr u64 kSearch = 8192;  // 3.1: the header is within the first 8 KiB
enum : u32 { kAlignModules = 1, kWantMemory = 2, kWantVideo = 4, kAddressFields = 0x10000 };

// 3.3, the boot information.
struct Info {
  u32 flags = 0, mem_lower = 0, mem_upper = 0, boot_device = 0, cmdline = 0, modules = 0,
      module_list = 0;
  u32 syms[4] = {};
  u32 mmap_length = 0, mmap = 0, drives_length = 0, drives = 0, config_table = 0,
      boot_loader_name = 0, apm_table = 0;
  u32 vbe[4] = {};
};
static_assert(sizeof(Info) == 88);
enum : u32 {
  kHasMemory = 1,
  kHasCmdline = 4,
  kHasModules = 8,
  kHasElfSections = 32,
  kHasMap = 64,
  kHasLoaderName = 512
};

struct ModuleEntry {
  u32 start = 0, end = 0, string = 0, reserved = 0;
};
struct [[gnu::packed]] MapEntry {
  u32 size = 20;  // of what follows
  u64 start = 0, length = 0;
  u32 type = 0;
};

struct Loaded {
  u64 entry = 0, end = 0;
};

// 3.1.3: the image is loaded by the header's address fields whatever else it is.
Result<Loaded> load_by_address(Boot& boot, u32 header) {
  Bytes image = boot.image();
  const std::string& name = boot.files.kernel.name;
  if (!within(image, header, 32))
    return fail_hint("copy or build the kernel again",
                     "{} is truncated inside its Multiboot header at {:#x}", name, header);
  u32 header_addr = load<u32>(&image[header + 12]), load_addr = load<u32>(&image[header + 16]),
      load_end = load<u32>(&image[header + 20]), bss_end = load<u32>(&image[header + 24]),
      entry = load<u32>(&image[header + 28]);
  if (load_addr > header_addr || header_addr - load_addr > header)
    return fail("{}: load_addr {:#x} in the Multiboot header does not go with header_addr {:#x}",
                name, load_addr, header_addr);
  u64 offset = header - (header_addr - load_addr);
  u64 in_file = image.size() - offset;
  u64 size = in_file;
  if (load_end != 0) {
    if (load_end < load_addr)
      return fail("{}: load_end_addr {:#x} is below load_addr {:#x}", name, load_end, load_addr);
    size = load_end - load_addr;
    if (size > in_file)
      return fail_hint("copy or build the kernel again",
                       "{} is truncated: its Multiboot header promises {:#x} bytes from offset "
                       "{:#x}, there are {:#x}",
                       name, size, offset, in_file);
  }
  u64 end = load_addr + size;
  if (bss_end != 0) {
    if (bss_end < end)
      return fail("{}: bss_end_addr {:#x} is below the end of the data {:#x}", name, bss_end, end);
    end = bss_end;
  }
  TRY_VOID(boot.places.take(load_addr, end - load_addr, name));
  memory::GuestMemory& memory = boot.places.memory();
  if (!memory.write(load_addr, image.subspan(offset, size)) ||
      !memory.fill(load_addr + size, 0, end - load_addr - size))
    return fail("cannot write {} to guest memory", name);
  return Loaded{entry, end};
}

// 3.3: the section header table, with sections that no segment loaded (symbols, strings) put into
// memory and their addresses filled in.
Result<> give_sections(Boot& boot, const ElfImage& elf, Gpa from, Info& info) {
  if (!elf.sections || elf.sections > kMaxSections) return {};
  Bytes image = boot.image();
  std::vector<u8> table(elf.sections * u64{elf.section_size});
  std::memcpy(table.data(), &image[elf.section_table], table.size());
  for (u32 i = 0; i < elf.sections; ++i) {
    u8* s = &table[u64{i} * elf.section_size];
    u32 type = load<u32>(s + 4);
    u64 flags = elf.is_64 ? load<u64>(s + 8) : load<u32>(s + 8);
    u64 offset = elf.is_64 ? load<u64>(s + 24) : load<u32>(s + 16);
    u64 size = elf.is_64 ? load<u64>(s + 32) : load<u32>(s + 20);
    constexpr u32 kNull = 0, kNoBits = 8;
    constexpr u64 kAlloc = 2;
    if (type == kNull || type == kNoBits || (flags & kAlloc) || size == 0) continue;
    if (!within(image, offset, size)) continue;  // only for debuggers: no reason to refuse
    auto at = boot.places.lowest(size, 16, from, memory::kHoleStart);
    if (!at || !boot.places.memory().write(*at, image.subspan(offset, size))) continue;
    from = *at + size;
    if (elf.is_64)
      store<u64>(s + 16, *at);
    else
      store<u32>(s + 12, static_cast<u32>(*at));
  }
  auto at = boot.places.lowest(table.size(), 16, from, memory::kHoleStart);
  if (!at || !boot.places.memory().write(*at, table)) return {};
  info.syms[0] = elf.sections;
  info.syms[1] = elf.section_size;
  info.syms[2] = static_cast<u32>(*at);
  info.syms[3] = elf.section_names;
  info.flags |= kHasElfSections;
  return {};
}

Result<> give_modules(Boot& boot, Gpa from, Info& info) {
  std::vector<ModuleEntry> list;
  for (const BootFiles::File& file : boot.files.modules) {
    u64 size = file.bytes.size();
    auto at =
        boot.places.lowest(std::max<u64>(size, 1), memory::kPageSize, from, memory::kHoleStart);
    if (!at)
      return boot.places.too_small(
          fmt::format("module {} ({} MiB)", file.name, align_up(size, MiB) / MiB),
          from + align_up(size, MiB));
    if (!boot.places.memory().write(*at, file.bytes)) return fail("cannot write {}", file.name);
    from = align_up(*at + std::max<u64>(size, 1), memory::kPageSize);
    ModuleEntry m;
    m.start = static_cast<u32>(*at);
    m.end = static_cast<u32>(*at + size);
    m.string = static_cast<u32>(TRY(boot.places.put_string(
        file.args.empty() ? file.name : file.name + " " + file.args, "a module's string")));
    list.push_back(m);
  }
  info.flags |= kHasModules;
  info.modules = static_cast<u32>(list.size());
  if (!list.empty())
    info.module_list =
        static_cast<u32>(TRY(boot.places.put(bytes_of(list), "the list of modules")));
  return {};
}

Result<> give_memory_map(Boot& boot, Info& info) {
  info.flags |= kHasMemory | kHasMap;
  info.mem_lower = kEbda / KiB;
  info.mem_upper = static_cast<u32>((boot.places.low_ram_end() - kOneMiB) / KiB);
  std::vector<MapEntry> map;
  for (const E820Entry& e : boot.context.e820)
    map.push_back({20, e.start, e.size, static_cast<u32>(e.type)});
  info.mmap = static_cast<u32>(TRY(boot.places.put(bytes_of(map), "the memory map")));
  info.mmap_length = static_cast<u32>(map.size() * sizeof(MapEntry));
  return {};
}

Result<> check_flags(Boot& boot, u32 header, u32 flags) {
  const std::string& name = boot.files.kernel.name;
  // 3.1.2: a loader that cannot do what bits 0-15 ask must not boot the image.
  if (u32 unknown = flags & 0xffff & ~(kAlignModules | kWantMemory | kWantVideo))
    return fail("{}: the Multiboot header requires features {:#x} that this loader does not know",
                name, unknown);
  if (!(flags & kWantVideo)) return {};
  auto mode = value_at<u32>(boot.image(), header + 32);
  if (!mode)
    return fail_hint("copy or build the kernel again",
                     "{} is truncated inside its Multiboot header at {:#x}", name, header);
  // Text (1) is met by having no display: the information says so. A frame buffer (0) is not there.
  if (*mode != 1)
    return fail_hint("build the kernel without the video flag (bit 2 of the Multiboot header)",
                     "{} requires a graphics mode, and the machine has no display", name);
  return {};
}

}  // namespace

std::optional<u32> find_multiboot(Bytes image) {
  for (u64 at = 0; at + 12 <= kSearch && within(image, at, 12); at += 4)
    if (load<u32>(&image[at]) == kHeaderMagic &&
        kHeaderMagic + load<u32>(&image[at + 4]) + load<u32>(&image[at + 8]) == 0)
      return static_cast<u32>(at);
  return std::nullopt;
}

Result<machine::CpuState> load_multiboot(Boot& boot, u32 header) {
  const std::string& name = boot.files.kernel.name;
  u32 flags = load<u32>(&boot.image()[header + 4]);
  TRY_VOID(check_flags(boot, header, flags));

  Info info;
  Loaded loaded;
  if (flags & kAddressFields) {
    loaded = TRY(load_by_address(boot, header));
  } else if (is_elf(boot.image())) {
    ElfImage elf = TRY(parse_elf(boot.image(), name));
    TRY_VOID(load_elf_segments(boot, elf));
    loaded = {elf.physical_entry(), elf.end()};
    TRY_VOID(give_sections(boot, elf, std::max(kOneMiB, loaded.end), info));
  } else {
    return fail("{} has a Multiboot header but is neither an ELF nor has address fields", name);
  }
  if (loaded.entry > 0xffffffff)
    return fail("{}: the entry point {:#x} is beyond 4 GiB, where Multiboot cannot start it", name,
                loaded.entry);

  info.flags |= kHasCmdline | kHasLoaderName;
  TRY_VOID(give_modules(boot, std::max(kOneMiB, loaded.end), info));
  TRY_VOID(give_memory_map(boot, info));
  const std::string& args = boot.files.kernel.args;
  info.cmdline = static_cast<u32>(
      TRY(boot.places.put_string(args.empty() ? name : name + " " + args, "the command line")));
  info.boot_loader_name =
      static_cast<u32>(TRY(boot.places.put_string("Skerry", "the boot loader's name")));
  Gpa at = TRY(boot.places.put({reinterpret_cast<const u8*>(&info), sizeof info},
                               "the Multiboot information"));

  machine::CpuState state = TRY(protected_mode_state(boot.places, static_cast<u32>(loaded.entry)));
  state.gpr[machine::rax] = kLoaderMagic;
  state.gpr[machine::rbx] = at;
  return state;
}

}  // namespace skerry::board

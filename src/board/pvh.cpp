// The PVH entry of an ELF kernel (Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h):
// 32-bit protected mode without paging, EBX points to hvm_start_info version 1.
#include "board/formats.hpp"

namespace skerry::board {

namespace {

struct StartInfo {
  u32 magic = 0x336ec578, version = 1, flags = 0, modules = 0;
  u64 module_list = 0, cmdline = 0, rsdp = 0, memory_map = 0;
  u32 memory_map_entries = 0, reserved = 0;
};
static_assert(sizeof(StartInfo) == 56);

struct ModuleEntry {
  u64 address = 0, size = 0, cmdline = 0, reserved = 0;
};
struct MemoryEntry {
  u64 address = 0, size = 0;
  u32 type = 0, reserved = 0;
};

}  // namespace

Result<machine::CpuState> load_pvh(Boot& boot, u32 entry) {
  Places& places = boot.places;
  StartInfo info;
  info.rsdp = boot.context.rsdp;

  std::vector<ModuleEntry> modules;
  for (const BootFiles::File& file : boot.files.modules) {
    ModuleEntry m;
    m.size = file.bytes.size();
    // Below 4 GiB, where a 32-bit kernel reaches it.
    auto at =
        places.highest(std::max<u64>(m.size, 1), memory::kPageSize, kOneMiB, places.low_ram_end());
    if (!at)
      return places.too_small(fmt::format("{} ({} MiB)", file.name, align_up(m.size, MiB) / MiB),
                              places.memory().size() + align_up(m.size, MiB));
    if (!places.memory().write(*at, file.bytes)) return fail("cannot write {}", file.name);
    m.address = *at;
    if (!file.args.empty())
      m.cmdline = TRY(places.put_string(file.args, "the command line of " + file.name));
    modules.push_back(m);
  }
  info.modules = static_cast<u32>(modules.size());
  if (!modules.empty())
    info.module_list = TRY(places.put(bytes_of(modules), "the list of modules"));
  info.cmdline = TRY(places.put_string(boot.files.kernel.args, "the command line"));

  std::vector<MemoryEntry> map;
  for (const E820Entry& e : boot.context.e820)
    map.push_back({e.start, e.size, static_cast<u32>(e.type), 0});
  info.memory_map = TRY(places.put(bytes_of(map), "the memory map"));
  info.memory_map_entries = static_cast<u32>(map.size());

  Gpa at = TRY(places.put({reinterpret_cast<const u8*>(&info), sizeof info}, "hvm_start_info"));
  machine::CpuState state = TRY(protected_mode_state(places, entry));
  state.gpr[machine::rbx] = at;
  return state;
}

}  // namespace skerry::board

// Linux bzImage (Documentation/arch/x86/boot.rst and zero-page.rst).
//
// Not done: the 16-bit entry (its set-up code needs a BIOS), zImage, EFI handover, setup_data.
#include "board/formats.hpp"

#include <algorithm>

namespace skerry::board {

namespace {

// Offsets in the image's first sectors, and the same in boot_params.
enum : u64 {
  kSetupSects = 0x1f1,
  kSyssize = 0x1f4,
  kVidMode = 0x1fa,
  kBootFlag = 0x1fe,
  kJumpLength = 0x201,
  kMagic = 0x202,
  kVersion = 0x206,
  kTypeOfLoader = 0x210,
  kLoadflags = 0x211,
  kCode32Start = 0x214,
  kRamdiskImage = 0x218,
  kRamdiskSize = 0x21c,
  kCmdLinePtr = 0x228,
  kInitrdAddrMax = 0x22c,
  kKernelAlignment = 0x230,
  kRelocatable = 0x234,
  kXloadflags = 0x236,
  kCmdlineSize = 0x238,
  kPrefAddress = 0x258,
  kInitSize = 0x260,
  // boot_params only
  kAcpiRsdp = 0x070,
  kExtRamdiskImage = 0x0c0,
  kExtRamdiskSize = 0x0c4,
  kAltMemK = 0x1e0,
  kE820Entries = 0x1e8,
  kHeaderEnd = 0x290,  // of the room for the header
  kE820Table = 0x2d0,
};
constexpr u32 kHdrS = 0x53726448;
constexpr u16 kOldest = 0x20a;  // 2.10, Linux 2.6.31: init_size, pref_address
constexpr u64 kMaxE820 = 128;
enum : u16 { kXlfKernel64 = 1, kXlfAbove4G = 2 };

struct Header {
  u64 payload = 0;  ///< offset of the protected-mode code in the file
  u16 version = 0, xloadflags = 0;
  u64 load_size = 0, init_size = 0;
  u64 pref_address = 0, alignment = 0;
  bool relocatable = false;
  u64 initrd_max = 0;
  u64 cmdline_max = 0;
  bool is_64() const { return xloadflags & kXlfKernel64; }
};

Result<Header> parse(Bytes image, const std::string& name) {
  Header h;
  auto truncated = [&](u64 need) {
    return fail_hint("copy or build the kernel again",
                     "{} is truncated: it has {} bytes and its header promises at least {}", name,
                     image.size(), need);
  };
  if (image.size() < kVersion + 2) return truncated(kInitSize + 4);
  h.version = load<u16>(&image[kVersion]);
  if (h.version < kOldest)
    return fail_hint("use Linux 2.6.31 or later",
                     "{} speaks boot protocol {}.{:02}; Skerry needs 2.10 or later", name,
                     h.version >> 8, h.version & 0xff);
  if (image.size() < kInitSize + 4) return truncated(kInitSize + 4);
  if (!(image[kLoadflags] & 1))
    return fail_hint("build it as bzImage", "{} is a zImage, which loads at 64 KiB: not supported",
                     name);
  u64 sectors = image[kSetupSects] ? image[kSetupSects] : 4;
  h.payload = (sectors + 1) * 512;
  u64 code = u64{load<u32>(&image[kSyssize])} * 16;
  if (image.size() <= h.payload || code > image.size() - h.payload)
    return truncated(h.payload + std::max<u64>(code, 1));
  h.load_size = image.size() - h.payload;
  h.xloadflags = h.version >= 0x20c ? load<u16>(&image[kXloadflags]) : 0;
  h.init_size = std::max<u64>(load<u32>(&image[kInitSize]), h.load_size);
  h.pref_address = load<u64>(&image[kPrefAddress]);
  h.alignment = load<u32>(&image[kKernelAlignment]);
  h.relocatable = image[kRelocatable];
  h.initrd_max = load<u32>(&image[kInitrdAddrMax]);
  h.cmdline_max = load<u32>(&image[kCmdlineSize]);
  if (h.relocatable && (!is_power_of_two(h.alignment) || h.alignment > GiB))
    return fail("{}: kernel_alignment {:#x} in the header at {:#x} is not a sensible power of two",
                name, h.alignment, +kKernelAlignment);
  return h;
}

// Where the kernel runs: where it prefers, else (if it can move) the lowest place that fits.
Result<Gpa> place_kernel(Boot& boot, const Header& h) {
  constexpr u64 kLimit = 0xffff'0000;  // the 32-bit protocol's and our identity map's reach
  Gpa pref = h.pref_address;
  std::string what =
      fmt::format("{} ({} MiB to start)", boot.files.kernel.name, align_up(h.init_size, MiB) / MiB);
  if (pref >= kOneMiB && pref < kLimit && h.init_size < kLimit - pref) {
    if (boot.places.free(pref, h.init_size) || !h.relocatable) {
      TRY_VOID(boot.places.take(pref, h.init_size, what));
      return pref;
    }
  } else if (!h.relocatable) {
    return fail("{} wants to be at {:#x}, which no machine can do", what, pref);
  }
  if (auto at = boot.places.lowest(h.init_size, std::max<u64>(h.alignment, memory::kPageSize),
                                   kOneMiB, kLimit))
    return *at;
  return boot.places.too_small(what, align_up(kOneMiB, h.alignment) + h.init_size);
}

Result<Gpa> place_initrd(Boot& boot, const Header& h, Gpa kernel) {
  const BootFiles::File& initrd = boot.files.modules[0];
  u64 size = initrd.bytes.size();
  u64 end = std::min<u64>(h.initrd_max ? h.initrd_max + 1 : 0x3800'0000, boot.places.low_ram_end());
  auto at = boot.places.highest(size, memory::kPageSize, kOneMiB, end);
  if (!at && h.is_64() && (h.xloadflags & kXlfAbove4G))
    at = boot.places.highest(size, memory::kPageSize, kOneMiB, ~Gpa{0});
  if (!at)
    return boot.places.too_small(
        fmt::format("{} ({} MiB)", initrd.name, align_up(size, MiB) / MiB),
        align_up(kernel + h.init_size, memory::kPageSize) + align_up(size, memory::kPageSize));
  if (!boot.places.memory().write(*at, initrd.bytes)) return fail("cannot write {}", initrd.name);
  return *at;
}

}  // namespace

bool is_linux(Bytes image) {
  return value_at<u32>(image, kMagic) == kHdrS;
}

Result<machine::CpuState> load_linux(Boot& boot) {
  Bytes image = boot.image();
  const BootFiles& files = boot.files;
  const std::string& name = files.kernel.name;
  Header h = TRY(parse(image, name));
  if (files.modules.size() > (files.has_initrd ? 1 : 0))
    return fail_hint("use --initrd for an initial RAM disk",
                     "{} is a Linux kernel, which takes no modules", name);

  // cmdline_size does not count the terminating zero.
  if (files.kernel.args.size() > h.cmdline_max)
    return fail_hint("shorten --append", "the command line has {} characters, {} takes at most {}",
                     files.kernel.args.size(), name, h.cmdline_max);

  Gpa kernel = TRY(place_kernel(boot, h));
  if (!boot.places.memory().write(kernel, image.subspan(h.payload)))
    return fail("cannot write {} to guest memory", name);

  std::vector<u8> params(memory::kPageSize);
  u64 header_end = std::min<u64>({kMagic + image[kJumpLength], kHeaderEnd, image.size()});
  std::copy(image.begin() + kSetupSects, image.begin() + static_cast<i64>(header_end),
            params.begin() + kSetupSects);
  auto put = [&]<class T>(u64 offset, T value) { store<T>(&params[offset], value); };
  put(kVidMode, u16{0xffff});                                   // normal
  put(kTypeOfLoader, u8{0xff});                                 // no assigned number
  put(kLoadflags, static_cast<u8>(image[kLoadflags] & ~0x80));  // no heap: no real-mode code
  put(kCode32Start, static_cast<u32>(kernel));
  put(kAcpiRsdp, boot.context.rsdp);

  u64 low_kib = boot.places.low_ram_end() / KiB - KiB;
  put(kAltMemK, static_cast<u32>(low_kib));
  const E820Map& map = boot.context.e820;
  if (map.size() > kMaxE820) return fail("the memory map has {} entries", map.size());
  put(kE820Entries, static_cast<u8>(map.size()));
  for (size_t i = 0; i < map.size(); ++i) {
    put(kE820Table + i * 20, map[i].start);
    put(kE820Table + i * 20 + 8, map[i].size);
    put(kE820Table + i * 20 + 16, static_cast<u32>(map[i].type));
  }

  if (files.has_initrd && !files.modules[0].bytes.empty()) {
    Gpa at = TRY(place_initrd(boot, h, kernel));
    u64 size = files.modules[0].bytes.size();
    put(kRamdiskImage, static_cast<u32>(at));
    put(kRamdiskSize, static_cast<u32>(size));
    put(kExtRamdiskImage, static_cast<u32>(at >> 32));
    put(kExtRamdiskSize, static_cast<u32>(size >> 32));
  } else {
    put(kRamdiskImage, u32{0});
    put(kRamdiskSize, u32{0});
  }
  Gpa cmdline = TRY(boot.places.put_string(files.kernel.args, "the command line"));
  put(kCmdLinePtr, static_cast<u32>(cmdline));
  Gpa zero_page = TRY(boot.places.put(params, "boot_params", memory::kPageSize));

  // boot.rst: RSI holds boot_params; the 32-bit entry wants EBP, EDI and EBX zero.
  machine::CpuState state = h.is_64()
                                ? TRY(long_mode_state(boot.places, kernel + 0x200))
                                : TRY(protected_mode_state(boot.places, static_cast<u32>(kernel)));
  state.gpr[machine::rsi] = zero_page;
  return state;
}

}  // namespace skerry::board

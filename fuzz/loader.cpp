// Kernel images: the bytes as they are, or a small well-formed kernel with some bytes changed.
#include "board/loader.hpp"
#include "board/synthetic_kernels.hpp"
#include "fuzz/input.hpp"

namespace skerry::fuzz {
namespace {

using board::synthetic::Image;

Image kernel(unsigned kind) {
  namespace s = board::synthetic;
  switch (kind) {
    case 0: return s::bz_image();
    case 1: return s::bz_image({.is_64 = false, .relocatable = false, .pref_address = 0x100000});
    case 2: return s::bz_image({.version = 0x20a, .is_64 = false});
    case 3: return s::pvh(true);
    case 4: return s::pvh(false);
    case 5: return s::multiboot_elf(false);
    case 6: return s::multiboot_elf(true);
    default: return s::multiboot_flat();
  }
}

void one(Input& input) {
  constexpr u64 kRam = 24 * MiB;
  static auto memory = std::move(memory::GuestMemory::create(kRam).value());
  auto kind = input.take<u8>();
  auto modules = input.take<u8>();
  board::BootContext context;
  context.e820 = board::build_e820(*memory);
  context.rsdp = kind & 0x40 ? 0xe0000 : 0;

  board::BootFiles files;
  Image extra[2];
  for (unsigned i = 0; i < (modules & 3u) && i < 2; ++i) {
    extra[i].assign(input.take<u16>(), static_cast<u8>(i));
    auto args = input.bytes(input.take<u8>());
    files.modules.push_back({"module", extra[i], {args.begin(), args.end()}});
  }
  files.has_initrd = !files.modules.empty() && modules & 4;
  auto line = input.bytes(modules & 8 ? input.take<u16>() : 4u);
  Image image;
  if (kind & 0x80) {
    image = kernel(kind & 7);
    auto cut = input.take<u16>();
    if (kind & 0x20) image.resize(cut % (image.size() + 1));
    while (!input.empty()) {
      size_t at = input.take<u16>();
      u32 value = input.take<u32>();
      unsigned size = 1u << (at >> 14 & 3) & 7;
      at &= 0x3fff;
      if (size && at + size <= image.size()) std::memcpy(&image[at], &value, size);
    }
  } else {
    auto rest = input.rest();
    image.assign(rest.begin(), rest.end());
  }
  files.kernel = {"kernel", image, {line.begin(), line.end()}};
  auto state = board::load_kernel_bytes(*memory, files, context);
  if (!state) expect(!state.error().message().empty(), "an error says what is wrong");
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}

// Port and memory accesses against a whole board, as a guest makes them: registers of every device,
// PCI configuration by both mechanisms, BARs moved about, local APICs, memory that devices read;
// time passes, lines get input, the machine is reset, saved and loaded.
#include "fuzz/whole_board.hpp"
#include "pci/bus.hpp"

namespace skerry::fuzz {
namespace {

struct Range {
  u64 start;
  u32 size;
};
constexpr Range kPorts[] = {{0x20, 2},    {0x40, 4},  {0x60, 5},   {0x70, 2},  {0x80, 1},
                            {0x92, 1},    {0xa0, 2},  {0xb2, 2},   {0xf4, 4},  {0x2f8, 8},
                            {0x3f8, 8},   {0x402, 1}, {0x4d0, 2},  {0x510, 2}, {0x514, 8},
                            {0x600, 128}, {0xcf8, 8}, {0, 0x10000}};
constexpr u64 kBars = 0xc000'0000;
constexpr unsigned kSlots = 3;  // disk, console, rng
constexpr Range kMemory[] = {
    {0xfec0'0000, 0x44},     {0xfed0'0000, 0x160},     {0xfee0'0000, 0x400},
    {0xb000'0000, 0x40},     {0xb00f'8000, 0x100},     {0xb000'8000, 0x100},
    {0xb001'0000, 0x100},    {0xb001'8000, 0x100},     {kBars, 0x40},
    {kBars + 0x3000, 16},    {kBars + 0x10'0000, 64},  {kBars + 0x20'0000, 64},
    {kBars + 0x10'3000, 16}, {kBars + 0x8'0000, 0x40}, {0xb000'0000, 0x1000'0000},
    {0, 0xffff'ffff}};

class Guest {
 public:
  void step(Input& input);

 private:
  u64 read(bool port, u64 at, unsigned size) {
    return (port ? rig_.machine().ports() : rig_.machine().memory_space()).read(at, size);
  }
  void write(bool port, u64 at, unsigned size, u64 value) {
    (port ? rig_.machine().ports() : rig_.machine().memory_space()).write(at, size, value);
  }
  void access(Input& input, bool port);
  void lapic(Input& input);
  void place_bars(unsigned slot);
  void start_virtio(unsigned slot, Input& input);
  void save_and_load();

  WholeBoard rig_;
};

void Guest::access(Input& input, bool port) {
  auto what = input.take<u8>();
  const Range& range = port ? kPorts[what % std::size(kPorts)] : kMemory[what % std::size(kMemory)];
  auto how = input.take<u8>();
  unsigned size = port ? 1u << (how % 3) : how & 0x80 ? 1 + how % 8 : 1u << (how % 4);
  u64 offset = range.size > 256 ? input.take<u32>() : input.take<u8>();
  u64 at = range.start + offset % range.size;
  if (port) at &= 0xffff;
  if (how & 0x40)
    (void)read(port, at, size);
  else
    write(port, at, size, size > 2 ? input.take<u64>() : input.take<u16>());
}

void Guest::lapic(Input& input) {
  auto how = input.take<u8>();
  machine::LocalApic& lapic = *rig_.machine().cpu(how & 1).lapic();
  switch (how >> 1 & 7) {
    case 0: (void)lapic.mmio_read(input.take<u16>() & 0xfff); break;
    case 1:
    case 2: lapic.mmio_write((input.take<u8>() & 0x3fu) << 4, input.take<u32>()); break;
    case 3: (void)lapic.read_msr(0x800 + input.take<u8>()); break;
    case 4: (void)lapic.write_msr(0x800 + (input.take<u8>() & 0x3f), input.take<u64>()); break;
    case 5: (void)lapic.write_msr(0x1b, input.take<u64>()); break;
    case 6: (void)lapic.write_msr(0x6e0, input.take<u64>()); break;
    case 7: lapic.set_cr8(input.take<u8>() & 15); break;
  }
}

void Guest::place_bars(unsigned slot) {
  u64 config = pci::kEcamBase + (u64{slot} << 15), bar = kBars + (slot - 1) * 0x10'0000;
  write(false, config + 0x10, 4, bar);
  write(false, config + 0x14, 4, 0);
  write(false, config + 0x18, 4, bar + 0x8'0000);
  write(false, config + 4, 2, 6);
}

// Virtio 1.2 3.1.1, with rings at a fixed place for the input to fill.
void Guest::start_virtio(unsigned slot, Input& input) {
  place_bars(slot);
  u64 bar = kBars + (slot - 1) * 0x10'0000;
  write(false, bar + 0x14, 1, 0);
  write(false, bar + 0x14, 1, 3);
  for (u32 half : {0u, 1u}) {
    write(false, bar, 4, half);
    u64 offered = read(false, bar + 4, 4);
    write(false, bar + 8, 4, half);
    write(false, bar + 0xc, 4, half ? offered : offered & input.take<u32>());
  }
  write(false, bar + 0x14, 1, 11);
  for (unsigned queue = 0; queue < 2; ++queue) {
    u64 ring = 0x10'0000 + slot * 0x1'0000 + queue * 0x4000;
    write(false, bar + 0x16, 2, queue);
    write(false, bar + 0x18, 2, 8);
    write(false, bar + 0x20, 8, ring);
    write(false, bar + 0x28, 8, ring + 0x100);
    write(false, bar + 0x30, 8, ring + 0x200);
    write(false, bar + 0x1c, 2, 1);
  }
  write(false, bar + 0x14, 1, 15);
}

void expect_same(const state::Image& was, const state::Image& is, bool exactly) {
  for (const auto& [name, section] : was.sections()) {
    // The TSC and the host's calendar run on.
    if (name.starts_with("cpu") || name == "rtc") continue;
    // A load brings what these have told of the passing of time up to date.
    if (!exactly && (name == "pit" || name == "hpet" || name == "acpi_pm")) continue;
    const state::Section* other = is.find(name);
    if (other && other->body == section.body) continue;
    std::fprintf(stderr, "fuzz: section %s\n", name.c_str());
    for (size_t i = 0; other && i < section.body.size() && i < other->body.size(); ++i)
      if (section.body[i] != other->body[i])
        std::fprintf(stderr, "fuzz: byte %zu was %02x, is %02x\n", i, section.body[i],
                     other->body[i]);
    expect(false, "a load changes nothing that is saved");
  }
}

void Guest::save_and_load() {
  machine::Machine& m = rig_.machine();
  m.pause();
  state::Image images[3];
  for (unsigned n = 0; n < 3; ++n) {
    auto image = m.save(false);
    expect(image.has_value(), "a paused machine can be saved");
    auto parsed = state::Image::parse(image->serialize());
    expect(parsed.has_value(), "an image is read again");
    auto done = m.load(*parsed);
    if (!done) std::fprintf(stderr, "fuzz: %s\n", done.error().message().c_str());
    expect(done.has_value(), "what a guest can bring about can be loaded");
    images[n] = std::move(*image);
  }
  expect_same(images[0], images[1], false);
  expect_same(images[1], images[2], true);
  rig_.resume();
}

void Guest::step(Input& input) {
  machine::Machine& m = rig_.machine();
  auto op = input.take<u8>();
  switch (op % 16) {
    default: access(input, true); break;
    case 6:
    case 7:
    case 8:
    case 9: access(input, false); break;
    case 10: lapic(input); break;
    case 11: rig_.advance(input.take<u32>() * (op & 16 ? Nanos{1000} : Nanos{1})); break;
    case 12: {
      u64 at = 0x10'0000 + (input.take<u32>() & 0x3'ffff);
      (void)m.memory().write(at, input.bytes(input.take<u8>() & 63));
      break;
    }
    case 13: start_virtio(1 + input.take<u8>() % kSlots, input); break;
    case 14: {
      const auto& lines = rig_.board->lines();
      (void)lines[(op >> 4) % lines.size()].receive(input.bytes(input.take<u8>()));
      break;
    }
    case 15:
      switch (op >> 4 & 3) {
        case 0: rig_.board->press_power_button(); break;
        case 1: expect(m.reset().has_value(), "a machine can be reset"); break;
        case 2: place_bars(1 + input.take<u8>() % kSlots); break;
        case 3: save_and_load(); break;
      }
  }
  rig_.run();
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::Guest guest;
  for (unsigned n = 0; n < 300 && !input.empty(); ++n) guest.step(input);
  return 0;
}

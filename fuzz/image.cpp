// Saved machines: bytes as they are into the container's parser; or the sections of a real saved
// board with some bytes changed, loaded into a board, which must then stand being used.
#include "fuzz/whole_board.hpp"

namespace skerry::fuzz {
namespace {

const state::Image& good_image() {
  static const state::Image image = [] {
    WholeBoard rig;
    rig.machine().pause();
    return std::move(rig.machine().save(false).value());
  }();
  return image;
}

void change(state::Image& image, Input& input) {
  const auto& sections = image.sections();
  auto at = sections.begin();
  std::advance(at, input.take<u8>() % sections.size());
  std::string name = at->first;
  std::vector<u8> body = at->second.body;
  u32 version = at->second.version;
  auto what = input.take<u8>();
  size_t place = body.empty() ? 0 : input.take<u16>() % body.size();
  switch (what & 7) {
    default: {
      auto bytes = input.bytes(1 + (what >> 4));
      std::copy_n(bytes.begin(), std::min(bytes.size(), body.size() - place),
                  body.begin() + static_cast<ptrdiff_t>(place));
      break;
    }
    case 5: body.resize(place); break;
    case 6: {
      auto bytes = input.bytes(what >> 3);
      body.insert(body.begin() + static_cast<ptrdiff_t>(place), bytes.begin(), bytes.end());
      break;
    }
    case 7: version = input.take<u8>(); break;
  }
  image.put_bytes(name, std::move(body), version);
}

/// Lets the vCPUs run a few instructions of what they were loaded with.
void run_cpus(machine::Machine& m) {
  for (unsigned i = 0; i < m.cpus(); ++i) {
    machine::Vcpu& vcpu = m.cpu(i).vcpu();
    machine::DebugRequest step;
    step.single_step = true;
    (void)vcpu.set_debug(step);
    for (int n = 0; n < 20; ++n) {
      vcpu.kick();
      machine::Exit exit = vcpu.run();
      if (auto* port = std::get_if<machine::PortIo>(&exit); port && !port->write)
        vcpu.answer(m.ports().read(port->port, port->size));
      if (auto* mmio = std::get_if<machine::Mmio>(&exit); mmio && !mmio->write)
        vcpu.answer(m.memory_space().read(mmio->at, mmio->size));
    }
  }
}

/// Every register of every device of the board, and some time.
void use(WholeBoard& rig) {
  machine::Machine& m = rig.machine();
  rig.resume();
  rig.run();
  for (u64 port = 0; port < 0x700; ++port) {
    m.ports().write(port, 1, port * 7);
    (void)m.ports().read(port, 1);
  }
  for (u64 at : {0xfec0'0000ull, 0xfed0'0000ull, 0xb000'8000ull, 0xb001'0000ull, 0xb001'8000ull})
    for (u64 offset = 0; offset < 0x200; offset += 4) (void)m.memory_space().read(at + offset, 4);
  for (unsigned i = 0; i < m.cpus(); ++i)
    for (u32 at = 0; at < 0x400; at += 16) (void)m.cpu(i).lapic()->mmio_read(at);
  for (Nanos by : {Nanos{1}, Nanos{1'000'000}, Nanos{2'000'000'000}}) rig.advance(by);
  m.pause();
  auto again = m.save(false);
  expect(again.has_value(), "what was loaded can be saved");
  expect(m.load(*again).has_value(), "and loaded again");
  rig.resume();
  rig.run();
}

void one(Input& input) {
  if (input.take<u8>() & 0x80) {
    auto image = state::Image::parse(input.rest());
    if (image) expect(state::Image::parse(image->serialize()).has_value(), "images keep");
    return;
  }
  state::Image image = good_image();
  for (int n = 0; n < 16 && !input.empty(); ++n) change(image, input);
  auto bytes = image.serialize();
  auto parsed = state::Image::parse(bytes);
  expect(parsed.has_value(), "a well-formed container is read");
  WholeBoard rig;
  rig.machine().pause();
  auto done = rig.machine().load(*parsed);
  if (!done) {
    expect(!done.error().message().empty(), "an error says what is wrong");
    // A refused image leaves a machine that can only be reset.
    expect(rig.machine().reset().has_value(), "a machine that refused an image can be reset");
  } else {
    run_cpus(rig.machine());
  }
  use(rig);
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}

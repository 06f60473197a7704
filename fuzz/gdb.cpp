// What a debugger sends: framing of the stream in pieces of any size, numbers, registers.
#include "fuzz/input.hpp"
#include "vmm/gdb_packet.hpp"
#include "vmm/gdb_registers.hpp"

namespace skerry::fuzz {
namespace {

void packet(const std::string& body) {
  std::string_view text = body;
  expect(body.size() <= vmm::GdbStream::kLimit + 256, "a packet is bounded");
  while (!text.empty()) {
    size_t before = text.size();
    auto number = vmm::take_hex(text);
    expect(number ? text.size() < before : text.size() == before, "take_hex moves with a number");
    if (!number) text.remove_prefix(1);
  }
  if (auto bytes = vmm::from_hex(body)) {
    expect(bytes->size() * 2 == body.size(), "two digits make a byte");
    machine::CpuState state;
    for (unsigned n = 0; n < vmm::gdb_register_count() + 2; ++n)
      if (vmm::gdb_write_register(state, n, *bytes))
        expect(vmm::gdb_read_register(state, n).size() == bytes->size(),
               "registers keep their size");
  }
  // Our own framing is understood.
  vmm::GdbStream back;
  std::string framed = vmm::gdb_frame(body);
  if (framed.size() + 4 > vmm::GdbStream::kLimit) return;
  back.feed({reinterpret_cast<const u8*>(framed.data()), framed.size()});
  auto item = back.next();
  expect(item && item->kind == vmm::GdbStream::Item::Kind::packet && item->body == body,
         "a framed packet comes back");
}

void one(Input& input) {
  vmm::GdbStream stream;
  while (!input.empty()) {
    stream.feed(input.bytes(1 + input.take<u8>()));
    while (auto item = stream.next())
      if (item->kind == vmm::GdbStream::Item::Kind::packet) packet(item->body);
  }
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}

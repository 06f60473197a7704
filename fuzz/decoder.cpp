// The decoder in every mode: what it says of the same bytes must be consistent, and the
// disassembler and re-emission must cope with all that it accepts.
#include "fuzz/input.hpp"
#include "isa/disassemble.hpp"
#include "isa/reencode.hpp"

namespace skerry::fuzz {
namespace {

using namespace isa;

constexpr DecodeMode kModes[] = {{16, false}, {16, true}, {32, true}, {64, true}};

void reencoded(const Insn& insn, std::span<const u8> original, const Patch& patch) {
  u8 out[16];
  size_t n = reencode(insn, original, patch, out);
  if (n == 0) return;
  expect(n <= 15, "a re-emitted instruction is at most 15 bytes");
  Insn again;
  expect(decode({out, n}, {64, true}, again) == DecodeStatus::ok, "what is re-emitted decodes");
  expect(again.length == n, "a re-emitted instruction is one instruction");
  expect(again.sem == insn.sem, "re-emission keeps the operation");
}

void one(std::span<const u8> bytes, DecodeMode mode, Input& choices) {
  Insn insn;
  DecodeStatus status = decode(bytes, mode, insn);
  expect(insn.length <= 15, "at most 15 bytes are looked at");
  if (status == DecodeStatus::truncated) expect(bytes.size() < 15, "15 bytes are enough");
  if (status != DecodeStatus::ok) return;
  expect(insn.length >= 1 && insn.length <= bytes.size(), "the length is within the bytes");
  expect(insn.operands <= 6, "operands fit");
  expect(insn.imm_at <= insn.length && insn.opcode_at < insn.length, "offsets are inside");
  if (insn.has_modrm) expect(insn.modrm_at < insn.length, "ModRM is inside");

  auto exact = bytes.first(insn.length);
  Insn again;
  expect(decode(exact, mode, again) == DecodeStatus::ok, "its own bytes are enough");
  expect(again.length == insn.length && again.row == insn.row && again.sem == insn.sem,
         "later bytes do not matter");
  for (size_t n = 0; n < exact.size(); ++n)
    expect(decode(exact.first(n), mode, again) != DecodeStatus::ok, "fewer bytes are not enough");

  expect(!disassemble(insn, choices.take<u64>()).empty(), "everything has a text");
  reencoded(insn, exact, {});
  Patch patch;
  patch.at(choices.take<u8>() & 15, choices.take<i32>());
  reencoded(insn, exact, patch);
  // Register numbers within what every kind of register has.
  for (Place place : {Place::reg, Place::rm, Place::vvvv, Place::opcode, Place::is4})
    if (choices.take<u8>() & 1) patch.set(place, choices.take<u8>() & 7);
  u8 out[16];
  expect(reencode(insn, exact, patch, out) <= 15, "a patched instruction is at most 15 bytes");
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace skerry::fuzz;
  Input input(data, size);
  auto bytes = input.bytes(16);
  for (auto mode : kModes)
    for (size_t n : {bytes.size(), std::min<size_t>(bytes.size(), 15)}) {
      Input choices = input;
      one(bytes.first(n), mode, choices);
    }
  return 0;
}

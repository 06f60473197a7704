// Random programs on the translator and on the interpreter (engine/soft/block_rig.hpp): the input
// seeds the generator, and says which items to leave out and how the registers start.
#include <cstdio>
#include <cstdlib>

#include "engine/soft/block_rig.hpp"
#include "fuzz/input.hpp"

namespace skerry::fuzz {
namespace {

using namespace soft::block_fuzz;

void one(Input& input) {
  static Rig rig;
  static const isa::FeatureSet features = rig.features();
  Program p = Generator(input.take<u64>(), features).make();
  for (auto& item : p.items) {
    if (item.leads == Item::Leads::stop) continue;
    item.on = !(input.take<u8>() & 1);
  }
  if (!p.lay_out() || !p.flags_defined()) return;
  for (auto& run : p.runs) {
    const u8 which = input.take<u8>();
    if (which & 0x80) run.gpr[which & 15] = input.take<u64>();
  }
  if (rig.test(p).empty()) return;
  std::fprintf(stderr, "%s", report(p).c_str());
  expect(false, "translated code does what the interpreter does");
}

}  // namespace
}  // namespace skerry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  skerry::fuzz::Input input(data, size);
  skerry::fuzz::one(input);
  return 0;
}

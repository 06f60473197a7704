#include "devices/vm_generation.hpp"

#include "devices/device_test.hpp"

namespace skerry::devices {
namespace {

struct Generation : testing::Test {
  Generation()
      : memory(std::move(memory::GuestMemory::create(64 * KiB)).value()),
        device(*memory, 0x8000, kId, [this] {
          // The guest reads it as soon as it hears of it.
          ++told;
          EXPECT_EQ(in_memory(), device.id());
        }) {}
  VmGeneration::Id in_memory() {
    VmGeneration::Id id;
    EXPECT_TRUE(memory->read(0x8000, id));
    return id;
  }
  static constexpr VmGeneration::Id kId{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  std::unique_ptr<memory::GuestMemory> memory;
  VmGeneration device;
  int told = 0;
};

TEST_F(Generation, IsPlacedAtTheStartAndChangesOnceRenewed) {
  device.place();
  EXPECT_EQ(in_memory(), kId);
  EXPECT_EQ(told, 0);
  auto id = VmGeneration::random();
  EXPECT_NE(id, VmGeneration::random());
  device.renew(id);
  EXPECT_EQ(told, 1);
  EXPECT_EQ(in_memory(), id);
  device.reset();
  EXPECT_EQ(device.id(), id);
}

TEST_F(Generation, IsSavedAndLoadedUnchanged) {
  VmGeneration other(*memory, 0x9000, VmGeneration::random(), nullptr);
  move_state(device, other);
  EXPECT_EQ(other.id(), kId);
  VmGeneration::Id id;
  EXPECT_TRUE(memory->read(0x9000, id));
  EXPECT_EQ(id, kId);
  EXPECT_TRUE(state::uncovered<VmGeneration::State>().empty());
}

TEST_F(Generation, AsText) {
  EXPECT_EQ(VmGeneration::text(kId), "04030201-0605-0807-090a-0b0c0d0e0f10");
  EXPECT_EQ(VmGeneration::text(VmGeneration::random())[14], '4');
}

}  // namespace
}  // namespace skerry::devices

// What the tests of devices share.
#pragma once

#include <gtest/gtest.h>

#include "machine/manual_surroundings.hpp"

namespace skerry::devices {

struct FakeControl : machine::Control {
  void request(machine::Request what, u32 code) override { requests.emplace_back(what, code); }
  bool asked(machine::Request what) const {
    return requests.size() == 1 && requests[0].first == what;
  }
  std::vector<std::pair<machine::Request, u32>> requests;
};

/// Saves `from` into `to`, which must then save the same.
inline void move_state(const machine::Device& from, machine::Device& to) {
  state::Image image, again;
  from.save(image);
  auto loaded = to.load(image);
  ASSERT_TRUE(loaded) << loaded.error().what;
  to.save(again);
  EXPECT_EQ(image.serialize(), again.serialize());
}

/// An image with `state` as the section of `device`: must it be refused?
template <class S>
bool accepts(machine::Device& device, const S& state) {
  state::Image image;
  image.put(device.name(), state);
  return device.load(image).has_value();
}

}  // namespace skerry::devices

#include <gtest/gtest.h>

#include <functional>

#include "schema/machine_spec.hpp"

namespace skerry::schema {
namespace {

std::string said(const std::function<void(MachineSpec&)>& change) {
  MachineSpec spec;
  change(spec);
  auto done = validate_seed(spec);
  return done ? "" : done.error().what;
}

TEST(SeedSpec, HostNames) {
  auto with = [](std::string name) { return said([&](MachineSpec& s) { s.hostname = name; }); };
  for (auto good : {"a", "a-b", "A1.example.org", "1"}) EXPECT_EQ(with(good), "") << good;
  for (auto bad : {"-a", "a-", "a.", ".a", "a..b", "a-.b", "a b", "a_b", "a\nb", "\xc3\xa4"})
    EXPECT_NE(with(bad), "") << bad;
  EXPECT_EQ(with(std::string(64, 'a')), "");
  EXPECT_NE(with(std::string(65, 'a')), "");
}

TEST(SeedSpec, UserNames) {
  auto with = [](std::string name) {
    return said([&](MachineSpec& s) {
      s.user = name;
      s.ssh_keys = {"k"};
    });
  };
  for (auto good : {"ann", "_x", "a-1"}) EXPECT_EQ(with(good), "") << good;
  for (auto bad : {"root", "Ann", "1a", "a b", "a:b", "a\n", "-a"}) EXPECT_NE(with(bad), "") << bad;
  EXPECT_NE(with(std::string(33, 'a')), "");
}

TEST(SeedSpec, WhatDoesNotGoTogether) {
  EXPECT_NE(said([](MachineSpec& s) { s.user = "ann"; }), "");
  EXPECT_NE(said([](MachineSpec& s) {
              s.hostname = "h";
              s.cloud_init.meta_data = "m";
            }),
            "");
}

TEST(SeedSpec, EachOptionAsksForOne) {
  MachineSpec spec;
  EXPECT_FALSE(wants_seed(spec));
  for (auto set : std::initializer_list<void (*)(MachineSpec&)>{
           [](MachineSpec& s) { s.cloud_init.network_config = "n"; },
           [](MachineSpec& s) { s.ssh_keys = {"k"}; }, [](MachineSpec& s) { s.hostname = "h"; },
           [](MachineSpec& s) { s.user = "u"; }}) {
    MachineSpec one;
    set(one);
    EXPECT_TRUE(wants_seed(one));
  }
}

}  // namespace
}  // namespace skerry::schema

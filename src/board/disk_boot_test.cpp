#include "board/disk_boot.hpp"

#include <gtest/gtest.h>

namespace skerry::board {
namespace {

TEST(DiskCommandLine, WhatTheUserGivesWins) {
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", true, ""), "root=UUID=1 ro console=ttyS0");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", false, "quiet"), "root=UUID=1 ro quiet");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", true, "a root=/dev/vdb console=hvc0"),
            "a root=/dev/vdb console=hvc0");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", true, "nfsroot=x"),
            "root=UUID=1 ro console=ttyS0 nfsroot=x");
  EXPECT_EQ(disk_command_line("", false, ""), "");
}

}  // namespace
}  // namespace skerry::board

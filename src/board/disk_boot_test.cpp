#include "board/disk_boot.hpp"

#include <gtest/gtest.h>

namespace skerry::board {
namespace {

TEST(DiskCommandLine, WhatTheUserGivesWins) {
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", "", true, ""), "root=UUID=1 ro console=ttyS0");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", "", false, "quiet"), "root=UUID=1 ro quiet");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", "", true, "a root=/dev/vdb console=hvc0"),
            "a root=/dev/vdb console=hvc0");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", "", true, "nfsroot=x"),
            "root=UUID=1 ro console=ttyS0 nfsroot=x");
  EXPECT_EQ(disk_command_line("", "", false, ""), "");
}

TEST(DiskCommandLine, AnEntryOfABootLoaderStaysAsItIs) {
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", "root=LABEL=x ro quiet", true, ""),
            "root=LABEL=x ro quiet console=ttyS0");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", "quiet", true, ""),
            "root=UUID=1 ro quiet console=ttyS0");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", "root=/dev/vda1 console=tty0 console=ttyS0,9600",
                              true, "debug root=/dev/vdb"),
            "root=/dev/vda1 console=tty0 console=ttyS0,9600 debug root=/dev/vdb");
  EXPECT_EQ(disk_command_line("root=UUID=1 ro", "console=tty0", true, "console=hvc0"),
            "root=UUID=1 ro console=tty0 console=hvc0");
}

}  // namespace
}  // namespace skerry::board

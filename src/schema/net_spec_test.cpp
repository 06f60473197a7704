#include "schema/net_spec.hpp"

#include <gtest/gtest.h>

#include "schema/machine_spec.hpp"

namespace skerry::schema {
namespace {

std::string what(std::string_view text) {
  auto net = NetSpec::from_text(text);
  if (net) {
    auto good = validate(*net, "net 1");
    return good ? "" : good.error().what;
  }
  return net.error().what;
}

TEST(NetSpec, FromText) {
  auto plain = NetSpec::from_text("user");
  ASSERT_TRUE(plain);
  EXPECT_EQ(*plain, NetSpec{});
  auto full = NetSpec::from_text(
      "user,hostfwd=tcp:127.0.0.1:2222-:22,restrict,hostfwd=udp::53-10.0.2.20:53,mac=02:00:00:00:"
      "00:07,mtu=9000,queues=4");
  ASSERT_TRUE(full) << full.error().message();
  EXPECT_EQ(full->hostfwd,
            (std::vector<std::string>{"tcp:127.0.0.1:2222-:22", "udp::53-10.0.2.20:53"}));
  EXPECT_TRUE(full->restricted);
  EXPECT_EQ(full->mtu, 9000u);
  EXPECT_EQ(full->queues, 4u);
  EXPECT_TRUE(validate(*full, "net 1"));
}

TEST(NetSpec, Mistakes) {
  EXPECT_NE(what("usr").find("did you mean 'user'"), std::string::npos) << what("usr");
  EXPECT_NE(what("user,hostfw=x").find("did you mean 'hostfwd'"), std::string::npos);
  EXPECT_NE(what("user,mtu=1,"), "");
  EXPECT_EQ(what("user,mtu=1500,mtu=1400"),
            "'mtu' is given twice in 'kind=user,mtu=1500,mtu=1400'");
  EXPECT_EQ(what("user,mac=xx"), "net 1: 'xx' is no MAC address");
  EXPECT_EQ(what("user,mac=01:00:00:00:00:00"),
            "net 1: 01:00:00:00:00:00 is a multicast address, not a card's");
  EXPECT_EQ(what("user,hostfwd=22"), "hostfwd: '22' begins with neither tcp: nor udp:");
  EXPECT_EQ(what("user,hostfwd=tcp::22"), "hostfwd: 'tcp::22' does not say where it leads");
  EXPECT_EQ(what("user,hostfwd=tcp::65536-:22"),
            "hostfwd: 'tcp::65536-:22' has no host port from 0 to 65535");
  EXPECT_EQ(what("user,hostfwd=tcp::1-:0"),
            "hostfwd: 'tcp::1-:0' has no guest port from 1 to 65535");
  EXPECT_EQ(what("user,hostfwd=tcp::1-:65536"),
            "hostfwd: 'tcp::1-:65536' has no guest port from 1 to 65535");
  EXPECT_EQ(what("user,hostfwd=tcp:localhost:1-:1"),
            "hostfwd: 'tcp:localhost:1-:1' has a host address that is not numeric");
}

TEST(NetSpec, Switch) {
  auto net = NetSpec::from_text("switch,name=lan1,vlan=10,isolated,rate=100M,uplink=user");
  ASSERT_TRUE(net) << net.error().message();
  EXPECT_EQ(net->kind, NetKind::switch_);
  EXPECT_EQ(net->name, "lan1");
  EXPECT_TRUE(validate(*net, "net 1"));
  EXPECT_EQ(parse_rate("100M"), 100'000'000u);
  EXPECT_EQ(parse_rate("8k"), 8000u);
  EXPECT_EQ(parse_rate("7999"), std::nullopt);
  EXPECT_EQ(parse_rate("M"), std::nullopt);
  EXPECT_EQ(parse_rate("9999999999G"), std::nullopt);
  EXPECT_EQ(what("switch"), "net 1: the switch has no name");
  EXPECT_EQ(what("switch,name=../x"), "net 1: '../x' is no name for a switch");
  EXPECT_EQ(what("switch,name=x,rate=fast"), "net 1: 'fast' is no rate");
  EXPECT_EQ(what("switch,name=x,hostfwd=tcp::1-:1"),
            "net 1: 'hostfwd' has no meaning for kind 'switch'");
  EXPECT_EQ(what("user,vlan=10"), "net 1: 'vlan' has no meaning for kind 'user'");
  EXPECT_NE(what("switch,name=x,vlan=4095"), "");
  EXPECT_EQ(what("switch,name=x,uplink=tap,bridge=br0"), "");
  EXPECT_EQ(what("switch,name=x,uplink=tap,ifname=tap0"), "");
  EXPECT_EQ(what("switch,name=x,uplink=tap"), "net 1: neither a tap device nor a bridge is named");
  EXPECT_EQ(what("switch,name=x,uplink=tap,bridge=a/b"),
            "net 1: 'a/b' is no name for a network device");
  EXPECT_EQ(what("switch,name=x,uplink=user,bridge=br0"),
            "net 1: 'bridge' names a switch's uplink, which is not a tap");
  EXPECT_EQ(what("switch,name=x,ifname=tap0"),
            "net 1: 'ifname' names a switch's uplink, which is not a tap");
}

TEST(NetSpec, Tap) {
  auto net = NetSpec::from_text("tap,ifname=tap0,bridge=br0,mtu=9000");
  ASSERT_TRUE(net) << net.error().message();
  EXPECT_EQ(net->kind, NetKind::tap);
  EXPECT_EQ(net->ifname, "tap0");
  EXPECT_EQ(net->bridge, "br0");
  EXPECT_EQ(what("tap,ifname=tap0"), "");
  EXPECT_EQ(what("tap,bridge=br0"), "");
  EXPECT_EQ(what("tap"), "net 1: neither a tap device nor a bridge is named");
  EXPECT_EQ(what("tap,ifname=a/b"), "net 1: 'a/b' is no name for a network device");
  EXPECT_EQ(what("tap,ifname=tap%d"), "net 1: 'tap%d' is no name for a network device");
  EXPECT_EQ(what("tap,bridge=sixteen-letters-"),
            "net 1: 'sixteen-letters-' is no name for a network device");
  EXPECT_EQ(what("user,ifname=x"), "net 1: 'ifname' has no meaning for kind 'user'");
  EXPECT_EQ(what("tap,ifname=x,hostfwd=tcp::1-:1"),
            "net 1: 'hostfwd' has no meaning for kind 'tap'");
}

TEST(NetSpec, Forwards) {
  auto f = parse_hostfwd("tcp:[::1]:2222-[fd00::15]:22");
  ASSERT_TRUE(f) << f.error().message();
  EXPECT_EQ(f->host, "::1");
  EXPECT_EQ(f->guest, "fd00::15");
  EXPECT_EQ(f->host_port, 2222);
  EXPECT_EQ(f->guest_port, 22);
  EXPECT_FALSE(f->udp);
  for (const char* text : {"tcp:[::1]:2222-[fd00::15]:22", "udp::0-:53", "tcp:127.0.0.1:1-:65535"})
    EXPECT_EQ(to_text(*parse_hostfwd(text)), text);
}

TEST(NetSpec, InAMachine) {
  MachineSpec spec;
  auto read = merge_json_text(
      R"({"kernel": "k", "nets": ["user,hostfwd=tcp::1-:2", {"kind": "user", "hostfwd": ["tcp::3-:4"]}]})",
      "test", spec);
  ASSERT_TRUE(read) << read.error().message();
  ASSERT_EQ(spec.nets.size(), 2u);
  EXPECT_EQ(spec.nets[1].hostfwd, std::vector<std::string>{"tcp::3-:4"});
  EXPECT_TRUE(validate(spec));
  MachineSpec again;
  ASSERT_TRUE(merge_json_text(to_json_text(spec), "test", again));
  EXPECT_EQ(again, spec);
  spec.nets[0].mac = spec.nets[1].mac = "02:00:00:00:00:01";
  auto twice = validate(spec);
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().what, "net 2: the address 02:00:00:00:00:01 is that of net 1, too");
}

}  // namespace
}  // namespace skerry::schema

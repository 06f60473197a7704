#include <gtest/gtest.h>

#include "state/image.hpp"

namespace skerry::state {
namespace {

struct Inner {
  u16 a = 7;
  u16 b = 0;
  static void describe(auto& s, auto& v) {
    v.field("a", s.a);
    v.field("b", s.b);
  }
};
struct Old {
  u8 x = 1;
  bool on = false;
  std::array<u32, 3> regs{};
  std::vector<Inner> list;
  std::string label;
  static void describe(auto& s, auto& v) {
    v.field("x", s.x);
    v.field("on", s.on);
    v.field("regs", s.regs);
    v.field("list", s.list);
    v.field("label", s.label);
  }
};
struct New : Old {
  i64 extra = -5;
  static void describe(auto& s, auto& v) {
    Old::describe(s, v);
    v.field("extra", s.extra, since(2));
  }
};
struct Forgetful {
  u32 a = 0, b = 0;
  static void describe(auto& s, auto& v) { v.field("a", s.a); }
};

Old sample() {
  return {9, true, {1, 2, 3}, {{1, 2}, {3, 4}}, "hi"};
}

TEST(Describe, round_trips_every_kind_of_field) {
  Old out{};
  ASSERT_TRUE(decode(encode(sample()), out));
  EXPECT_EQ(dump(out), dump(sample()));
  EXPECT_EQ(out.list.at(1).b, 4);
  EXPECT_EQ(out.label, "hi");
}

TEST(Describe, old_data_loads_with_reset_values_and_newer_data_is_refused) {
  New fresh{};
  ASSERT_TRUE(decode(encode(sample()), fresh, 1));
  EXPECT_EQ(fresh.extra, -5);
  auto missing = decode(encode(sample()), fresh, 2);
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().what.find("extra"), std::string::npos);
  Old old{};
  EXPECT_FALSE(decode(encode(fresh), old));
}

TEST(Describe, refuses_every_proper_prefix_and_changes_nothing) {
  auto data = encode(sample());
  for (size_t n = 0; n < data.size(); ++n) {
    Old out{};
    EXPECT_FALSE(decode(std::span(data).first(n), out)) << n;
    EXPECT_EQ(out.x, 1);
  }
}

TEST(Describe, finds_forgotten_fields_and_prints_schema) {
  EXPECT_EQ(uncovered<Forgetful>().size(), 4u);
  EXPECT_TRUE(uncovered<Inner>().empty());
  EXPECT_EQ(schema<Inner>(), "a: u16 since 1\nb: u16 since 1\n");
}

TEST(Image, round_trips_and_refuses_damage) {
  Image image;
  image.put("one", sample(), 3);
  image.put_bytes("ram", {1, 2, 3});
  auto bytes = image.serialize();
  auto back = Image::parse(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->find("one")->version, 3u);
  Old out{};
  ASSERT_TRUE(back->get("one", out));
  EXPECT_FALSE(back->get("two", out));
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(Image::parse(std::span(bytes).first(n)));
  bytes.back() ^= 1;
  auto damaged = Image::parse(bytes);
  ASSERT_FALSE(damaged);
  EXPECT_NE(damaged.error().what.find("ram"), std::string::npos);
}

TEST(Image, crc32c_matches_the_published_check_value) {
  const char* text = "123456789";
  EXPECT_EQ(crc32c({reinterpret_cast<const u8*>(text), 9}), 0xe3069283u);
}

}  // namespace
}  // namespace skerry::state

#include "cli/image_build.hpp"

#include <gtest/gtest.h>

#include "cli/run_options.hpp"

namespace skerry::cli {
namespace {

using Args = std::vector<std::string>;

std::string error_of(Args args) {
  args.insert(args.begin(), {"image", "build"});
  auto command = parse_command(args);
  return command ? "accepted" : command.error().message();
}

TEST(ImageBuild, EveryOption) {
  auto command = parse_command({"image", "build", "debian-12", "-o", "d.raw", "--size", "8G",
                                "--packages", "vim,g++=4:12.2~1", "--mirror",
                                "http://mirror.example/debian", "--no-autologin"});
  ASSERT_TRUE(command);
  ImageBuildCommand want{
      "debian-12", "d.raw", {8 * GiB}, "vim,g++=4:12.2~1", "http://mirror.example/debian", false};
  EXPECT_EQ(std::get<ImageBuildCommand>(*command), want);
  EXPECT_EQ(image_build_arguments(want, "/bin/skerry"),
            (Args{"debian-12", "d.raw", "8589934592", "vim,g++=4:12.2~1",
                  "http://mirror.example/debian", "no", "/bin/skerry"}));
}

TEST(ImageBuild, Defaults) {
  auto command = parse_command({"image", "build", "--output", "d.raw", "debian-13"});
  ASSERT_TRUE(command);
  EXPECT_EQ(std::get<ImageBuildCommand>(*command),
            (ImageBuildCommand{"debian-13", "d.raw", {4 * GiB}, "", "", true}));
}

TEST(ImageBuild, MistakesNameTheRemedy) {
  EXPECT_EQ(error_of({}),
            "no release is named\n  write: skerry image build debian-12 -o debian.raw");
  EXPECT_EQ(error_of({"debian-12"}), "no file to write is named\n  add -o debian-12.raw");
  EXPECT_EQ(error_of({"debian12", "-o", "d"}),
            "unknown release 'debian12'; did you mean 'debian-12'?\n  known: debian-12, debian-13");
  EXPECT_EQ(error_of({"debian-12", "-o", "d", "--sise", "1G"}),
            "unknown option '--sise'; did you mean --size?\n  see: skerry help image");
  EXPECT_EQ(error_of({"debian-12", "-o", "d", "--size", "1M"}),
            "--size: 1M is too little\n  give from 1G to 16T");
  for (auto bad : {"-x", "a b", "A", ",", "a;b", "a,,b", "$(x)"})
    EXPECT_NE(error_of({"debian-12", "-o", "d", "--packages", bad}), "accepted") << bad;
  for (auto bad : {"mirror", "ftp://x", "http://a b", "http://x\n"})
    EXPECT_NE(error_of({"debian-12", "-o", "d", "--mirror", bad}), "accepted") << bad;
}

TEST(ImageBuild, Help) {
  for (Args args : {Args{"image", "build", "-h"}, {"help", "image", "build"}})
    EXPECT_EQ(std::get<PrintCommand>(*parse_command(args)).text, image_build_help());
}

}  // namespace
}  // namespace skerry::cli

#include <gtest/gtest.h>

#include "cli/image.hpp"
#include "cli/image_arguments.hpp"
#include "cli/run_options.hpp"

namespace skerry::cli {
namespace {

using Words = std::vector<std::string>;

const ImageVerb& verb(std::string_view name) {
  for (const ImageVerb& v : image_verbs())
    if (v.name == name) return v;
  return image_verbs()[0];
}

std::string error_of(std::string_view name, Words words) {
  auto parsed = ImageArguments::parse(verb(name), words);
  if (!parsed) return parsed.error().message();
  auto options = parsed->creation("--format", parsed->words()[0]);
  return options ? "accepted" : options.error().message();
}

TEST(ImageArguments, OptionsAndWords) {
  auto args = ImageArguments::parse(verb("convert"),
                                    Words{"-f", "raw", "a", "--output=qcow2", "-c", "--", "-b"});
  ASSERT_TRUE(args) << args.error().message();
  EXPECT_EQ(args->words(), (Words{"a", "-b"}));
  EXPECT_EQ(args->format("--format").value(), storage::Format::raw);
  EXPECT_EQ(args->format("--output").value(), storage::Format::qcow2);
  EXPECT_TRUE(args->has("--compress"));
  EXPECT_FALSE(args->has("--quiet"));
  EXPECT_EQ(ImageArguments::parse(verb("resize"), Words{"a", "-1G"})->words()[1], "-1G");
}

TEST(ImageArguments, FormatsOfNewImages) {
  auto format = [](Words words) {
    auto args = ImageArguments::parse(verb("create"), words).value();
    return args.creation("--format", args.words()[0])->format;
  };
  EXPECT_EQ(format({"a.qcow2"}), storage::Format::qcow2);
  EXPECT_EQ(format({"a.img"}), storage::Format::raw);
  EXPECT_EQ(format({"a.img", "-f", "qcow2"}), storage::Format::qcow2);
  EXPECT_EQ(format({"a", "-b", "base"}), storage::Format::qcow2);
}

TEST(ImageArguments, MistakesNameTheRemedy) {
  EXPECT_EQ(error_of("create", {"a.qcow2", "--formt", "raw"}),
            "unknown option '--formt'; did you mean --format?\n  see: skerry help image create");
  EXPECT_EQ(error_of("create", {"a.qcow2", "-f"}),
            "-f needs a value\n  see: skerry help image create");
  EXPECT_EQ(error_of("create", {"a.qcow2", "-f", "vdi"}),
            "unknown format 'vdi'\n  known: raw, qcow2");
  EXPECT_NE(error_of("create", {"a.qcow2", "-o", "cluster_size=3000"}), "accepted");
  EXPECT_NE(error_of("create", {"a.qcow2", "-o", "cluster_size=4M"}), "accepted");
  EXPECT_NE(error_of("create", {"a.qcow2", "-o", "refcount_bits=3"}), "accepted");
  EXPECT_NE(error_of("create", {"a.raw", "-o", "compat=1.1"}), "accepted");
  EXPECT_EQ(error_of("create", {"a.qcow2", "-o", "cluster_size=2M,compression_type=zstd"}),
            "accepted");
  EXPECT_EQ(error_of("convert", {"a"}),
            "write: skerry image convert SOURCE TARGET\n  see: skerry help image convert");
}

TEST(ImageHelp, KnowsEveryVerb) {
  std::string all = image_help();
  for (const ImageVerb& v : image_verbs()) {
    EXPECT_NE(all.find("  " + std::string(v.name) + " "), std::string::npos);
    for (auto option : v.options)
      EXPECT_NE(image_help(v.name).find(option), std::string::npos) << option;
  }
  EXPECT_TRUE(std::holds_alternative<ImageCommand>(*parse_command({"image", "info", "x"})));
  EXPECT_EQ(std::get<PrintCommand>(*parse_command({"help", "image"})).text, all);
}

}  // namespace
}  // namespace skerry::cli

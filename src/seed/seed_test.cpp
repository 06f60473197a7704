#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/bits.hpp"
#include "seed/cloud_init.hpp"

namespace skerry::seed {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

class Seed : public testing::Test {
 protected:
  Seed() {
    std::string pattern = testing::TempDir() + "skerry-seed-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~Seed() override { fs::remove_all(folder_); }

  std::string file(const std::string& name, std::string_view content) {
    std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  /// What a program prints; `tool` missing skips the test.
  std::string run(const std::string& tool, const std::string& args) {
    std::string output = folder_ + "/output";
    std::string command =
        "PATH=$PATH:/sbin:/usr/sbin " + tool + " " + args + " > " + output + " 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
    std::ifstream in(output, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static bool have(const std::string& tool) {
    return std::system(
               ("PATH=$PATH:/sbin:/usr/sbin command -v " + tool + " > /dev/null").c_str()) == 0;
  }
  std::string image(const std::vector<File>& files) {
    auto bytes = make_iso9660("CIDATA", files);
    EXPECT_TRUE(bytes);
    return file("image", {reinterpret_cast<const char*>(bytes->data()), bytes->size()});
  }
  static std::string content_of(const std::vector<File>& files, std::string_view name) {
    for (const File& f : files)
      if (f.name == name) return f.content;
    return "(no such file)";
  }
  std::string error_of(const schema::MachineSpec& spec) {
    auto files = cloud_init_files(spec);
    return files ? "accepted" : files.error().message();
  }

  std::string folder_;
};

const std::vector<File> kSome = {{"user-data", "#cloud-config\n{}\n"},
                                 {"meta-data", std::string(5000, 'm')},
                                 {"network-config", ""},
                                 {"vendor-data", std::string(2048, 'v')}};

TEST_F(Seed, IsoinfoReadsEveryFileInEveryWay) {
  if (!have("isoinfo")) GTEST_SKIP() << "isoinfo is missing: apt-get install genisoimage";
  std::string path = image(kSome);
  for (const char* names : {"-R", "-J"}) {
    std::string list = run("isoinfo", fmt::format("-f {} -i {}", names, path));
    for (const File& f : kSome) {
      EXPECT_THAT(list, HasSubstr("/" + f.name)) << names;
      EXPECT_EQ(run("isoinfo", fmt::format("{} -i {} -x /{}", names, path, f.name)), f.content)
          << names << " " << f.name;
    }
  }
  EXPECT_EQ(run("isoinfo", "-i " + path + " -x '/META_DATA.;1'"), kSome[1].content);
  std::string about = run("isoinfo", "-d -i " + path);
  EXPECT_THAT(about, HasSubstr("Volume id: CIDATA"));
  EXPECT_THAT(about, HasSubstr("Joliet with UCS level 3"));
  EXPECT_THAT(about, HasSubstr("Rock Ridge signatures version 1 found"));
}

TEST_F(Seed, XorrisoFindsNothingToComplainAbout) {
  if (!have("xorriso")) GTEST_SKIP() << "xorriso is missing: apt-get install xorriso";
  std::string said =
      run("xorriso", "-abort_on WARNING -indev " + image(kSome) + " -find / -exec lsdl");
  EXPECT_THAT(said, HasSubstr("'/network-config'"));
  EXPECT_THAT(said, HasSubstr("-r--r--r--"));
  EXPECT_THAT(said, testing::Not(HasSubstr("WARNING")));
}

TEST_F(Seed, BlkidSeesTheLabel) {
  if (!have("blkid")) GTEST_SKIP() << "blkid is missing: apt-get install util-linux";
  std::string said = run("blkid", "-p -o export " + image(kSome));
  EXPECT_THAT(said, HasSubstr("\nLABEL=CIDATA\n"));
  EXPECT_THAT(said, HasSubstr("TYPE=iso9660\n"));
}

TEST_F(Seed, TheImageIsWholeSectorsAndAlwaysTheSame) {
  auto a = make_iso9660("CIDATA", kSome);
  std::vector<File> shuffled = {kSome[2], kSome[0], kSome[3], kSome[1]};
  EXPECT_EQ(*a, *make_iso9660("CIDATA", shuffled));
  EXPECT_EQ(a->size() % 2048, 0u);
  // ECMA-119, 8.4.8: the size that the descriptor gives is the image's.
  EXPECT_EQ(load<u32>(a->data() + 16 * 2048 + 80), a->size() / 2048);
}

TEST_F(Seed, WhatNoImageCanHoldIsAnError) {
  EXPECT_FALSE(make_iso9660("cidata", {}));
  EXPECT_FALSE(make_iso9660("A23456789012345678", {}));
  EXPECT_FALSE(make_iso9660("A", {{"a/b", ""}}));
  EXPECT_FALSE(make_iso9660("A", {{"", ""}}));
  EXPECT_FALSE(make_iso9660("A", {{std::string(29, 'a'), ""}}));
  EXPECT_FALSE(make_iso9660("A", {{"a-b", ""}, {"a_b", ""}}));
  EXPECT_FALSE(make_iso9660("A", {{"a", std::string(16 * MiB + 1, ' ')}}));
  std::vector<File> many;
  for (char c = 'a'; c < 'a' + 16; ++c) many.push_back({std::string(28, c), "x"});
  ASSERT_TRUE(make_iso9660("A", many));
  if (have("isoinfo")) {
    std::string list = run("isoinfo", "-f -R -i " + image(many));
    EXPECT_EQ(std::count(list.begin(), list.end(), '\n'), 16);
  }
  many.push_back({"z", ""});
  EXPECT_FALSE(make_iso9660("A", many));
}

TEST_F(Seed, ShortOptionsBecomeCloudConfig) {
  schema::MachineSpec spec;
  spec.ssh_keys = {
      file("k.pub", "ssh-ed25519 AAAA a \"comment\"\\\n\n# remark\necdsa-sha2 BBBB\r\n")};
  spec.hostname = "box.example";
  auto files = *cloud_init_files(spec);
  EXPECT_EQ(content_of(files, "vendor-data"),
            "#cloud-config\nssh_authorized_keys:\n"
            "  - \"ssh-ed25519 AAAA a \\\"comment\\\"\\\\\"\n  - \"ecdsa-sha2 BBBB\"\n");
  EXPECT_THAT(content_of(files, "meta-data"), HasSubstr("local-hostname: \"box.example\"\n"));
  EXPECT_EQ(content_of(files, "user-data"), "#cloud-config\n{}\n");

  spec.user = "ann";
  files = *cloud_init_files(spec);
  EXPECT_THAT(content_of(files, "vendor-data"), HasSubstr("  - name: \"ann\"\n"));
  EXPECT_THAT(content_of(files, "vendor-data"),
              HasSubstr("\n    ssh_authorized_keys:\n      - \"ssh-ed25519"));
}

TEST_F(Seed, OwnFilesGoThereAsTheyAre) {
  schema::MachineSpec spec;
  spec.cloud_init.user_data = file("u", "#!/bin/sh\necho \xff\n");
  spec.cloud_init.meta_data = file("m", "instance-id: mine\n");
  spec.cloud_init.network_config = file("n", "version: 2\n");
  auto files = *cloud_init_files(spec);
  EXPECT_EQ(content_of(files, "user-data"), "#!/bin/sh\necho \xff\n");
  EXPECT_EQ(content_of(files, "meta-data"), "instance-id: mine\n");
  EXPECT_EQ(content_of(files, "network-config"), "version: 2\n");
}

TEST_F(Seed, TheInstanceFollowsFromTheContent) {
  schema::MachineSpec spec;
  auto id = [&] { return content_of(*cloud_init_files(spec), "meta-data").substr(0, 35); };
  spec.ssh_keys = {file("a.pub", "ssh-rsa AAAA\n")};
  std::string first = id();
  EXPECT_EQ(first, id());
  spec.ssh_keys = {file("b.pub", "ssh-rsa AAAA\n")};
  EXPECT_EQ(first, id());  // the path does not matter
  spec.hostname = "h";
  EXPECT_NE(first, id());
  spec.hostname = "";
  spec.cloud_init.user_data = file("u", "x");
  EXPECT_NE(first, id());
}

TEST_F(Seed, MistakesSayWhatToGive) {
  schema::MachineSpec spec;
  std::string secret = file("id", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
  spec.ssh_keys = {secret};
  EXPECT_THAT(error_of(spec), HasSubstr("is a private key"));
  file("id.pub", "ssh-rsa A");
  EXPECT_THAT(error_of(spec), HasSubstr("--ssh-key " + secret + ".pub"));
  spec.ssh_keys = {file("empty", "\n")};
  EXPECT_THAT(error_of(spec), HasSubstr("holds no key"));
  spec.ssh_keys = {file("words", "hello\n")};
  EXPECT_THAT(error_of(spec), HasSubstr("is no public key"));
  spec.ssh_keys = {file("control", "ssh-rsa A\x1b[2J\n")};
  EXPECT_THAT(error_of(spec), HasSubstr("is no public key"));
  spec.ssh_keys = {folder_ + "/none"};
  EXPECT_THAT(error_of(spec), HasSubstr("--ssh-key: cannot open"));
  spec.ssh_keys.clear();
  spec.cloud_init.user_data = folder_ + "/none";
  EXPECT_THAT(error_of(spec), HasSubstr("--cloud-init: user-data: cannot open"));
}

}  // namespace
}  // namespace skerry::seed

// Every field of every State, as text that is checked in: no field of a saved machine changes by
// accident. SKERRY_WRITE_SCHEMA=1 writes the files of schema/ anew.
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "guest_run.hpp"

namespace skerry::state_test {
namespace {

namespace fs = std::filesystem;

/// One of everything.
schema::MachineSpec everything(const fs::path& disk) {
  schema::MachineSpec spec;
  spec.memory.count = 4 * MiB;
  spec.kernel = std::string(TICKER_DIRECTORY) + "/ticker1.bin";
  spec.disks.push_back({disk.string(), schema::DiskFormat::raw, false});
  spec.consoles.push_back({schema::SerialKind::none, ""});
  spec.nets.emplace_back();
  spec.debug_exit = true;
  spec.balloon = true;
  spec.channels = {{"port", disk.string() + ".port"}};
  spec.vsock = {3, disk.string() + ".vsock"};
  return spec;
}

class Schemas : public testing::Test {
 protected:
  void SetUp() override {
    disk_ = fs::temp_directory_path() / fmt::format("skerry-schema-{}", ::getpid());
    std::ofstream(disk_).close();
    fs::resize_file(disk_, MiB);
    auto board = build(everything(disk_), transcript_);
    ASSERT_TRUE(board) << board.error().message();
    board_ = std::move(*board);
  }
  void TearDown() override {
    board_.reset();
    fs::remove(disk_);
  }
  static fs::path file_of(const std::string& section) {
    return fs::path(SCHEMA_DIRECTORY) / (section + ".txt");
  }

  fs::path disk_;
  Transcript transcript_;
  std::unique_ptr<board::Board> board_;
};

TEST_F(Schemas, every_device_is_in_the_image) {
  std::set<std::string> sections;
  for (const auto& device : board_->machine().devices()) {
    state::Image image;
    device->save(image);
    EXPECT_FALSE(image.sections().empty()) << device->name() << " saves nothing";
    for (const auto& [name, section] : image.sections()) {
      EXPECT_TRUE(sections.insert(name).second) << name << " is saved by two devices";
      EXPECT_TRUE(name == device->name() || name.starts_with(device->name() + "."))
          << device->name() << " saves " << name;
      EXPECT_TRUE(section.schema) << name << " has no schema";
    }
  }
  auto image = board_->machine().save();
  ASSERT_TRUE(image);
  for (const std::string& name : sections) EXPECT_TRUE(image->find(name)) << name;
  for (const char* name : {"cpu0", "lapic0", "time", "ram"}) EXPECT_TRUE(image->find(name)) << name;
}

TEST_F(Schemas, are_those_checked_in) {
  auto image = board_->machine().save();
  ASSERT_TRUE(image);
  std::set<fs::path> files;
  for (const auto& [name, section] : image->sections()) {
    if (name == "ram") continue;
    ASSERT_TRUE(section.schema) << name;
    std::string text = fmt::format("version {}\n{}", section.version, section.schema());
    fs::path path = file_of(name);
    files.insert(path);
    if (::getenv("SKERRY_WRITE_SCHEMA")) {
      std::ofstream(path) << text;
      continue;
    }
    std::stringstream old;
    old << std::ifstream(path).rdbuf();
    EXPECT_EQ(text, old.str()) << "The saved state of " << name << " is not what " << path.string()
                               << " says. If that is meant: a field is added with since(n), never "
                                  "renamed or retyped; then run this with SKERRY_WRITE_SCHEMA=1.";
  }
  for (const auto& entry : fs::directory_iterator(SCHEMA_DIRECTORY))
    EXPECT_TRUE(files.contains(entry.path())) << entry.path().string() << " describes nothing";
}

// What one engine writes another must read: nothing in the image may be an engine's own.
TEST_F(Schemas, name_no_engine) {
  auto image = board_->machine().save();
  ASSERT_TRUE(image);
  std::string engine(board_->machine().engine().name());
  for (const auto& [name, section] : image->sections()) {
    EXPECT_EQ(name.find(engine), std::string::npos) << name;
    std::string schema = section.schema ? section.schema() : "";
    EXPECT_EQ(schema.find(engine), std::string::npos) << name;
  }
}

TEST_F(Schemas, what_is_loaded_is_what_was_saved) {
  auto image = board_->machine().save();
  ASSERT_TRUE(image);
  auto loaded = board_->machine().load(*image);
  ASSERT_TRUE(loaded) << loaded.error().message();
  auto again = board_->machine().save();
  ASSERT_TRUE(again);
  EXPECT_EQ(differences_but_time(*image, *again), "");
}

// Each section is refused when a byte of its structure is missing, and then nothing has changed.
TEST_F(Schemas, damaged_sections_are_refused_by_name) {
  auto image = board_->machine().save();
  ASSERT_TRUE(image);
  for (const auto& [name, section] : image->sections()) {
    if (name == "ram" || section.body.empty()) continue;
    state::Image damaged = *image;
    auto body = section.body;
    body.pop_back();
    damaged.put_bytes(name, body, section.version);
    auto loaded = board_->machine().load(damaged);
    ASSERT_FALSE(loaded) << name;
    EXPECT_NE(loaded.error().message().find(name), std::string::npos) << loaded.error().message();
  }
  auto loaded = board_->machine().load(*image);
  EXPECT_TRUE(loaded) << loaded.error().message();
}

}  // namespace
}  // namespace skerry::state_test

#include "guest_run.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/soft/engine.hpp"
#include "tests/test_engine.hpp"

namespace skerry::state_test {

size_t Transcript::count(std::string_view what) const {
  std::lock_guard guard(mutex_);
  size_t n = 0;
  for (size_t at = text_.find(what); at != std::string::npos; at = text_.find(what, at + 1)) ++n;
  return n;
}

Result<std::unique_ptr<board::Board>> build(const schema::MachineSpec& wanted,
                                            Transcript& transcript) {
  schema::MachineSpec spec = wanted;
  spec.engine = test_engine();
  auto board = TRY(board::Board::build(spec, TRY(soft::create_engine()), [&](size_t) {
    return board::LineSink{[&](std::span<const u8> bytes) { transcript.append(bytes); }, [] {}};
  }));
  TRY_VOID(board->machine().power_on());
  return board;
}

std::string differences(const state::Image& a, const state::Image& b,
                        const std::vector<std::string>& ignored) {
  std::string text;
  for (const auto& [name, section] : a.sections()) {
    if (std::ranges::find(ignored, name) != ignored.end()) continue;
    const state::Section* other = b.find(name);
    if (!other) {
      text += fmt::format("section {} is gone\n", name);
    } else if (other->version != section.version || other->body.size() != section.body.size()) {
      text += fmt::format("section {} has version {} and {} bytes, then {} and {}\n", name,
                          section.version, section.body.size(), other->version, other->body.size());
    } else {
      for (size_t i = 0; i < section.body.size(); ++i)
        if (section.body[i] != other->body[i]) {
          text +=
              fmt::format("section {} differs at byte {} of {}\n", name, i, section.body.size());
          break;
        }
    }
  }
  for (const auto& [name, section] : b.sections())
    if (!a.find(name)) text += fmt::format("section {} is new\n", name);
  return text;
}

std::string differences_but_time(const state::Image& a, const state::Image& b) {
  std::vector<std::string> live{"rtc", "acpi_pm", "pit"};
  if (a.find("pit")->body != b.find("pit")->body)
    live.insert(live.end(), {"pic", "ioapic", "lapic0"});
  return differences(a, b, live);
}

Result<> round_trip(const schema::MachineSpec& spec, Transcript& transcript,
                    std::unique_ptr<board::Board>& board) {
  state::Image image = TRY(board->machine().save());
  std::vector<u8> bytes = image.serialize();
  board.reset();
  state::Image parsed = TRY(state::Image::parse(bytes));
  board = TRY(build(spec, transcript));
  TRY_VOID(board->machine().load(parsed));
  state::Image again = TRY(board->machine().save());
  EXPECT_EQ(differences_but_time(image, again), "");
  return {};
}

}  // namespace skerry::state_test

#include "virtio/console.hpp"

namespace skerry::virtio {

namespace {
constexpr u32 kEmergencyWrite = 8;  // 5.3.4: after cols, rows, max_nr_ports
}

Console::Console(std::string name, Sink sink, Size size)
    : name_(std::move(name)), sink_(std::move(sink)) {
  store<u16>(&config_[0], size.columns);
  store<u16>(&config_[2], size.rows);
  store<u32>(&config_[4], 1);
}

void Console::activate(u64, std::span<const std::unique_ptr<Queue>> queues) {
  quiet_ = false;
  input_ = queues[0].get();
  output_ = queues[1].get();
}

// 5.3.5: works before any set-up, one character at a time.
void Console::write_config(u32 offset, std::span<const u8> bytes) {
  if (offset == kEmergencyWrite && !bytes.empty()) sink_(bytes.first(1));
}

size_t Console::receive(std::span<const u8> bytes) {
  size_t taken = std::min(bytes.size(), room());
  state_.pending.append(reinterpret_cast<const char*>(bytes.data()), taken);
  send_input();
  return taken;
}

bool Console::notify(unsigned queue) {
  quiet_ = false;
  if (queue == 1) return take_output();
  bool was_full = room() == 0;
  bool more = send_input();
  if (was_full && room() && has_room) has_room();
  return more;
}

bool Console::send_input() {
  if (!input_ || quiet_) return false;
  // Pending input bounds the loop but for buffers of no length.
  for (unsigned budget = input_->size(); budget > 0; --budget) {
    if (state_.pending.empty()) return false;
    auto chain = input_->pop();
    if (!chain) return false;
    size_t n = chain->write(
        0, {reinterpret_cast<const u8*>(state_.pending.data()), state_.pending.size()});
    state_.pending.erase(0, n);
    chain->complete(n);
  }
  return true;
}

bool Console::take_output() {
  if (!output_) return false;
  for (unsigned budget = output_->size(); budget > 0; --budget) {
    auto chain = output_->pop();
    if (!chain) return false;
    u8 bytes[1024];
    for (size_t at = 0; at < kLongest;) {
      size_t n = chain->read(at, bytes);
      if (n == 0) break;
      sink_({bytes, n});
      at += n;
    }
    chain->complete(0);
  }
  return true;
}

Result<> Console::load(const state::Image& image) {
  State state;
  TRY_VOID(image.get(name_, state));
  if (state.pending.size() > kPending) return fail("{} has too much input in the image", name_);
  state_ = std::move(state);
  return {};
}

}  // namespace skerry::virtio

#include "pci/msix.hpp"

#include <bit>

namespace skerry::pci {

Msix::Msix(unsigned vectors) {
  SKERRY_CHECK(vectors >= 1 && vectors <= 2048);
  state_.table.resize(vectors);
  state_.pending.resize((vectors + 63) / 64);
}

u64 Msix::size() const {
  return std::max<u64>(4096, std::bit_ceil(u64{pba_offset()} + 8 * state_.pending.size()));
}

void Msix::reset() {
  state_ = State{std::vector<Entry>(state_.table.size()), std::vector<u64>(state_.pending.size())};
  control_ = 0;
  master_ = false;
}

bool Msix::fits(const State& state) const {
  return state.table.size() == state_.table.size() && state.pending.size() == state_.pending.size();
}

bool Msix::can_send(unsigned vector) const {
  return master_ && (control_ & kEnable) && !(control_ & kFunctionMask) &&
         !(state_.table[vector].control & 1);
}

void Msix::send(unsigned vector) {
  const Entry& e = state_.table[vector];
  trace(Trace::pci, "msix vector {} -> {:#x}:{:#x} data {:#x}", vector, e.address_high,
        e.address_low, e.data);
  if (sink_) sink_->send({u64{e.address_high} << 32 | (e.address_low & ~3u), e.data});
}

void Msix::trigger(unsigned vector) {
  if (vector >= vectors() || !(control_ & kEnable)) return;
  if (can_send(vector)) {
    send(vector);
  } else {
    state_.pending[vector / 64] |= u64{1} << (vector % 64);
  }
}

// 6.8.2.10: a pending bit is sent as soon as its vector and the function are unmasked.
void Msix::send_unmasked() {
  for (unsigned word = 0; word < state_.pending.size(); ++word) {
    for (u64 left = state_.pending[word]; left; left &= left - 1) {
      unsigned vector = word * 64 + static_cast<unsigned>(std::countr_zero(left));
      if (!can_send(vector)) continue;
      state_.pending[word] &= ~(u64{1} << (vector % 64));
      send(vector);
    }
  }
}

void Msix::set_control(u16 control, bool master) {
  control_ = control;
  master_ = master;
  send_unmasked();
}

u64 Msix::read(u64 offset, unsigned size) {
  auto byte = [&](u64 at) -> u8 {
    if (at < 16 * u64{vectors()}) {
      const Entry& e = state_.table[at / 16];
      const u32 words[4] = {e.address_low, e.address_high, e.data, e.control};
      return static_cast<u8>(words[at % 16 / 4] >> (8 * (at % 4)));
    }
    u64 in_pba = at - pba_offset();
    if (at >= pba_offset() && in_pba < 8 * state_.pending.size())
      return static_cast<u8>(state_.pending[in_pba / 8] >> (8 * (in_pba % 8)));
    return 0;
  };
  u64 value = 0;
  for (unsigned i = 0; i < size; ++i) value |= u64{byte(offset + i)} << (8 * i);
  return value;
}

// Only whole dwords and qwords are defined (6.8.2.6); smaller ones are merged, as most hardware
// does.
void Msix::write(u64 offset, unsigned size, u64 value) {
  for (unsigned i = 0; i < size; ++i) {
    u64 at = offset + i;
    if (at >= 16 * u64{vectors()}) break;  // the PBA is read-only
    Entry& e = state_.table[at / 16];
    u32* words[4] = {&e.address_low, &e.address_high, &e.data, &e.control};
    u32& word = *words[at % 16 / 4];
    unsigned shift = 8 * (at % 4);
    word = (word & ~(0xffu << shift)) | static_cast<u32>((value >> (8 * i)) & 0xff) << shift;
    e.control &= 1;
  }
  send_unmasked();
}

}  // namespace skerry::pci

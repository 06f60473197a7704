// Where a Cpu lives: memory that translated code reaches from one base register.
//
// The Cpu's pages are mapped once per TLB instance, each time with that instance directly behind
// them:   view k = [ ... Cpu ][ Instance k ... ].   The base register holds the address in between:
// (Instances of supervisors are the same in every address space, but have a view in each, so that
// views of one address space are always equally far apart.) What lies below is the Cpu (the same in
// all views), what lies above are the instance's entries.
#pragma once

#include <memory>

#include "engine/soft/cpu.hpp"

namespace skerry::soft {

constexpr u64 kCpuSize = align_up(sizeof(Cpu), 4096),
              kInstanceSize = align_up(sizeof(Instance), 4096);
/// From one instance to the next.
constexpr u64 kViewSize = kCpuSize + kInstanceSize;

class Room {
 public:
  Room();
  ~Room();
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  Cpu& cpu() { return *cpu_; }

 private:
  u8* start_ = nullptr;
  u64 size_ = 0;
  Cpu* cpu_ = nullptr;
};

/// The base register's value for an instance.
inline u64 base_of(const Instance& i) {
  return reinterpret_cast<u64>(&i);
}

}  // namespace skerry::soft

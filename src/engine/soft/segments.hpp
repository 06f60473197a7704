// Descriptors and segment registers (SDM 3A chapters 3.4 and 5): what the loads, far transfers,
// task switches and event delivery share.
#pragma once

#include "engine/soft/access.hpp"

namespace skerry::soft {

/// A descriptor as read from GDT or LDT.
struct Descriptor {
  u64 raw = 0, high = 0;  ///< high: second half of 16-byte system descriptors in long mode
  u64 address = 0;        ///< linear, for the accessed bit

  u8 type() const { return (raw >> 40) & 15; }
  bool is_code_or_data() const { return bit(raw, 44); }
  u8 dpl() const { return (raw >> 45) & 3; }
  bool present() const { return bit(raw, 47); }
  bool is_code() const { return is_code_or_data() && (type() & 8); }
  bool is_data() const { return is_code_or_data() && !(type() & 8); }
  bool conforming() const { return type() & 4; }  ///< of code
  bool writable() const { return type() & 2; }    ///< of data
  bool readable() const { return is_data() || (type() & 2); }
  bool is_long() const { return bit(raw, 53); }
  bool is_big() const { return bit(raw, 54); }
  u32 limit() const {
    u32 l = static_cast<u32>(raw & 0xffff) | (static_cast<u32>(raw >> 32) & 0xf0000);
    return bit(raw, 55) ? (l << 12) | 0xfff : l;
  }
  u64 base() const { return ((raw >> 16) & 0xffffff) | ((raw >> 32) & 0xff000000) | (high << 32); }
  // Gates.
  u16 gate_selector() const { return static_cast<u16>(raw >> 16); }
  u64 gate_offset() const {
    return (raw & 0xffff) | ((raw >> 32) & 0xffff0000) | ((high & 0xffffffff) << 32);
  }
  Segment segment(u16 selector) const {
    return {selector, base(), limit(), static_cast<u32>(raw >> 40) & 0xf0ff};
  }
};

enum class Found : u8 { yes, outside, fault };
/// Reads the descriptor of a non-null selector. outside: beyond its table (nothing is recorded).
/// `wide`: both halves of a 16-byte one.
Found find_descriptor(Cpu& cpu, u16 selector, Descriptor& d, bool wide = false);
/// The same, raising `vector`(selector | ext) when it is outside.
bool need_descriptor(Cpu& cpu, u16 selector, Descriptor& d, u8 vector, u32 ext = 0,
                     bool wide = false);
/// Sets the accessed bit of a code or data descriptor.
bool mark_accessed(Cpu& cpu, Descriptor& d);

/// MOV Sreg, POP Sreg, LDS...: everything from checks to the loaded register. CS is not loaded this
/// way.
bool load_segment(Cpu& cpu, u8 segment, u16 selector);
/// Real and virtual-8086 mode: base from the selector. In virtual-8086 mode the rest is fixed.
void load_real_segment(Cpu& cpu, u8 segment, u16 selector);
/// A stack segment for privilege level `cpl`; faults are `vector`(selector | ext) (#TS during
/// privilege changes, #GP for returns); #SS if not present.
bool check_stack(Cpu& cpu, u16 selector, u8 cpl, Descriptor& d, u8 vector, u32 ext);
void set_segment(Cpu& cpu, u8 segment, const Segment& value);
inline Segment null_segment(u16 selector) {
  return {selector, 0, 0, Segment::kUnusable};
}

/// SS:RSP of an inner privilege level (or IST entry 1-7 in long mode) from the TSS.
bool inner_stack(Cpu& cpu, u8 level, u8 ist, u16& ss, u64& sp, u32 ext);

// ---- far.cpp
enum class Transfer : u8 { jump, call };
/// Far JMP or CALL to selector:offset. `size`: operand size, also of the return address.
Flow far_transfer(Cpu& cpu, Transfer how, u16 selector, u64 offset, u8 size);
Flow far_return(Cpu& cpu, u8 size, u16 release);
Flow interrupt_return(Cpu& cpu, u8 size);

// ---- task.cpp
enum class TaskReason : u8 { jump, call, iret, interrupt };
/// Switches to the task of a TSS selector (already known to be a TSS descriptor or behind a task
/// gate). The outgoing task resumes at `return_rip`. True: cpu is in the new task; an error code is
/// pushed by the caller. Faults of the new task's context are raised inside it.
bool switch_task(Cpu& cpu, u16 selector, TaskReason reason, u64 return_rip, u32 ext);

}  // namespace skerry::soft

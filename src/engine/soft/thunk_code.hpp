// Host code for one guest instruction: storage (CodeArena) and the machine code around it
// (Emitter).
//
// A thunk is a leaf function  u64 thunk(u64* gpr, u8* xsave, void* memory, u64 flags).  It loads
// the registers that the instruction touches from the guest's state, runs the instruction with its
// memory operand replaced by [memory], and stores what it wrote. It never moves the stack pointer
// while the instruction runs, so the signal handler can end it by jumping to the arena's exits.
//
// Code is written through one mapping of a memfd and run through another; no mapping is ever
// writable and executable.
//
// Threading: an arena belongs to one thread (of_this_thread()): building, flushing and running need
// no locks, and a flush cannot pull code from under a running thunk.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/soft/cpu.hpp"

namespace skerry::soft {

using ThunkCode = u64 (*)(u64* gpr, u8* xsave, void* memory, u64 flags);

/// What a thunk returned instead of flags.
constexpr u64 kThunkFpException = u64{1} << 63;   ///< SIGFPE: MXCSR has its flags, nothing else
                                                  ///< changed
constexpr u64 kThunkX87Exception = u64{1} << 61;  ///< a pending x87 exception (#MF)
constexpr u64 kThunkIllegal = u64{1} << 62;       ///< SIGILL: the host does not have it

/// Offsets in the standard-format XSAVE area (SDM 1 13.4; CPUID 0xd on Intel).
namespace area {
constexpr i32 kFcw = 0, kFsw = 2, kFtw = 4, kFop = 6, kFip = 8, kFdp = 16, kMxcsr = 24,
              kMxcsrMask = 28, kSt = 32, kXmm = 160, kHeader = 512, kYmm = 576, kOpmask = 1088,
              kZmmHigh = 1152, kHi16 = 1664;
}
/// All MXCSR bits but the reserved ones (SDM 1 10.2.3).
constexpr u32 kMxcsrMask = 0xffff;
/// What host code runs with.
constexpr u32 kHostMxcsr = 0x1f80;

/// Translated code at [begin, begin + size): SIGFPE and general-protection faults in it go on at
/// `gate`, with the host pc in Cpu::scratch and EFLAGS in Cpu::fault_flags. Any thread.
void register_translated_code(u64 begin, u64 size, u64 gate);
void unregister_translated_code(u64 begin);

/// A growing piece of machine code. Register roles in a thunk: RDI gpr, RSI xsave, R11 memory.
class Emitter {
 public:
  void bytes(std::initializer_list<u8> list) { code_.insert(code_.end(), list); }
  void byte(u8 b) { code_.push_back(b); }
  void dword(u32 v);
  void append(const u8* p, size_t n) { code_.insert(code_.end(), p, p + n); }
  size_t size() const { return code_.size(); }
  const std::vector<u8>& code() const { return code_; }

  void load_gpr(u8 host, u8 guest);   ///< mov host, [rdi + 8 * guest]
  void store_gpr(u8 host, u8 guest);  ///< mov [rdi + 8 * guest], host
  void load_xmm(u8 n);                ///< 128 bits, legacy encoding
  void store_xmm(u8 n);
  void load_vector(u8 n, unsigned size);  ///< 16, 32 or 64 bytes, VEX or EVEX
  /// The whole register up to the host's maximum: an AVX instruction has zeroed what is above.
  void store_vector(u8 n, bool host_avx512);
  void load_mask(u8 n, bool wide);  ///< wide: 64-bit masks (AVX512BW)
  void store_mask(u8 n, bool wide);
  void load_mxcsr() { bytes({0x0f, 0xae, 0x56, area::kMxcsr}); }   ///< ldmxcsr [rsi + 24]
  void store_mxcsr() { bytes({0x0f, 0xae, 0x5e, area::kMxcsr}); }  ///< stmxcsr [rsi + 24]
  void fxrstor() { bytes({0x48, 0x0f, 0xae, 0x0e}); }              ///< fxrstor64 [rsi]
  void fxsave() { bytes({0x48, 0x0f, 0xae, 0x06}); }
  void fninit() { bytes({0xdb, 0xe3}); }
  void vzeroupper() { bytes({0xc5, 0xf8, 0x77}); }

 private:
  void vex(u8 map, u8 pp, bool w, u8 vvvv, bool l, u8 reg, u8 opcode, i32 disp);
  void evex(u8 map, u8 pp, bool w, u8 vvvv, u8 reg, u8 opcode, i32 disp);
  void operand(u8 reg, u8 base, i32 disp);
  std::vector<u8> code_;
};

class CodeArena {
 public:
  /// Created on first use. Null: the host gives no executable memory (the reason was logged).
  static CodeArena* of_this_thread();
  ~CodeArena();

  /// Copies code in, followed by restoring MXCSR (if the thunk loads it, as x87 thunks do) and the
  /// return; null if the arena is full: flush() and build again. x87: between FXRSTOR and FXSAVE.
  ThunkCode add(const Emitter& code, bool mxcsr, bool x87);
  /// Changes at every flush and is never the same for two arenas: what was built under another
  /// generation must not be run.
  u64 generation() const { return generation_; }
  void flush();

 private:
  CodeArena() = default;
  bool map();
  u8* write_ = nullptr;
  u8* run_ = nullptr;
  size_t used_ = 0;      ///< ordinary thunks grow up
  size_t x87_from_ = 0;  ///< x87 thunks grow down
  std::atomic<u64>* published_x87_from_ = nullptr;
  u64 generation_ = 0;
};

}  // namespace skerry::soft

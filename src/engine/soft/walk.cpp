// Page walks (SDM 3A chapter 4): 32-bit, PAE and 4-level paging, with permissions, reserved bits,
// error codes and atomic accessed/dirty updates. Nothing is cached here. 5-level paging and
// protection keys are not offered.
#include "engine/soft/core.hpp"

namespace skerry::soft {
namespace {

enum Pte : u64 {
  kPresent = 1,
  kWritable = 2,
  kUser = 4,
  kAccessed = 0x20,
  kDirty = 0x40,
  kLarge = 0x80,
  kGlobal = 0x100,
  kNoExecute = u64{1} << 63,
};
constexpr u32 kProtection = 1, kWrite = 2, kUserMode = 4, kReserved = 8, kFetch = 16;  // error code

constexpr u64 kAddress = 0x000f'ffff'ffff'f000;
constexpr u64 kCr0Wp = 1 << 16, kCr0Pg = u64{1} << 31;
constexpr u64 kCr4Pse = 1 << 4, kCr4Pae = 1 << 5, kCr4Pge = 1 << 7, kCr4Smep = 1 << 20,
              kCr4Smap = 1 << 21;
constexpr u64 kEferNxe = 1 << 11;

struct Entry {
  u64 at;
  u64 value;
};

// Sets bits in a page-table entry if it is still what was read. False: it changed, walk again.
bool update(Cpu::Core& core, const Entry& e, u64 set, u32 size) {
  if ((e.value & set) == set) return true;
  Cpu::Core::Page p = core.page(e.at);
  if (!p.host || !p.writable) return true;  // tables in ROM keep their bits
  u8* at = p.host + (e.at & 0xfff);
  bool done;
  if (size == 8) {
    u64 old = e.value;
    done = __atomic_compare_exchange_n(reinterpret_cast<u64*>(at), &old, e.value | set, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
  } else {
    u32 old = static_cast<u32>(e.value);
    done = __atomic_compare_exchange_n(reinterpret_cast<u32*>(at), &old,
                                       static_cast<u32>(e.value | set), false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
  }
  if (done) core.memory.dirty().mark(p.offset + (e.at & 0xfff), size);
  return done;
}

}  // namespace

bool Cpu::Core::load_pdptrs(u64 cr3) {
  std::array<u64, 4> entries;
  u64 reserved = ~shared.physical_mask | 0x1e6;
  for (unsigned i = 0; i < 4; ++i) {
    entries[i] = read_physical((cr3 & 0xffff'ffe0) + 8 * i, 8);
    if ((entries[i] & kPresent) && (entries[i] & reserved)) return false;
  }
  pdptr = entries;
  return true;
}

bool Cpu::Core::walk(u64 linear, Use use, bool user, bool system, bool touch, Walk& out,
                     u32& error) {
  const machine::CpuState& s = cpu.s;
  out = Walk{};
  if (!(s.cr0 & kCr0Pg)) {
    out.gpa = linear & shared.physical_mask;
    return true;
  }
  const bool pae = s.cr4 & kCr4Pae, long_mode = cpu.long_mode;
  const bool nxe = (s.efer & kEferNxe) && pae;
  const u32 entry_size = pae ? 8 : 4;
  error = (use == Use::write ? kWrite : 0) | (user ? kUserMode : 0) |
          (use == Use::execute && (nxe || (s.cr4 & kCr4Smep)) ? kFetch : 0);

  u64 reserved = 0;  // in every entry
  if (pae) {
    reserved = ~shared.physical_mask & (long_mode ? kAddress : 0x7fff'ffff'ffff'f000);
    if (!nxe) reserved |= kNoExecute;
  }

  // Another vCPU may change the tables under us; a bounded number of new attempts, then what was
  // read counts without its accessed bits.
  for (unsigned attempt = 0;; ++attempt) {
    Entry path[4];
    unsigned depth = 0;
    bool writable = true, user_page = true, execute = true;
    u64 table;
    unsigned shift;
    if (long_mode) {
      table = s.cr3 & kAddress;
      shift = 39;
    } else if (pae) {
      u64 e = pdptr[(linear >> 30) & 3];
      if (!(e & kPresent)) return false;
      table = e & kAddress;
      shift = 21;
    } else {
      table = s.cr3 & 0xffff'f000;
      shift = 22;
    }
    u64 e;
    u64 page_reserved = 0;
    for (;;) {
      u64 index = pae ? (linear >> shift) & 0x1ff : (linear >> shift) & 0x3ff;
      Entry& at = path[depth++];
      at.at = (table & shared.physical_mask) + index * entry_size;
      if (shared.setup.trace_tables) trace_table(page(at.at));
      e = read_physical(at.at, entry_size);
      if (!pae) e &= 0xffff'ffff;
      at.value = e;
      if (!(e & kPresent)) return false;
      bool leaf = shift == 12;
      if (!leaf && (e & kLarge)) {
        if (!pae) {
          leaf = s.cr4 & kCr4Pse;
        } else if (shift <= 30) {
          leaf = true;  // 2 MiB and 1 GiB
        } else {
          page_reserved = kLarge;
        }
        if (leaf) {
          // PAT (bit 12) aside, the address bits below the page are reserved; PSE-36 puts address
          // bits 39:32 into 20:13 (SDM 3A table 4-4).
          if (pae)
            page_reserved = ((u64{1} << shift) - 1) & ~u64{0x1fff};
          else
            page_reserved = (0x3fe000 & ~((shared.physical_mask >> 32 & 0xff) << 13)) | 0x200000;
        }
      }
      if (e & (reserved | page_reserved)) {
        error |= kProtection | kReserved;
        return false;
      }
      writable &= (e & kWritable) != 0;
      user_page &= (e & kUser) != 0;
      execute &= !(e & kNoExecute) || !nxe;
      if (leaf) break;
      table = e & (pae ? kAddress : 0xffff'f000);
      shift -= pae ? 9 : 10;
    }

    bool allowed;
    if (user) {
      allowed = user_page && (use != Use::write || writable) && (use != Use::execute || execute);
    } else {
      allowed =
          (use != Use::write || writable || !(s.cr0 & kCr0Wp)) && (use != Use::execute || execute);
      if (user_page && use == Use::execute && (s.cr4 & kCr4Smep)) allowed = false;
      if (user_page && use != Use::execute && (s.cr4 & kCr4Smap) && (system || !(cpu.rflags & AC_)))
        allowed = false;
    }
    if (!allowed) {
      error |= kProtection;
      return false;
    }

    if (touch) {
      bool same = true;
      for (unsigned i = 0; i < depth && same; ++i) {
        u64 set = kAccessed;
        if (i + 1 == depth && use == Use::write) set |= kDirty;
        same = update(*this, path[i], set, entry_size);
      }
      if (!same && attempt < 64) {
        error &= ~(kProtection | kReserved);
        continue;
      }
    }

    u64 offset_mask = (u64{1} << shift) - 1;
    u64 base = pae ? e & kAddress : e & 0xffff'f000;
    if (!pae && shift == 22) base = (e & 0xffc0'0000) | ((e >> 13 & 0xff) << 32);
    out.gpa = (((base & ~offset_mask) | (linear & offset_mask))) & shared.physical_mask;
    out.shift = shift;
    out.writable = writable || (!user && !(s.cr0 & kCr0Wp));
    out.user = user_page;
    out.execute = execute;
    out.global = (e & kGlobal) && (s.cr4 & kCr4Pge);
    out.dirty = (e & kDirty) || use == Use::write;
    return true;
  }
}

}  // namespace skerry::soft

// Jit: runs one vCPU's guest code as translated host code, and keeps that code.
//
// Translated code (translator.hpp) runs with guest registers in host registers. It leaves through
// *gates*: short pieces of code that put the registers into the Cpu, call a function of this class
// on the ordinary stack, and go on where that function says. Every gate but the one that leaves may
// come back: a TLB miss is filled and tried again, an instruction that is not translated is run by
// the interpreter's handler, a jump is linked to its target.
//
// A block is valid while the bytes it came from are watched and unchanged (block.hpp). When its
// page is written its first bytes are replaced by a jump to a gate, so that whoever is linked to it
// ends up there; if the bytes turn out unchanged they are put back.
//
// The code cache is a ring of regions. A region has everything that belongs to its blocks: their
// code, and its part of each table (regional.hpp). When the region that is being filled is full the
// oldest one is *evicted*: its blocks are no longer found, jumps of other regions into it are
// undone, jump tables forget it; then it is filled anew (jit_cache.cpp).
//
// Each vCPU has its own code: no locks, no cross-modification. All of this belongs to the vCPU's
// thread; other threads only post the pages whose code was written (Core::code_pages).
#pragma once

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/soft/assembler.hpp"
#include "engine/soft/core.hpp"
#include "engine/soft/regional.hpp"

namespace skerry::soft {

class Translator;

struct Decoded {
  isa::Insn insn;
  Op op;
};

/// Of a block, a link...: none.
constexpr u32 kNone = ~u32{0};

/// A place in translated code that may call C++ about one guest instruction.
struct Site {
  u32 block;
  u32 retry, after;  ///< offsets in the code cache; after 0: the block does not go on
  u16 at;            ///< of the instruction in its page
  u16 size;          ///< bytes checked
  u8 length;         ///< of the instruction
  bool write;
  u8 count;             ///< instructions of the block before this one
  bool group;           ///< checks for accesses that follow as well
  u32 other = kNone;    ///< block that was the same from here on without groups (Jit::other_of)
  u32 decoded = kNone;  ///< what the interpreter runs, once it has
  /// Of a copied instruction: where the operand's host address is kT0 (+ kT1) or, if `biased`, the
  /// guest's address + kT1. Else 0.
  u32 checked = 0;
  bool biased = false;
};

/// A direct jump to another block in the same page, not yet or already linked.
struct Link {
  u32 block;
  u32 jump;                            ///< offset of its rel32 in the code cache
  u16 target;                          ///< offset in the page
  u8 count;                            ///< instructions of the block that were executed
  bool in_slot = false;                ///< Cpu::saved_flags hold the flags, not EFLAGS
  u32 to = kNone;                      ///< the block that it is linked to
  u32 stub = 0;                        ///< offset of what it jumps to while it is not
  u32 next = kNone, previous = kNone;  ///< links to the same block
};

/// Checks that a jump goes to the one address that it is for (Jit::key_of), and leads to a block:
/// what jump tables hold.
struct JumpEntry {
  u64 key;
  u32 block;   ///< kNone: gone
  u32 code;    ///< offset in the cache
  u32 next;    ///< of the same block
  bool leads;  ///< lies in front of the block and falls through into it
};

struct JitBlock {
  u64 gpa = ~u64{0};
  u32 mode = 0;
  u32 version = 0;
  memory::PageDescriptor* page = nullptr;
  u32 code = 0;  ///< offset of the host code in the cache
  u32 code_bytes = 0, hot_bytes = 0;
  u32 guest = 0;  ///< offset of the guest's bytes in Jit::bytes_
  u16 bytes = 0, count = 0;
  u16 page_offset = 0;       ///< of the first byte
  u16 entry = 0;             ///< where the code starts when vector registers are live
  bool vectors = false;      ///< uses vector registers
  bool wants_flags = false;  ///< `table` loads EFLAGS; else it is a NOP of five bytes
  /// The first bytes at each of its entries (`code`, `code + entry`, `table`) are a jump to a gate.
  bool stale = false;
  u8 head[5] = {}, vector_head[5] = {};  ///< what they were
  u32 table = 0;             ///< where jump tables lead to: the flags are in Cpu::saved_flags
  u32 stale_table_stub = 0;  ///< offset in the cache
  u32 stale_stub = 0;        ///< offset in the cache
  // A block of one instruction that crosses into a second page. Its code compares the TLBs' epoch
  // with the one under which that page was last looked at.
  u64 gpa2 = ~u64{0};
  memory::PageDescriptor* page2 = nullptr;
  u32 version2 = 0;
  u32 epoch = 0;        ///< offset in the cache of the 32-bit epoch, negated
  u32 chain = kNone;    ///< next with the same hash
  u32 peer = kNone;     ///< next in the same page
  u32 in_page = kNone;  ///< that page (of the memfd), if it is listed there
  u32 links = kNone;    ///< links to it
  u32 entries = kNone;  ///< its JumpEntries
};

/// Host instructions that may fault by themselves (divisions, vector instructions).
struct NativeFault {
  u32 host;  ///< offset in the cache
  u32 block;
  u16 at;  ///< guest instruction in its page
  u8 length;
  u8 count;         ///< instructions of the block before this one
  bool flags_live;  ///< EFLAGS hold the guest's (else Cpu::saved_flags do)
  u32 decoded = kNone;
};

class Jit {
 public:
  /// Null: the host gives no executable memory (the reason was logged).
  static std::unique_ptr<Jit> create(Cpu::Core& core);
  ~Jit();

  /// Whether the current mode is translated at all.
  bool suits() const;
  /// Runs guest code until something other than code wants attention. Cpu state is exact before and
  /// after.
  void run();
  /// The code of this page (offset in the memfd) was written.
  void page_written(u64 page);
  /// Forgets all code.
  void flush();

  struct Counters {
    u64 translated_blocks = 0, translated_instructions = 0, translation_ticks = 0, code_bytes = 0;
    u64 entries = 0, dispatches = 0, jump_refills = 0, links = 0, flushes = 0, stale_blocks = 0,
        revalidated = 0;
    u64 found_blocks = 0, evictions = 0, evicted_blocks = 0, unlinks = 0;
    u64 tlb_refills = 0, tlb_fills = 0, slow_accesses = 0, loads_across = 0, interpreted = 0,
        unmerged = 0, vector_loads = 0, vector_saves = 0;
    u64 faults = 0;
  } counters;
  /// How often the interpreter stood in, by isa::Sem.
  std::vector<u64> interpreted_by_sem;
  /// Appends what was counted, for people.
  void report(std::vector<machine::Counter>& all) const;

  static constexpr u32 kMostInsns = 48;  ///< in a block
  static constexpr u64 kDefaultCache = 64 * MiB, kLeastCache = 128 * KiB, kMostCache = 1024 * MiB;

 private:
  friend class Translator;
  explicit Jit(Cpu::Core& core);
  bool map();
  void make_gates();
  void open_perf_map();
  u32 mode_word() const;
  u32 narrow_mode() const;  ///< its bits of code that is not 64-bit

  // ---- RIP and linear addresses. Code that is not 64-bit is *segmented* if they differ, or if it
  // may run into its segment's end. A jump table has one 64-bit key for each address: RIP, and
  // above its 32 bits the number of the code segment's place (base and limit), 0 if it is not
  // segmented.
  bool segmented() const {
    const Segment& c = cpu_.seg[machine::cs];
    return !cpu_.flat &&
           (cpu_.code_bits == 16 || cpu_.seg_base[machine::cs] != 0 || c.limit != 0xffff'ffff);
  }
  u64 linear_of(u64 rip) const {
    return cpu_.flat ? rip : (cpu_.seg_base[machine::cs] + rip) & 0xffff'ffff;
  }
  u64 rip_of(u64 key) const { return cpu_.flat ? key : static_cast<u32>(key); }
  u64 key_of(u64 rip) const { return segmented() ? rip + cpu_.code_key : rip; }
  /// RIP at an offset in the page that translated code runs in.
  u64 rip_at(u32 offset) const { return rip_of(cpu_.code_page + offset); }
  void enter_page(u64 rip) { cpu_.code_page = rip - (linear_of(rip) & 0xfff); }
  bool window(u64 rip, u32& mode) const;
  void choose_code_key();
  u64 last_place_ = 0;                       ///< base and limit that Cpu::code_key is for
  std::unordered_map<u64, u64> place_keys_;  ///< all of them
  static constexpr size_t kMostPlaces = 4096;
  u64 next_key_ = 1;
  /// `count` instructions of the running block have ended (exact mode).
  void account(u32 count) {
    if (!exact_) return;
    if (count > counted_) core_.mid_repeat = false;  // one that gave way before has ended
    core_.instructions += count - counted_;
    counted_ = count;
  }

  // ---- what gates call. They return where translated code goes on, null to leave. Those that are
  // static see the guest's vector registers in the host's and are compiled for that (refill.cpp);
  // the others run after leave_vectors(), which keeps them.
  template <u8* (Jit::*what)(u32)>
  static u8* gate(Cpu* cpu, u64 n);
  static u8* gate_slow(Cpu* cpu, u64 site);
  static u8* gate_dispatch(Cpu* cpu, u64 target);
  static u8* gate_iret(Cpu* cpu, u64 site);
  bool fast_iret(u32 site, u8*& to);
  // returns_narrow.cpp: the same for what flat 32-bit code does
  template <bool (Jit::*what)(u32, u8*&)>
  static u8* narrow_gate(Cpu* cpu, u64 n);
  bool narrow_iret(u32 site, u8*& to);
  bool narrow_sysenter(u32 site, u8*& to);
  bool narrow_sysexit(u32 site, u8*& to);
  bool narrow_segment(u32 site, u8*& to);
  bool narrow_descriptor(u16 selector, u64& raw) const;
  bool narrow_target(u8 level, u64 flags, Instance*& to) const;
  u8* narrow_enter(u32 site, u8 level, u32 eip, Instance& to);
  u8* refill(u32 site);  ///< null if that does not help
  bool quick_walk(u64 at, bool write);
  /// What dispatch() comes to where nothing has to be made; else null.
  u8* quick_dispatch(u64 key);
  u8* store_to_table(const Site& s, u64 offset, u64 host_page);
  /// Registers with which a site goes on behind its check, its operand at `host`.
  void resume_at(const Site& site, u64 host);
  u8* load_across(const Site& site);  ///< a load from two pages, if the TLB has both
  /// Where the same without groups goes on, null if that has to be found.
  u8* other_of(const Site& site) const;
  u8* slow(u32 site);       ///< an access missed; its address is in Cpu::scratch
  u8* interpret(u32 site);  ///< an instruction for the interpreter
  u8* link(u32 index);      ///< an unlinked direct jump
  u8* dispatch(u64 key);    ///< an indirect jump that found nothing
  u8* stop(u32 site);       ///< somebody wants attention; before the site's instruction
  u8* bad_target();
  u8* stale(u32 block);  ///< a block whose page was written
  u8* load_vectors(u32 block);
  u8* native_fault(u32);

  /// From Cpu state: where to go on, null to leave.
  u8* resume(u32 variant = 0);
  u8* unmerged(u32 site);
  u8* run_one(u32 site) { return run_one(sites_[site], sites_[site].decoded); }
  u8* run_one(Site site, u32& decoded);  ///< by the interpreter's handler
  JitBlock* find(u64 rip, u32 variant = 0);
  JitBlock* translate(u64 gpa, u64 rip, u32 mode);
  bool revalidate(JitBlock& block);
  void make_stale(JitBlock& block);
  /// Where a linked jump to `to` may go.
  u32 direct_entry(const Link& link, const JitBlock& to) const {
    if (link.in_slot) return to.table;
    const bool loaded = blocks_[link.block].vectors && to.vectors && to.gpa2 == ~u64{0};
    return to.code + (loaded ? to.entry : 0);
  }
  /// Never found or jumped to again.
  void retire(JitBlock& block);

  // ---- the cache (jit_cache.cpp)
  void set_size(u64 bytes);
  u32& bucket_of(u64 gpa, u32 mode) {
    const u64 hash = ((gpa ^ (u64{mode} << 52)) * 0x9e3779b97f4a7c15) >> 40;
    return buckets_[hash & (buckets_.size() - 1)];
  }
  void open(u32 region);
  void next_region();
  void evict(u32 region);
  void forget_jumps(u32 region);
  void leave_page_list(const JitBlock& block, u32 region);
  void link_to(u32 link, u32 block);
  void unlink(u32 link);  ///< it leads to its stub again
  u8* byte_of(JitBlock& block, u32 at);
  u32 jumps_to(const Link& link);
  void lead_to(const Link& link, u32 target);
  void detach(u32 link);  ///< from the list of the block that it is linked to
  /// Whether a region is still what it was.
  struct Held {
    u32 region, generation;
  };
  Held hold(u32 region) const { return {region, generation_[region]}; }
  bool still(Held h) const { return generation_[h.region] == h.generation; }
  u32 region_start(u32 region) const { return first_block_at_ + region * region_size_; }
  u32 region_end() const { return region_start(region_) + region_size_; }
  u64 cache_bytes() const;  ///< of code
  u64 table_bytes() const;
  static constexpr u32 kGateRoom = 4096, kEntryRoom = 64, kMostEntries = 16;
  const Op* decode(const Site& site, u32& decoded);
  /// Whether the second page of a crossing block is still what it was; if so its code runs.
  bool crosses_well(JitBlock& block, u64 linear);
  std::optional<u64> second_page(u64 linear);
  u8* entry_for(u64 key, JitBlock& block);
  void emit_entry(Assembler& a, u64 key, const JitBlock& block, u32 place);
  bool entry_fits() const { return used_ + kEntryRoom <= region_end() && !entries_.full(); }
  static constexpr u32 kLow = 7, kHigh = 0xe0;  ///< vector components by where they are kept
  /// Puts live vector registers away, for ordinary C++ to run.
  void leave_vectors();
  void vectors_saved();
  /// Translated code that uses vector registers is where it goes on.
  void want_vectors();
  /// The last thing before translated code: loads them if they are wanted. Returns `to`.
  u8* enter_vectors(u8* to);
  void flags_to_cpu();
  void flags_from_cpu();

  u8* run_at(u32 offset) const { return run_ + offset; }
  u8* write_at(u32 offset) const { return write_ + offset; }
  u32 offset_of(const u8* host) const { return static_cast<u32>(host - run_); }
  void patch_jump(u32 at, u32 target);

  mutable std::vector<std::string> interpreted_names_;  ///< of the counters
  Cpu::Core& core_;
  Cpu& cpu_;
  u8 *write_ = nullptr, *run_ = nullptr;
  std::FILE* perf_map_ = nullptr;
  u32 found_ = 0;              ///< the block that resume() found last
  Assembler lead_;             ///< of entries
  u64 entered_at_ = kNowhere;  ///< where a jump table will lead: a new block gets its entry there
  u32 used_ = 0;               ///< where the next block's code goes
  u32 first_block_at_ = 0;     ///< behind the gates
  std::unique_ptr<Translator> translator_;

  // Offsets of the gates.
  struct GateTable {
    u32 enter, resume, slow, interpret, link, link_live, dispatch, stop, stop_live, stale,
        stale_live, load_vectors, native_fault, iret, sysenter, sysexit, segment;
  } gate_{};

  static constexpr u32 kNoBlock = kNone;
  static constexpr u64 kNowhere = ~u64{0};
  u64 size_ = 0;  ///< of the cache
  u32 regions_ = 0, region_size_ = 0;
  u32 region_ = 0;                              ///< that is being filled
  u32 evicting_ = 0;                            ///< counts evictions, for PageBlocks::seen
  std::array<u32, kMostRegions> generation_{};  ///< changes with eviction
  std::array<u32, kMostRegions> filled_{};      ///< bytes of code, of those filled earlier
  std::vector<u32> buckets_;
  struct PageBlocks {
    u32 first = kNone, seen = 0;
  };
  std::unordered_map<u64, PageBlocks> pages_;  ///< page of the memfd -> its blocks
  Regional<JitBlock> blocks_;
  Regional<Site> sites_;
  Regional<Link> links_;
  Regional<NativeFault> faults_;
  Regional<u8> bytes_;
  Regional<Decoded> decoded_;
  Regional<JumpEntry> entries_;
  Decoded spare_decoded_;
  /// Deterministic runs (deterministic.hpp): blocks are not linked, instructions are counted.
  bool exact_ = false;
  u32 counted_ = 0;  ///< instructions of the running block that are in Core::instructions
  u64 start_ = 0;    ///< position when run() began
  struct HighVectors;
  std::unique_ptr<HighVectors> high_;
  u8* const high_area_;
  const u64 vector_components_;  ///< that there are
  bool vectors_wanted_ = false;
  /// Guest ticks (Core::ticks) are the host's plus tick_offset_, if plain_ticks_.
  void measure_ticks();
  u64 tick_offset_ = 0;
  bool plain_ticks_ = false;
  u64 fip_ = 0;                  ///< x87 instruction pointer as it was loaded
  bool vectors_unknown_ = true;  ///< which vector components are in use has to be found out
};

}  // namespace skerry::soft

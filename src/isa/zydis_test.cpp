// The decoder against Zydis: validity, length, mnemonic, explicit operands, flags, over enumerated
// encodings and over the code of libraries on this machine. SKERRY_ISA_SWEEP=1 enumerates more.
// kKnown lists where we differ on purpose, with the reason.
#ifdef SKERRY_ZYDIS

#include <Zydis/Zydis.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <random>
#include <set>

#include "isa/disassemble.hpp"
#include "isa/row.hpp"

namespace skerry::isa {
namespace {

using std::string;

// Disagreements on purpose: the key (or its beginning and *), and the reason.
const std::map<string, string> kKnown = {
    {"flags changed: mov",
     "MOV to and from debug registers leaves the status flags undefined (SDM 2B)"},
    {"bsf operand 0: access", "a zero source leaves the destination as it was"},
    {"bsr operand 0: access", "a zero source leaves the destination as it was"},
    {"name: xchg / pause", "F3 41 90 exchanges on real processors (tried)"},
    {"only ours: vcvtsi2sd", "W is ignored outside 64-bit mode"},
    {"only ours: vcvtusi2sd", "W is ignored outside 64-bit mode"},
    {"only theirs: sys*", "SYSCALL and SYSRET outside 64-bit mode are AMD's; Intel: #UD"},
    {"flags changed: vptest", "Zydis omits the flags that are cleared"},
    {"flags changed: vtest*", "Zydis omits the flags that are cleared"},
    {"flags changed: vmcall", "a hypercall changes no flag here"},
    {"flags read: cmps*", "Zydis adds the repeat condition's ZF"},
    {"flags read: scas*", "Zydis adds the repeat condition's ZF"},
    {"jmp operand 0: segment", "3E is NOTRACK only with CET"},
    {"call operand 0: segment", "3E is NOTRACK only with CET"},
    {"lea operand 1: segment", "LEA has no segment"},
    {"lsl operand 1: size", "a selector is 16 bits"},
    {"movsxd operand 1: size", "SDM 2B: MOVSXD r16, r/m16"},
    {"nop*", "reserved NOPs have no operands to speak of"},
    {"name: nop / bnd*", "without MPX these are reserved NOPs"},
    {"only ours: nop", "0F 1B with an address form that only MPX refuses"},
    {"operand count: nop", "without MPX these are reserved NOPs"},
    {"ud0 operand*", "never executed"},
    {"ud1 operand*", "never executed"},
    {"name: wbnoinvd*", "Zydis decodes the pre-WBNOINVD meaning"},
    {"name: fndisi*", "8087's no-op"},
    {"name: fneni*", "8087's no-op"},
    {"name: fsetpm*", "80287's no-op"},
    {"name: fstp / fstpnce", "alias"},
    {"name: rdssp*", "a NOP without CET; Zydis has a name by size"},
    {"name: wait*", "alias"},
    {"operand count: f*", "Zydis hides ST0 of some x87 instructions"},
    {"operand count: clzero", "our rAX is implicit"},
};

// Extensions that no Skerry guest is offered, so their opcodes are #UD.
const std::set<string> kAbsent = {
    "KEYLOCKER", "KEYLOCKER_WIDE", "SVM",     "VTX",   "VMFUNC", "SGX",       "SGX_ENCLV",
    "CET",       "UINTR",          "ENQCMD",  "SMX",   "HRESET", "AMD3DNOW",  "SNP",
    "PADLOCK",   "PCONFIG",        "MCOMMIT", "RDPRU", "TDX",    "TSX_LDTRK", "AMD_INVLPGB",
    "PT",        "AMX_TILE",       "XOP",     "KNC",   "KNCE",   "KNCV",      "AMX_BF16",
    "AMX_INT8",  "FMA4",           "TBM",     "LWP",   "MPX"};

class Oracle {
 public:
  explicit Oracle(unsigned bits, bool real = false) : bits_(bits), real_(real) {
    auto mode = bits == 64   ? ZYDIS_MACHINE_MODE_LONG_64
                : bits == 32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                             : ZYDIS_MACHINE_MODE_LEGACY_16;
    auto width = bits == 64   ? ZYDIS_STACK_WIDTH_64
                 : bits == 32 ? ZYDIS_STACK_WIDTH_32
                              : ZYDIS_STACK_WIDTH_16;
    ZydisDecoderInit(&decoder_, real ? ZYDIS_MACHINE_MODE_REAL_16 : mode, width);
  }

  /// Compares one decoding; counts a disagreement under a short key.
  void check(std::span<const u8> bytes);

  unsigned bits_;
  bool real_;
  ZydisDecoder decoder_;
  u64 total = 0;
  struct Disagreement {
    u64 count = 0;
    string example;
  };
  std::map<string, Disagreement> disagreements;

  /// The length that Zydis saw, 1 if it saw nothing.
  unsigned length = 1;

 private:
  void differ(const string& what, std::span<const u8> bytes, const string& detail = "");
  void operands(std::span<const u8> bytes, const Insn& insn, const string& name);
  void flags(std::span<const u8> bytes, const Insn& insn, const string& name);

  ZydisDecodedInstruction z_;
  ZydisDecodedOperand zo_[ZYDIS_MAX_OPERAND_COUNT];
};

void Oracle::differ(const string& what, std::span<const u8> bytes, const string& detail) {
  Disagreement& d = disagreements[what];
  if (d.count++ == 0) {
    d.example = fmt::format("{}-bit:", bits_);
    for (u8 b : bytes.first(std::min<size_t>(bytes.size(), 12)))
      d.example += fmt::format(" {:02x}", b);
    if (!detail.empty()) d.example += " (" + detail + ")";
  }
}

/// Our names in Zydis's dialect.
string zydis_name(const Insn& insn) {
  string s = mnemonic(insn);
  const Row& row = row_of(insn);
  if (row.opcode_bits == 4) {
    static const char* const kTheirs[] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe",
                                          "s", "ns", "p", "np", "l", "nl", "le", "nle"};
    s = string(row.names) + kTheirs[insn.condition];
  }
  if (s == "retf") s = "ret";
  if (s == "call far") s = "call";
  if (s == "jmp far") s = "jmp";
  return s;
}

void Oracle::check(std::span<const u8> bytes) {
  ++total;
  bool theirs =
      ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, bytes.data(), bytes.size(), &z_, zo_));
  Insn insn;
  bool ours = decode(bytes, {static_cast<u8>(bits_), !real_}, insn) == DecodeStatus::ok;
  length = theirs ? z_.length : 1;
  if (!theirs && !ours) return;
  string name = ours ? zydis_name(insn) : "";
  if (ours != theirs) {
    if (ours) return differ("only ours: " + name, bytes);
    string set = ZydisISASetGetString(z_.meta.isa_set);
    for (const char* absent : {"AVX512ER", "AVX512PF", "AVX512_4", "AVX512_FP16"})
      if (set.starts_with(absent)) return;
    if (kAbsent.contains(ZydisISAExtGetString(z_.meta.isa_ext))) return;
    return differ(fmt::format("only theirs: {} [{}]", ZydisMnemonicGetString(z_.mnemonic),
                              ZydisISAExtGetString(z_.meta.isa_ext)),
                  bytes);
  }
  string their_name = ZydisMnemonicGetString(z_.mnemonic);
  if (name != their_name) return differ("name: " + name + " / " + their_name, bytes);
  if (insn.length != z_.length)
    return differ("length: " + name, bytes, fmt::format("{} / {}", insn.length, z_.length));
  if (insn.cls != Class::string || !insn.op[0].implicit) operands(bytes, insn, name);
  flags(bytes, insn, name);
}

OperandKind kind_of(ZydisRegisterClass c) {
  switch (c) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return OperandKind::gpr;
    case ZYDIS_REGCLASS_X87: return OperandKind::st;
    case ZYDIS_REGCLASS_MMX: return OperandKind::mmx;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM: return OperandKind::vector;
    case ZYDIS_REGCLASS_SEGMENT: return OperandKind::segment;
    case ZYDIS_REGCLASS_CONTROL: return OperandKind::control;
    case ZYDIS_REGCLASS_DEBUG: return OperandKind::debug;
    case ZYDIS_REGCLASS_MASK: return OperandKind::mask;
    default: return OperandKind::none;
  }
}

void Oracle::operands(std::span<const u8> bytes, const Insn& insn, const string& name) {
  const Row& row = row_of(insn);
  std::vector<const ZydisDecodedOperand*> theirs;
  for (unsigned i = 0; i < z_.operand_count_visible; ++i)
    // The write mask of EVEX is Insn::evex_aaa, not an operand.
    if (zo_[i].encoding != ZYDIS_OPERAND_ENCODING_MASK) theirs.push_back(&zo_[i]);
  if (theirs.size() != row.explicit_operands)
    return differ("operand count: " + name, bytes,
                  fmt::format("{} / {}", row.explicit_operands, theirs.size()));
  for (unsigned i = 0; i < theirs.size(); ++i) {
    const Operand& o = insn.op[i];
    const ZydisDecodedOperand& t = *theirs[i];
    string which = fmt::format("{} operand {}", name, i);
    bool reads = (t.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    bool writes = (t.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    switch (t.type) {
      case ZYDIS_OPERAND_TYPE_REGISTER: {
        ZydisRegisterClass c = ZydisRegisterGetClass(t.reg.value);
        unsigned id = static_cast<unsigned>(ZydisRegisterGetId(t.reg.value));
        unsigned size = t.size / 8u;
        OperandKind kind = kind_of(c);
        if (c == ZYDIS_REGCLASS_GPR8) {
          if (t.reg.value >= ZYDIS_REGISTER_AH && t.reg.value <= ZYDIS_REGISTER_BH) {
            kind = OperandKind::gpr_high;
            id = t.reg.value - ZYDIS_REGISTER_AH;
          } else if (t.reg.value >= ZYDIS_REGISTER_SPL) {
            id = t.reg.value - ZYDIS_REGISTER_SPL + 4u;
          } else {
            id = t.reg.value - ZYDIS_REGISTER_AL;
          }
        }
        if (o.kind != kind) return differ(which + ": kind", bytes);
        if (o.reg != id)
          return differ(which + ": register", bytes, fmt::format("{} / {}", o.reg, id));
        if (kind == OperandKind::vector)
          size = c == ZYDIS_REGCLASS_XMM ? 16 : c == ZYDIS_REGCLASS_YMM ? 32 : 64;
        bool sized = kind == OperandKind::gpr || kind == OperandKind::vector;
        if (sized && o.size != size)
          return differ(which + ": size", bytes, fmt::format("{} / {}", o.size, size));
        break;
      }
      case ZYDIS_OPERAND_TYPE_MEMORY: {
        if (o.kind != OperandKind::memory) return differ(which + ": kind", bytes);
        const Memory& m = insn.mem;
        auto number = [](ZydisRegister r) -> unsigned {
          if (r == ZYDIS_REGISTER_NONE) return Memory::kNone;
          if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP) return Memory::kRip;
          return static_cast<unsigned>(ZydisRegisterGetId(r));
        };
        // Zydis 4.0 sees a base of R13D in [index * scale + disp32] with 67 and REX.B; processors
        // see none (tried).
        if (t.mem.base == ZYDIS_REGISTER_R13D && insn.modrm < 0x40 && m.base == Memory::kNone)
          continue;
        if (m.base != number(t.mem.base) || m.index != number(t.mem.index) ||
            (m.index != Memory::kNone && 1 << m.scale != t.mem.scale))
          return differ(which + ": address", bytes);
        i64 disp = t.mem.disp.value;
        u64 mask = insn.addrsize == 8 ? ~u64{0} : (u64{1} << insn.addrsize * 8) - 1;
        if ((static_cast<u64>(m.disp ^ disp) & mask) != 0)
          return differ(which + ": displacement", bytes);
        if (m.segment != static_cast<unsigned>(ZydisRegisterGetId(t.mem.segment)))
          return differ(which + ": segment", bytes);
        unsigned size = t.size / 8u;
        if (o.size && (o.read || o.write) && o.size != size && !insn.evex_b &&
            t.mem.type == ZYDIS_MEMOP_TYPE_MEM)
          return differ(which + ": size", bytes, fmt::format("{} / {}", o.size, size));
        if (t.mem.type == ZYDIS_MEMOP_TYPE_AGEN) reads = writes = false;
        if (o.size == 0 || !(o.read || o.write) || t.mem.type != ZYDIS_MEMOP_TYPE_MEM) continue;
        break;
      }
      case ZYDIS_OPERAND_TYPE_POINTER:
        if (o.kind != OperandKind::far_pointer || insn.imm != t.ptr.offset ||
            insn.imm2 != t.ptr.segment)
          return differ(which + ": far pointer", bytes);
        continue;
      default: {
        if (o.kind == OperandKind::relative) {
          if (insn.imm != t.imm.value.u) return differ(which + ": relative", bytes);
          continue;
        }
        if (o.kind != OperandKind::immediate && o.kind != OperandKind::immediate2)
          return differ(which + ": kind", bytes);
        u64 mask = o.size >= 8 ? ~u64{0} : (u64{1} << o.size * 8) - 1;
        u64 value = o.kind == OperandKind::immediate2 ? insn.imm2 : insn.imm;
        if (value != (t.imm.value.u & mask)) return differ(which + ": immediate", bytes);
        continue;
      }
    }
    // A conditional write also keeps the old value: we call that read and written.
    if (t.actions & ZYDIS_OPERAND_ACTION_CONDWRITE) reads |= o.read;
    // So does a write of part of a vector register.
    if (o.kind == OperandKind::vector && o.write && writes &&
        insn.encoding == Insn::Encoding::legacy)
      reads = o.read;
    if (row.feature != Feature::base && !o.read && !o.write) continue;  // cache line hints
    if (o.read != reads || o.write != writes)
      differ(which + ": access", bytes,
             fmt::format("{}{} / {}{}", o.read ? "r" : "", o.write ? "w" : "", reads ? "r" : "",
                         writes ? "w" : ""));
  }
}

void Oracle::flags(std::span<const u8> bytes, const Insn& insn, const string& name) {
  const Row& row = row_of(insn);
  constexpr u32 kStatus = 0xcd5;  // of, df, sf, zf, af, pf, cf
  u32 tested = z_.cpu_flags->tested & kStatus;
  u32 changed = (z_.cpu_flags->modified | z_.cpu_flags->set_0 | z_.cpu_flags->set_1 |
                 z_.cpu_flags->undefined) &
                kStatus;
  bool all_conditions = row.opcode_bits == 4;
  u32 read = row.flags.read & kStatus;
  if (all_conditions ? (tested & ~read) != 0 : read != tested)
    differ("flags read: " + name, bytes, fmt::format("{:#x} / {:#x}", read, tested));
  if ((row.flags.changed() & kStatus) != changed)
    differ("flags changed: " + name, bytes,
           fmt::format("{:#x} / {:#x}", row.flags.changed() & kStatus, changed));
}

string report(const std::map<string, Oracle::Disagreement>& all) {
  string s;
  for (const auto& [key, d] : all) {
    bool known = false;
    for (const auto& [prefix, reason] : kKnown)
      known |= prefix.ends_with('*') ? key.starts_with(prefix.substr(0, prefix.size() - 1))
                                     : key == prefix;
    if (!known) s += fmt::format("{:6} {}   {}\n", d.count, key, d.example);
  }
  return s;
}

bool full_sweep() {
  return std::getenv("SKERRY_ISA_SWEEP") != nullptr;
}

/// Every opcode of every map with every ModRM byte (a few of them in the quick run) behind sets of
/// prefixes.
void enumerate(unsigned bits, bool real = false) {
  Oracle oracle(bits, real);
  std::vector<std::vector<u8>> prefixes = {{},           {0x66},       {0xf3},       {0xf2},
                                           {0x67},       {0xf0},       {0x2e},       {0x64},
                                           {0x66, 0xf3}, {0xf2, 0x66}, {0xf2, 0xf3}, {0x36, 0x66}};
  if (bits == 64)
    for (std::vector<u8> p : {std::vector<u8>{0x48},
                              {0x41},
                              {0x4f},
                              {0x40},
                              {0x44},
                              {0x66, 0x48},
                              {0xf3, 0x48},
                              {0xf2, 0x48},
                              {0x48, 0x66},
                              {0x64, 0x2e},
                              {0xf0, 0x48},
                              {0x66, 0x41},
                              {0xf3, 0x41}})
      prefixes.push_back(p);
  std::vector<std::vector<u8>> maps = {{}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
  auto run = [&](const std::vector<u8>& head) {
    for (unsigned opcode = 0; opcode < 256; ++opcode)
      for (unsigned modrm = 0; modrm < 256; ++modrm) {
        if (!full_sweep() && modrm < 0xc0 && (modrm & 7) != 3 && (modrm & 7) != 5 && modrm % 7)
          continue;
        std::vector<u8> b = head;
        b.push_back(static_cast<u8>(opcode));
        b.push_back(static_cast<u8>(modrm));
        for (u8 tail : {0x25, 0x91, 0x12, 0x83, 0x74, 0xe5, 0x06, 0x67, 0x88, 0x19, 0x0a})
          b.push_back(tail);
        b.resize(std::min<size_t>(b.size(), 15));
        oracle.check(b);
      }
  };
  for (const auto& prefix : prefixes)
    for (const auto& map : maps) {
      std::vector<u8> head = prefix;
      head.insert(head.end(), map.begin(), map.end());
      run(head);
    }
  EXPECT_EQ(report(oracle.disagreements), "") << oracle.total << " encodings";
}

TEST(Zydis, Legacy64) {
  enumerate(64);
}
TEST(Zydis, Legacy32) {
  enumerate(32);
}
TEST(Zydis, Legacy16) {
  enumerate(16);
}
TEST(Zydis, LegacyReal) {
  enumerate(16, true);
}

/// Every opcode of the VEX maps with combinations of R, X, B, vvvv, W, L and pp.
void enumerate_vex(unsigned bits) {
  Oracle oracle(bits);
  std::mt19937 rng(bits);
  for (unsigned map = 0; map < 8; ++map)
    for (unsigned opcode = 0; opcode < 256; ++opcode)
      for (unsigned last = 0; last < 256; ++last) {
        // vvvv other than 1111 is mostly invalid: fewer of those.
        unsigned tries = (last & 0x78) == 0x78 ? 24 : 2;
        if (full_sweep()) tries *= 16;
        for (unsigned i = 0; i < tries; ++i) {
          u8 rxb = static_cast<u8>(bits == 64 && i % 2 ? rng() & 0xe0 : i % 3 ? 0xe0 : 0xc0);
          std::vector<u8> b;
          if (map == 1 && rxb == 0xe0 && i % 4 == 0 && (last & 0x80))
            b = {0xc5, static_cast<u8>(last)};
          else
            b = {0xc4, static_cast<u8>(rxb | map), static_cast<u8>(last)};
          b.push_back(static_cast<u8>(opcode));
          b.push_back(static_cast<u8>(rng() | (i % 2 ? 0xc0 : 0)));
          for (unsigned k = 0; k < 8; ++k) b.push_back(static_cast<u8>(rng()));
          oracle.check(b);
        }
      }
  EXPECT_EQ(report(oracle.disagreements), "") << oracle.total << " encodings";
}

TEST(Zydis, Vex64) {
  enumerate_vex(64);
}
TEST(Zydis, Vex32) {
  enumerate_vex(32);
}

/// Every opcode of the EVEX maps with random other bits.
void enumerate_evex(unsigned bits) {
  Oracle oracle(bits);
  std::mt19937 rng(bits);
  for (unsigned map = 1; map < 4; ++map)
    for (unsigned opcode = 0; opcode < 256; ++opcode)
      for (unsigned i = 0; i < (full_sweep() ? 40000u : 1500u); ++i) {
        u32 r = rng();
        u8 p0 = static_cast<u8>(map | (bits == 64 ? r & 0xf0 : 0xc0 | (r & 0x30)));
        u8 p1 = static_cast<u8>((r >> 8 & 0x83) | (i % 4 == 0 ? r >> 8 & 0x78 : 0x78) | 4);
        u8 p2 = static_cast<u8>(r >> 16);
        if (i % 2) p2 &= 0x68;  // without mask and broadcast
        if (i % 3) p2 |= 8;
        std::vector<u8> b = {0x62, p0, p1, p2, static_cast<u8>(opcode), static_cast<u8>(r >> 24)};
        if (i % 8 == 1) b[5] |= 0xc0;
        if (i % 8 == 3) b[5] = static_cast<u8>((b[5] & 0x38) | 0x44);  // SIB and disp8
        for (unsigned k = 0; k < 8; ++k) b.push_back(static_cast<u8>(rng()));
        oracle.check(b);
      }
  EXPECT_EQ(report(oracle.disagreements), "") << oracle.total << " encodings";
}

TEST(Zydis, Evex64) {
  enumerate_evex(64);
}
TEST(Zydis, Evex32) {
  enumerate_evex(32);
}

/// Decodes what libraries on this machine contain, in linear sweep.
TEST(Zydis, LibraryCode) {
  Oracle oracle(64);
  unsigned files = 0;
  for (const char* name :
       {"libc.so.6", "libcrypto.so.3", "libstdc++.so.6", "libm.so.6", "libgmp.so.10"}) {
    std::ifstream in(string("/usr/lib/x86_64-linux-gnu/") + name, std::ios::binary);
    if (!in) continue;
    ++files;
    std::vector<u8> bytes{std::istreambuf_iterator<char>(in), {}};
    size_t limit = full_sweep() ? bytes.size() : std::min<size_t>(bytes.size(), 3 << 20);
    // The quick run takes a stretch from the middle: headers and symbol tables are not code.
    for (size_t at = full_sweep() ? 0 : limit / 4; at + 15 <= limit; at += oracle.length)
      oracle.check({bytes.data() + at, 15});
  }
  if (files == 0) GTEST_SKIP() << "no libraries to read in /usr/lib/x86_64-linux-gnu";
  EXPECT_EQ(report(oracle.disagreements), "") << oracle.total << " instructions";
}

TEST(Zydis, RandomBytes) {
  std::mt19937_64 rng(1);
  for (unsigned bits : {16u, 32u, 64u}) {
    Oracle oracle(bits);
    for (unsigned i = 0; i < (full_sweep() ? 50'000'000u : 300'000u); ++i) {
      u8 b[16];
      for (unsigned k = 0; k < 16; k += 8) {
        u64 r = rng();
        std::memcpy(b + k, &r, 8);
      }
      oracle.check({b, 15});
    }
    EXPECT_EQ(report(oracle.disagreements), "") << oracle.total << " encodings";
  }
}

}  // namespace
}  // namespace skerry::isa

#endif

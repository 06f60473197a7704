// The table, the decoder's rules, re-emission and the disassembler, by example and by random
// instances of every row. What the decoder makes of all encodings is in zydis_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <initializer_list>

#include "isa/disassemble.hpp"
#include "isa/generate.hpp"
#include "isa/reencode.hpp"

namespace skerry::isa {
namespace {

constexpr DecodeMode k16{16, true}, k32{32, true}, k64{64, true}, kReal{16, false};

std::vector<u8> bytes(std::initializer_list<unsigned> list) {
  std::vector<u8> v;
  for (unsigned b : list) v.push_back(static_cast<u8>(b));
  return v;
}

std::string disassembled(std::initializer_list<unsigned> list, DecodeMode mode = k64,
                         u64 rip = 0x1000) {
  Insn insn;
  DecodeStatus s = decode(bytes(list), mode, insn);
  if (s == DecodeStatus::truncated) return "truncated";
  if (s == DecodeStatus::too_long) return "too long";
  return disassemble(insn, rip);
}

TEST(Table, NoAmbiguousRows) {
  std::string all;
  for (auto [a, b] : ambiguous_rows())
    all += to_string(rows()[a]) + " and " + to_string(rows()[b]) + "\n";
  EXPECT_EQ(all, "");
}

TEST(Table, FlagMasksAreDisjoint) {
  for (const Row& row : rows()) {
    const Flags& f = row.flags;
    EXPECT_EQ(f.written & f.undefined, 0u) << to_string(row);
    EXPECT_EQ((f.written | f.undefined) & (f.cleared | f.set), 0u) << to_string(row);
    EXPECT_EQ(f.cleared & f.set, 0u) << to_string(row);
  }
}

TEST(Table, FeaturesHaveTheirCpuidBit) {
  EXPECT_EQ(feature_info(Feature::avx2).leaf, 7u);
  EXPECT_EQ(feature_info(Feature::avx2).reg, CpuidReg::ebx);
  EXPECT_EQ(feature_info(Feature::avx2).bit, 5);
  for (unsigned a = 1; a < kFeatures; ++a)
    for (unsigned b = 1; b < a; ++b) {
      const FeatureInfo &x = feature_info(static_cast<Feature>(a)),
                        &y = feature_info(static_cast<Feature>(b));
      EXPECT_FALSE(x.leaf == y.leaf && x.subleaf == y.subleaf && x.reg == y.reg && x.bit == y.bit)
          << x.name << " and " << y.name;
    }
}

TEST(Table, EveryRowDecodesItsOwnInstances) {
  Rng rng(7);
  CoverageReport coverage;
  for (const Row& row : rows()) {
    bool any = false;
    for (DecodeMode mode : {k64, k32, k16, kReal}) {
      for (unsigned i = 0; i < 8; ++i) {
        u8 code[15];
        size_t length = 0;
        if (!random_instance(row, rng, mode, code, length)) break;
        any = true;
        // An instance is complete: one byte less is truncated, bytes behind it change nothing.
        Insn insn, again;
        ASSERT_EQ(decode({code, length}, mode, insn), DecodeStatus::ok) << to_string(row);
        EXPECT_EQ(insn.length, length);
        EXPECT_EQ(decode({code, length - 1}, mode, again), DecodeStatus::truncated)
            << to_string(row);
        coverage.add(insn);
        EXPECT_NE(disassemble(insn, 0), "(bad)");
      }
    }
    EXPECT_TRUE(any) << "no instance of " << to_string(row);
  }
  EXPECT_EQ(coverage.exercised(), coverage.total()) << coverage.missing();
}

TEST(Table, InstancesWithAChosenAddress) {
  Rng rng(8);
  InstanceOptions options{
      .form = InstanceOptions::Form::memory, .fixed_address = true, .base = 13, .disp = -0x40};
  unsigned made = 0;
  for (const Row& row : rows()) {
    u8 code[15];
    size_t length = 0;
    if (!random_instance(row, rng, k64, code, length, options)) continue;
    ++made;
    Insn insn;
    ASSERT_EQ(decode({code, length}, k64, insn), DecodeStatus::ok);
    EXPECT_EQ(insn.mem.base, 13) << to_string(row);
    EXPECT_EQ(insn.mem.disp, -0x40) << to_string(row);
    if (!insn.mem.vsib) {
      EXPECT_EQ(insn.mem.index, Memory::kNone) << to_string(row);
    }
  }
  EXPECT_GT(made, rows().size() / 2);
}

TEST(Decode, Prefixes) {
  EXPECT_EQ(disassembled({0x48, 0x83, 0xc4, 0xf8}), "add rsp, 0xfffffffffffffff8");
  EXPECT_EQ(disassembled({0x48, 0x66, 0x83, 0xc4, 0xf8}), "add sp, 0xfff8");  // REX not last: void
  EXPECT_EQ(disassembled({0x66, 0x0f, 0x58, 0xc1}), "addpd xmm0, xmm1");
  EXPECT_EQ(disassembled({0x66, 0xf3, 0x0f, 0x58, 0xc1}), "addss xmm0, xmm1");
  EXPECT_EQ(disassembled({0xf2, 0xf3, 0x0f, 0x58, 0xc1}),
            "addss xmm0, xmm1");  // the last one counts
  EXPECT_EQ(disassembled({0xf3, 0xf2, 0x0f, 0x58, 0xc1}), "addsd xmm0, xmm1");
  EXPECT_EQ(disassembled({0x64, 0x8b, 0x00}), "mov eax, dword ptr fs:[rax]");
  EXPECT_EQ(disassembled({0x64, 0x2e, 0x8b, 0x00}), "mov eax, dword ptr fs:[rax]");  // CS: ignored
  EXPECT_EQ(disassembled({0x67, 0x8b, 0x00}), "mov eax, dword ptr [eax]");
  EXPECT_EQ(disassembled({0x67, 0x8b, 0x00}, k32), "mov eax, dword ptr [bx+si]");
  EXPECT_EQ(disassembled({0x8b, 0x46, 0xfe}, k16), "mov ax, word ptr [bp-0x2]");
}

TEST(Decode, LengthLimit) {
  std::vector<u8> v(14, 0x66);
  v.push_back(0x90);
  Insn insn;
  EXPECT_EQ(decode(v, k64, insn), DecodeStatus::ok);
  EXPECT_EQ(insn.length, 15);
  v.insert(v.begin(), 0x66);
  EXPECT_EQ(decode(v, k64, insn), DecodeStatus::too_long);
  EXPECT_EQ(decode(std::vector<u8>(64, 0x66), k64, insn), DecodeStatus::too_long);
  EXPECT_EQ(decode(std::vector<u8>(5, 0x66), k64, insn), DecodeStatus::truncated);
  EXPECT_EQ(decode({}, k64, insn), DecodeStatus::truncated);
}

TEST(Decode, LockNeedsAMemoryDestination) {
  EXPECT_EQ(disassembled({0xf0, 0x48, 0x01, 0x03}), "lock add qword ptr [rbx], rax");
  EXPECT_EQ(disassembled({0xf0, 0x48, 0x01, 0xc3}), "(bad)");
  EXPECT_EQ(disassembled({0xf0, 0x48, 0x03, 0x03}), "(bad)");  // memory is the source
  EXPECT_EQ(disassembled({0xf0, 0x48, 0x39, 0x03}), "(bad)");  // CMP
  EXPECT_EQ(disassembled({0xf0, 0x0f, 0xa3, 0x03}), "(bad)");  // BT
  EXPECT_EQ(disassembled({0xf0, 0x0f, 0xab, 0x03}), "lock bts dword ptr [rbx], eax");
}

TEST(Decode, ModesAndOperandSizes) {
  EXPECT_EQ(disassembled({0x50}), "push rax");
  EXPECT_EQ(disassembled({0x66, 0x50}), "push ax");
  EXPECT_EQ(disassembled({0x06}), "(bad)");
  EXPECT_EQ(disassembled({0x06}, k32), "push es");
  EXPECT_EQ(disassembled({0x40}, k32), "inc eax");
  EXPECT_EQ(disassembled({0x66, 0xe8, 1, 0, 0, 0}), "call 0x1007");  // 66 ignored, as Intel does
  EXPECT_EQ(disassembled({0x66, 0xe8, 1, 0}, k32), "call 0x1005");
  EXPECT_EQ(disassembled({0xa1, 1, 2, 3, 4, 5, 6, 7, 8}), "mov eax, dword ptr [0x807060504030201]");
  EXPECT_EQ(disassembled({0x67, 0xa1, 1, 2, 3, 4}), "mov eax, dword ptr [0x4030201]");
  EXPECT_EQ(disassembled({0x0f, 0x20, 0x00}), "mov rax, cr0");  // ModRM.mod is ignored
  EXPECT_EQ(disassembled({0x0f, 0x20, 0x08}), "(bad)");         // CR1
  EXPECT_EQ(disassembled({0x44, 0x0f, 0x20, 0xc0}), "mov rax, cr8");
  EXPECT_EQ(disassembled({0x8e, 0xc8}), "(bad)");  // MOV CS
  EXPECT_EQ(disassembled({0x0f, 0x00, 0xc0}, kReal), "(bad)");
  EXPECT_EQ(disassembled({0x0f, 0x00, 0xc0}, k16), "sldt ax");
  EXPECT_EQ(disassembled({0xc5, 0xf8, 0x77}), "vzeroupper");
  EXPECT_EQ(disassembled({0xc5, 0xf8, 0x77}, k32), "vzeroupper");
  EXPECT_EQ(disassembled({0xc5, 0xf8, 0x77}, kReal), "(bad)");
  EXPECT_EQ(disassembled({0xc5, 0x38}, k32), "lds edi, fword ptr [eax]");
  EXPECT_EQ(disassembled({0x66, 0xc5, 0xf8, 0x77}), "(bad)");
  EXPECT_EQ(disassembled({0x8f, 0xe8, 0x78, 0x00}), "(bad)");  // XOP
  EXPECT_EQ(disassembled({0x0f, 0x01, 0xc3}), "(bad)");        // VMRESUME: never offered
  EXPECT_EQ(disassembled({0x0f, 0x01, 0xc1}), "vmcall");
  EXPECT_EQ(disassembled({0x63, 0xc1}), "movsxd eax, ecx");
  EXPECT_EQ(disassembled({0x63, 0xc1}, k32), "arpl cx, ax");
}

TEST(Decode, EvexDisplacementsAreScaled) {
  Insn insn;
  ASSERT_EQ(decode(bytes({0x62, 0xf1, 0x7c, 0x48, 0x10, 0x40, 0x01}), k64, insn), DecodeStatus::ok);
  EXPECT_EQ(insn.sem, Sem::vmovups);
  EXPECT_EQ(insn.mem.disp, 64);
  ASSERT_EQ(decode(bytes({0x62, 0xf1, 0x74, 0x58, 0x58, 0x40, 0xff}), k64, insn), DecodeStatus::ok);
  EXPECT_EQ(insn.sem, Sem::vaddps);  // broadcast from a dword
  EXPECT_EQ(insn.mem.disp, -4);
  EXPECT_EQ(insn.memory_operand()->size, 4);
}

TEST(Decode, Features) {
  Insn insn;
  FeatureSet few;
  ASSERT_EQ(decode(bytes({0xf3, 0x0f, 0xbc, 0xc1}), k64, insn), DecodeStatus::ok);
  EXPECT_EQ(insn.sem, Sem::tzcnt);
  EXPECT_FALSE(feature_allowed(insn, few));
  EXPECT_EQ(row_of(insn).fallback, Sem::bsf);
  EXPECT_TRUE(feature_allowed(insn, few.add(Feature::bmi1)));
  // vaddps xmm: VL as well as F.
  ASSERT_EQ(decode(bytes({0x62, 0xf1, 0x74, 0x08, 0x58, 0xc0}), k64, insn), DecodeStatus::ok);
  EXPECT_FALSE(feature_allowed(insn, few.add(Feature::avx512f)));
  EXPECT_TRUE(feature_allowed(insn, few.add(Feature::avx512vl)));
}

/// Patching nothing but the address keeps everything else; so does patching back.
TEST(Reencode, EveryRowWithAnotherAddress) {
  Rng rng(9);
  unsigned done = 0;
  for (const Row& row : rows()) {
    for (unsigned i = 0; i < 8; ++i) {
      u8 code[15], out[16];
      size_t length = 0;
      if (!random_instance(row, rng, k64, code, length)) break;
      Insn a, b;
      ASSERT_EQ(decode({code, length}, k64, a), DecodeStatus::ok);
      bool memory = a.has_modrm && a.modrm < 0xc0 && !row.ignore_mod;
      Patch patch;
      if (memory) patch.at(14, 0x1234);
      size_t n = reencode(a, {code, length}, patch, out);
      if (n == 0) {  // only these may have no form
        bool high = false, string = row.cls == Class::string;
        for (const Operand& o : a.op) high |= o.kind == OperandKind::gpr_high;
        EXPECT_TRUE(high || string || a.addrsize == 4 ||
                    (row.op[0].method == Method::O || row.op[1].method == Method::O))
            << disassemble(a, 0) << " " << to_string(row);
        continue;
      }
      ++done;
      ASSERT_EQ(decode({out, n}, k64, b), DecodeStatus::ok) << disassemble(a, 0);
      EXPECT_EQ(b.length, n);
      EXPECT_EQ(a.sem, b.sem);
      EXPECT_EQ(a.imm, b.imm) << disassemble(a, 0) << " / " << disassemble(b, 0);
      EXPECT_EQ(a.imm2, b.imm2);
      EXPECT_EQ(a.lock, b.lock);
      EXPECT_EQ(a.evex_aaa, b.evex_aaa);
      EXPECT_EQ(a.evex_z, b.evex_z);
      EXPECT_EQ(a.evex_b, b.evex_b);
      EXPECT_EQ(a.evex_rc, b.evex_rc);
      EXPECT_EQ(a.vector_length, b.vector_length);
      EXPECT_FALSE(b.mem.segment_override);
      for (unsigned k = 0; k < a.operands; ++k) {
        EXPECT_EQ(a.op[k].kind, b.op[k].kind) << disassemble(a, 0) << " / " << disassemble(b, 0);
        EXPECT_EQ(a.op[k].reg, b.op[k].reg) << disassemble(a, 0) << " / " << disassemble(b, 0);
        EXPECT_EQ(a.op[k].size, b.op[k].size) << disassemble(a, 0) << " / " << disassemble(b, 0);
      }
      if (memory) {
        EXPECT_EQ(b.mem.base, 14);
        EXPECT_EQ(b.mem.disp, 0x1234);
        EXPECT_EQ(b.addrsize, 8);
        EXPECT_EQ(b.mem.index, a.mem.vsib ? a.mem.index : Memory::kNone);
      }
    }
  }
  EXPECT_GT(done, rows().size() * 6);
}

/// Every register operand that has a place in the encoding can be renumbered.
TEST(Reencode, OtherRegisters) {
  Rng rng(10);
  unsigned renumbered = 0;
  for (const Row& row : rows())
    for (unsigned i = 0; i < 6; ++i) {
      u8 code[15], out[16];
      size_t length = 0;
      InstanceOptions options{.form = i % 2 ? InstanceOptions::Form::memory
                                            : InstanceOptions::Form::any};
      if (!random_instance(row, rng, k64, code, length, options)) break;
      Insn a, b;
      ASSERT_EQ(decode({code, length}, k64, a), DecodeStatus::ok);
      Patch patch;
      std::array<int, 6> wanted;
      wanted.fill(-1);
      for (unsigned k = 0; k < a.operands; ++k) {
        Place p = place_of(a, k);
        if (p == Place::memory) patch.at(3, 8);
        OperandKind kind = a.op[k].kind;
        bool gpr = kind == OperandKind::gpr || kind == OperandKind::gpr_high;
        if (p == Place::none || !(gpr || kind == OperandKind::vector)) continue;
        unsigned limit =
            kind == OperandKind::vector && a.encoding == Insn::Encoding::evex ? 32 : 16;
        u8 reg = static_cast<u8>(rng() % limit);
        if (patch.registers[static_cast<unsigned>(p)] != Patch::kKeep)
          reg = patch.registers[static_cast<unsigned>(p)];
        if (row.distinct) reg = static_cast<u8>(10 + k);
        wanted[k] = reg;
        patch.set(p, reg);
      }
      if (row.distinct && a.mem.index >= 10 && a.mem.index < 16) continue;
      size_t n = reencode(a, {code, length}, patch, out);
      if (n == 0) continue;
      if (decode({out, n}, k64, b) != DecodeStatus::ok) {
        ADD_FAILURE() << disassemble(a, 0) << " " << to_string(row);
        continue;
      }
      EXPECT_EQ(a.sem, b.sem) << disassemble(a, 0) << " / " << disassemble(b, 0);
      for (unsigned k = 0; k < a.operands; ++k)
        if (wanted[k] >= 0) {
          ++renumbered;
          EXPECT_EQ(b.op[k].reg, wanted[k]) << disassemble(a, 0) << " / " << disassemble(b, 0);
          EXPECT_NE(b.op[k].kind, OperandKind::gpr_high);
        }
    }
  EXPECT_GT(renumbered, 1000u);
}

TEST(Reencode, From16And32BitCode) {
  u8 out[16];
  Insn insn;
  auto re = [&](std::initializer_list<unsigned> code, DecodeMode mode,
                const Patch& patch) -> std::string {
    std::vector<u8> v = bytes(code);
    if (decode(v, mode, insn) != DecodeStatus::ok) return "undecodable";
    size_t n = reencode(insn, v, patch, out);
    if (n == 0) return "none";
    Insn again;
    if (decode({out, n}, k64, again) != DecodeStatus::ok) return "bad";
    return disassemble(again, 0);
  };
  EXPECT_EQ(re({0x01, 0x07}, k16, Patch{}.at(12, 4)), "add word ptr [r12+0x4], ax");
  EXPECT_EQ(re({0x66, 0x01, 0x07}, k16, Patch{}.at(12, 4)), "add dword ptr [r12+0x4], eax");
  EXPECT_EQ(re({0x66, 0x01, 0x07}, k32, Patch{}.at(5, 0)), "add word ptr [rbp], ax");
  // 64-bit mode ignores 66 on near branches: there is no 16-bit form.
  EXPECT_EQ(re({0xe8, 3, 0}, k16, Patch{}), "none");
  EXPECT_EQ(re({0x66, 0xc3}, k32, Patch{}), "none");
  EXPECT_EQ(re({0x43}, k32, Patch{}), "inc ebx");
  EXPECT_EQ(re({0x4b}, k16, Patch{}.set(Place::opcode, 9)), "dec r9w");
  EXPECT_EQ(re({0xa1, 1, 2, 3, 4}, k32, Patch{}.at(3, 0)), "mov eax, dword ptr [rbx]");
  EXPECT_EQ(re({0xa2, 1, 2, 3, 4}, k32, Patch{}.at(3, 0)), "mov byte ptr [rbx], al");
  EXPECT_EQ(re({0x88, 0x20}, k32, Patch{}.at(3, 0)), "mov byte ptr [rbx], ah");
  EXPECT_EQ(re({0x88, 0x20}, k32, Patch{}.at(11, 0)), "none");  // AH and REX
  EXPECT_EQ(re({0x88, 0x20}, k32, Patch{}.at(11, 0).set(Place::reg, 6)), "mov byte ptr [r11], sil");
  EXPECT_EQ(re({0x66, 0x0f, 0x58, 0x07}, k16, Patch{}.at(0, 0)), "addpd xmm0, xmmword ptr [rax]");
  EXPECT_EQ(re({0x0f, 0x58, 0x07}, k16, Patch{}.at(0, 0)), "addps xmm0, xmmword ptr [rax]");
}

TEST(Decode, IsFastEnough) {
  // A mix from the random instances; the bound is ten times the aim, for slow and busy machines.
  Rng rng(11);
  std::vector<u8> code;
  unsigned count = 0;
  for (const Row& row : rows()) {
    u8 c[15];
    size_t n = 0;
    if (!random_instance(row, rng, k64, c, n)) continue;
    code.insert(code.end(), c, c + n);
    ++count;
  }
  size_t total = code.size();
  code.resize(total + 64);
  auto start = std::chrono::steady_clock::now();
  unsigned decoded = 0;
  constexpr unsigned kRounds = 20;
  for (unsigned r = 0; r < kRounds; ++r)
    for (size_t at = 0; at < total;) {
      Insn insn;
      if (decode(std::span(code).subspan(at), k64, insn) != DecodeStatus::ok) break;
      at += insn.length;
      ++decoded;
    }
  auto spent = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(decoded, count * kRounds);
  double each = std::chrono::duration<double, std::nano>(spent).count() / decoded;
  RecordProperty("nanoseconds_per_instruction", std::to_string(each));
  EXPECT_LT(each, 6000) << "nanoseconds per instruction";
}

}  // namespace
}  // namespace skerry::isa

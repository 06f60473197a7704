// Golden translations: what the translator makes of some fifty typical blocks, as text in golden/,
// one file per block: guest and host code, with instruction counts. A change of the translator
// shows as a diff to be reviewed. After one:
//
//   SKERRY_GOLDEN=write build/dev/tests/engine_soft_test --gtest_filter='Golden*'
//
// Host code depends on the host's features: skipped where they differ from those of the files.
// Addresses do not appear: jumps have labels, gates and fields of the Cpu have names.
#include <cpuid.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "engine/soft/assembler.hpp"
#include "engine/soft/jit.hpp"
#include "engine/soft/soft_fixture.hpp"
#include "isa/disassemble.hpp"

namespace skerry::soft {

// The Jit shows its code to nobody; explicit instantiations may name private members ([temp.spec]).
auto& blocks_of(Jit& jit);
auto code_of(Jit& jit);
auto gates_of(Jit& jit);
template <auto kBlocks, auto kRun, auto kGates>
struct Expose {
  friend auto& blocks_of(Jit& jit) { return jit.*kBlocks; }
  friend auto code_of(Jit& jit) { return jit.*kRun; }
  friend auto gates_of(Jit& jit) { return jit.*kGates; }
};
template struct Expose<&Jit::blocks_, &Jit::run_, &Jit::gate_>;

namespace {

struct Case {
  const char *name, *what, *bytes;
  u8 bits = 64;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.what;
}

// clang-format off
constexpr Case kCases[] = {
    {"memcpy_loop", "copies eight bytes at a time, both pointers indexed by one register",
     "48 8b 04 16 48 89 04 17 48 83 c2 08 48 39 ca 75 ef f4"},
    {"memcpy_unrolled", "four loads, four stores, one base register each",
     "48 8b 06 4c 8b 46 08 4c 8b 4e 10 4c 8b 56 18 48 89 07 4c 89 47 08 4c 89 4f 10 4c 89 57 18 f4"},
    {"strlen", "a byte at a time",
     "80 3f 00 74 05 48 ff c7 eb f6 48 89 f8 f4"},
    {"list_walk", "a linked list, summing",
     "48 03 47 08 48 8b 3f 48 85 ff 75 f4 f4"},
    {"prologue", "of a function with a frame and saved registers",
     "55 48 89 e5 41 57 41 56 41 54 53 48 83 ec 28 48 89 7d d0 f4"},
    {"epilogue", "the same way back",
     "48 83 c4 28 5b 41 5c 41 5e 41 5f 5d c3 f4"},
    {"leave_ret", "a frame given up",
     "48 8b 45 f8 c9 c3 f4"},
    {"call_near", "a call in the page, and the function",
     "e8 01 00 00 00 f4 8d 04 7f c3 f4"},
    {"call_far_away", "a call out of the page",
     "e8 fb 17 00 00 f4"},
    {"call_register", "a function pointer in a register",
     "48 8d 05 03 00 00 00 ff d0 f4 c3 f4"},
    {"call_memory", "a function pointer in memory",
     "ff 53 18 f4"},
    {"tail_jump", "an indirect jump through a table in memory",
     "ff 24 c3 f4"},
    {"switch_jump", "a bounds check, a table of offsets, a jump",
     "83 ff 07 77 0b 89 ff 48 63 04 bb 48 01 d8 ff e0 c3 f4"},
    {"retpoline", "Linux's, to RAX",
     "e8 07 00 00 00 f3 90 0f ae e8 eb f9 48 89 04 24 c3 f4"},
    {"adc_chain", "a 256-bit sum in memory: carries live across accesses",
     "48 8b 06 48 03 07 48 89 02 48 8b 46 08 48 13 47 08 48 89 42 08 48 8b 46 10 48 13 47 10 48 89 42 10 f4"},
    {"cmp_mov_jcc", "a comparison whose flags live across a load",
     "48 39 d0 48 8b 0e 72 03 48 8b 0f 48 89 4e 08 f4"},
    {"cmp_store_setcc", "flags live across a store, read twice",
     "39 d0 89 07 0f 9c c1 0f 4f c2 f4"},
    {"dead_flags", "nobody wants what the additions leave",
     "48 01 d8 48 03 16 48 01 c5 31 c0 f4"},
    {"rmw_memory", "read, change, write",
     "83 07 05 48 ff 47 08 80 67 10 fe 66 f7 5f 18 f4"},
    {"test_bit_jcc", "a flag in memory, Linux's way",
     "f6 47 13 20 75 01 90 c3 f4"},
    {"bt_memory", "bit instructions with immediate and register",
     "0f ba 27 05 48 0f ab 07 0f 92 c0 f4"},
    {"percpu_read", "Linux's current, and a preemption count",
     "65 48 8b 04 25 20 01 00 00 65 ff 05 00 02 00 00 65 ff 0c 25 28 01 00 00 f4"},
    {"tls", "a user's thread-local variables",
     "64 48 8b 04 25 00 00 00 00 64 8b 04 25 f8 ff ff ff f4"},
    {"spinlock", "taken and given back",
     "31 c0 b9 01 00 00 00 f0 0f b1 0f 75 07 c7 07 00 00 00 00 c3 f3 90 eb e8 f4"},
    {"atomic_add", "LOCK XADD and XCHG",
     "b8 01 00 00 00 f0 0f c1 07 48 87 47 08 f0 83 4c 24 fc 00 f4"},
    {"high_bytes", "AH to DH, with registers that live elsewhere",
     "88 dc 0f b6 cd 88 37 02 2e 86 cf f4"},
    {"spilled_registers", "R10, R11 and R15, which live in memory",
     "4c 8b 16 4d 01 d3 4c 89 3f 4f 8d 7c 9a 08 4d 39 fa 4d 0f 42 df f4"},
    {"rsp_operands", "RSP as operand, base and index of nothing",
     "48 8b 44 24 08 48 01 c4 48 89 24 24 48 87 dc f4"},
    {"shift_by_cl", "counts in CL: flags that may stay",
     "48 d3 e0 48 d3 ea 48 d3 3f 41 d3 c2 11 d0 f4"},
    {"shift_by_immediate", "flags that do change",
     "48 c1 e0 04 d1 ea 48 c1 fb 3f 48 0f a4 d0 08 49 c1 cb 0d f4"},
    {"bmi_shifts", "without flags",
     "c4 e2 f1 f7 c2 c4 e3 fb f0 1e 07 c4 e2 f8 f2 d3 c4 e2 e8 f5 07 c4 62 fb f5 16 f4"},
    {"division", "by register and by memory",
     "31 d2 b8 e8 03 00 00 f7 f1 48 99 48 f7 3e f4"},
    {"multiplication", "one, two and three operands",
     "48 f7 e2 48 0f af 06 6b c8 64 c4 e2 eb f6 1f f4"},
    {"lea_forms", "no access, no flags",
     "48 8d 44 f7 10 8d 0d 00 01 00 00 4f 8d 14 3b 66 8d 03 48 8d 64 24 f8 f4"},
    {"rip_relative", "loads and stores beside the code",
     "48 8b 05 00 10 00 00 48 89 05 08 10 00 00 83 3d 10 10 00 00 00 f4"},
    {"absolute", "no base: a 32-bit address, a 64-bit one",
     "8b 04 25 00 00 10 00 48 a1 08 00 10 00 00 00 00 00 8b 14 b5 00 01 00 00 f4"},
    {"address_size_32", "67 prefixes",
     "67 8b 06 67 89 44 8f 08 f4"},
    {"counted_loop", "DEC and JNZ",
     "48 01 d0 ff c9 75 f9 f4"},
    {"loop_instruction", "LOOP and JRCXZ",
     "e3 05 48 ff c0 e2 fb c3 f4"},
    {"sse_loop", "sums floats",
     "0f 10 06 0f 58 c8 0f 11 0f 48 83 c6 10 48 83 c7 10 48 39 d6 72 ea f4"},
    {"scalar_double", "SSE2 as compilers use it",
     "f2 0f 10 06 f2 0f 59 47 08 f2 0f 58 d0 66 0f 2e d1 7a 05 f2 48 0f 2c c2 c3 f4"},
    {"avx_loop", "VEX, three operands, broadcast",
     "c4 e2 7d 18 07 c5 fc 10 0c 06 c4 e2 75 b8 d0 c5 fc 11 14 02 48 83 c0 20 48 39 c8 72 e8 f4"},
    {"avx512", "masks, embedded broadcast, high registers",
     "62 e1 fe 48 6f 0e 62 e1 75 50 fe 0f 62 f1 75 40 76 0a c5 f8 93 c1 62 e1 7e 49 7f 0f f4"},
    {"strings", "REP MOVSB and STOSQ, and a single LODSB",
     "f3 a4 f3 48 ab ac f4"},
    {"system_calls", "what a kernel's entry does",
     "0f 01 f8 65 48 89 24 25 10 00 00 00 65 48 8b 24 25 18 00 00 00 50 f4"},
    {"interrupt_flag", "PUSHF, CLI, STI, POPF",
     "9c fa 58 f6 c4 02 74 01 fb c3 f4"},
    {"control_registers", "CR3 and CR0",
     "0f 20 d8 0f 22 d8 0f 20 c2 f4"},
    {"user_access", "STAC, a copy, CLAC",
     "0f 01 cb 48 8b 06 48 89 07 0f 01 ca f4"},
    {"page_fault_return", "the end of an exception handler",
     "48 83 c4 10 48 cf f4"},
    {"narrow_prologue", "32-bit code: of a function with a frame and saved registers",
     "55 89 e5 57 56 53 83 ec 1c 8b 5d 08 89 5d f0 f4", 32},
    {"narrow_epilogue", "32-bit code: the same way back",
     "8d 65 f4 5b 5e 5f 5d c3 f4", 32},
    {"narrow_loop", "32-bit code: sums what a pointer leads to; one-byte INC and DEC",
     "03 06 46 83 c6 03 49 75 f7 f4", 32},
    {"narrow_call", "32-bit code: arguments on the stack, a call in the page, and the function",
     "6a 07 ff 33 e8 01 00 00 00 f4 8b 44 24 04 c3 f4", 32},
    {"narrow_absolute", "32-bit code: a variable at a fixed address, by ModRM and by its offset alone",
     "a1 00 00 12 00 83 05 04 00 12 00 01 f4", 32},
    {"narrow_per_cpu", "32-bit code: a variable in FS and one in GS",
     "64 a1 10 00 00 00 65 8b 15 f8 00 00 00 f4", 32},
    {"narrow_irq_save", "32-bit code: PUSHF, CLI, POP; and back",
     "9c 5b fa 53 9d f4", 32},
    {"narrow_rep_movs", "32-bit code: eight words copied",
     "b9 08 00 00 00 f3 a5 f4", 32},
    {"real_loop", "real mode: sums words",
     "03 04 83 c6 02 e2 f9 f4", 16},
    {"real_call", "real mode: a call in the page, and the function with its frame",
     "e8 01 00 f4 55 89 e5 8b 46 04 c9 c3", 16},
    {"real_long_operands", "real mode: a function as compilers make it, with 32-bit operands",
     "66 55 66 89 e5 67 66 8b 45 08 66 c9 66 c3", 16},
    {"real_segments", "real mode: DS saved, loaded and restored",
     "1e 8e d8 a1 10 00 1f f4", 16},
    {"real_strings", "real mode: LODSB, STOSB, LOOP",
     "ac aa e2 fc f4", 16},
    {"real_flags", "real mode: PUSHF, CLI, POPF",
     "9c fa 9d f4", 16},
    {"real_jump_away", "real mode: out of the page, and a conditional jump",
     "74 05 e9 00 20 90 f4 0f 85 00 20 f4", 16},
};
// clang-format on

std::vector<u8> bytes_of(const char* text) {
  std::vector<u8> out;
  for (std::istringstream in(text); !in.eof();) {
    unsigned v;
    if (in >> std::hex >> v) out.push_back(static_cast<u8>(v));
  }
  return out;
}

std::filesystem::path path_of(const Case& c) {
  return std::filesystem::path(__FILE__).parent_path() / "golden" / (std::string(c.name) + ".txt");
}

/// Gates that the files name; another one is "gate".
std::map<u64, std::string> gate_names(Jit& jit) {
  std::map<u64, std::string> names;
  auto add = [&](const auto& g) {
    names = {{g.slow, "slow"},
             {g.interpret, "interpret"},
             {g.link, "link"},
             {g.dispatch, "dispatch"},
             {g.stop, "stop"},
             {g.stop_live, "stop_live"},
             {g.link_live, "link_live"},
             {g.stale, "stale"},
             {g.stale_live, "stale_live"},
             {g.load_vectors, "load_vectors"}};
    if constexpr (requires { g.unmerged; }) names[g.unmerged] = "unmerged";
    if constexpr (requires { g.system; }) names[g.system] = "system";
  };
  add(gates_of(jit));
  return names;
}

/// "[rsp-0x100]" by what lies there.
std::string field_name(i64 displacement) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
  struct Field {
    const char* name;
    size_t at, size;
  };
  static constexpr Field kFields[] = {
#define FIELD(member) {#member, offsetof(Cpu, member), sizeof(Cpu::member)}
      FIELD(gpr),         FIELD(code_page), FIELD(scratch),
      FIELD(saved_flags), FIELD(delta),     FIELD(rflags),
      FIELD(seg_base),    FIELD(rip),       FIELD(attention),
      FIELD(vector_live), FIELD(exit_site), FIELD(jump_mask),
      FIELD(fault_flags), FIELD(jit_base),  FIELD(host_stack),
      FIELD(self),        FIELD(cpl),       FIELD(seg),
      FIELD(simple_end),  FIELD(code_key),  FIELD(s)};
#undef FIELD
#pragma GCC diagnostic pop
  if (displacement >= 0) {
    switch (displacement) {
      case at::kTlbRead: return "tlb.read";
      case at::kTlbWrite: return "tlb.write";
      case at::kTlbHost: return "tlb.host";
      case at::kTlbBias: return "tlb.bias";
      case at::kJump: return "jumps";
      default: return "instance";
    }
  }
  const u64 where = sizeof(Cpu) + static_cast<u64>(displacement);
  for (const Field& f : kFields)
    if (where >= f.at && where < f.at + f.size) {
      if (f.size <= 8) return f.name;
      if (f.name == std::string_view("gpr")) {
        static constexpr const char* kNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                                   "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                                   "r12", "r13", "r14", "r15"};
        if ((where - f.at) / 8 < 16) return fmt::format("guest {}", kNames[(where - f.at) / 8]);
      }
      return f.size > 256 ? f.name : fmt::format("{}+{}", f.name, where - f.at);
    }
  return "cpu";
}

class Golden : public SoftTest, public testing::WithParamInterface<Case> {
 protected:
  Golden() {
    if (GetParam().bits == 16) {
      real_mode();
      state.seg[machine::cs] = {u16(kCodeAt >> 4), kCodeAt, 0xffff, 0x9b};
      state.rip = 0;
    } else if (GetParam().bits == 32) {
      protected_mode();
    } else {
      long_mode();
    }
  }

  void run_block(const Case& c) {
    code_bytes_ = bytes_of(c.bytes);
    for (u64 at : {u64{0}, kCodeAt, u64{0x120000}})
      ASSERT_TRUE(memory->fill(at, 0xf4, at ? 0x2000 : 8));
    ASSERT_TRUE(memory->write(kCodeAt, code_bytes_));
    for (u64 i = 0; i < 16; ++i)
      if (i != machine::rsp) state.gpr[i] = 0x100000 + 0x8000 * i;
    state.gpr[machine::rax] = kCodeAt + 0x800;
    state.gpr[machine::rcx] = 32;
    state.gpr[machine::rdx] = 0;
    state.gpr[machine::rbx] = 0x120000;
    state.cr4 |= 0x40620;
    state.xcr0 = 0xe7;
    start();
    (void)run(0, 100);
  }

  struct Instruction {
    u64 at;
    isa::Insn insn;
  };
  static std::vector<Instruction> decode(const u8* code, u64 size, u64 at, u8 bits = 64) {
    std::vector<Instruction> list;
    for (u64 i = 0; i < size;) {
      Instruction n{at + i, {}};
      const auto status =
          isa::decode({code + i, std::min<u64>(15, size - i)}, {bits, true}, n.insn);
      if (status != isa::DecodeStatus::ok) break;
      list.push_back(n);
      i += n.insn.length;
    }
    return list;
  }

  std::string host_line(const Instruction& n, const std::map<u64, std::string>& labels) {
    const isa::Insn& insn = n.insn;
    if (insn.op[0].kind == isa::OperandKind::relative) {
      const u64 to = n.at + insn.length + insn.imm;
      auto label = labels.find(to);
      return isa::mnemonic(insn) + " " + (label == labels.end() ? "gate" : label->second);
    }
    std::string text = isa::disassemble(insn, 0);
    const size_t open = text.find('['), close = text.find(']');
    if (insn.mem.base == machine::rsp && open != std::string::npos) {
      const std::string name = field_name(insn.mem.disp);
      std::string inside = name;
      if (insn.mem.index != isa::Memory::kNone) inside += ", " + text.substr(open + 5, 3);
      text.replace(open + 1, close - open - 1, inside);
    }
    if (insn.imm > 0xffff'ffff && insn.imm < u64{1} << 48 && insn.opsize == 8 &&
        insn.op[1].kind == isa::OperandKind::immediate) {
      const size_t number = text.rfind("0x");
      if (number != std::string::npos) text.replace(number, std::string::npos, "<address>");
    }
    return text;
  }

  std::string text(const Case& c) {
    Jit& jit = *cpu().core->jit;
    const auto& blocks = blocks_of(jit);
    u8* const code = code_of(jit);
    const auto gates = gate_names(jit);
    std::map<u64, const JitBlock*> by_gpa;
    std::map<u64, std::string> places;  // host address -> name
    for (const auto& [at, name] : gates) places[reinterpret_cast<u64>(code) + at] = "gate " + name;
    for (u32 number = 0; number < blocks.size(); ++number) {
      const JitBlock& b = blocks[number];
      places[reinterpret_cast<u64>(code) + b.code] =
          b.gpa >= kCodeAt && b.gpa < kCodeAt + 0x1000
              ? fmt::format("block +{:#x}", b.gpa - kCodeAt)
              : "block elsewhere";
      if (b.gpa >= kCodeAt && b.gpa < kCodeAt + code_bytes_.size()) by_gpa.try_emplace(b.gpa, &b);
    }
    std::string out = fmt::format("{}: {}\n", c.name, c.what);
    for (const auto& [gpa, b] : by_gpa) {
      const u64 offset = gpa - kCodeAt;
      const auto guest = decode(&code_bytes_[offset],
                                std::min<u64>(b->bytes, code_bytes_.size() - offset), gpa, c.bits);
      out += fmt::format("\nblock +{:#x}, {} guest instructions\n", offset, guest.size());
      for (const Instruction& n : guest)
        out += fmt::format("  +{:#04x}  {}\n", n.at - kCodeAt,
                           isa::disassemble(n.insn, n.at - kCodeAt));
      const u8* host = code + b->table;
      const u64 at = reinterpret_cast<u64>(host);
      auto hot = decode(host, b->hot_bytes, at);
      auto cold = decode(host + b->hot_bytes, b->code_bytes - b->hot_bytes, at + b->hot_bytes);
      auto labels = places;
      u32 count = 0;
      std::map<u64, bool> targets;
      for (const auto* part : {&hot, &cold})
        for (const Instruction& n : *part)
          if (n.insn.op[0].kind == isa::OperandKind::relative) {
            const u64 to = n.at + n.insn.length + n.insn.imm;
            if (to > at && to < at + b->code_bytes) targets[to] = true;
          }
      for (const auto& [to, _] : targets) labels[to] = fmt::format("L{}", ++count);
      auto print = [&](const std::vector<Instruction>& part) {
        for (const Instruction& n : part) {
          if (targets.contains(n.at)) out += labels[n.at] + ":\n";
          out += "  " + host_line(n, labels) + "\n";
        }
      };
      out += fmt::format(
          "host, {} instructions ({:.1f} per guest instruction), {} bytes\n", hot.size(),
          guest.empty() ? 0 : static_cast<double>(hot.size()) / static_cast<double>(guest.size()),
          b->hot_bytes);
      print(hot);
      out += fmt::format("cold, {} instructions, {} bytes\n", cold.size(),
                         b->code_bytes - b->hot_bytes);
      print(cold);
    }
    return out;
  }

  std::vector<u8> code_bytes_;
};

/// Lines that differ, with what was expected and what came.
std::string difference(const std::string& expected, const std::string& actual) {
  auto lines = [](const std::string& s) {
    std::vector<std::string> list;
    std::istringstream in(s);
    for (std::string line; std::getline(in, line);) list.push_back(line);
    return list;
  };
  const auto a = lines(expected), b = lines(actual);
  // Longest common subsequence: the files have some hundred lines.
  std::vector<std::vector<u32>> common(a.size() + 1, std::vector<u32>(b.size() + 1));
  for (size_t i = a.size(); i-- > 0;)
    for (size_t k = b.size(); k-- > 0;)
      common[i][k] =
          a[i] == b[k] ? common[i + 1][k + 1] + 1 : std::max(common[i + 1][k], common[i][k + 1]);
  std::string out;
  for (size_t i = 0, k = 0; i < a.size() || k < b.size();) {
    if (i < a.size() && k < b.size() && a[i] == b[k])
      ++i, ++k;
    else if (k == b.size() || (i < a.size() && common[i + 1][k] >= common[i][k + 1]))
      out += "-" + a[i++] + "\n";
    else
      out += "+" + b[k++] + "\n";
  }
  return out;
}

/// What the translator makes depend on the host (translator.cpp), and AVX-512 for one of the
/// blocks.
bool host_is_usual() {
  u32 a = 0, b = 0, c = 0, d = 0;
  __get_cpuid(1, &a, &b, &c, &d);
  const u32 family = ((a >> 8) & 15) + ((a >> 20) & 255);
  const bool slow_pext = __builtin_cpu_is("amd") && family < 0x19;
  return !slow_pext && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl");
}

TEST_P(Golden, is_what_the_file_says) {
  if (!cpu().core->jit) GTEST_SKIP() << "translated code alone";
  if (!host_is_usual()) GTEST_SKIP() << "the files are of a host with a fast PEXT and AVX-512";
  const Case& c = GetParam();
  run_block(c);
  const std::string now = text(c);
  if (const char* mode = std::getenv("SKERRY_GOLDEN"); mode && std::string_view(mode) == "write") {
    std::filesystem::create_directories(path_of(c).parent_path());
    std::ofstream(path_of(c)) << now;
    return;
  }
  std::ifstream in(path_of(c));
  ASSERT_TRUE(in) << path_of(c);
  std::stringstream file;
  file << in.rdbuf();
  EXPECT_TRUE(file.str() == now)
      << difference(file.str(), now)
      << "if it is meant to be so: SKERRY_GOLDEN=write, see golden_test.cpp";
}

INSTANTIATE_TEST_SUITE_P(Blocks, Golden, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace skerry::soft

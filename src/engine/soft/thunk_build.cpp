#include "engine/soft/thunk_build.hpp"

#include <algorithm>
#include <cstring>

#include "base/result.hpp"
#include "engine/soft/thunk.hpp"
#include "isa/reencode.hpp"

namespace skerry::soft {

using isa::Class;
using isa::Insn;
using isa::OperandKind;
using isa::Sem;

std::string_view sem_name(Sem sem) {
  static constexpr std::string_view kNames[] = {
      "invalid",
#define SKERRY_SEM(name) #name,
#include "isa/sem.inc"
#undef SKERRY_SEM
  };
  return kNames[static_cast<unsigned>(sem)];
}

namespace {

constexpr u8 kR8 = 8;

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}
bool begins(std::string_view text, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(), [&](auto p) { return text.starts_with(p); });
}

/// Whether the instruction may read or write MXCSR. What moves bits or computes on integers does
/// not; everything else is taken to.
bool uses_mxcsr(const Insn& insn) {
  std::string_view n = sem_name(insn.sem);
  if (insn.cls == Class::mmx || insn.cls == Class::mask || insn.cls == Class::x87) return false;
  if (n.starts_with('v')) n.remove_prefix(1);
  return !(n.starts_with('p') ||
           begins(n, {"mov",    "and",      "or",    "xor",       "unpck", "shuf",     "blend",
                      "insert", "extract",  "extrq", "broadcast", "perm",  "compress", "expand",
                      "align",  "aes",      "sha",   "gf2p8",     "lddqu", "zero",     "mpsadbw",
                      "test",   "dbpsadbw", "cvtne", "dpbf16"}));
}

bool is_vector_operand(OperandKind k) {
  return k == OperandKind::vector || k == OperandKind::mask;
}

/// Bytes per element of the memory operand of an EVEX instruction, by name; see Masking.
u8 element_size(std::string_view n) {
  auto letter = [](char c) -> u8 {
    switch (c) {
      case 'b': return 1;
      case 'w': return 2;
      case 'd':
      case 's': return 4;
      default: return 8;
    }
  };
  if (n == "vcvtph2ps" || n == "vcvtps2ph" || n == "vcvtneps2bf16")
    return n == "vcvtneps2bf16" ? 4 : 2;
  if (begins(n, {"vpmovsx", "vpmovzx"})) return letter(n[7]);  // source: vpmovsx[b]w
  if (n.starts_with("vpmov")) return letter(n.back());         // vpmovus..q[d], stores
  if (n == "vmovdqu8") return 1;
  if (n == "vmovdqu16") return 2;
  if (n.ends_with("32")) return 4;
  if (n.ends_with("64")) return 8;
  if (has(n, "32x")) return 4;
  if (has(n, "64x")) return 8;
  if (n.starts_with("vcvt")) {
    size_t two = n.find('2');
    std::string_view from = n.substr(4, two - 4);
    if (from.starts_with('t')) from.remove_prefix(1);
    return from == "dq" || from == "udq" || from == "ps" || from == "ss" ? 4 : 8;
  }
  if (n.starts_with("vp")) return n == "vpshufbitqmb" ? 1 : letter(n.back());
  if (n.ends_with("ps") || n.ends_with("ss")) return 4;
  if (n.ends_with("pd") || n.ends_with("sd")) return 8;
  return letter(n.back());
}

/// Masked loads that fault on all of their operand regardless of the mask: SDM 2A 2.8, exception
/// types E4NF, E5NF, E6NF.
bool never_suppresses(const Insn& insn, std::string_view n) {
  if (begins(n, {"vpshufb", "vpshufd",  "vpshufhw",  "vpshuflw",     "vshuf",      "vunpck",
                 "vpunpck", "vperm",    "vpermi2",   "vpermt2",      "valign",     "vpalignr",
                 "vpack",   "vpmadd",   "vdbpsadbw", "vpmultishift", "vpconflict", "vgf2p8affine",
                 "vinsert", "vextract", "vmovddup",  "vmovshdup",    "vmovsldup",  "vcvtne2ps"}))
    return !n.starts_with("vpmadd52") && n != "vpshufbitqmb";
  if (begins(n, {"vpsll", "vpsrl", "vpsra"}) && !has(n, "v" + std::string(1, n.back())))
    return std::none_of(std::begin(insn.op), std::end(insn.op),
                        [](const auto& o) { return o.kind == OperandKind::immediate; });
  return false;
}

void set_masking(Thunk& t, const Insn& insn, const isa::Operand& m) {
  if (insn.encoding != Insn::Encoding::evex || insn.evex_aaa == 0) return;
  std::string_view n = sem_name(insn.sem);
  t.mask_reg = insn.evex_aaa;
  t.element = element_size(n);
  unsigned vector = 16u << insn.vector_length;
  if (begins(n, {"vcompress", "vpcompress"})) {
    t.masking = Masking::compress;
    t.lanes = static_cast<u8>(vector / t.element);
  } else if (begins(n, {"vexpand", "vpexpand"})) {
    t.masking = Masking::expand;
    t.lanes = static_cast<u8>(vector / t.element);
  } else if (m.write) {
    t.masking = Masking::store;
    t.lanes = static_cast<u8>(m.size / t.element);
    t.probe_all = never_suppresses(insn, n);
  } else if (!never_suppresses(insn, n)) {
    // A broadcast element is read if any of the mask bits that it goes to is set.
    if (insn.evex_b) t.element = static_cast<u8>(m.size);
    t.masking = Masking::load;
    t.lanes = static_cast<u8>(m.size / t.element);
    if (insn.evex_b || has(n, "broadcast")) {
      bool widens = n.starts_with("vcvt") && (n.ends_with("2pd") || n.ends_with("qq"));
      t.broadcast_lanes = static_cast<u8>(vector / (widens ? 8u : t.element));
    }
  }
}

/// Required alignment of the memory operand (SDM 2A 2.4: type 1 is "aligned", type 4 for legacy
/// encodings).
u8 alignment_of(const Insn& insn, const isa::Operand& m) {
  switch (insn.sem) {
    case Sem::vmovaps:
    case Sem::vmovapd:
    case Sem::vmovdqa:
    case Sem::vmovdqa32:
    case Sem::vmovdqa64:
    case Sem::vmovntps:
    case Sem::vmovntpd:
    case Sem::vmovntdq:
    case Sem::vmovntdqa: return static_cast<u8>(m.size);
    case Sem::movups:
    case Sem::movupd:
    case Sem::movdqu:
    case Sem::lddqu:
    case Sem::pcmpestri:
    case Sem::pcmpestrm:
    case Sem::pcmpistri:
    case Sem::pcmpistrm: return 0;
    case Sem::sha1msg1:
    case Sem::sha1msg2:
    case Sem::sha1nexte:
    case Sem::sha1rnds4:
    case Sem::sha256msg1:
    case Sem::sha256msg2:
    case Sem::sha256rnds2:  // AMD's processors do not mind
      return __builtin_cpu_is("amd") ? 0 : 16;
    default: return insn.encoding == Insn::Encoding::legacy && m.size == 16 ? 16 : 0;
  }
}

bool non_waiting(Sem s) {
  switch (s) {
    case Sem::finit:
    case Sem::fclex:
    case Sem::fstcw:
    case Sem::fstsw:
    case Sem::fstenv:
    case Sem::fsave:
    case Sem::feni:
    case Sem::fdisi:
    case Sem::fsetpm: return true;
    default: return false;
  }
}

bool is_control(Sem s) {
  return non_waiting(s) || s == Sem::fldcw || s == Sem::fldenv || s == Sem::frstor;
}

}  // namespace

Gate gate_of(const Insn& insn) {
  Gate g;
  bool vector = false, mmx = insn.cls == Class::mmx;
  for (const auto& o : insn.op) {
    vector |= is_vector_operand(o.kind);
    mmx |= o.kind == OperandKind::mmx;
  }
  if (insn.cls == Class::x87) {
    g.cr0_bad = kCr0Em | kCr0Ts;
    g.em_is_nm = true;
    g.fp_pending = !non_waiting(insn.sem);
    return g;
  }
  g.cr0_bad = kCr0Ts;
  if (insn.encoding == Insn::Encoding::evex || insn.cls == Class::mask ||
      insn.cls == Class::avx512) {
    g.cr4_need = kCr4OsXsave;
    g.xcr0_need = 0xe6;
  } else if (insn.encoding == Insn::Encoding::vex || insn.cls == Class::avx) {
    g.cr4_need = kCr4OsXsave;
    g.xcr0_need = 6;
  } else {
    bool mxcsr = insn.sem == Sem::ldmxcsr || insn.sem == Sem::stmxcsr;
    if (!vector && !mmx && !mxcsr) return Gate{};  // MOVNTI, fences: nothing to do with the FPU
    g.cr0_bad = kCr0Em | kCr0Ts;
    if (vector || mxcsr) g.cr4_need = kCr4OsFxsr;
    g.fp_pending = mmx;
  }
  return g;
}

bool pass_gate_slow(Cpu& cpu, const Gate& g) {
  u64 bad = cpu.s.cr0 & g.cr0_bad;
  if ((bad & kCr0Em && !g.em_is_nm) || ~cpu.s.cr4 & g.cr4_need || ~cpu.s.xcr0 & g.xcr0_need) {
    cpu.raise(UD);
    return false;
  }
  if (bad) {
    cpu.raise(NM);
    return false;
  }
  if (g.fp_pending && cpu.s.xsave[area::kFsw] & 0x80) {
    // With CR0.NE = 0 a processor signals FERR# and the board's logic raises IRQ 13, for MS-DOS. No
    // system that can run here without NE relies on it, so it is #MF as well.
    cpu.raise(MF);
    return false;
  }
  return true;
}

HostForm host_form(const Insn& insn) {
  const isa::Row& row = isa::row_of(insn);
  HostForm form;
  bool fixed_rm = true, w = insn.encoding == Insn::Encoding::legacy ? insn.rex & 8 : insn.w;
  u8 reg = insn.modrm >> 3 & 7, rm = insn.modrm & 7, vvvv = 0;
  bool memory = false;
  int is4 = -1;
  for (unsigned i = 0; i < insn.operands; i++) {
    const isa::Operand& o = insn.op[i];
    const isa::OperandSpec& spec = row.op[i];
    isa::Place f = isa::place_of(insn, i);
    if (f == isa::Place::none) continue;
    if (f == isa::Place::memory) {
      memory = true;
      if (spec.mem_size == isa::Size::y) w = o.size == 8;
      continue;
    }
    u8 number = o.reg;
    if (o.kind == OperandKind::gpr) {
      if (spec.size == isa::Size::y) w = o.size == 8;
      unsigned slot = f == isa::Place::reg ? 0 : f == isa::Place::rm ? 1 : 2;
      form.guest[slot] = number;
      form.guest_read[slot] = o.read || o.size < 4;
      form.guest_written[slot] = o.write;
      number = static_cast<u8>(kR8 + slot);
    }
    switch (f) {
      case isa::Place::reg: reg = number; break;
      case isa::Place::rm: rm = number, fixed_rm = false; break;
      case isa::Place::vvvv: vvvv = number; break;
      case isa::Place::is4: is4 = number; break;
      default: break;
    }
  }
  std::vector<u8>& b = form.bytes;
  if (memory) rm = 11;  // [r11]
  u8 r3 = reg >> 3 & 1, r4 = reg >> 4 & 1, b3 = rm >> 3 & 1, x = rm >> 4 & 1;
  auto inv = [](unsigned bit) { return static_cast<u8>(bit ^ 1); };
  switch (insn.encoding) {
    case Insn::Encoding::legacy:
      if (insn.prefix66 && insn.cls != Class::x87) b.push_back(0x66);
      if (insn.rep) b.push_back(0xf3);
      if (insn.repne) b.push_back(0xf2);
      if (w || r3 || b3) b.push_back(static_cast<u8>(0x40 | w << 3 | r3 << 2 | b3));
      if (insn.map >= 1) b.push_back(0x0f);
      if (insn.map == 2) b.push_back(0x38);
      if (insn.map == 3) b.push_back(0x3a);
      break;
    case Insn::Encoding::vex:
      b.push_back(0xc4);
      b.push_back(static_cast<u8>(inv(r3) << 7 | 0x40 | inv(b3) << 5 | insn.map));
      b.push_back(
          static_cast<u8>(w << 7 | (~vvvv & 15) << 3 | (insn.vector_length & 1) << 2 | insn.pp));
      break;
    case Insn::Encoding::evex: {
      b.push_back(0x62);
      b.push_back(static_cast<u8>(inv(r3) << 7 | inv(memory ? 0 : x) << 6 | inv(b3) << 5 |
                                  inv(r4) << 4 | insn.map));
      b.push_back(static_cast<u8>(w << 7 | (~vvvv & 15) << 3 | 4 | insn.pp));
      // In register forms EVEX.b gives L'L to the rounding mode.
      u8 ll = insn.evex_b && !memory && row.rounding ? insn.evex_rc : insn.vector_length;
      b.push_back(static_cast<u8>(insn.evex_z << 7 | ll << 5 | insn.evex_b << 4 |
                                  inv(vvvv >> 4 & 1) << 3 | insn.evex_aaa));
      break;
    }
  }
  b.push_back(insn.opcode);
  if (insn.has_modrm) {
    u8 mod = memory ? 0 : 0xc0;
    if (!memory && fixed_rm) mod = insn.modrm & 0xc0;
    b.push_back(static_cast<u8>(mod | (reg & 7) << 3 | (rm & 7)));
  }
  unsigned immediates = insn.length > insn.imm_at ? insn.length - insn.imm_at : 0u;
  if (immediates >= 1) {
    u8 imm = static_cast<u8>(insn.imm);
    if (is4 >= 0) imm = static_cast<u8>(is4 << 4 | (imm & 15));
    b.push_back(imm);
  }
  if (immediates >= 2) b.push_back(static_cast<u8>(insn.imm2));
  return form;
}

namespace {

struct Builder {
  const Insn& insn;
  HostForm form;
  Thunk t;
  Emitter e;
  bool mxcsr = false, vex = false, wide_masks = false, host_avx512 = false;

  explicit Builder(const Insn& i) : insn(i), form(host_form(i)) {}

  void classify() {
    const isa::Row& row = isa::row_of(insn);
    t.gate = gate_of(insn);
    t.x87 = insn.cls == Class::x87 || insn.cls == Class::mmx;
    for (const auto& o : insn.op) t.x87 |= o.kind == OperandKind::mmx;
    t.fpu_op = insn.cls == Class::x87 && !is_control(insn.sem);
    vex = insn.encoding != Insn::Encoding::legacy;
    mxcsr = !t.x87 && uses_mxcsr(insn);
    t.flags_out = row.flags.changed() & kArithmeticFlags;
    t.flags_in = (row.flags.read & kArithmeticFlags) || (t.flags_out && t.x87);
    host_avx512 = (supported_host_xcr0() & 0xe0) == 0xe0;
    wide_masks = __builtin_cpu_supports("avx512bw");
    if (const isa::Operand* m = insn.memory_operand()) {
      t.read = m->read ? m->size : 0;
      t.write = m->write ? m->size : 0;
      t.align = alignment_of(insn, *m);
      set_masking(t, insn, *m);
      // With memory these may run while an x87 exception is pending: CVTPI2PD on all processors,
      // CVTPI2PS on some. The host's own #MF tells.
      if (insn.sem == Sem::cvtpi2pd || insn.sem == Sem::cvtpi2ps) t.gate.fp_pending = false;
    }
  }
  static u64 supported_host_xcr0();

  void loads() {
    if (t.flags_in) e.bytes({0x51, 0x9d});                   // push rcx; popfq
    if (insn.memory_operand()) e.bytes({0x49, 0x89, 0xd3});  // mov r11, rdx
    if (t.x87) e.fxrstor();
    for (u8 i = 0; i < 3; i++)
      if (form.guest[i] != 0xff && form.guest_read[i])
        e.load_gpr(static_cast<u8>(kR8 + i), form.guest[i]);
    u32 loaded = 0;
    for (const auto& o : insn.op) {
      // A legacy instruction keeps, and a masked one may keep, parts of its destination.
      bool needed = o.read || !vex || insn.evex_aaa;
      if (o.kind == OperandKind::gpr && o.implicit && o.read) e.load_gpr(o.reg, o.reg);
      if (o.kind == OperandKind::mask && needed) e.load_mask(o.reg, wide_masks);
      if (o.kind != OperandKind::vector || !needed || t.x87 || loaded >> o.reg & 1) continue;
      loaded |= 1u << o.reg;
      u16 size = o.size;  // the widest of its uses: VPMOVQW xmm1, zmm1
      for (const auto& other : insn.op)
        if (other.kind == OperandKind::vector && other.reg == o.reg)
          size = std::max(size, other.size);
      if (vex)
        e.load_vector(o.reg, size);
      else
        e.load_xmm(o.reg);
    }
    if (insn.evex_aaa) e.load_mask(insn.evex_aaa, wide_masks);
    if (mxcsr) e.load_mxcsr();
  }

  void stores() {
    if (t.flags_out)
      e.bytes({0x9c, 0x58});  // pushfq; pop rax
    else
      e.bytes({0x31, 0xc0});  // xor eax, eax
    for (u8 i = 0; i < 3; i++)
      if (form.guest[i] != 0xff && form.guest_written[i])
        e.store_gpr(static_cast<u8>(kR8 + i), form.guest[i]);
    for (const auto& o : insn.op) {
      if (!o.write) continue;
      if (o.kind == OperandKind::gpr && o.implicit) e.store_gpr(o.reg, o.reg);
      if (o.kind == OperandKind::mask) {
        e.store_mask(o.reg, wide_masks);
        if (insn.sem == Sem::vp2intersectd || insn.sem == Sem::vp2intersectq)
          e.store_mask(o.reg ^ 1, wide_masks);  // writes an aligned pair
      }
      if (o.kind != OperandKind::vector || t.x87) continue;
      if (vex)
        e.store_vector(o.reg, host_avx512);
      else
        e.store_xmm(o.reg);
    }
    if (mxcsr) e.store_mxcsr();
    if (t.x87) {
      e.fxsave();
      e.fninit();
    }
    if (vex) e.vzeroupper();
  }
};

u64 Builder::supported_host_xcr0() {
  static const u64 xcr0 = supported_vector_features().xcr0;
  return xcr0;
}

struct Known {
  u64 generation = 0;
  std::unordered_map<std::string, Thunk> thunks;
};

}  // namespace

const Thunk* thunk_of(const Op& op, CodeArena& arena) {
  thread_local Known known;
  const Insn& insn = *op.insn;
  for (const auto& o : insn.op)
    if (o.kind == OperandKind::gpr && o.implicit && o.reg > machine::rdx)
      return nullptr;  // no thunk register for it; none of our rows has one
  if (known.generation != arena.generation()) {
    known.thunks.clear();
    known.generation = arena.generation();
  }
  Builder b(insn);
  std::string key(b.form.bytes.begin(), b.form.bytes.end());
  key.append(reinterpret_cast<const char*>(b.form.guest), sizeof b.form.guest);
  key.append(reinterpret_cast<const char*>(&insn.row), sizeof insn.row);
  auto found = known.thunks.find(key);
  if (found == known.thunks.end()) {
    b.classify();
    b.loads();
    b.e.append(b.form.bytes.data(), b.form.bytes.size());
    b.stores();
    b.t.code = arena.add(b.e, b.mxcsr, b.t.x87);
    if (!b.t.code) {
      arena.flush();
      known.thunks.clear();
      known.generation = arena.generation();
      b.t.code = arena.add(b.e, b.mxcsr, b.t.x87);
      SKERRY_CHECK(b.t.code, "a thunk larger than the arena");
    }
    found = known.thunks.emplace(std::move(key), b.t).first;
  }
  op.cached = &found->second;
  op.cached_generation = arena.generation();
  return &found->second;
}

}  // namespace skerry::soft

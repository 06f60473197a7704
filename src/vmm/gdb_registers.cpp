#include "vmm/gdb_registers.hpp"

#include <vector>

namespace skerry::vmm {
namespace {

using machine::CpuState;

/// One register: where its bytes are, as an offset into CpuState or into its XSAVE area.
struct Register {
  std::string name;
  std::string type;
  unsigned bytes;         ///< on the wire
  size_t offset;          ///< in CpuState
  unsigned stored_bytes;  ///< in CpuState; the rest reads as zero
  const char* feature;
  bool fixed = false;  ///< cannot be set alone
};

constexpr size_t kXsave = offsetof(CpuState, xsave), kXstateBv = kXsave + 512;

/// The XSAVE component (SDM 1 13.4) that the bytes at `offset` of CpuState belong to, or 0. FCW and
/// MXCSR belong to none here: they are always valid.
u64 component_of(size_t offset) {
  if (offset < kXsave || offset >= kXsave + machine::kXsaveSize) return 0;
  size_t at = offset - kXsave;
  if (at < 2 || at == 24) return 0;
  return at < 160 ? 1 : at < 416 ? 2 : at >= 576 && at < 832 ? 4 : 0;
}

const std::vector<Register>& registers() {
  static const std::vector<Register> table = [] {
    using namespace machine;
    std::vector<Register> t;
    const char* core = "org.gnu.gdb.i386.core";
    auto gpr = [&](const char* name, unsigned n, const char* type = "int64") {
      t.push_back({name, type, 8, offsetof(CpuState, gpr) + 8 * n, 8, core});
    };
    gpr("rax", rax), gpr("rbx", rbx), gpr("rcx", rcx), gpr("rdx", rdx), gpr("rsi", rsi),
        gpr("rdi", rdi);
    gpr("rbp", rbp, "data_ptr"), gpr("rsp", rsp, "data_ptr");
    for (unsigned i = 8; i < 16; ++i) gpr(fmt::format("r{}", i).c_str(), i);
    t.push_back({"rip", "code_ptr", 8, offsetof(CpuState, rip), 8, core});
    t.push_back({"eflags", "i386_eflags", 4, offsetof(CpuState, rflags), 4, core});
    for (auto [name, seg] :
         {std::pair{"cs", cs}, {"ss", ss}, {"ds", ds}, {"es", es}, {"fs", fs}, {"gs", gs}})
      t.push_back({name, "int32", 4,
                   offsetof(CpuState, seg) + seg * sizeof(Segment) + offsetof(Segment, selector), 2,
                   core, true});
    const size_t xsave = kXsave;
    for (unsigned i = 0; i < 8; ++i)
      t.push_back({fmt::format("st{}", i), "i387_ext", 10, xsave + 32 + 16 * i, 10, core});
    // FXSAVE holds an abridged tag word; gdb gets it as it is.
    t.push_back({"fctrl", "int", 4, xsave + 0, 2, core});
    t.push_back({"fstat", "int", 4, xsave + 2, 2, core});
    t.push_back({"ftag", "int", 4, xsave + 4, 1, core});
    t.push_back({"fiseg", "int", 4, xsave + 12, 2, core});
    t.push_back({"fioff", "int", 4, xsave + 8, 4, core});
    t.push_back({"foseg", "int", 4, xsave + 20, 2, core});
    t.push_back({"fooff", "int", 4, xsave + 16, 4, core});
    t.push_back({"fop", "int", 4, xsave + 6, 2, core});
    const char* sse = "org.gnu.gdb.i386.sse";
    for (unsigned i = 0; i < 16; ++i)
      t.push_back({fmt::format("xmm{}", i), "vec128", 16, xsave + 160 + 16 * i, 16, sse});
    t.push_back({"mxcsr", "i386_mxcsr", 4, xsave + 24, 4, sse});
    const char* segments = "org.gnu.gdb.i386.segments";
    for (auto [name, seg] : {std::pair{"fs_base", fs}, {"gs_base", gs}})
      t.push_back({name, "int64", 8,
                   offsetof(CpuState, seg) + seg * sizeof(Segment) + offsetof(Segment, base), 8,
                   segments});
    for (unsigned i = 0; i < 16; ++i)
      t.push_back({fmt::format("ymm{}h", i), "uint128", 16, xsave + 576 + 16 * i, 16,
                   "org.gnu.gdb.i386.avx"});
    const char* system = "org.skerry.system";
    for (auto [name, at] : {std::pair{"cr0", offsetof(CpuState, cr0)},
                            {"cr2", offsetof(CpuState, cr2)},
                            {"cr3", offsetof(CpuState, cr3)},
                            {"cr4", offsetof(CpuState, cr4)}})
      t.push_back({name, "int64", 8, at, 8, system});
    t.push_back({"cr8", "int64", 8, offsetof(CpuState, cr8), 8, system, true});  // the LAPIC's
    t.push_back({"efer", "int64", 8, offsetof(CpuState, efer), 8, system});
    t.push_back({"k_gs_base", "int64", 8, offsetof(CpuState, kernel_gs_base), 8, system});
    for (auto [name, seg] :
         {std::pair{"cs_base", cs}, {"ss_base", ss}, {"ds_base", ds}, {"es_base", es}})
      t.push_back({name, "int64", 8,
                   offsetof(CpuState, seg) + seg * sizeof(Segment) + offsetof(Segment, base), 8,
                   system});
    const size_t gdtr = offsetof(CpuState, gdtr), idtr = offsetof(CpuState, idtr);
    const size_t limit = offsetof(TableRegister, limit);
    t.push_back({"gdtr_base", "int64", 8, gdtr, 8, system});
    t.push_back({"gdtr_limit", "int32", 4, gdtr + limit, 2, system});
    t.push_back({"idtr_base", "int64", 8, idtr, 8, system});
    t.push_back({"idtr_limit", "int32", 4, idtr + limit, 2, system});
    t.push_back({"tr", "int32", 4, offsetof(CpuState, tr), 2, system, true});
    t.push_back({"ldtr", "int32", 4, offsetof(CpuState, ldtr), 2, system, true});
    static_assert(offsetof(Segment, selector) == 0 && offsetof(TableRegister, base) == 0);
    return t;
  }();
  return table;
}

constexpr std::string_view kTypes[][2] = {
    {"org.gnu.gdb.i386.core", R"(<flags id="i386_eflags" size="4">
<field name="CF" start="0" end="0"/><field name="PF" start="2" end="2"/><field name="AF" start="4" end="4"/>
<field name="ZF" start="6" end="6"/><field name="SF" start="7" end="7"/><field name="TF" start="8" end="8"/>
<field name="IF" start="9" end="9"/><field name="DF" start="10" end="10"/><field name="OF" start="11" end="11"/>
<field name="NT" start="14" end="14"/><field name="RF" start="16" end="16"/><field name="VM" start="17" end="17"/>
<field name="AC" start="18" end="18"/></flags>
)"},
    {"org.gnu.gdb.i386.sse", R"(<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/><vector id="v16i8" type="int8" count="16"/>
<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>
<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/><field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/></union>
<flags id="i386_mxcsr" size="4"><field name="IE" start="0" end="0"/></flags>
)"}};

}  // namespace

std::string gdb_target_description() {
  std::string xml =
      "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
      "<target>\n<architecture>i386:x86-64</architecture>\n";
  std::string_view feature;
  for (const Register& r : registers()) {
    if (feature != r.feature) {
      if (!feature.empty()) xml += "</feature>\n";
      feature = r.feature;
      xml += fmt::format("<feature name=\"{}\">\n", feature);
      for (const auto& [name, types] : kTypes)
        if (name == feature) xml += types;
    }
    xml +=
        fmt::format("<reg name=\"{}\" bitsize=\"{}\" type=\"{}\"/>\n", r.name, 8 * r.bytes, r.type);
  }
  return xml + "</feature>\n</target>\n";
}

unsigned gdb_register_count() {
  return static_cast<unsigned>(registers().size());
}

std::string gdb_read_register(const CpuState& state, unsigned number) {
  const Register& r = registers().at(number);
  std::string bytes(r.bytes, '\0');
  u64 component = component_of(r.offset), in_use;
  std::memcpy(&in_use, reinterpret_cast<const char*>(&state) + kXstateBv, 8);
  // Zeros are the initial state of all that has a component; ftag is in its abridged form.
  if (component && !(in_use & component)) return bytes;
  std::memcpy(bytes.data(), reinterpret_cast<const char*>(&state) + r.offset, r.stored_bytes);
  return bytes;
}

bool gdb_write_register(CpuState& state, unsigned number, std::string_view bytes) {
  if (number >= registers().size()) return false;
  const Register& r = registers()[number];
  if (bytes.size() != r.bytes) return false;
  // A selector alone would not change what the segment is: loading one takes a descriptor.
  if (r.fixed) return bytes == gdb_read_register(state, number);
  if (u64 component = component_of(r.offset)) {
    u64 in_use;
    char* base = reinterpret_cast<char*>(&state);
    std::memcpy(&in_use, base + kXstateBv, 8);
    if (!(in_use & component)) {
      if (bytes == std::string(r.bytes, '\0')) return true;
      // x87 and SSE are always there (SDM 1 13.3).
      if (component == 4 && !(state.xcr0 & 4)) return false;
      for (unsigned i = 0; i < registers().size(); ++i)
        if (component_of(registers()[i].offset) == component)
          std::memset(base + registers()[i].offset, 0, registers()[i].stored_bytes);
      in_use |= component;
      std::memcpy(base + kXstateBv, &in_use, 8);
    }
  }
  std::memcpy(reinterpret_cast<char*>(&state) + r.offset, bytes.data(), r.stored_bytes);
  return true;
}

}  // namespace skerry::vmm

#include "engine/kvm/engine.hpp"

#include <fcntl.h>

#include "base/log.hpp"
#include "engine/kvm/routes.hpp"
#include "engine/kvm/vcpu.hpp"

namespace skerry::kvm {
namespace {

using machine::CpuidLeaf;
using machine::CpuidTable;

/// Cannot be done without.
constexpr struct {
  int capability;
  const char* name;
} kRequired[] = {
    {KVM_CAP_SPLIT_IRQCHIP, "a split irqchip"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate_exit"},
    {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_SIGNAL_MSI, "KVM_SIGNAL_MSI"},
    {KVM_CAP_XSAVE, "XSAVE"},
    {KVM_CAP_USER_MEMORY, "user memory regions"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
};

class KvmEngine final : public machine::Engine {
 public:
  static Result<std::unique_ptr<KvmEngine>> create() {
    auto opened = Fd::open("/dev/kvm", O_RDWR);
    if (!opened) {
      Error error = std::move(opened.error());
      if (error.code == ENOENT)
        error.hint = "load KVM with: sudo modprobe kvm_intel (or kvm_amd), or use --engine soft";
      if (error.code == EACCES || error.code == EPERM)
        error.hint = "sudo usermod -aG kvm $USER, then log in again; or use --engine soft";
      return std::unexpected(std::move(error));
    }
    std::unique_ptr<KvmEngine> engine(new KvmEngine);
    engine->system_ = std::move(*opened);
    int version = ::ioctl(engine->system_.get(), KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) return fail("/dev/kvm has API version {}, not 12", version);
    for (const auto& need : kRequired)
      if (::ioctl(engine->system_.get(), KVM_CHECK_EXTENSION, need.capability) <= 0)
        return fail_hint("use --engine soft", "this host's KVM lacks {}", need.name);
    TRY_VOID(engine->read_supported());
    return engine;
  }

  std::string_view name() const override { return "kvm"; }
  CpuidTable supported_cpuid() const override { return supported_; }
  /// The other vendor's instruction KVM replaces in the guest's text, which faults if that is
  /// read-only, as Linux's is (Documentation/virt/kvm/x86/hypercalls.rst).
  bool any_hypercall() const override { return false; }
  bool owns_lapic() const override { return true; }
  machine::MsiSink* msi_sink() override { return routes_.get(); }
  void set_extint(bool level) override {
    if (level && bootstrap_) bootstrap_->notify_interrupt();
  }

  Result<> configure(const machine::EngineSetup& setup) override {
    setup_ = setup;
    if (vm_) return {};  // called again only to complete the CPUID table
    int fd = TRY(call(system_.get(), KVM_CREATE_VM, 0, "to create a virtual machine"));
    vm_ = Fd(fd);
    // Three pages that Intel hosts need for real mode, and one more; in the hole below the
    // firmware.
    TRY(call(fd, KVM_SET_TSS_ADDR, 0xfeffd000, "the TSS address"));
    u64 identity = 0xfeffc000;
    TRY(call(fd, KVM_SET_IDENTITY_MAP_ADDR, &identity, "the identity map address"));
    kvm_enable_cap cap{};
    cap.cap = KVM_CAP_SPLIT_IRQCHIP;
    cap.args[0] = kIoapicPins;
    TRY(call(fd, KVM_ENABLE_CAP, &cap, "a split irqchip"));
    cap = {};
    cap.cap = KVM_CAP_X2APIC_API;
    cap.args[0] = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    TRY(call(fd, KVM_ENABLE_CAP, &cap, "32-bit APIC ids"));
    routes_ = std::make_unique<Routes>(fd);
    for (u32 i = 0; i < setup.memory->slots().size(); ++i) TRY_VOID(map_slot(i, false));
    return {};
  }

  Result<std::unique_ptr<machine::Vcpu>> create_vcpu(unsigned index, machine::LocalApic*) override {
    int fd = TRY(call(vm_.get(), KVM_CREATE_VCPU, index, "to create a vCPU"));
    auto vcpu = TRY(KvmVcpu::create(Fd(fd), system_.get(), index, setup_, msrs_));
    if (index == 0) bootstrap_ = vcpu.get();
    return vcpu;
  }

  bool add_doorbell(memory::Gpa at, u32 size, int eventfd) override {
    return doorbell(at, size, eventfd, 0);
  }
  void remove_doorbell(memory::Gpa at, u32 size, int eventfd) override {
    doorbell(at, size, eventfd, KVM_IOEVENTFD_FLAG_DEASSIGN);
  }

  // Logging starts with the first question; what was written before is unknown, so everything
  // counts.
  Result<> sync_dirty() override {
    const auto& slots = setup_.memory->slots();
    for (u32 i = 0; i < slots.size(); ++i) {
      if (!logging_) {
        TRY_VOID(map_slot(i, true));
        setup_.memory->mark_dirty(slots[i].start, slots[i].size);
        continue;
      }
      std::vector<u64> bitmap((slots[i].size / memory::kPageSize + 63) / 64);
      kvm_dirty_log log{};
      log.slot = i;
      log.dirty_bitmap = bitmap.data();
      TRY(call(vm_.get(), KVM_GET_DIRTY_LOG, &log, "the dirty log"));
      for (size_t word = 0; word < bitmap.size(); ++word)
        for (u64 rest = bitmap[word]; rest; rest &= rest - 1)
          setup_.memory->mark_dirty(
              slots[i].start +
                  (word * 64 + static_cast<u64>(__builtin_ctzll(rest))) * memory::kPageSize,
              1);
    }
    logging_ = true;
    return {};
  }

 private:
  KvmEngine() = default;

  Result<> read_supported() {
    auto block = std::make_unique<CpuidBlock>();
    block->count = std::size(block->entries);
    TRY(call(system_.get(), number::kGetSupportedCpuid, block.get(),
             "to say which CPUID it supports"));
    for (u32 i = 0; i < block->count; ++i) {
      const kvm_cpuid_entry2& e = block->entries[i];
      CpuidLeaf leaf{e.function, e.index, (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
                     e.eax,      e.ebx,   e.ecx,
                     e.edx};
      // KVM tells of the TSC deadline timer by a capability only.
      if (leaf.leaf == 1 &&
          ::ioctl(system_.get(), KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
        leaf.ecx |= 1u << 24;
      if (leaf.leaf == 1) leaf.ecx |= 1u << 21;  // x2APIC: the kernel's LAPIC has it everywhere
      supported_.push_back(leaf);
    }
    auto list = std::make_unique<MsrList>();
    list->count = std::size(list->indices);
    TRY(call(system_.get(), number::kGetMsrIndexList, list.get(), "to list its MSRs"));
    msrs_.insert(list->indices, list->indices + list->count);
    return {};
  }

  Result<> map_slot(u32 index, bool log) {
    const memory::Slot& slot = setup_.memory->slots()[index];
    kvm_userspace_memory_region region{};
    region.slot = index;
    region.flags = (slot.writable ? 0 : KVM_MEM_READONLY) | (log ? KVM_MEM_LOG_DIRTY_PAGES : 0);
    region.guest_phys_addr = slot.start;
    region.memory_size = slot.size;
    region.userspace_addr = reinterpret_cast<u64>(slot.host);
    TRY(call(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region,
             fmt::format("guest memory at {:#x}", slot.start)));
    return {};
  }

  bool doorbell(memory::Gpa at, u32 size, int eventfd, u32 flags) {
    kvm_ioeventfd binding{};
    binding.addr = at;
    binding.len = size;
    binding.fd = eventfd;
    binding.flags = flags;
    return ::ioctl(vm_.get(), KVM_IOEVENTFD, &binding) == 0;
  }

  Fd system_, vm_;
  machine::EngineSetup setup_;
  CpuidTable supported_;
  std::set<u32> msrs_;
  std::unique_ptr<Routes> routes_;
  KvmVcpu* bootstrap_ = nullptr;
  bool logging_ = false;
};

}  // namespace

Result<std::unique_ptr<machine::Engine>> create_engine() {
  return KvmEngine::create();
}

}  // namespace skerry::kvm

#include "board/board.hpp"

#include <sys/mman.h>

#include "board/acpi.hpp"
#include "board/disk_boot.hpp"
#include "board/loader.hpp"
#include "board/mptable.hpp"
#include "board/net_ports.hpp"
#include "board/shared_folder.hpp"
#include "board/smbios.hpp"
#include "board/wiring.hpp"
#include "devices/acpi_pm.hpp"
#include "devices/debug_exit.hpp"
#include "devices/fw_cfg.hpp"
#include "devices/hpet.hpp"
#include "devices/i8042.hpp"
#include "devices/pvpanic.hpp"
#include "devices/rtc.hpp"
#include "devices/uart16550.hpp"
#include "devices/vm_generation.hpp"
#include "irq/apic_bus.hpp"
#include "irq/lapic.hpp"
#include "irq/pit.hpp"
#include "net/clients.hpp"
#include "net/unix_ports.hpp"
#include "pci/bus.hpp"
#include "seed/cloud_init.hpp"
#include "storage/image.hpp"
#include "virtio/balloon.hpp"
#include "virtio/blk.hpp"
#include "virtio/console.hpp"
#include "virtio/net.hpp"
#include "virtio/ports.hpp"
#include "virtio/rng.hpp"
#include "virtio/transport_pci.hpp"
#include "virtio/vsock.hpp"

namespace skerry::board {

static_assert(kAcpiEnable == devices::AcpiPm::kAcpiEnable);
static_assert(kAcpiDisable == devices::AcpiPm::kAcpiDisable);
static_assert(kEcam.start == pci::kEcamBase && kEcam.size == pci::kEcamSize);

using machine::Machine;

struct Board::Parts {
  schema::MachineSpec spec;
  std::function<LineSink(size_t)> sinks;
  machine::CpuidTable cpuid;
  // What outlives the devices, which the machine owns.
  std::vector<std::unique_ptr<machine::Registers>> plain;
  irq::ApicBus apic_bus;
  std::vector<std::unique_ptr<irq::Lapic>> lapics;
  std::unique_ptr<Wires> wires;
  std::optional<u16> pm_mapped;
  std::unique_ptr<Machine> machine;
  std::vector<Line> lines;
  std::vector<NetworkCard> cards;
  std::vector<virtio::Blk*> disks;

  irq::Pic* pic = nullptr;
  irq::Ioapic* ioapic = nullptr;
  irq::Pit* pit = nullptr;
  devices::Rtc* rtc = nullptr;
  devices::AcpiPm* pm = nullptr;
  pci::Bus* bus = nullptr;
  pci::Lpc* lpc = nullptr;
  virtio::Balloon* balloon = nullptr;
  storage::Disk* boot_disk = nullptr;  ///< the first; a virtio device owns it
  devices::VmGeneration* generation = nullptr;

  Result<> set_up_engine(machine::Engine& engine);
  void add_interrupt_controllers();
  void add_timers();
  void add_super_io();
  void add_chipset();
  void add_fw_cfg();
  Result<> add_virtio();
  Result<> add_network_card(size_t index);
  Result<> add_function(std::unique_ptr<virtio::VirtioDevice> device, EventLoop* loop = nullptr);
  Result<> add_cpus();
  Result<machine::CpuState> boot();
};

namespace {

BootRequest boot_request(const schema::MachineSpec& spec) {
  BootRequest request{spec.kernel, spec.initrd, spec.append, {}};
  for (const schema::ModuleSpec& m : spec.modules) request.modules.push_back({m.file, m.args});
  return request;
}

/// The seed disk lives in a memfd, which the disk opens for itself.
Result<std::unique_ptr<storage::RawDisk>> open_seed(const schema::MachineSpec& spec) {
  std::vector<u8> bytes = TRY(seed::cloud_init_disk(spec));
  Fd memory(::memfd_create("skerry-seed", MFD_CLOEXEC));
  if (!memory) return fail_errno("cannot make a memfd for the seed disk");
  TRY_VOID(write_all(memory.get(), bytes));
  return storage::RawDisk::open(fmt::format("/proc/self/fd/{}", memory.get()), {.readonly = true});
}

u64 ram_above_4g(const memory::GuestMemory& memory) {
  return memory.slots().size() > 1 ? memory.slots()[1].size : 0;
}

}  // namespace

Result<> Board::Parts::set_up_engine(machine::Engine& engine) {
  machine::EngineSetup setup;
  setup.memory = &machine->memory();
  setup.clock = &machine->clock();
  setup.cpus = spec.cpus;
  setup.tsc_hz = host_tsc_hz();
  setup.extint = pic;
  setup.trace_tables = spec.engine == schema::EngineChoice::soft_tables;
  setup.interpreter = spec.engine == schema::EngineChoice::soft_interpreter;
  setup.code_cache = spec.code_cache.count;
  cpuid = TRY(build_cpuid({spec.cpu, spec.cpus, setup.tsc_hz, engine.any_hypercall()},
                          engine.supported_cpuid()));
  setup.cpuid = cpuid;
  return engine.configure(setup);
}

void Board::Parts::add_interrupt_controllers() {
  Machine& m = *machine;
  machine::Engine& engine = m.engine();
  pic = &m.add(std::make_unique<irq::Pic>(m.lock(), [this, &engine](bool level) {
    if (engine.owns_lapic()) {
      engine.set_extint(level);
    } else if (!lapics.empty()) {
      lapics[0]->set_lint(0, level);
    }
  }));
  m.ports().map(0x20, 2, pic->master_ports(), "pic");
  m.ports().map(0xa0, 2, pic->slave_ports(), "pic");
  m.ports().map(0x4d0, 2, pic->elcr_ports(), "pic");
}

void Board::Parts::add_timers() {
  Machine& m = *machine;
  machine::MsiSink* sink = m.engine().owns_lapic() ? m.engine().msi_sink() : &apic_bus;
  ioapic = &m.add(std::make_unique<irq::Ioapic>(*sink));
  m.memory_space().map(kIoapic, irq::Ioapic::kWindow, *ioapic, "ioapic");
  auto eoi = [this](u8 vector) {
    std::lock_guard guard(machine->lock());
    ioapic->eoi(vector);
  };
  apic_bus.set_eoi_callback(eoi);
  m.vcpu_host().ioapic_eoi = eoi;
  wires = std::make_unique<Wires>(*pic, *ioapic);

  pit = &m.add(std::make_unique<irq::Pit>(m, wires->isa(0)));
  m.ports().map(0x40, 4, pit->ports(), "pit");
  m.ports().map(0x61, 1, pit->control_port(), "pit");
  rtc = &m.add(std::make_unique<devices::Rtc>(
      m, wires->isa(8),
      devices::CmosConfig{m.memory().slots()[0].size, ram_above_4g(m.memory()), spec.cpus}));
  m.ports().map(0x70, 2, rtc->ports(), "rtc");

  devices::Hpet::Wiring wiring;
  // Pins 20-23 are PCI's, too: the HPET gets a share of each, made once.
  std::array<machine::IrqLine*, irq::Ioapic::kPins> shares;
  for (unsigned pin = 0; pin < shares.size(); ++pin) shares[pin] = &wires->ioapic_pin(pin);
  wiring.pin = [shares](unsigned pin) -> machine::IrqLine& { return *shares[pin]; };
  wiring.irq0 = &wires->isa(0);
  wiring.irq8 = &wires->isa(8);
  wiring.legacy = [this](bool on) {
    pit->mute_irq(on);
    rtc->mute_irq(on);
  };
  auto& hpet = m.add(std::make_unique<devices::Hpet>(m, wiring));
  m.memory_space().map(kHpet, devices::Hpet::kWindow, hpet, "hpet");
}

void Board::Parts::add_super_io() {
  Machine& m = *machine;
  for (size_t i = 0; i < spec.serials.size(); ++i) {
    LineSink sink = sinks(i);
    std::string name = fmt::format("serial{}", i);
    auto& uart = m.add(std::make_unique<devices::Uart16550>(
        name, m, wires->isa(kUarts[i].irq), devices::Uart16550::Host{sink.write, sink.room}));
    m.ports().map(kUarts[i].port, 8, uart, name);
    lines.push_back({name, [this, &uart](std::span<const u8> bytes) {
                       std::lock_guard guard(machine->lock());
                       return uart.receive(bytes);
                     }});
  }
  auto& keyboard = m.add(std::make_unique<devices::I8042>(m, wires->isa(1), wires->isa(12)));
  m.ports().map(0x60, 1, keyboard.data_port(), "i8042");
  m.ports().map(0x64, 1, keyboard.command_port(), "i8042");
  auto& post = m.add(std::make_unique<devices::PostPort>());
  m.ports().map(0x80, 1, post, "post");
  auto& panic = m.add(std::make_unique<devices::PvPanic>(m));
  m.ports().map(kPvPanicPort, 1, panic, "pvpanic");
  auto& port92 = m.add(std::make_unique<devices::Port92>(m));
  m.ports().map(0x92, 1, port92, "port92");
  if (spec.debug_exit) {
    plain.push_back(std::make_unique<devices::DebugExit>(m));
    m.ports().map(0xf4, 4, *plain.back(), "debug-exit");
  }
  // Where test guests and firmware print before they have a console.
  plain.push_back(std::make_unique<devices::DebugConsole>([](u8 c) {
    static thread_local std::string line;
    if (c != '\n' && line.size() < 1000) {
      line += static_cast<char>(c);
      return;
    }
    trace(Trace::io, "debug console: {}", line);
    line.clear();
  }));
  m.ports().map(0x402, 1, *plain.back(), "debug-console");
}

void Board::Parts::add_chipset() {
  Machine& m = *machine;
  machine::Engine& engine = m.engine();
  pm = &m.add(
      std::make_unique<devices::AcpiPm>(m, m, wires->isa(kSciIrq), devices::AcpiPm::Setup{}));
  m.ports().map(kSmiCommand, 2, pm->smi_command(), "smi");
  generation = &m.add(std::make_unique<devices::VmGeneration>(
      m.memory(), kVmGeneration, devices::VmGeneration::random(),
      [this] { pm->raise_gpe(kVmGenerationGpe); }));

  pci::Wiring wiring;
  wiring.ports = &m.ports();
  wiring.memory = &m.memory_space();
  wiring.msi = engine.owns_lapic() ? engine.msi_sink() : &apic_bus;
  wiring.intx = [this](unsigned device, unsigned pin) {
    return lpc->pirq(pci::pirq_of(device, pin));
  };
  wiring.add_doorbell = [&engine](u64 at, u32 size, int fd) { engine.add_doorbell(at, size, fd); };
  wiring.remove_doorbell = [&engine](u64 at, u32 size, int fd) {
    engine.remove_doorbell(at, size, fd);
  };
  bus = &m.add(std::make_unique<pci::Bus>(wiring));
  m.ports().map(pci::kConfigPort, pci::kConfigPorts, bus->ports(), "pci");
  m.memory_space().map(pci::kEcamBase, pci::kEcamSize, bus->ecam(), "ecam");
  auto& reset = m.add(std::make_unique<devices::ResetPort>(m));
  m.ports().map(kResetPort, 1, reset, "reset");

  lpc = &m.add(std::make_unique<pci::Lpc>(kPmBase, wires->lpc_outputs()));
  lpc->pm_base_changed = [this](std::optional<u16> base) {
    if (base == pm_mapped) return;
    if (pm_mapped) machine->ports().unmap(*pm_mapped, pm->block());
    if (base) machine->ports().map(*base, devices::AcpiPm::kBlockSize, pm->block(), "acpi-pm");
    pm_mapped = base;
  };
  auto& bridge = m.add(std::make_unique<pci::HostBridge>());
  bus->add(0, 0, bridge);
  lpc->set_multifunction();
  bus->add(31, 0, *lpc);
  lpc->reset();
}

void Board::Parts::add_fw_cfg() {
  Machine& m = *machine;
  auto& fw = m.add(std::make_unique<devices::FwCfg>(m.memory()));
  m.ports().map(0x510, 2, fw.ports(), "fw_cfg");
  m.ports().map(0x514, 8, fw.dma_ports(), "fw_cfg");
  fw.set_u64(devices::FwCfg::ram_size, m.memory().size());
  fw.set_u16(devices::FwCfg::cpus, static_cast<u16>(spec.cpus));
  fw.set_u16(devices::FwCfg::max_cpus, static_cast<u16>(spec.cpus));
  fw.set_u16(devices::FwCfg::nographic, 1);
}

// `loop`: null for the machine's own.
Result<> Board::Parts::add_function(std::unique_ptr<virtio::VirtioDevice> device, EventLoop* loop) {
  Machine& m = *machine;
  auto slot = bus->free_device();
  if (!slot) return fail("the machine has no free PCI slot for {}", device->name());
  auto tell = [&m](const std::string& name, std::string_view what) {
    if (m.on_device_event) m.on_device_event(name, what);
  };
  auto transport = TRY(virtio::TransportPci::create(
      {m.memory(), loop ? *loop : m.loop(), m.lock(), tell}, std::move(device)));
  auto& function = m.add(std::move(transport));
  bus->add(*slot, 0, function);
  m.add_quiesce([this, &function] {
    std::lock_guard guard(machine->lock());
    function.quiesce();
  });
  m.add_wake([this, &function] {
    std::lock_guard guard(machine->lock());
    function.resume();
  });
  return {};
}

namespace {

Result<std::unique_ptr<storage::Disk>> open_disk(const schema::DiskSpec& d) {
  storage::OpenOptions options;
  options.readonly = d.readonly || d.overlay;
  options.direct = d.direct;
  if (d.format == schema::DiskFormat::raw) options.format = storage::Format::raw;
  if (d.format == schema::DiskFormat::qcow2) options.format = storage::Format::qcow2;
  auto disk = std::move(TRY(storage::open_image(d.path, options)).disk);
  return d.overlay ? storage::open_overlay(std::move(disk)) : std::move(disk);
}

}  // namespace

namespace {

/// Null: threads do it.
Result<std::unique_ptr<storage::DiskRing>> open_ring(const schema::DiskSpec& d) {
  if (d.aio == schema::DiskAio::threads) return nullptr;
  auto ring = storage::DiskRing::create();
  if (!ring && d.aio == schema::DiskAio::auto_) return nullptr;
  return ring;
}

}  // namespace

Result<> Board::Parts::add_network_card(size_t index) {
  Machine& m = *machine;
  const schema::NetSpec& n = spec.nets[index];
  std::string name = fmt::format("net{}", index);
  auto chosen = schema::parse_mac(n.mac);
  net::Mac mac = chosen ? *chosen : net::stable_mac(spec.name, static_cast<unsigned>(index));
  auto port = connect(n, {spec.name, name, mac}, m.loop(), m.clock());
  if (!port) return std::unexpected(std::move(port.error()).in(name));
  virtio::Net::Setup setup;
  setup.mac = mac;
  setup.pairs = n.queues;
  setup.mtu = static_cast<u16>(n.mtu);
  auto device = std::make_unique<virtio::Net>(
      name, virtio::Environment{m.memory(), m.loop(), m.lock()}, std::move(*port), setup);
  device->set_link(!n.link_down);
  cards.push_back({.name = name,
                   .status =
                       [this, card = device.get()] {
                         std::lock_guard guard(machine->lock());
                         return NetworkCard::Status{card->port().describe(),
                                                    net::to_text(card->mac()), card->link_up(),
                                                    card->traffic()};
                       },
                   .set_link =
                       [this, card = device.get()](bool up) {
                         std::lock_guard guard(machine->lock());
                         card->set_link(up);
                       }});
  return add_function(std::move(device));
}

Result<> Board::Parts::add_virtio() {
  Machine& m = *machine;
  virtio::Environment environment{m.memory(), m.loop(), m.lock()};
  for (size_t i = 0; i < spec.disks.size(); ++i) {
    const schema::DiskSpec& d = spec.disks[i];
    auto image = TRY(open_disk(d));
    if (i == 0) boot_disk = image.get();
    std::string serial = d.serial.empty() ? fmt::format("skerry{}", i) : d.serial;
    // A queue for each CPU, so that they do not wait for each other.
    std::string name = fmt::format("disk{}", i);
    // Requests are begun by a thread of the disk's own, which may have to wait for the host.
    EventLoop* loop = TRY(m.add_loop(name));
    virtio::Environment own{m.memory(), *loop, m.lock()};
    auto disk = std::make_unique<virtio::Blk>(name, own, std::move(image), std::move(serial),
                                              spec.cpus, TRY(open_ring(d)));
    virtio::Blk::OnError on_error;
    on_error.pause_if_full = d.on_enospc == schema::DiskError::auto_
                                 ? schema::can_resume(spec)
                                 : d.on_enospc == schema::DiskError::pause;
    on_error.pause = d.on_error == schema::DiskError::pause;
    on_error.ask = [&m, name, disk = disk.get()](const std::string& why) {
      if (m.on_trouble) m.on_trouble(name, why, [disk] { return disk->stuck(); });
    };
    disk->set_on_error(std::move(on_error));
    virtio::Blk::Limits limits{d.bps.count, d.bps_burst.count, d.iops, d.iops_burst};
    if (limits != virtio::Blk::Limits{}) disk->set_limits(limits, m.clock());
    disks.push_back(disk.get());
    TRY_VOID(add_function(std::move(disk), loop));
  }
  if (schema::wants_seed(spec)) {
    auto seed = TRY(open_seed(spec));
    TRY_VOID(add_function(
        std::make_unique<virtio::Blk>("seed", environment, std::move(seed), "cidata")));
  }
  for (size_t i = 0; i < spec.nets.size(); ++i) TRY_VOID(add_network_card(i));
  for (size_t i = 0; i < spec.consoles.size(); ++i) {
    LineSink sink = sinks(spec.serials.size() + i);
    std::string name = fmt::format("console{}", i);
    auto device = std::make_unique<virtio::Console>(name, sink.write);
    device->has_room = sink.room;
    lines.push_back({name, [this, console = device.get()](std::span<const u8> bytes) {
                       std::lock_guard guard(machine->lock());
                       return console->receive(bytes);
                     }});
    TRY_VOID(add_function(std::move(device)));
  }
  if (!spec.channels.empty()) {
    std::vector<virtio::Ports::Setup> ports;
    for (const schema::ChannelSpec& c : spec.channels)
      ports.push_back(
          {c.name, TRY(net::UnixClients::create(m.loop(), c.socket, " for channel " + c.name))});
    TRY_VOID(
        add_function(std::make_unique<virtio::Ports>("channels", environment, std::move(ports))));
  }
  for (size_t i = 0; i < spec.shares.size(); ++i)
    TRY_VOID(
        add_function(TRY(share_folder(fmt::format("share{}", i), spec.shares[i], environment))));
  if (!spec.vsock.empty())
    TRY_VOID(add_function(
        std::make_unique<virtio::Vsock>("vsock0", environment, spec.vsock.cid,
                                        TRY(net::UnixPorts::create(m.loop(), spec.vsock.socket)))));
  auto rng = spec.rng_rate.count
                 ? std::make_unique<virtio::Rng>(
                       "rng0", virtio::Rng::Limit{spec.rng_rate.count, m.clock(), environment})
                 : std::make_unique<virtio::Rng>("rng0");
  TRY_VOID(add_function(std::move(rng)));
  if (spec.balloon) {
    auto device = std::make_unique<virtio::Balloon>("balloon0", m.memory());
    balloon = device.get();
    TRY_VOID(add_function(std::move(device)));
  }
  return {};
}

Result<> Board::Parts::add_cpus() {
  Machine& m = *machine;
  machine::Engine& engine = m.engine();
  for (unsigned i = 0; i < spec.cpus; ++i) {
    if (!engine.owns_lapic()) {
      irq::LapicSetup setup;
      setup.id = i;
      setup.bsp = i == 0;
      setup.physical_bits = physical_bits(cpuid);
      setup.tsc_hz = host_tsc_hz();
      auto& lapic = lapics.emplace_back(std::make_unique<irq::Lapic>(setup, m.clock(), apic_bus));
      lapic->set_port(&m.cpu(i));
      if (i == 0) lapic->set_extint(pic);
    }
    machine::LocalApic* lapic = engine.owns_lapic() ? nullptr : lapics[i].get();
    auto vcpu = engine.create_vcpu(i, lapic);
    if (!vcpu) return std::unexpected(std::move(vcpu.error()).in(fmt::format("CPU {}", i)));
    m.cpu(i).attach(std::move(*vcpu), lapic);
  }
  return {};
}

// What a firmware would have done: tables in memory, then the kernel.
Result<machine::CpuState> Board::Parts::boot() {
  memory::GuestMemory& memory = machine->memory();
  BootContext context;
  context.e820 = build_e820(memory);
  context.physical_bits = physical_bits(cpuid);
  TRY_VOID(install_bios_data(memory));
  AcpiConfig acpi;
  acpi.cpus = spec.cpus;
  for (size_t i = 0; i < spec.serials.size(); ++i) acpi.uarts.push_back(kUarts[i]);
  acpi.pci_window64 = high_window(memory.size(), context.physical_bits);
  context.rsdp = TRY(build_acpi(acpi).install(memory));
  SmbiosConfig smbios;
  smbios.name = spec.name;
  smbios.cpus = spec.cpus;
  smbios.memory = memory.size();
  TRY_VOID(build_smbios(smbios).install(memory));
  generation->place();
  auto leaf = machine::cpuid_lookup(cpuid, 1, 0);
  TRY_VOID(install_mptable(memory, {spec.cpus, 0, leaf.eax, leaf.edx}));
  if (spec.boot_from_disk) return load_from_disk(memory, *boot_disk, spec, context);
  return load_kernel(memory, boot_request(spec), context);
}

Board::Board(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Board::~Board() {
  parts_->machine->shut_down();
}

Result<std::unique_ptr<Board>> Board::build(const schema::MachineSpec& spec,
                                            std::unique_ptr<machine::Engine> engine,
                                            std::function<LineSink(size_t)> sinks) {
  auto parts = std::make_unique<Parts>();
  parts->spec = spec;
  parts->sinks = std::move(sinks);
  auto memory = TRY(memory::GuestMemory::create(spec.memory.count));
  parts->machine = TRY(Machine::create(std::move(memory), std::move(engine), spec.cpus));
  parts->add_interrupt_controllers();
  TRY_VOID(parts->set_up_engine(parts->machine->engine()));
  parts->add_timers();
  parts->add_super_io();
  parts->add_chipset();
  parts->add_fw_cfg();
  TRY_VOID(parts->add_virtio());
  TRY_VOID(parts->add_cpus());
  parts->machine->set_boot([p = parts.get()] { return p->boot(); });
  return std::unique_ptr<Board>(new Board(std::move(parts)));
}

Machine& Board::machine() {
  return *parts_->machine;
}
const std::vector<Line>& Board::lines() const {
  return parts_->lines;
}

std::string Board::new_generation() {
  std::lock_guard guard(parts_->machine->lock());
  parts_->generation->renew(devices::VmGeneration::random());
  return devices::VmGeneration::text(parts_->generation->id());
}

virtio::Balloon* Board::balloon() {
  return parts_->balloon;
}

const std::vector<virtio::Blk*>& Board::disks() const {
  return parts_->disks;
}

const std::vector<NetworkCard>& Board::network_cards() const {
  return parts_->cards;
}

void Board::press_power_button() {
  std::lock_guard guard(parts_->machine->lock());
  parts_->pm->press_power_button();
}

}  // namespace skerry::board

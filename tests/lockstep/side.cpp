#include "lockstep/side.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/soft/engine.hpp"
#include "virtio/blk.hpp"

namespace skerry::lockstep {

using machine::Exit;

/// Passes everything on, and sees what the machine does to the vCPU.
class Side::Vcpu final : public machine::Vcpu {
 public:
  Vcpu(std::unique_ptr<machine::Vcpu> inner) : inner_(std::move(inner)) {}

  Exit run() override { return inner_->run(); }
  void answer(u64 value) override { inner_->answer(value); }
  void kick() override {
    kicked = true;
    if (!deaf) inner_->kick();
  }
  void notify_interrupt() override { inner_->notify_interrupt(); }
  bool mid_instruction() const override { return inner_->mid_instruction(); }
  Result<> load(const machine::CpuState& state) override { return inner_->load(state); }
  Result<> save(machine::CpuState& state) override { return inner_->save(state); }
  Result<> reload(const machine::CpuState& state) override {
    woken = true;  // INIT
    return inner_->reload(state);
  }
  void inject_nmi() override {
    woken = true;
    inner_->inject_nmi();
  }
  Result<> set_debug(const machine::DebugRequest& request) override {
    return inner_->set_debug(request);
  }
  std::optional<memory::Gpa> translate(u64 at) override { return inner_->translate(at); }
  u64 instructions() const override { return inner_->instructions(); }

  bool kicked = false;  ///< the machine wants something: an NMI, INIT, or the end
  bool deaf = false;    ///< and it is known what
  bool woken = false;   ///< whatever it waited for

 private:
  std::unique_ptr<machine::Vcpu> inner_;
};

/// The software engine with our clock.
class Side::Engine final : public machine::Engine {
 public:
  Engine(Side& side, std::unique_ptr<machine::Engine> inner, std::string cpu_model)
      : side_(side), inner_(std::move(inner)), cpu_model_(std::move(cpu_model)) {}

  std::string_view name() const override { return inner_->name(); }
  machine::CpuidTable supported_cpuid() const override { return inner_->supported_cpuid(); }
  Result<> configure(const machine::EngineSetup& given) override {
    machine::EngineSetup setup = given;
    setup.clock = &side_.clock_;
    setup.tsc_hz = soft::DeterministicClock::kHz;
    setup.cpuid =
        TRY(board::build_cpuid({cpu_model_, setup.cpus, setup.tsc_hz}, inner_->supported_cpuid()));
    return inner_->configure(setup);
  }
  bool owns_lapic() const override { return false; }
  Result<std::unique_ptr<machine::Vcpu>> create_vcpu(unsigned index,
                                                     machine::LocalApic* lapic) override {
    auto vcpu = TRY(inner_->create_vcpu(index, lapic));
    side_.cpu_ = &static_cast<soft::SoftVcpu&>(*vcpu).cpu();
    auto outer = std::make_unique<Vcpu>(std::move(vcpu));
    side_.vcpu_ = outer.get();
    return outer;
  }
  bool add_doorbell(memory::Gpa at, u32 size, int eventfd) override {
    return inner_->add_doorbell(at, size, eventfd);
  }
  void remove_doorbell(memory::Gpa at, u32 size, int eventfd) override {
    inner_->remove_doorbell(at, size, eventfd);
  }

 private:
  Side& side_;
  std::unique_ptr<machine::Engine> inner_;
  std::string cpu_model_;
};

namespace {

Result<Fd> copy_of(const std::string& path) {
  Fd from(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!from) return fail_errno("cannot open " + path);
  Fd to(::memfd_create("lockstep-disk", MFD_CLOEXEC));
  if (!to) return fail_errno("cannot create a memfd");
  std::vector<u8> buffer(1 * MiB);
  for (ssize_t n; (n = ::read(from.get(), buffer.data(), buffer.size())) != 0;)
    if (n < 0 || ::write(to.get(), buffer.data(), static_cast<size_t>(n)) != n)
      return fail_errno("cannot copy " + path);
  return to;
}

}  // namespace

Result<std::unique_ptr<Side>> Side::create(const Setup& setup, schema::EngineChoice engine) {
  std::unique_ptr<Side> side(new Side);
  side->host_.random = setup.seed;
  side->host_.wall = side->clock_.wall();
  side->input_ = setup.input;
  Turn turn(side->host_);
  schema::MachineSpec spec = setup.spec;
  spec.cpus = 1;
  spec.engine = engine;
  spec.serials = {{schema::SerialKind::none, ""}};
  spec.consoles.clear();
  for (schema::DiskSpec& disk : spec.disks) {
    side->disks_.push_back(TRY(copy_of(disk.path)));
    disk.aio = schema::DiskAio::threads;
    disk.path = fmt::format("/proc/self/fd/{}", side->disks_.back().get());
  }
  auto inner = TRY(soft::create_engine());
  side->board_ = TRY(board::Board::build(
      spec, std::make_unique<Engine>(*side, std::move(inner), spec.cpu), [s = side.get()](size_t) {
        return board::LineSink{
            [s](std::span<const u8> bytes) { s->output_.append(bytes.begin(), bytes.end()); },
            [] {}};
      }));
  // When the host has done one request before another, or both, must make no difference.
  for (virtio::Blk* disk : side->board_->disks()) disk->set_threads(1);
  // Its clock stands still for ever and is set by hand; its threads are never started.
  machine::Machine& m = side->machine();
  m.host_clock().set(0);
  TRY_VOID(m.reset());
  m.resume();
  m.host_clock().stop();
  m.host_clock().set(0);
  m.run_loops_once();
  return side;
}

Side::~Side() {
  if (!board_) return;
  Turn turn(host_);
  board_.reset();
}

void Side::end(std::string why) {
  if (status_ == Status::ended) return;
  status_ = Status::ended;
  ending_ = std::move(why);
}

void Side::look_for_request() {
  auto outcome = machine().wait_request(0);
  if (!outcome) return;
  using machine::Request;
  switch (outcome->what) {
    case Request::power_off: return end("power off");
    case Request::reset: return end("reset");
    case Request::panic: return end("panic");
    case Request::debug_exit:
      code_ = outcome->code;
      return end(fmt::format("debug exit with {:#x}", outcome->code));
    default: return end("a crash");
  }
}

// As machine::VcpuThread does. False: the vCPU does not run on.
bool Side::dispatch(Exit& exit) {
  machine::Machine& m = machine();
  if (auto* port = std::get_if<machine::PortIo>(&exit)) {
    if (port->write)
      m.ports().write(port->port, port->size, port->value);
    else
      vcpu_->answer(m.ports().read(port->port, port->size));
  } else if (auto* mmio = std::get_if<machine::Mmio>(&exit)) {
    machine::LocalApic& lapic = *m.cpu(0).lapic();
    if (lapic.claims(mmio->at)) {
      const u32 offset = static_cast<u32>(mmio->at & 0xfff);
      if (!mmio->write)
        vcpu_->answer((u64{lapic.mmio_read(offset & ~3u)} >> (8 * (offset & 3))) &
                      byte_mask(mmio->size));
      else if (mmio->size == 4 && offset % 4 == 0)
        lapic.mmio_write(offset, static_cast<u32>(mmio->value));
    } else if (mmio->write) {
      m.memory_space().write(mmio->at, mmio->size, mmio->value);
    } else {
      vcpu_->answer(m.memory_space().read(mmio->at, mmio->size));
    }
  } else if (auto* halt = std::get_if<machine::Halt>(&exit)) {
    interruptible_ = halt->interrupts_enabled;
    vcpu_->woken = false;
    take_events();
    if (!wakes()) status_ = Status::halted;
  } else if (std::holds_alternative<machine::Shutdown>(exit)) {
    end("triple fault");
  } else if (auto* fatal = std::get_if<machine::Fatal>(&exit)) {
    end("the engine gave up: " + fatal->text);
  }
  return status_ == Status::running;
}

void Side::take_events() {
  if (!vcpu_->kicked) return;
  vcpu_->kicked = false;
  look_for_request();
  machine::CpuState state;
  (void)machine().cpu(0).save(state);  // which takes the NMIs and INITs that were posted
}

bool Side::wakes() {
  return vcpu_->woken || (interruptible_ && machine().cpu(0).lapic()->deliverable());
}

void Side::advance(u64 to, bool single_block) {
  Turn turn(host_);
  clock_.set_guest(true);
  if (plant_ && to >= plant_->at) {
    run(plant_->at, single_block);
    if (position() >= plant_->at) grow();
    if (single_block) to = 0;
  }
  if (position() < to || !single_block) run(to, single_block);
  clock_.set_guest(false);
}

void Side::run(u64 to, bool single_block) {
  while (status_ == Status::running) {
    core().stop_at = to;
    core().single_block = single_block;
    Exit exit = vcpu_->run();
    if (!dispatch(exit)) break;
    if (vcpu_->kicked) take_events();
    if (std::holds_alternative<machine::Interrupted>(exit) && (single_block || position() >= to))
      break;
  }
}

void Side::grow() {
  if (plant_->memory) {
    auto byte = machine().memory().read_value<u8>(*plant_->memory);
    if (byte) (void)machine().memory().write_value<u8>(*plant_->memory, *byte ^ 0x10);
  } else {
    cpu_->gpr[machine::rbx] ^= 0x10;
  }
  plant_.reset();
}

std::optional<Nanos> Side::until_deadline() {
  if (!interruptible_) return std::nullopt;
  auto deadline = machine().cpu(0).lapic()->timer_deadline();
  if (!deadline) return std::nullopt;
  return std::max<Nanos>(0, *deadline - clock_.now());
}

void Side::event(Nanos skip) {
  if (status_ == Status::ended) return;
  Turn turn(host_);
  machine::Machine& m = machine();
  skipped_ += skip;
  clock_.advance_to(static_cast<Nanos>(position()) + skipped_);
  host_.wall = clock_.wall();
  m.host_clock().set(clock_.now());
  m.run_loops_once();
  if (!disks_.empty()) {
    // Pausing waits for requests in flight.
    vcpu_->deaf = true;
    const bool kicked = vcpu_->kicked;
    m.pause();
    m.resume();
    m.host_clock().stop();
    m.host_clock().set(clock_.now());
    vcpu_->kicked = kicked;
    vcpu_->deaf = false;
    m.run_loops_once();
  }
  give_input();
  m.cpu(0).lapic()->run_timer();
  take_events();
  if (status_ == Status::halted && wakes()) status_ = Status::running;
}

void Side::give_input() {
  while (next_input_ < input_.size() && input_[next_input_].at <= clock_.now()) {
    std::string& text = input_[next_input_].text;
    const u8* bytes = reinterpret_cast<const u8*>(text.data());
    text.erase(0, board_->lines()[0].receive({bytes, text.size()}));
    if (!text.empty()) return;  // the rest at the next event
    ++next_input_;
  }
}

machine::CpuState Side::state() {
  machine::CpuState state;
  (void)vcpu_->save(state);
  state.run = status_ == Status::halted  ? machine::RunState::halted
              : status_ == Status::ended ? machine::RunState::shutdown
                                         : machine::RunState::running;
  return state;
}

std::vector<u8> Side::code_at(u64 linear, size_t length) {
  std::vector<u8> bytes;
  while (bytes.size() < length) {
    auto gpa = vcpu_->translate(linear + bytes.size());
    auto value = gpa ? machine().memory().read_value<u8>(*gpa) : std::nullopt;
    if (!value) break;
    bytes.push_back(*value);
  }
  return bytes;
}

bool Side::poke(u64 linear, std::span<const u8> bytes) {
  auto gpa = vcpu_->translate(linear);
  return gpa && machine().memory().write(*gpa, bytes);
}

state::Image Side::devices() {
  state::Image image;
  for (const auto& device : machine().devices()) device->save(image);
  return image;
}

}  // namespace skerry::lockstep

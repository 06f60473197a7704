// Function: the base of every PCI device function: header, BARs, capabilities, interrupts, saved
// state.
//
// PCI Local Bus 3.0 chapter 6. A derived class adds its BARs and capabilities in its constructor
// and then answers through the Registers of its BARs; bus.hpp wires it. BARs are mapped and
// unmapped in the machine's Spaces as the guest programs them. Not here: PCI Express capabilities,
// power management, expansion ROMs, bridges (type 1).
//
// Threading: everything is called with the board lock held.
#pragma once

#include <functional>
#include <optional>

#include "machine/space.hpp"
#include "pci/config.hpp"
#include "pci/msix.hpp"

namespace skerry::pci {

/// Where functions live. The board fills it once; it outlives them. All may be absent.
struct Wiring {
  machine::Space* ports = nullptr;
  machine::Space* memory = nullptr;
  machine::MsiSink* msi = nullptr;
  /// The input that INTA..INTD (pin 0..3) of a device drives. Each call may return the same line:
  /// the line itself counts its drivers (see SharedLine) or not, as the board likes.
  std::function<machine::IrqLine*(unsigned device, unsigned pin)> intx;
  /// Stores of `size` bytes to guest-physical `at` only signal `eventfd` from now on, until
  /// removed.
  std::function<void(u64 at, u32 size, int eventfd)> add_doorbell, remove_doorbell;
};

struct Identity {
  u16 vendor = 0, device = 0;
  u8 revision = 0;
  u32 class_code = 0;  ///< 24 bits: class, subclass, programming interface
  u16 subsystem_vendor = 0, subsystem = 0;
  u8 interrupt_pin = 0;  ///< 0: none, 1: INTA ... 4: INTD
};

enum class BarKind : u8 { memory32, memory64, io };

class Function : public machine::Device {
 public:
  /// Nothing is mapped at or above this address, whatever a BAR says.
  static constexpr u64 kAddressLimit = u64{1} << 46;

  Function(std::string name, const Identity& identity);
  ~Function() override;

  std::string name() const override { return name_; }
  void reset() override;
  void save(state::Image& image) const override;
  Result<> load(const state::Image& image) override;

  /// By Bus.
  void connect(const Wiring& wiring, machine::IrqLine* intx);
  void set_multifunction() { config_.put<u8>(reg::header_type, initial_[reg::header_type] = 0x80); }
  u32 config_read(unsigned offset, unsigned size);
  void config_write(unsigned offset, unsigned size, u32 value);

  const Config& config() const { return config_; }
  /// Where BAR `index` is mapped now, if it is.
  std::optional<u64> bar_address(unsigned index) const { return bars_[index].mapped; }
  bool bus_master() const { return config_.get16(reg::command) & command::master; }

  struct State {
    std::array<u8, Config::kSize> config{};
    bool intx = false;
    Msix::State msix;
    static void describe(auto& s, auto& v) {
      v.field("config", s.config);
      v.field("intx", s.intx);
      v.field("msix", s.msix);
    }
  };

 protected:
  /// `size`: a power of two, at least 16 bytes of memory or 4 ports. A 64-bit BAR takes index + 1
  /// too.
  void add_bar(unsigned index, BarKind kind, u64 size, machine::Registers& registers);
  /// An MSI-X capability whose table fills BAR `bar` (32-bit memory).
  void add_msix(unsigned bar, unsigned vectors);
  /// An MSI capability: one message, 64-bit address.
  void add_msi();

  bool message_interrupts() const;  ///< MSI or MSI-X is enabled: INTx is then silent
  Msix* msix() { return msix_ ? &*msix_ : nullptr; }
  void send_msi();
  void set_intx(bool level);
  const Wiring& wiring() const { return wiring_; }

  /// Configuration space beyond plain storage. Offsets and sizes are inside the 256 bytes.
  virtual void before_config_read(unsigned offset, unsigned size) { (void)offset, (void)size; }
  virtual void after_config_write(unsigned offset, unsigned size) { (void)offset, (void)size; }
  /// BAR `index` is at `address` now, or unmapped. Called after the old place is gone.
  virtual void bar_moved(unsigned index, std::optional<u64> address) { (void)index, (void)address; }

  /// For derived load(): parse first, adopt once everything else is good, too.
  Result<State> parse(const state::Image& image) const;
  void adopt(State state);

  Config config_;

 private:
  struct Bar {
    BarKind kind = BarKind::memory32;
    u64 size = 0;  ///< 0: absent
    machine::Registers* registers = nullptr;
    std::optional<u64> mapped;
  };
  std::optional<u64> decoded(unsigned index) const;
  void place(unsigned index, std::optional<u64> address);
  void settle();  ///< makes mappings and interrupts follow configuration space
  void drive_intx();

  std::string name_;
  std::array<u8, Config::kSize> initial_{};
  bool initial_known_ = false;
  std::array<Bar, 6> bars_{};
  std::optional<Msix> msix_;
  unsigned msix_at_ = 0, msi_at_ = 0;
  Wiring wiring_;
  machine::IrqLine* intx_line_ = nullptr;
  bool intx_ = false;
};

}  // namespace skerry::pci

// The firmware configuration device of QEMU (its specs/fw_cfg.rst), by which SeaBIOS and OVMF learn
// of the machine: classic keys, the file directory, and DMA for reading. Items are read-only.
//
// Items belong to the board, which puts in the same ones for a machine that is being restored; only
// the guest's position is state. Threading: a device (board lock held); items are added before the
// machine runs or with the lock held.
#pragma once

#include <map>
#include <memory>
#include <string_view>
#include <vector>

#include "machine/byte_registers.hpp"
#include "memory/guest_memory.hpp"

namespace skerry::devices {

class FwCfg final : public machine::Device {
 public:
  using Item = std::shared_ptr<const std::vector<u8>>;

  enum Key : u16 {
    signature = 0x00,
    id = 0x01,
    uuid = 0x02,
    ram_size = 0x03,
    nographic = 0x04,
    cpus = 0x05,
    machine_id = 0x06,
    kernel_address = 0x07,
    kernel_size = 0x08,
    kernel_cmdline = 0x09,
    initrd_address = 0x0a,
    initrd_size = 0x0b,
    boot_device = 0x0c,
    numa = 0x0d,
    boot_menu = 0x0e,
    max_cpus = 0x0f,
    kernel_entry = 0x10,
    kernel_data = 0x11,
    initrd_data = 0x12,
    cmdline_address = 0x13,
    cmdline_size = 0x14,
    cmdline_data = 0x15,
    setup_address = 0x16,
    setup_size = 0x17,
    setup_data = 0x18,
    file_directory = 0x19,
    first_file = 0x20,
  };
  static constexpr size_t kMaxFiles = 256;
  static constexpr size_t kMaxName = 55;  ///< bytes of a file's name

  explicit FwCfg(memory::GuestMemory& memory);

  machine::Registers& ports() { return ports_; }    ///< 0x510, 2 bytes: selector, data
  machine::Registers& dma_ports() { return dma_; }  ///< 0x514, 8 bytes: big-endian address

  void set(u16 key, std::vector<u8> bytes);
  void set_u16(u16 key, u16 value);  ///< little-endian, as these keys are
  void set_u32(u16 key, u32 value);
  void set_u64(u16 key, u64 value);
  void set_string(u16 key, std::string_view text);  ///< with its NUL
  /// A file of the directory; replaces one of the same name. An error for a name that is empty or
  /// too long, or too many files.
  Result<> add_file(std::string name, std::vector<u8> bytes);

  std::string name() const override { return "fw_cfg"; }
  void reset() override { s_ = {}; }
  void save(state::Image& image) const override { image.put(name(), s_); }
  Result<> load(const state::Image& image) override { return image.get(name(), s_); }

  struct State {
    u32 dma_high = 0;  ///< upper half of the DMA address, kept until the lower starts the transfer
    u32 offset = 0;    ///< of the next byte in the selected item
    u16 key = 0;
    u16 unused = 0;
    static void describe(auto& s, auto& v) {
      v.field("dma_high", s.dma_high);
      v.field("offset", s.offset);
      v.field("key", s.key);
      v.field("unused", s.unused);
    }
  };

 private:
  class Ports final : public machine::Registers {
   public:
    explicit Ports(FwCfg& owner) : owner_(owner) {}
    u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;

   private:
    FwCfg& owner_;
  };
  class Dma final : public machine::Registers {
   public:
    explicit Dma(FwCfg& owner) : owner_(owner) {}
    u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;

   private:
    FwCfg& owner_;
  };
  void select(u16 key);
  const std::vector<u8>* item() const;
  u8 next_byte();
  void transfer(u64 at);
  bool copy_out(u64 to, u32 length);
  void rebuild_directory();

  memory::GuestMemory& memory_;
  std::map<u16, Item> items_;
  std::map<std::string, u16> files_;
  Ports ports_{*this};
  Dma dma_{*this};
  State s_;
};

}  // namespace skerry::devices

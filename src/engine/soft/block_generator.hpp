// For tests: puts random programs for the block fuzzer together: single instructions
// (block_writer.hpp), jumps, loops, calls, strings, stores into the code, and the states to start
// from.
//
// Single-threaded.
#pragma once

#include "engine/soft/block_writer.hpp"

namespace skerry::soft::block_fuzz {

class Generator : Writer {
 public:
  /// Only instructions that `features` allow. bits: 64, 32, 16; 0: one of them.
  Generator(u64 seed, const isa::FeatureSet& features, u8 bits = 0)
      : Writer(seed, features, bits ? bits : some_bits(seed)) {}

  Program make() {
    for (;;) {
      begin();
      body(4 + r_.below(r_.chance(20) ? 90 : 36));
      end_main();
      subroutines();
      labels();
      if (!p_.lay_out() || !p_.flags_defined()) continue;
      const u32 runs = 1 + r_.below(5);
      for (u32 i = 0; i < runs; ++i) p_.runs.push_back(state(i));
      return std::move(p_);
    }
  }

 private:
  static u8 some_bits(u64 seed) {
    const u32 n = Random(seed + 77).below(100);
    return n < 70 ? 64 : n < 85 ? 32 : 16;
  }

  void begin() {
    p_ = {};
    p_.seed = seed_;
    p_.user = r_.chance(50);
    p_.bits = bits_;
    if (bits_ == 16 && r_.chance(60)) {
      p_.user = r_.chance(50);
      p_.cpu_mode = p_.user ? Program::Mode::v86 : Program::Mode::real;
    }
    if (narrow()) segments();
    if (bits_ == 16)
      small_segments();
    else if (narrow() && r_.chance(40))
      move_code();
    word_calls_ = words();
    p_.start = r_.chance(50) ? 0x100 : static_cast<u32>(kPage) - 16 - r_.below(160);
    p_.step = r_.chance(60);
    p_.smap = !p_.user && !old() && r_.chance(25);
    calls_.clear();
    victims_.clear();
    pinned_.clear();
    pin(r_.chance(90) ? u8{machine::rsp} : static_cast<u8>(r_.below(registers())), 0);
    const u32 pointers = 1 + r_.below(3);
    for (u32 i = 0; i < pointers; ++i) {
      const u8 reg =
          r_.chance(40) && !narrow() ? r_.pick(kOdd) : static_cast<u8>(r_.below(registers()));
      if (is_pinned(reg) || reg == machine::rsp) continue;
      pin(reg, 1);
    }
    wild_ = r_.chance(25) ? 8 : 1;
    vectors_ = r_.chance(50) ? 0 : r_.chance(50) ? 15 : 60;
  }

  /// Flat ones most of the time; else with bases, limits in the middle of what is used, no right to
  /// write, or expanding down.
  void segments() {
    const u32 dpl = p_.user ? 0x60 : 0;
    for (auto& s : p_.seg) s = {u16(p_.user ? 0x23 : 0x10), 0, 0xffff'ffff, 0xc093 | dpl};
    p_.seg[machine::cs] = {u16(p_.user ? 0x33 : 0x38), 0, 0xffff'ffff, 0xc09b | dpl};
    p_.seg[machine::fs].base = kFsBase;
    p_.seg[machine::gs].base = kGsBase;
    if (r_.chance(60)) return;
    for (u8 n : {machine::ds, machine::es, machine::ss, machine::fs, machine::gs}) {
      machine::Segment& s = p_.seg[n];
      if (r_.chance(50)) continue;
      if (r_.chance(50)) s.base = r_.chance(50) ? 0x1000 * r_.below(0x1000) : r_.below(1u << 31);
      const u64 used = n == machine::ss ? kStackTop : data_page(kLast);
      if (r_.chance(50)) s.limit = static_cast<u32>(used - s.base) + r_.below(3 * kPage) - 100;
      switch (r_.below(n == machine::ss ? 10 : 6)) {
        case 0: s.attributes &= ~2u; break;  // read-only; SS cannot be, but state may say so
        case 1:                              // expanding down
          s.attributes |= 4;
          s.limit = static_cast<u32>(data_page(kFirst) - s.base) + r_.below(kPage) - 100;
          break;
        default: break;
      }
    }
  }

  /// A code segment with a base, and with a limit in the middle of what is used.
  void move_code() {
    machine::Segment& s = p_.seg[machine::cs];
    const u32 kind = r_.below(4);
    i64 before = kind == 0   ? -i64{16} * r_.below(16)
                 : kind == 1 ? 16 * r_.below(0x800)
                 : kind == 2 ? 0x1000 * r_.below(8)
                             : 0xd000 + 16 * r_.below(0x100);
    if (bits_ == 32 && before > 0 && r_.chance(50)) before *= 0x1001;
    if (!old() && r_.chance(20)) before += r_.below(16);
    p_.code_base = s.base = kCode - static_cast<u64>(before);
    if (!old() && r_.chance(30))
      s.limit = static_cast<u32>(before) + static_cast<u32>(kPage) + r_.below(2 * kPage);
  }

  /// Segments of 64 KiB, in real and virtual-8086 mode as these load them.
  void small_segments() {
    for (u8 n = 0; n < 6; ++n) {
      machine::Segment& s = p_.seg[n];
      s.base = (n == machine::ss ? kStack : kData) - 16 * r_.below(0x100);
      s.limit = 0xffff;
      s.attributes = p_.cpu_mode == Program::Mode::v86    ? 0xf3
                     : p_.cpu_mode == Program::Mode::real ? 0x93
                     : n == machine::cs                   ? (s.attributes & 0x60) | 0x9b
                                                          : (s.attributes & 0x60) | 0x93;
      if (!old() && n == machine::ss && r_.chance(50)) s.attributes |= 0x4000;
      if (!old() && r_.chance(30)) s.limit = 0xffff'ffff;
    }
    move_code();
  }

  // ---- what the table does not give by itself

  void jump_forward() {
    const u32 kind = r_.below(10);
    const u32 to = index() + 1 + r_.below(8);
    if (kind < 7) {
      const int c = static_cast<int>(r_.below(16));
      const bool near = r_.chance(50);
      if (near) {
        branch(words() ? plain({0x70 | c, 0}) : add({0x70 | c, 0}), Item::Leads::maybe, to, 1);
      } else if (words()) {
        branch(plain({0x0f, 0x80 | c, 0, 0}), Item::Leads::maybe, to, 2);
      } else {
        branch(add({0x0f, 0x80 | c, 0, 0, 0, 0}), Item::Leads::maybe, to, 4);
      }
    } else if (kind == 7) {
      if (r_.chance(50))
        branch(add({0xeb, 0}), Item::Leads::away, to, 1);
      else if (words())
        branch(plain({0xe9, 0, 0}), Item::Leads::away, to, 2);
      else
        branch(add({0xe9, 0, 0, 0, 0}), Item::Leads::away, to, 4);
    } else if (kind == 8) {
      if (r_.chance(50) && !is_pinned(machine::rcx))  // loop
        branch(words() ? plain({0xe2, 0}) : add({0xe2, 0}), Item::Leads::maybe, to, 1);
      else  // jrcxz, jecxz
        branch(r_.chance(70) ? add({0xe3, 0}) : add({0x67, 0xe3, 0}), Item::Leads::maybe, to, 1);
    } else {
      indirect_jump(to);
    }
  }
  static void branch(Item& item, Item::Leads leads, u32 label, u8 size) {
    item.leads = leads;
    item.label = label;
    item.fix = Item::Fix::branch;
    item.fix_size = size;
    item.fix_at = static_cast<u8>(item.length - size);
  }

  void indirect_jump(u32 to) {
    define_flags();
    const u8 reg = free_register();
    const int low = reg & 7, high = reg >> 3;
    Item& mov = high ? add({0x41, 0xb8 | low, 0, 0, 0, 0}) : add({0xb8 | low, 0, 0, 0, 0});
    mov.fix = Item::Fix::address;
    mov.fix_at = static_cast<u8>(mov.length - 4);
    mov.fix_size = 4;
    mov.label = to + 4;  // see labels()
    switch (r_.below(3)) {
      case 0: {
        Item& jmp = high      ? add({0x41, 0xff, 0xe0 | low})
                    : words() ? plain({0xff, 0xe0 | low})
                              : add({0xff, 0xe0 | low});
        jmp.leads = Item::Leads::indirect;
        jmp.label = to + 4;
        break;
      }
      case 1: {  // push, ret
        if (high)
          add({0x41, 0x50 | low});
        else
          add({0x50 | low});
        Item& ret = add({0xc3});
        ret.leads = Item::Leads::indirect;
        ret.label = to + 4;
        break;
      }
      default: {  // through memory
        Item& store = add({0x48 | high << 2, 0x89, 0x05 | low << 3, 0, 0, 0, 0});
        const u64 at = data_page(kThird) + 8 * r_.below(500);
        store.fix = Item::Fix::data;
        store.fix_at = static_cast<u8>(store.length - 4);
        store.fix_size = 4;
        store.target = at;
        Item& jmp = add({0xff, 0x25, 0, 0, 0, 0});
        jmp.fix = Item::Fix::data;
        jmp.fix_at = static_cast<u8>(jmp.length - 4);
        jmp.fix_size = 4;
        jmp.target = at;
        jmp.leads = Item::Leads::indirect;
        jmp.label = to + 4;
      }
    }
  }

  void loop(u32 depth) {
    const bool by_loop = !is_pinned(machine::rcx) && r_.chance(30);
    const u8 counter = by_loop ? u8{machine::rcx} : free_register();
    set_register(counter, r_.chance(70) ? 2 + r_.below(4) : 10 + r_.below(60));
    const u32 head = index();
    pin(counter, 0);
    const u32 length = 1 + r_.below(10);
    for (u32 i = 0; i < length; ++i) one(depth + 1);
    pinned_.erase(std::find_if(pinned_.rbegin(), pinned_.rend(),
                               [&](const Pin& p) { return p.reg == counter; })
                      .base() -
                  1);
    const int low = counter & 7, high = counter >> 3;
    if (by_loop) {
      define_flags();
      branch(add({0xe2, 0}), Item::Leads::maybe, head, 1);
      return;
    }
    if (r_.chance(50)) {
      define_flags();
      if (narrow() && r_.chance(50))
        one_byte(0x48 | low);  // dec
      else
        add({0x48 | high, 0xff, 0xc8 | low});  // dec
    } else {
      add({0x48 | high, 0x83, 0xe8 | low, 1});  // sub
    }
    branch(add({0x0f, 0x85, 0, 0, 0, 0}), Item::Leads::maybe, head, 4);
  }

  /// INC or DEC, which add() would take for a REX prefix.
  void one_byte(int opcode) {
    Item& item = p_.items.emplace_back();
    item.bytes[item.length++] = static_cast<u8>(opcode);
    (void)isa::decode({item.bytes, 15}, mode(), item.insn);
  }

  void string() {
    static constexpr int kOps[] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};
    if (is_pinned(machine::rcx) || is_pinned(machine::rsi) || is_pinned(machine::rdi)) return;
    const int op = r_.pick(kOps) | static_cast<int>(r_.below(2));
    set_register(machine::rsi, place(64) - base_of_segment(machine::ds));
    set_register(machine::rdi, place(64) - base_of_segment(machine::es));
    const bool repeated = r_.chance(75);
    if (repeated) set_register(machine::rcx, r_.chance(80) ? r_.below(40) : r_.below(1500));
    if (r_.chance(10)) add({r_.chance(60) ? 0xfc : 0xfd});
    Item item;
    if (repeated) item.bytes[item.length++] = r_.chance(60) ? 0xf3 : 0xf2;
    if (r_.chance(20)) item.bytes[item.length++] = 0x66;
    if (r_.chance(30) && !narrow()) item.bytes[item.length++] = 0x48;
    if (r_.chance(20) && narrow()) item.bytes[item.length++] = 0x67;
    item.bytes[item.length++] = static_cast<u8>(op);
    (void)isa::decode({item.bytes, 15}, mode(), item.insn);
    // With a count of 0 CMPS and SCAS leave what was there.
    define_flags();
    p_.items.push_back(item);
  }

  /// An instruction that another one changes.
  void victim() {
    if (r_.chance(50)) {
      const u8 reg = free_register();
      Item& item =
          reg >= 8 ? add({0x41, 0xb8 | (reg & 7), 0, 0, 0, 0}) : add({0xb8 | reg, 0, 0, 0, 0});
      victims_.push_back({index() - 1, static_cast<u8>(item.length - 4), false});
    } else {  // add reg, reg: its ModRM byte
      const u8 a = free_register() & 7, b = free_register() & 7;
      add({0x01, 0xc0 | a << 3 | b});
      victims_.push_back({index() - 1, static_cast<u8>(p_.items.back().length - 1), true});
    }
  }
  void modify() {
    if (victims_.empty() || old()) return;
    const Victim v = victims_[r_.below(static_cast<u32>(victims_.size()))];
    const u8 reg = free_register();
    if (v.modrm) {
      for (u8 low = 0; low < 8; ++low)
        if (is_pinned(low)) return;
    }
    const bool alias = p_.start < 0x800 && r_.chance(30);
    const int low = reg & 7, high = reg >> 3;
    if (v.modrm) {
      // mov byte [place], imm8
      Item& item =
          alias ? add({0xc6, 0x04, 0x25, 0, 0, 0, 0, 0}) : add({0xc6, 0x05, 0, 0, 0, 0, 0});
      item.bytes[item.length - 1] = static_cast<u8>(0xc0 | r_.below(64));
      if ((item.bytes[item.length - 1] & 7) == 4) item.bytes[item.length - 1] ^= 1;
      set_fix(item, alias, v, item.length - 5u);
    } else if (r_.chance(50)) {
      // mov [place], reg32
      Item& item = alias ? add({0x40 | high << 2, 0x89, 0x04 | low << 3, 0x25, 0, 0, 0, 0})
                         : add({0x40 | high << 2, 0x89, 0x05 | low << 3, 0, 0, 0, 0});
      set_fix(item, alias, v, item.length - 4u);
    } else {
      // add byte [place], imm8
      Item& item =
          alias ? add({0x80, 0x04, 0x25, 0, 0, 0, 0, 0}) : add({0x80, 0x05, 0, 0, 0, 0, 0});
      item.bytes[item.length - 1] = static_cast<u8>(r_.next());
      set_fix(item, alias, v, item.length - 5u);
    }
  }
  struct Victim {
    u32 item;
    u8 byte;
    bool modrm;
  };
  static void set_fix(Item& item, bool alias, const Victim& v, u32 at) {
    item.fix = alias ? Item::Fix::alias : Item::Fix::code;
    item.label = v.item;
    item.target = v.byte;
    item.fix_at = static_cast<u8>(at);
    item.fix_size = 4;
  }

  void call() {
    if (!is_pinned(machine::rsp)) return;
    // see subroutines()
    if (word_calls_)
      branch(plain({0xe8, 0, 0}), Item::Leads::call, kNoLabel - 1, 2);
    else
      branch(add({0xe8, 0, 0, 0, 0}), Item::Leads::call, kNoLabel - 1, 4);
    calls_.push_back(index() - 1);
  }

  void system() {
    switch (r_.below(p_.user ? 6 : 8)) {
      case 0:                       // a handler that returns
        if (old()) define_flags();  // they stay on the stack
        plain({0xcd, 0x80});
        break;
      case 1:
        if (narrow()) load_segment();
        if (p_.user && !narrow() && !is_pinned(machine::rcx) && !is_pinned(machine::r11)) {
          define_flags();
          add({0x0f, 0x05});
        }
        break;
      case 2:  // pushf; change some; popf
        define_flags();
        add({0x9c});
        if (r_.chance(70)) {
          Item& item = add({0x66, 0x81, 0x34, 0x24});  // xor word [rsp], arithmetic flags
          static constexpr u32 kMasks[] = {0x8d5, 0x1, 0x40, 0x8d5 | 0x200, 0xc95};
          extend(item, r_.pick(kMasks), 2);
        }
        add({0x9d});
        break;
      case 3: leave_frame(); break;
      case 4: return_by_iret(); break;
      case 5: {  // mov eax, base; wrfsbase rax or wrgsbase rax
        if (is_pinned(machine::rax)) break;
        if (narrow()) return load_segment();
        const bool gs = r_.chance(50);
        set_register(machine::rax, gs ? kGsBase : kFsBase);
        add({0xf3, 0x48, 0x0f, 0xae, gs ? 0xd8 : 0xd0});
        break;
      }
      default:
        switch (r_.below(p_.smap ? 9 : 5)) {
          case 4:  // mov rax, cr3; mov cr3, rax
            if (is_pinned(machine::rax)) break;
            add({0x0f, 0x20, 0xd8});
            add({0x0f, 0x22, 0xd8});
            break;
          case 5: add({0x0f, 0x01, 0xca}); break;  // clac
          case 6:
          case 7:
          case 8: add({0x0f, 0x01, 0xcb}); break;  // stac
          case 0: add({0xfa}); break;              // cli
          case 1: add({0xfb}); break;              // sti
          case 2:
            if (narrow()) break;
            add({0x0f, 0x01, 0xf8});
            add({0x0f, 0x01, 0xf8});
            break;    // swapgs twice
          default: {  // invlpg
            Item& item = add({0x0f, 0x01, 0x3d, 0, 0, 0, 0});
            item.fix = Item::Fix::data;
            item.fix_at = static_cast<u8>(item.length - 4);
            item.fix_size = 4;
            item.target = place(8);
          }
        }
    }
  }
  /// MOV of one of the GDT's selectors to DS, ES, FS or GS. All have base 0.
  void load_segment() {
    if (old()) return load_old_segment();
    if (is_pinned(machine::rax)) return;
    static constexpr u32 kData[] = {0x23, 0x23, 0x53, 0x5b};
    static constexpr int kRegisters[] = {0, 3, 3, 4, 5};
    set_register(machine::rax, r_.pick(kData));
    const int n = r_.pick(kRegisters);
    add({0x8e, 0xc0 | n << 3});
    if (r_.chance(50)) add({0x8c, 0xc0 | n << 3});
  }
  /// What the register holds already, so that accesses hit what they did.
  void load_old_segment() {
    static constexpr u8 kRegisters[] = {machine::ds, machine::es, machine::fs, machine::gs};
    const u8 n = r_.pick(kRegisters);
    if (r_.chance(40) && (n == machine::ds || n == machine::es)) {
      const int push = n == machine::ds ? 0x1e : 0x06;
      words() ? plain({push}) : add({push});
      if (p_.items.back().length == 1)
        plain({push | 1});
      else
        add({push | 1});
      return;
    }
    if (is_pinned(machine::rax)) return;
    set_register(machine::rax, (p_.seg[n].base - kData + kDataGpa) >> 4 | r_.next() << 16);
    add({0x8e, 0xc0 | n << 3});
    if (r_.chance(50)) words() ? plain({0x8c, 0xc0 | n << 3}) : add({0x8c, 0xc0 | n << 3});
  }

  /// IRETQ to a label ahead, on the same stack and with the same privilege.
  void return_by_iret() {
    const u32 to = index() + 12 + r_.below(4);
    const u8 reg = free_register();
    const int low = reg & 7, high = reg >> 3;
    if (bits_ == 16 && !old()) return;
    if (p_.code_base && !old()) return;
    define_flags();
    if (old()) {
      plain({0x9c});
      plain({0x0e});
      Item& back = plain({0x68, 0, 0});
      back.fix = Item::Fix::address;
      back.fix_at = 1;
      back.fix_size = 2;
      back.label = to;
      Item& iret = plain({0xcf});
      iret.leads = Item::Leads::indirect;
      iret.label = to;
      return;
    }
    if (narrow()) {  // no SS and ESP unless privilege changes
      add({0x9c});
      add({0x6a, p_.user ? 0x33 : 0x38});
      Item& back = add({0x68, 0, 0, 0, 0});
      back.fix = Item::Fix::address;
      back.fix_at = 1;
      back.fix_size = 4;
      back.label = to;
      Item& iret = add({0xcf});
      iret.leads = Item::Leads::indirect;
      iret.label = to;
      return;
    }
    add({0x48 | high, 0x89, 0xe0 | low});  // mov reg, rsp
    add({0x6a, p_.user ? 0x23 : 0x10});    // push SS
    auto push = [&] { high ? add({0x41, 0x50 | low}) : add({0x50 | low}); };
    push();
    add({0x9c});                         // pushfq
    add({0x6a, p_.user ? 0x2b : 0x08});  // push CS
    Item& mov = high ? add({0x41, 0xb8 | low, 0, 0, 0, 0}) : add({0xb8 | low, 0, 0, 0, 0});
    mov.fix = Item::Fix::address;
    mov.fix_at = static_cast<u8>(mov.length - 4);
    mov.fix_size = 4;
    mov.label = to;
    push();
    Item& iret = add({0x48, 0xcf});
    iret.leads = Item::Leads::indirect;
    iret.label = to;
  }
  void leave_frame() {
    if (is_pinned(machine::rbp) || !is_pinned(machine::rsp)) return;
    add({0x55});                          // push rbp
    add({0x48, 0x89, 0xe5});              // mov rbp, rsp
    add({0x48, 0x8d, 0x64, 0x24, 0xe0});  // lea rsp, [rsp - 32]
    if (r_.chance(50)) random_instruction_keeping(machine::rbp);
    add({0xc9});
  }
  void random_instruction_keeping(u8 reg) {
    pin(reg, 0);
    random_instruction();
    pinned_.pop_back();
  }

  void one(u32 depth) {
    const u32 what = r_.below(100);
    if (what < 10)
      jump_forward();
    else if (what < 12 && depth < 2)
      loop(depth);
    else if (what < 14)
      string();
    else if (what < 16)
      victim();
    else if (what < 18)
      modify();
    else if (what < 20)
      call();
    else if (what < (p_.user ? 21u : 23u))
      system();
    else
      random_instruction();
  }
  void body(u32 count) {
    for (u32 i = 0; i < count; ++i) one(0);
  }

  void end_main() {
    end_ = index();
    if (p_.user)
      plain({0xcd, 0x81}).leads = Item::Leads::stop;
    else
      plain({0xf4}).leads = Item::Leads::stop;
  }

  void subroutines() {
    if (calls_.empty()) return;
    std::vector<u32> starts;
    const u32 count = 1 + r_.below(2);
    const std::vector<u32> calls = std::exchange(calls_, {});
    for (u32 i = 0; i < count; ++i) {
      starts.push_back(index());
      const u32 length = r_.below(6);
      for (u32 k = 0; k < length; ++k) random_instruction();
      if (index() == starts.back()) define_flags();
      if (i == 0 && r_.chance(60)) p_.items[starts.back()].align_to = 1 + 16 * r_.below(32);
      (word_calls_ ? plain({0xc3}) : add({0xc3})).leads = Item::Leads::back;
    }
    for (u32 c : calls) p_.items[c].label = starts[r_.below(count)];
  }

  // Forward labels beyond the end lead to the end.
  void labels() {
    for (u32 i = 0; i < end_; ++i) {
      Item& item = p_.items[i];
      if (item.label == kNoLabel || item.leads == Item::Leads::call) continue;
      if (item.label > end_) item.label = end_;
    }
  }

  // ---- states

  /// What a register that points to `linear` holds; 32-bit code does not see the upper half.
  u64 offset(u64 linear, u8 segment) {
    if (!narrow()) return linear;
    const u64 noise = r_.chance(30) ? r_.next() << 32 : 0;
    return static_cast<u32>(linear - base_of_segment(segment)) | noise;
  }

  machine::CpuState state(u32 n) {
    machine::CpuState s;
    for (u64& g : s.gpr) g = value();
    for (const Pin& p : pinned_)
      if (p.kind == 1) s.gpr[p.reg] = offset(place(n == 0 ? 8 : 80), machine::ds);
    if (r_.chance(70)) s.gpr[machine::rcx] &= 0xff;
    u64 sp = kStack + kPage + 8 * r_.below(64) - 256;
    if (r_.chance(5)) sp = kStackTop - 8 * r_.below(4);
    if (r_.chance(5)) sp = kStack + 8 * r_.below(8);
    if (r_.chance(10)) sp += r_.below(8);
    sp = offset(sp, machine::ss);
    s.gpr[machine::rsp] = sp;
    for (const Pin& p : pinned_)
      if (p.reg == machine::rsp && p.kind == 1) s.gpr[p.reg] = sp;
    s.rip = kCode + p_.start - p_.code_base;
    s.rflags = 0x2 | (r_.next() & kArithmeticFlags) | (r_.chance(5) ? 0x400 : 0);
    if (r_.chance(p_.smap ? 90 : 3)) s.rflags |= AC_;
    vector_state(s.xsave.data());
    return s;
  }

  static constexpr u8 kOdd[] = {1, 4, 10, 11, 15};
  u32 end_ = 0;
  bool word_calls_ = false;  ///< of 16-bit code, with 16-bit return addresses
  std::vector<u32> calls_;
  std::vector<Victim> victims_;
};

}  // namespace skerry::soft::block_fuzz

# The house: a folder under src/ is a library, a namespace and a layer. Each row names a folder and
# the folders it may include (and so link). tools/check_layers compares every #include with it.
# Order matters: a folder stands below everything that it may include.
set(SKERRY_LAYERS
  "base:"
  "state:base"
  "memory:base state"
  "isa:base"
  "storage:base"
  "net:base"
  "schema:base"
  "seed:base schema"
  "bootdisk:base storage"
  "machine:base state memory"
  "engine/kvm:base state memory machine"
  "engine/soft:base state memory machine isa"
  "irq:base state memory machine"
  "pci:base state memory machine"
  "devices:base state memory machine"
  "virtio:base state memory machine pci storage net"
  "board:base state memory machine irq pci devices virtio storage net schema seed bootdisk"
  "vmm:base state memory machine irq pci devices virtio storage net schema seed bootdisk board engine/kvm engine/soft isa"
  "cli:base schema storage"
)

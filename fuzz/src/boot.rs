//! Booting from an untrusted kernel file must end in a state or an error, whatever the file says.

use std::sync::LazyLock;

use tern_engine::GuestMemory;
use tern_vmm::boot::memory_map::MemoryMap;
use tern_vmm::boot::{BootParameters, Kernel, KernelKind, Module, detect, load};
use vm_memory::GuestAddress;

/// Bytes of guest memory: enough for a kernel at 16 MiB, where Linux lies.
const MEMORY: usize = 24 << 20;

/// The memory is made once: what an earlier file left there must not matter.
static GUEST: LazyLock<(GuestMemory, MemoryMap)> = LazyLock::new(|| {
    let memory =
        GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("the host has a little memory");
    (memory, MemoryMap::pc(MEMORY as u64).expect("a small machine has a memory map"))
});

/// Reads `file` as a kernel of this kind and loads it with an initramfs and a module.
pub fn parse_and_load(file: &[u8], kind: KernelKind) {
    let _ = detect(file);
    let Ok(kernel) = Kernel::parse(file, Some(kind)) else { return };
    let (memory, memory_map) = &*GUEST;
    let modules = [Module { bytes: b"module", command_line: "words" }];
    let parameters = BootParameters {
        command_line: "console=ttyS0",
        initrd: Some(b"initrd"),
        modules: if kernel.protocol() == "64-bit Linux" { &[] } else { &modules },
        rsdp: 0xe_0000,
        memory_map,
    };
    let _ = load(&kernel, &parameters, memory);
}

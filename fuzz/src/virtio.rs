//! A hostile driver: whatever it puts into queues and registers, the device, the host and everything outside of the buffers stay
//! as they are.
//!
//! An input is a script: a byte says what is done, and the bytes behind it with what. Devices work in this thread, so that an
//! input always does the same.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use tern_engine::{EventFd, GuestMemory};
use tern_virtio::balloon::Balloon;
use tern_virtio::block::Block;
use tern_virtio::console::{Console, PortConfig};
use tern_virtio::device::{Duty, VirtioDevice};
use tern_virtio::feature;
use tern_virtio::interrupts::{InterruptSink, Interrupts};
use tern_virtio::pci::VirtioPci;
use tern_virtio::queue::{Progress, QueueSetup, Virtqueue};
use tern_virtio::rng::Rng;
use tern_virtio::session::{Session, Shared};
use tern_virtio::vsock::Vsock;
use vm_memory::{Bytes, GuestAddress};

#[path = "ramdisk.rs"]
mod ramdisk;

use ramdisk::RamDisk;

/// Bytes of guest memory.
const MEMORY: usize = 0x4_0000;
/// Where the first queue is, and how far the next one.
const RINGS: u64 = 0x1000;
const RING: u64 = 0x800;
/// Entries of each.
const SIZE: u16 = 16;
/// Parts of a queue.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x600;
/// Where buffers are.
const DATA: u64 = 0x2_0000;
/// How often a device is called for one input.
const CALLS: usize = 64;

/// Interrupts that nobody hears.
struct Deaf;

impl InterruptSink for Deaf {
    fn send(&mut self, _vector: u16, _message: tern_chipset::pci::MsiMessage) {}

    fn set_line(&mut self, _level: bool) {}
}

/// The rest of a script.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    fn double_word(&mut self) -> Option<u32> {
        Some(u32::from(self.word()?) | u32::from(self.word()?) << 16)
    }

    fn bytes(&mut self) -> Option<&[u8]> {
        let count = usize::from(self.byte()?).min(self.0.len());
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(bytes)
    }

    /// An address: of a buffer mostly, and sometimes of a queue, or of nothing.
    fn address(&mut self) -> Option<u64> {
        let word = self.word()?;
        Some(match word {
            0xff00.. => u64::MAX - u64::from(word & 0xff),
            0xfe00.. => MEMORY as u64 - u64::from(word & 0xff),
            0xf000.. => RINGS + u64::from(word & 0xfff) * 8,
            _ => DATA + u64::from(word),
        })
    }
}

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("the host has a little memory")
}

/// A device in use, and its driver's side.
struct Subject {
    device: Arc<dyn VirtioDevice>,
    memory: GuestMemory,
    duties: Vec<Duty>,
    /// How many buffers were made available, by queue.
    offered: Vec<u16>,
}

impl Subject {
    fn new(device: Arc<dyn VirtioDevice>) -> Self {
        let memory = memory();
        let queues = device.queues().len();
        let event = || EventFd::new(0).expect("the host has a descriptor");
        let interrupts = Interrupts::new(queues as u16, Box::new(Deaf));
        let shared = Shared::new((0..queues).map(|_| event()).collect(), Arc::new(interrupts));
        let features = feature::OF_EVERY_DEVICE | device.features();
        for (index, most) in (0..).zip(device.queues()) {
            let base = RINGS + u64::from(index) * RING;
            let setup = QueueSetup {
                index,
                most: *most,
                size: SIZE,
                descriptors: base,
                driver: base + AVAILABLE,
                device: base + USED,
            };
            let queue = Virtqueue::new(&memory, setup, features, Progress::default());
            shared.slots()[usize::from(index)].enable(queue.expect("the queue is in memory"));
        }
        let session = Session::new(memory.clone(), features, shared);
        let duties = device.start(&session).expect("the host has what the device needs");
        Self { device, memory, duties, offered: vec![0; queues] }
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // What is outside of memory is nowhere.
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    fn queue(&self, byte: u8) -> usize {
        usize::from(byte) % self.offered.len()
    }

    /// Does the next thing; `None` at the script's end or when a rule was broken.
    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        match script.byte()? % 6 {
            0 => {
                let address = script.address()?;
                self.put(address, script.bytes()?);
            }
            1 => {
                let place = self.queue(script.byte()?);
                let index = u64::from(script.byte()? % 32);
                let (address, length) = (script.address()?, script.word()?);
                let (flags, next) = (script.byte()?, script.byte()?);
                let length = if length >= 0xff00 { u32::from(length) << 16 } else { length.into() };
                let mut descriptor = address.to_le_bytes().to_vec();
                descriptor.extend(length.to_le_bytes());
                descriptor.extend([flags & 7, 0, next, 0]);
                self.put(RINGS + place as u64 * RING + 16 * index, &descriptor);
            }
            2 => {
                let place = self.queue(script.byte()?);
                let head = script.byte()?;
                let ring = RINGS + place as u64 * RING + AVAILABLE;
                let offered = &mut self.offered[place];
                let entry = ring + 4 + 2 * u64::from(*offered % SIZE);
                *offered = offered.wrapping_add(1);
                let count = *offered;
                self.put(entry, &[head, 0]);
                self.put(ring + 2, &count.to_le_bytes());
            }
            3 => {
                let queue = self.queue(script.byte()?) as u16;
                let duty = self.duties.iter_mut().find(|duty| duty.queues.contains(&queue))?;
                duty.worker.serve(queue).ok()?;
            }
            4 => {
                let count = self.duties.len();
                let duty = self.duties.get_mut(usize::from(script.byte()?) % count)?;
                duty.worker.wake().ok()?;
            }
            _ => {
                let (offset, value) = (script.byte()?, script.double_word()?);
                self.device.write_config(offset.into(), &value.to_le_bytes());
                self.device.read_config(offset.into(), &mut [0; 8]);
            }
        }
        Some(())
    }

    fn run(mut self, input: &[u8]) {
        let mut script = Script(input);
        for _ in 0..CALLS {
            if self.step(&mut script).is_none() {
                break;
            }
        }
        for duty in &mut self.duties {
            // Whatever was broken, what is in flight comes to its end.
            let _ = duty.worker.drain();
        }
        self.duties.clear();
        self.device.reset();
        let _ = self.device.save();
    }
}

/// A disk, whose first byte of input says what it can do.
pub fn block(input: &[u8]) {
    let Some((choice, script)) = input.split_first() else { return };
    let device = Block::new(Arc::new(RamDisk::new(choice & 1 != 0)), "fuzz", 2);
    Subject::new(Arc::new(device)).run(script);
}

/// The source of random numbers.
pub fn rng(input: &[u8]) {
    Subject::new(Arc::new(Rng)).run(input);
}

/// The balloon.
pub fn balloon(input: &[u8]) {
    let device = Balloon::new(0x1_0000).expect("the host has a descriptor");
    Subject::new(Arc::new(device)).run(input);
}

/// A folder for sockets, removed with it.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tern-fuzz-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the host has a place for sockets");
        Self(path)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program that has connected, and sent something.
fn program(path: &Path, says: &[u8]) -> UnixStream {
    use std::io::Write as _;
    let mut socket = UnixStream::connect(path).expect("the device listens");
    socket.write_all(says).expect("there is room for a little");
    socket
}

/// The socket device, with a service at port 1 of the host and a program that asks for port 2 of the guest.
pub fn vsock(input: &[u8]) {
    let folder = Folder::new();
    let device = Vsock::new(3, &folder.path("v")).expect("the place is free");
    let _service = UnixListener::bind(folder.path("v_1")).expect("the place is free");
    let _program = program(&folder.path("v"), b"CONNECT 2\nhello");
    Subject::new(Arc::new(device)).run(input);
}

/// The console device with a terminal and a channel, to each of which a program has connected.
pub fn console(input: &[u8]) {
    let folder = Folder::new();
    let ports = vec![
        PortConfig::terminal(&folder.path("t")).expect("the place is free"),
        PortConfig::channel("fuzz", &folder.path("c")).expect("the place is free"),
    ];
    let device = Console::new(ports).expect("the host has a descriptor");
    let _programs = ["t", "c"].map(|name| program(&folder.path(name), b"hello"));
    Subject::new(Arc::new(device)).run(input);
}

/// Accesses to registers and the configuration space of a device that works by itself: five bytes each, or nine.
pub fn transport(input: &[u8]) {
    let memory = memory();
    let function = VirtioPci::new("fuzz", Arc::new(Rng), memory, Box::new(Deaf)).expect("it can be shown");
    let mut script = Script(input);
    let mut step = || -> Option<()> {
        let choice = script.byte()?;
        let (offset, value) = (script.word()?, u64::from(script.double_word()?));
        let bytes = (value * 0x1_0000_0001).to_le_bytes();
        let data = &bytes[..1 << (choice & 3)];
        let mut read = [0; 8];
        match choice >> 2 & 3 {
            0 => function.write_region((offset & 0x7fff).into(), data),
            1 => function.read_region(offset.into(), &mut read),
            // Configuration registers are accessed within four bytes.
            2 => function.write_config(offset & 0xfc, &data[..data.len().min(4)]),
            _ => function.read_config(offset & 0xffc, &mut read[..4]),
        }
        Some(())
    };
    for _ in 0..4 * CALLS {
        if step().is_none() {
            break;
        }
    }
    function.pause();
    let state = function.save();
    // What a device says of itself it takes again, unless it was broken, or its driver has set up what cannot be.
    let _ = function.restore(&state);
    function.end();
}

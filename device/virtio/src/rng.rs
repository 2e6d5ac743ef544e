//! The entropy device (virtio 1.2, section 5.4): fills the driver's buffers with the host's random numbers.

use std::io;

use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::device::{Duty, Identity, Served, VirtioDevice, Worker};
use crate::queue::{Chain, Violation};
use crate::session::Session;

/// Entries of the queue.
const QUEUE: [u16; 1] = [64];

/// A larger buffer is filled in part, which the device may do: the host's numbers are not the guest's to exhaust.
const MOST: usize = 4096;

/// The device.
#[derive(Debug, Default)]
pub struct Rng;

impl VirtioDevice for Rng {
    fn identity(&self) -> Identity {
        // There is no class for it: "does not fit in any defined class".
        Identity { id: VIRTIO_ID_RNG as u16, class: 0xff_00_00 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &[u16] {
        &QUEUE
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn start(&self, session: &Session) -> io::Result<Vec<Duty>> {
        let worker = Box::new(Filling { session: session.clone() });
        Ok(vec![Duty { queues: 0..1, worker }])
    }
}

struct Filling {
    session: Session,
}

impl Filling {
    fn fill(&self, chain: &Chain) -> Result<u32, Violation> {
        if !chain.readable.list().is_empty() {
            return Err(Violation::Request("a buffer for random numbers is to be read by the device"));
        }
        let mut numbers = [0; MOST];
        let wanted = usize::try_from(chain.writable.total()).unwrap_or(MOST).min(MOST);
        let given = retry_on_intr(|| getrandom(&mut numbers[..wanted], GetRandomFlags::empty()));
        let given = given.map_err(|_| Violation::Host)?;
        let written = chain.writable.write(self.session.memory(), &numbers[..given]);
        written.map(|written| written as u32).map_err(|_| Violation::Host)
    }
}

impl Worker for Filling {
    fn serve(&mut self, index: u16) -> Result<Served, Violation> {
        let Some(mut queue) = self.session.queue(index) else { return Ok(Served::All) };
        queue.each(|chain| self.fill(chain))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tern_engine::GuestMemory;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::driver::{PciDriver, Ring};

    fn working() -> (PciDriver, Ring) {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let ring = Ring::new(&memory, 0, 0x1_0000, 64, 64);
        let driver = PciDriver::new(Arc::new(Rng), memory);
        driver.start(&[&ring]);
        (driver, ring)
    }

    #[test]
    fn buffers_are_filled_with_numbers_that_differ() {
        let (driver, mut ring) = working();
        ring.send(0, &[(0x8_0000, 20, true), (0x8_1000, 44, true)]);
        ring.send(2, &[(0x8_2000, 64, true)]);
        driver.ring(0);
        assert_eq!([driver.wait_used(&mut ring), driver.wait_used(&mut ring)], [(0, 64), (2, 64)]);
        let first = [ring.get(0x8_0000, 20), ring.get(0x8_1000, 44)].concat();
        let second = ring.get(0x8_2000, 64);
        assert_ne!(first, second);
        assert!([first, second].iter().all(|numbers| numbers.iter().any(|number| *number != numbers[0])));
        assert_eq!(ring.get(0x8_1000 + 44, 16), [0; 16], "no further than the buffer");
    }

    #[test]
    fn a_large_buffer_is_filled_in_part() {
        let (driver, mut ring) = working();
        ring.send(0, &[(0x2_0000, 0xe_0000, true)]);
        driver.ring(0);
        assert_eq!(driver.wait_used(&mut ring), (0, MOST as u32));
    }

    #[test]
    fn a_buffer_that_cannot_be_written_breaks_the_rules() {
        let (driver, mut ring) = working();
        ring.send(0, &[(0x8_0000, 64, false)]);
        driver.ring(0);
        driver.wait_broken();
    }
}

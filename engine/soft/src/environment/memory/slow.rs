//! Accesses that the TLB does not know: to a page that it learns of by them, to devices, and across two pages.

use tern_x86::Environment;
use tern_x86::cpu::{Cpu, Word};
use tern_x86::exception::Stop;
use tern_x86::paging::{Access, AccessKind};
use tern_x86::state::SegmentRegister;

use super::SoftEnvironment;
use super::place::{Place, place_of};
use crate::host;
use crate::tlb::Hit;

impl SoftEnvironment {
    #[cold]
    #[inline(never)]
    pub(super) fn load_slowly(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        size: u8,
        access: Access,
    ) -> Result<u64, Stop> {
        let (first, second) = self.places(cpu, segment, linear, u64::from(size), access)?;
        match (first, second) {
            (Place::Device(physical), None) => return self.device_read(physical, size),
            (Place::Ram(hit), None) => {
                // SAFETY: the place covers the whole access.
                return Ok(unsafe {
                    match size {
                        1 => u64::from(host::load::<u8>(hit.host)),
                        2 => u64::from(host::load::<u16>(hit.host)),
                        4 => u64::from(host::load::<u32>(hit.host)),
                        _ => host::load::<u64>(hit.host),
                    }
                });
            }
            _ => {}
        }
        let mut value = [0; 8];
        for (n, byte) in (0u64..).zip(&mut value[..usize::from(size)]) {
            *byte = match place_of(first, second, linear, n) {
                // SAFETY: the place covers this byte.
                Place::Ram(hit) => unsafe { host::load::<u8>(hit.host) },
                Place::Device(physical) => self.device_read(physical, 1)? as u8,
            };
        }
        Ok(u64::from_le_bytes(value))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn store_slowly(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        size: u8,
        value: u64,
        access: Access,
    ) -> Result<(), Stop> {
        let (first, second) = self.places(cpu, segment, linear, u64::from(size), access)?;
        match (first, second) {
            (Place::Device(physical), None) => return self.device_write(physical, size, value),
            (Place::Ram(hit), None) => {
                // SAFETY: the place covers the whole access.
                unsafe {
                    match size {
                        1 => host::store(hit.host, value as u8),
                        2 => host::store(hit.host, value as u16),
                        4 => host::store(hit.host, value as u32),
                        _ => host::store(hit.host, value),
                    }
                }
                self.look_for_code(hit, linear, u64::from(size));
                return Ok(());
            }
            _ => {}
        }
        let bytes = value.to_le_bytes();
        let bytes = || (0u64..).zip(&bytes[..usize::from(size)]);
        // Devices first: they may ask, and the instruction then starts over with memory as it was.
        for (n, &byte) in bytes() {
            if let Place::Device(physical) = place_of(first, second, linear, n) {
                self.device_write(physical, 1, u64::from(byte))?;
            }
        }
        for (n, &byte) in bytes() {
            if let Place::Ram(hit) = place_of(first, second, linear, n) {
                // SAFETY: the place covers this byte.
                unsafe { host::store(hit.host, byte) };
                self.look_for_code(hit, linear.wrapping_add(n), 1);
            }
        }
        Ok(())
    }

    /// The host address of an update's operand; `None` if it is not RAM in one page. All permissions are checked.
    #[cold]
    #[inline(never)]
    pub(super) fn place_for_update(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        size: u64,
    ) -> Result<Option<Hit>, Stop> {
        let write = Access::explicit(cpu, AccessKind::Write);
        Ok(match self.places(cpu, segment, linear, size, write)? {
            (Place::Ram(hit), None) => Some(hit),
            _ => None,
        })
    }

    /// Updates what lies in a device or across two pages; not atomic with respect to other processors, as the manual
    /// allows for devices. A locked access across pages, which hardware would do by stopping the bus, is not either.
    #[cold]
    pub(super) fn update_slowly<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        locked: bool,
        mut change: impl FnMut(W) -> Option<W>,
    ) -> Result<W, Stop> {
        if locked {
            self.fence();
        }
        let read = Access::explicit(cpu, AccessKind::Read);
        let write = Access::explicit(cpu, AccessKind::Write);
        self.places(cpu, segment, linear, u64::from(W::BYTES), write)?;
        let old = W::truncate(self.load_slowly(cpu, segment, linear, W::BYTES, read)?);
        if let Some(new) = change(old) {
            self.store_slowly(cpu, segment, linear, W::BYTES, new.zero_extend(), write)?;
        }
        if locked {
            self.fence();
        }
        Ok(old)
    }
}

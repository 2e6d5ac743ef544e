//! A boot sector or flat image, entered as PC firmware enters the first sector of the first disk.
//!
//! There is no BIOS: its interrupt vectors are empty.

use tern_x86::state::VcpuState;

use super::layout::BOOT_SECTOR;
use super::{Loader, PlaceError, cpu, modules};

/// The BIOS's number of the first hard disk.
const FIRST_DISK: u64 = 0x80;

pub(super) fn load(loader: &mut Loader<'_>, image: &[u8]) -> Result<VcpuState, PlaceError> {
    if modules(loader.parameters).next().is_some() {
        return Err(PlaceError::NotTaken { protocol: "boot sector", what: "initrd or module" });
    }
    loader.claims.claim("kernel", BOOT_SECTOR.into(), image.len() as u64)?;
    loader.write(image, BOOT_SECTOR.into())?;
    let mut state = cpu::real_mode(BOOT_SECTOR);
    state.gpr[cpu::RDX] = FIRST_DISK;
    Ok(state)
}

//! Who may use which I/O port: IOPL and the permission bitmap of the TSS (APM volume 2, section 12.2.4; volume 3, IN).

use super::port_breakpoints_hit;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::exec::transfer::descriptor::system_address;
use crate::state::Attributes;

/// Checks that the running code may access `size` (1, 2 or 4) ports from `port` on.
///
/// # Errors
/// #GP(0) if not; #PF of the bitmap.
pub(crate) fn check_io<E: Environment>(p: &mut Processor<E>, port: u16, size: u8) -> Result<(), Stop> {
    let open = !p.cpu.protected() && !p.cpu.virtual_8086()
        || p.cpu.protected() && p.cpu.cpl <= p.cpu.system_flags.iopl();
    if !open && !bitmap_permits(p, port, size)? {
        return Err(p.cpu.general_protection());
    }
    Ok(())
}

/// Reads `size` ports from `port` on, and tells the environment of breakpoints on them.
pub(crate) fn port_in<E: Environment>(p: &mut Processor<E>, port: u16, size: u8) -> Result<u32, Stop> {
    let value = p.env.port_in(port, size)?;
    meet_breakpoints(p, port, size);
    Ok(value)
}

/// Writes `size` ports from `port` on, and tells the environment of breakpoints on them.
pub(crate) fn port_out<E: Environment>(
    p: &mut Processor<E>,
    port: u16,
    size: u8,
    value: u32,
) -> Result<(), Stop> {
    p.env.port_out(port, size, value)?;
    meet_breakpoints(p, port, size);
    Ok(())
}

fn meet_breakpoints<E: Environment>(p: &mut Processor<E>, port: u16, size: u8) {
    match port_breakpoints_hit(&p.cpu, port, size) {
        0 => {}
        hits => p.env.breakpoints_hit(hits),
    }
}

fn bitmap_permits<E: Environment>(p: &mut Processor<E>, port: u16, size: u8) -> Result<bool, Stop> {
    let tr = p.cpu.tr;
    // Only the 32-bit and the 64-bit TSS have a bitmap.
    if !tr.attributes.contains(Attributes::PRESENT) || tr.attributes.kind() & 8 == 0 || tr.limit < 0x67 {
        return Ok(false);
    }
    let address = system_address(&p.cpu, tr.base, 0x66);
    let bitmap = p.env.load_system::<u16>(&mut p.cpu, address)?;
    let byte = u32::from(bitmap) + u32::from(port / 8);
    // Two bytes are read always, as the bits of a wide access may lie in both.
    if byte + 1 > tr.limit {
        return Ok(false);
    }
    let address = system_address(&p.cpu, tr.base, byte);
    let bits = p.env.load_system::<u16>(&mut p.cpu, address)?;
    let wanted = (1u16 << size) - 1;
    Ok(bits >> (port % 8) & wanted == 0)
}

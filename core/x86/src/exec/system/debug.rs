//! Debug registers: MOV DRn, and which breakpoints an access meets (APM volume 2, section 13.1).

use super::require_cpl0;
use crate::cpu::{Cpu, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop};
use crate::state::{Cr4, Dr6, Dr7, Rflags};

/// The bits of DR7 that software may set: all but bit 10, which is one, and those that are zero.
const DR7_WRITABLE: u64 = 0xffff_23ff;

/// The debug register that a number means: 4 and 5 are other names of 6 and 7 unless CR4.DE forbids them.
fn checked_number<E>(p: &mut Processor<E>, number: u8) -> Result<u8, Stop> {
    let number = match number {
        4 | 5 if !p.cpu.cr4.contains(Cr4::DE) => number + 2,
        0..=3 | 6 | 7 => number,
        _ => return Err(p.cpu.undefined_opcode()),
    };
    require_cpl0(p)?;
    if p.cpu.dr7.contains(Dr7::GD) {
        return Err(p.cpu.raise(Exception::debug(Dr6::BD.bits())));
    }
    Ok(number)
}

/// MOV r, DRn: register `reg`, debug register number `rm`.
pub(crate) fn mov_from_debug<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let value = match checked_number(p, op.rm)? {
        6 => p.cpu.dr6.bits(),
        7 => p.cpu.dr7.bits(),
        number => p.cpu.dr[usize::from(number & 3)],
    };
    if p.cpu.code64() {
        u64::set(&mut p.cpu.gpr, op.reg, value);
    } else {
        u32::set(&mut p.cpu.gpr, op.reg, u32::truncate(value));
    }
    Ok(())
}

/// MOV DRn, r: debug register number `reg`, register `rm`.
pub(crate) fn mov_to_debug<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    let number = checked_number(p, op.reg)?;
    let value =
        if p.cpu.code64() { u64::get(&p.cpu.gpr, op.rm) } else { u64::from(u32::get(&p.cpu.gpr, op.rm)) };
    if number >= 6 && value >> 32 != 0 {
        return Err(p.cpu.general_protection());
    }
    match number {
        6 => p.cpu.dr6 = Dr6::from_bits_truncate(value) | Dr6::FIXED,
        7 => p.cpu.dr7 = Dr7::from_bits_retain(value & DR7_WRITABLE) | Dr7::FIXED,
        _ => p.cpu.dr[usize::from(number & 3)] = value,
    }
    Ok(())
}

/// What a breakpoint waits for: its R/W field in DR7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Execute,
    Write,
    Port,
    Access,
}

/// The enabled breakpoints: DR6 bit, condition, first and last address.
fn enabled(cpu: &Cpu) -> impl Iterator<Item = (u64, Condition, u64, u64)> + '_ {
    let dr7 = cpu.dr7.bits();
    (0..4usize).filter(move |n| dr7 >> (2 * n) & 3 != 0).map(move |n| {
        let field = dr7 >> (16 + 4 * n);
        let condition = [Condition::Execute, Condition::Write, Condition::Port, Condition::Access];
        // LEN 10b means 8 bytes, 11b means 4.
        let last_byte = [0, 1, 7, 3][(field >> 2 & 3) as usize];
        let first = cpu.dr[n] & !last_byte;
        (1 << n, condition[(field & 3) as usize], first, first | last_byte)
    })
}

/// The DR6 bits of the breakpoints that executing an instruction at `linear` meets. RF masks them all.
#[must_use]
pub fn instruction_breakpoints_hit(cpu: &Cpu, linear: u64) -> u64 {
    if cpu.system_flags.contains(Rflags::RF) {
        return 0;
    }
    enabled(cpu)
        .filter(|&(_, condition, first, _)| condition == Condition::Execute && first == linear)
        .fold(0, |all, (bit, ..)| all | bit)
}

/// The DR6 bits of the breakpoints that an access to `size` bytes at `linear` meets. The exception follows the access.
#[must_use]
pub fn data_breakpoints_hit(cpu: &Cpu, linear: u64, size: u64, write: bool) -> u64 {
    let end = linear.saturating_add(size);
    enabled(cpu)
        .filter(|&(_, condition, first, last)| {
            let wanted = condition == Condition::Access || condition == Condition::Write && write;
            wanted && first < end && linear <= last
        })
        .fold(0, |all, (bit, ..)| all | bit)
}

/// The DR6 bits of the breakpoints that an access to `size` I/O ports meets.
#[must_use]
pub fn port_breakpoints_hit(cpu: &Cpu, port: u16, size: u8) -> u64 {
    if !cpu.cr4.contains(Cr4::DE) {
        return 0;
    }
    let (start, end) = (u64::from(port), u64::from(port) + u64::from(size));
    enabled(cpu)
        .filter(|&(_, condition, first, last)| condition == Condition::Port && first < end && start <= last)
        .fold(0, |all, (bit, ..)| all | bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::CpuModel;

    fn cpu(dr7: u64, address: u64) -> Cpu {
        let mut cpu = Cpu::new(CpuModel::default());
        cpu.dr[1] = address;
        cpu.dr7 = Dr7::from_bits_retain(dr7);
        cpu
    }

    #[test]
    fn data_breakpoints_cover_their_aligned_range_and_nothing_else() {
        // Breakpoint 1, locally enabled, on writes of 4 bytes.
        let cpu = cpu(1 << 2 | 0xd << 20, 0x1002);
        assert_eq!(data_breakpoints_hit(&cpu, 0x1003, 1, true), 2);
        assert_eq!(data_breakpoints_hit(&cpu, 0xffd, 8, true), 2);
        assert_eq!(data_breakpoints_hit(&cpu, 0x1000, 4, false), 0);
        assert_eq!(data_breakpoints_hit(&cpu, 0x1004, 4, true), 0);
        assert_eq!(data_breakpoints_hit(&cpu, 0xffc, 4, true), 0);
    }

    #[test]
    fn instruction_breakpoints_obey_the_resume_flag() {
        let mut cpu = cpu(1 << 3, 0x7fff_1234);
        assert_eq!(instruction_breakpoints_hit(&cpu, 0x7fff_1234), 2);
        assert_eq!(instruction_breakpoints_hit(&cpu, 0x7fff_1235), 0);
        cpu.system_flags |= Rflags::RF;
        assert_eq!(instruction_breakpoints_hit(&cpu, 0x7fff_1234), 0);
    }

    #[test]
    fn port_breakpoints_need_debug_extensions() {
        let mut cpu = cpu(1 << 2 | 2 << 20, 0x3f8);
        assert_eq!(port_breakpoints_hit(&cpu, 0x3f8, 1), 0);
        cpu.cr4 |= Cr4::DE;
        assert_eq!(port_breakpoints_hit(&cpu, 0x3f8, 1), 2);
        assert_eq!(data_breakpoints_hit(&cpu, 0x3f8, 1, true), 0);
    }
}

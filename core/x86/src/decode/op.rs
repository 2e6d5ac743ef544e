//! One decoded operation: a handler and its operands, resolved as far as the bytes allow.

use bitflags::bitflags;

use crate::cpu::Cpu;
use crate::cpu::word::{BLOCK, ZERO};
use crate::environment::{Environment, Handler, Processor};
use crate::exception::Stop;
use crate::state::SegmentRegister;

bitflags! {
    /// What the run loop and the address computation must know of an operation.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct OpFlags: u16 {
        /// The effective address needs no checks: 64-bit code with 64-bit addresses.
        const PLAIN = 1 << 0;
        /// Effective addresses are 16 bits wide.
        const ADDRESS16 = 1 << 1;
        /// Effective addresses are 32 bits wide.
        const ADDRESS32 = 1 << 2;
        /// The operation sets `Cpu::rip` itself.
        const SETS_RIP = 1 << 3;
        /// The block ends after this operation.
        const ENDS_BLOCK = 1 << 4;
        /// LOCK prefix.
        const LOCK = 1 << 5;
        /// REP or REPE prefix.
        const REP = 1 << 6;
        /// REPNE prefix.
        const REPNE = 1 << 7;
        /// The operation can change what interrupts are accepted: they are looked at after it.
        const CHECK_INTERRUPTS = 1 << 8;
        /// If the operation clears TF, no single-step trap follows: it enters a handler, or is SYSRET.
        const CLEARS_TF_AT_ONCE = 1 << 9;
        /// The operation, which sets `Cpu::rip`, may also go on behind itself: a branch under a condition.
        const CONDITIONAL = 1 << 10;
    }
}

/// A decoded operation.
#[derive(Debug)]
pub struct Op<E> {
    /// What executes it.
    pub run: Handler<E>,
    /// The displacement of a memory operand. For RIP-relative operands and for branches it counts from the block's start.
    pub displacement: u64,
    /// The immediate, sign-extended to the operand size; or what the handler says it is.
    pub immediate: u64,
    /// Handler-specific: an environment's handle, the return offset of a call.
    pub extra: u32,
    /// Offset of the instruction from the block's start.
    pub offset: u16,
    /// See [`OpFlags`].
    pub flags: OpFlags,
    /// Length of the instruction in bytes.
    pub length: u8,
    /// Base register's slot.
    pub base: u8,
    /// Index register's slot.
    pub index: u8,
    /// The index is shifted by this.
    pub scale: u8,
    /// The segment of the memory operand.
    pub segment: SegmentRegister,
    /// First register operand: the destination.
    pub reg: u8,
    /// Second register operand: the source.
    pub rm: u8,
}

impl<E> Clone for Op<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Op<E> {}

impl<E: Environment> Op<E> {
    /// An operation without operands.
    #[must_use]
    pub const fn new(run: Handler<E>) -> Self {
        Self {
            run,
            displacement: 0,
            immediate: 0,
            extra: 0,
            offset: 0,
            flags: OpFlags::empty(),
            length: 0,
            base: ZERO as u8,
            index: ZERO as u8,
            scale: 0,
            segment: SegmentRegister::Ds,
            reg: 0,
            rm: 0,
        }
    }

    /// The instruction pointer of this instruction.
    #[inline(always)]
    pub const fn rip(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[BLOCK].wrapping_add(self.offset as u64)
    }

    /// The instruction pointer after this instruction.
    #[inline(always)]
    pub const fn next_rip(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[BLOCK].wrapping_add(self.offset as u64 + self.length as u64)
    }

    /// Whether this instruction, which was executed just now and alone, was a branch that was taken.
    pub fn has_branched(&self, cpu: &Cpu) -> bool {
        let elsewhere = cpu.rip != self.next_rip(cpu) & cpu.rip_mask();
        self.flags.contains(OpFlags::SETS_RIP) && (elsewhere || !self.flags.contains(OpFlags::CONDITIONAL))
    }

    /// The offset of the memory operand in its segment.
    #[inline(always)]
    pub fn effective_address(&self, cpu: &Cpu) -> u64 {
        let address = cpu.gpr[usize::from(self.base & 31)]
            .wrapping_add(cpu.gpr[usize::from(self.index & 31)] << (self.scale & 3))
            .wrapping_add(self.displacement);
        if self.flags.contains(OpFlags::PLAIN) { address } else { address & self.address_mask() }
    }

    /// The mask of effective addresses.
    #[inline(always)]
    pub const fn address_mask(&self) -> u64 {
        if self.flags.contains(OpFlags::ADDRESS32) {
            0xffff_ffff
        } else if self.flags.contains(OpFlags::ADDRESS16) {
            0xffff
        } else {
            u64::MAX
        }
    }

    /// The linear address of the memory operand of `size` bytes.
    ///
    /// # Errors
    /// Outside 64-bit code: the segment forbids the access.
    #[inline(always)]
    pub fn linear(&self, p: &mut Processor<E>, size: u8, write: bool) -> Result<u64, Stop> {
        let address = self.effective_address(&p.cpu);
        if self.flags.contains(OpFlags::PLAIN) {
            Ok(address.wrapping_add(p.cpu.address_base[self.segment as usize]))
        } else {
            p.cpu.linear(self.segment, address, u64::from(size), write)
        }
    }
}

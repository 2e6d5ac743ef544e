//! A processor with RAM and nothing else, which runs instruction bytes one by one.

mod ram;

use tern_x86::cpu::Cpu;
use tern_x86::cpu::word::{BLOCK, RSP};
use tern_x86::cpuid::CpuModel;
use tern_x86::decode::{BlockDecoder, OpFlags};
use tern_x86::environment::Processor;
use tern_x86::exception::{Exception, Stop};
use tern_x86::exec::transfer::deliver_exception;
use tern_x86::paging::{Access, AccessKind};
use tern_x86::state::{
    Activity, Attributes, Cr0, Cr4, DescriptorTable, Efer, Rflags, Segment, SegmentRegister,
};

pub use ram::Ram;

/// Where the machines below have what.
pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
/// A second TSS for task switches.
pub const TSS_2: u64 = 0x3800;
pub const PAGE_TABLES: u64 = 0x10_000;
/// Top of the stack of privilege level 0 in the TSS.
pub const KERNEL_STACK: u64 = 0x2_0000;
/// Top of stack 1 of the interrupt stack table.
pub const IST_STACK: u64 = 0x2_8000;
/// Top of the stack that code starts with.
pub const STACK: u64 = 0x3_0000;
pub const CODE: u64 = 0x4_0000;
/// Where gate `n` leads is this plus 16 times `n`.
pub const HANDLERS: u64 = 0x5_0000;
pub const DATA: u64 = 0x6_0000;

/// Selectors in the machines' GDT.
pub const KERNEL_CODE: u16 = 0x08;
pub const KERNEL_DATA: u16 = 0x10;
pub const USER_CODE32: u16 = 0x18 | 3;
pub const USER_DATA: u16 = 0x20 | 3;
pub const USER_CODE64: u16 = 0x28 | 3;
pub const KERNEL_CODE32: u16 = 0x30;
/// The TSS; its descriptor has 16 bytes in long mode.
pub const TASK: u16 = 0x38;
/// Free for a test's own descriptor.
pub const FREE: u16 = 0x48;

/// Attributes of descriptors: byte 5 and the high nibble of byte 6.
pub const CODE32: u16 = 0xc9b;
pub const CODE64: u16 = 0xa9b;
pub const DATA32: u16 = 0xc93;
pub const USER: u16 = 0x60;

/// A descriptor.
pub fn descriptor(base: u32, limit: u32, attributes: u16) -> u64 {
    let (base, limit, attributes) = (u64::from(base), u64::from(limit), u64::from(attributes));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (attributes >> 8) << 52
        | (base >> 24) << 56
}

/// The first eight bytes of a gate; `attributes` is its byte 5.
pub fn gate(selector: u16, offset: u64, attributes: u8, low: u8) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(low) << 32
        | u64::from(attributes) << 40
        | (offset >> 16 & 0xffff) << 48
}

/// A processor with its RAM.
pub struct Machine {
    pub p: Processor<Ram>,
}

impl Machine {
    /// Real mode at CODE, which is out of reach of 16 bits: CS has its base there.
    pub fn real_mode() -> Self {
        let mut cpu = Cpu::new(CpuModel::default());
        cpu.segments[SegmentRegister::Cs as usize] = Segment::real_mode((CODE >> 4) as u16);
        cpu.rip = 0;
        cpu.gpr[RSP] = 0x8000;
        cpu.idtr = DescriptorTable { base: 0, limit: 0x3ff };
        cpu.derive_mode();
        Self { p: Processor { cpu, env: Ram::new(4 << 20) } }
    }

    /// 32-bit protected mode without paging, at privilege level 0.
    pub fn protected_mode() -> Self {
        let mut machine = Self::real_mode();
        machine.p.cpu.cr0 = Cr0::PE | Cr0::ET;
        machine.write_gdt(CODE32);
        machine.write64(GDT + u64::from(TASK), descriptor(TSS as u32, 0x67, 0x8b));
        for vector in 0..64 {
            machine.set_gate(vector, KERNEL_CODE, 0x8e);
        }
        machine.write64(TSS + 4, KERNEL_STACK | u64::from(KERNEL_DATA) << 32);
        machine.load_flat(KERNEL_CODE, KERNEL_DATA, CODE32);
        machine
    }

    /// 64-bit code at privilege level 0, with the first GiB identity-mapped for both levels.
    pub fn long_mode() -> Self {
        let mut machine = Self::real_mode();
        let cpu = &mut machine.p.cpu;
        cpu.cr0 = Cr0::PE | Cr0::PG | Cr0::ET | Cr0::WP;
        cpu.cr4 = Cr4::PAE;
        cpu.cr3 = PAGE_TABLES;
        cpu.efer = Efer::LME | Efer::LMA | Efer::NXE | Efer::SCE;
        machine.write64(PAGE_TABLES, (PAGE_TABLES + 0x1000) | 7);
        machine.write64(PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | 7);
        for n in 0..512 {
            machine.write64(PAGE_TABLES + 0x2000 + 8 * n, n << 21 | 0x87);
        }
        machine.write_gdt(CODE64);
        machine.write64(GDT + u64::from(TASK), descriptor(TSS as u32, 0x67, 0x8b));
        for vector in 0..64 {
            machine.set_gate(vector, KERNEL_CODE, 0x8e);
        }
        machine.write64(TSS + 4, KERNEL_STACK);
        machine.write64(TSS + 0x24, IST_STACK);
        machine.load_flat(KERNEL_CODE, KERNEL_DATA, CODE64);
        machine
    }

    fn write_gdt(&mut self, kernel_code: u16) {
        let flat = |attributes| descriptor(0, 0xf_ffff, attributes);
        let table = [
            0,
            flat(kernel_code),
            flat(DATA32),
            flat(CODE32 | USER),
            flat(DATA32 | USER),
            flat(CODE64 | USER),
            flat(CODE32),
        ];
        for (n, value) in (0..).zip(table) {
            self.write64(GDT + 8 * n, value);
        }
        let cpu = &mut self.p.cpu;
        cpu.gdtr = DescriptorTable { base: GDT, limit: 0xff };
        cpu.idtr = DescriptorTable { base: IDT, limit: 0xfff };
        cpu.tr = Segment {
            selector: TASK,
            attributes: Attributes::from_bits_retain(0x8b),
            limit: 0x67,
            base: TSS,
        };
    }

    fn load_flat(&mut self, code: u16, data: u16, attributes: u16) {
        let cpl = (code & 3) as u8;
        let cpu = &mut self.p.cpu;
        for register in SegmentRegister::ALL {
            let segment = Segment::flat(data, Attributes::from_bits_retain(DATA32).with_dpl(cpl));
            cpu.segments[register as usize] = segment;
        }
        let attributes = Attributes::from_bits_retain(attributes).with_dpl(cpl);
        cpu.segments[SegmentRegister::Cs as usize] = Segment::flat(code, attributes);
        cpu.cpl = cpl;
        cpu.rip = CODE;
        cpu.gpr[RSP] = STACK;
        cpu.derive_mode();
    }

    /// Goes on at privilege level 3, in 64-bit code if the machine is in long mode.
    pub fn enter_user(&mut self) {
        if self.p.cpu.long_mode() {
            self.load_flat(USER_CODE64, USER_DATA, CODE64);
        } else {
            self.load_flat(USER_CODE32, USER_DATA, CODE32);
        }
    }

    /// Writes a gate that leads to its handler's place.
    pub fn set_gate(&mut self, vector: u64, selector: u16, attributes: u8) {
        let gate = gate(selector, HANDLERS + 16 * vector, attributes, 0);
        if self.p.cpu.long_mode() {
            self.write64(IDT + 16 * vector, gate);
        } else {
            self.write64(IDT + 8 * vector, gate);
        }
    }

    pub fn write64(&mut self, physical: u64, value: u64) {
        self.p.env.write(physical, &value.to_le_bytes());
    }

    pub fn write32(&mut self, physical: u64, value: u32) {
        self.p.env.write(physical, &value.to_le_bytes());
    }

    pub fn write16(&mut self, physical: u64, value: u16) {
        self.p.env.write(physical, &value.to_le_bytes());
    }

    pub fn read64(&self, physical: u64) -> u64 {
        self.p.env.read(physical)
    }

    pub fn read32(&self, physical: u64) -> u32 {
        self.read64(physical) as u32
    }

    pub fn read16(&self, physical: u64) -> u16 {
        self.read64(physical) as u16
    }

    /// Puts instructions where the processor is and runs them; exceptions are delivered as they come.
    pub fn run(&mut self, code: &[u8], instructions: usize) {
        let start = self.p.cpu.linear_rip();
        self.p.env.write(start, code);
        for _ in 0..instructions {
            self.step();
        }
    }

    /// Runs one instruction, which must not fault.
    pub fn run_ok(&mut self, code: &[u8]) {
        assert_eq!(self.execute_bytes(code), Ok(()));
    }

    /// Runs one instruction, which must raise the exception.
    pub fn run_fault(&mut self, code: &[u8], expected: Exception) {
        assert_eq!(self.execute_bytes(code), Err(expected));
    }

    fn execute_bytes(&mut self, code: &[u8]) -> Result<(), Exception> {
        let start = self.p.cpu.linear_rip();
        self.p.env.write(start, code);
        self.execute()
    }

    /// Runs the next instruction and delivers the exception that it raises.
    pub fn step(&mut self) {
        if let Err(exception) = self.execute() {
            self.deliver(exception);
        }
    }

    fn deliver(&mut self, exception: Exception) {
        deliver_exception(&mut self.p, exception).expect("nothing waits for a device");
        if let Some(next) = self.p.cpu.deferred.take() {
            self.deliver(next);
        }
    }

    fn execute(&mut self) -> Result<(), Exception> {
        assert_eq!(self.p.cpu.activity, Activity::Running);
        let access = Access::explicit(&self.p.cpu, AccessKind::Execute);
        let linear = self.p.cpu.linear_rip();
        let mut bytes = [0; 15];
        let mut available = 0;
        for (byte, linear) in bytes.iter_mut().zip(linear..) {
            match self.p.env.translate(&self.p.cpu, linear, access) {
                Ok(physical) => *byte = self.p.env.read(physical) as u8,
                Err(exception) if available == 0 => return Err(exception),
                Err(_) => break,
            }
            available += 1;
        }
        let mut decoder = BlockDecoder::new(&bytes[..available], self.p.cpu.mode);
        let op = decoder.next_op(&mut self.p.env).expect("a whole instruction");
        self.p.cpu.gpr[BLOCK] = self.p.cpu.rip;
        match (op.run)(&mut self.p, &op) {
            Ok(()) => {
                if !op.flags.contains(OpFlags::SETS_RIP) {
                    self.p.cpu.rip += u64::from(op.length);
                    self.p.cpu.system_flags -= Rflags::RF;
                }
                if let Some(exception) = self.p.cpu.deferred.take() {
                    self.deliver(exception);
                }
                Ok(())
            }
            Err(Stop::Exception) => Err(self.p.cpu.exception),
            Err(stop) => panic!("unexpected {stop:?}"),
        }
    }

    /// CS, SS and CPL.
    pub fn privilege(&self) -> (u16, u16, u8) {
        let cpu = &self.p.cpu;
        (cpu.segment(SegmentRegister::Cs).selector, cpu.segment(SegmentRegister::Ss).selector, cpu.cpl)
    }
}

//! Instructions that stay what they are, with their operands where the translator has them.

use iced_x86::{Instruction, Mnemonic, OpAccess, OpKind, Register};

use super::super::calls::Operation;
use super::cold::Cold;
use super::memory::{Access, Grouped, Parts, Sum};
use super::stack::free_beside;
use super::{Emitter, Flags, Guest, Kind, host};
use crate::translator::assembler::*;
use crate::translator::flags::FlagSet;
use crate::translator::frame;
use crate::translator::operands::{by_stack, has_narrow_address, writes};
use crate::translator::sites::Sites;
use crate::translator::x87;

/// A guest register that is kept in memory, and where the instruction finds it.
#[derive(Debug, Clone, Copy)]
struct Borrowed {
    number: usize,
    scratch: Host,
    /// Its old value counts.
    read: bool,
    written: bool,
}

/// An instruction ready to be copied.
struct Prepared {
    bytes: Vec<u8>,
    borrowed: [Option<Borrowed>; 2],
    /// Its access to memory.
    access: Option<Access>,
}

impl Emitter<'_> {
    /// An instruction on general, vector or x87 registers.
    pub fn copy(&mut self, guest: &Guest) {
        let Some(Prepared { bytes, borrowed, access }) = self.prepare(guest) else {
            return self.operation(guest);
        };
        let operand = access.map(|access| (self.operand(guest, access, guest.live_before()), access));
        let free = operand.map_or(R11, |((memory, _), _)| free_beside(memory));
        self.need_flags(if guest.flags.changes { guest.live_before() } else { guest.flags.reads }, free);
        for Borrowed { number, scratch, read, .. } in borrowed.into_iter().flatten() {
            if read && self.scratch.guest(number) != Some(scratch) {
                self.a.load(scratch, frame::gpr(number));
            }
            self.scratch.hold_guest(scratch, number);
        }
        self.a.raw(&bytes);
        self.done_with(bytes);
        if guest.flags.changes {
            self.flags = Flags::Host;
        }
        for Borrowed { number, scratch, .. } in borrowed.into_iter().flatten().filter(|b| b.written) {
            self.a.store(frame::gpr(number), scratch);
        }
        if let Some(((memory, site), Access { size, write: true, .. })) = operand {
            self.stored(guest, memory, site, size, guest.live_after);
        }
    }

    /// Encodes the instruction anew; `None` if it cannot be.
    fn prepare(&mut self, guest: &Guest) -> Option<Prepared> {
        let mut instruction = guest.instruction;
        let accesses = guest.accesses;
        let memory = (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory);
        let grouped = self.grouped_operand(&instruction);
        let memory = match memory {
            Some(n) => {
                // Ten bytes of x87 are checked like sixteen.
                let size = match instruction.memory_size().size() {
                    10 => 16,
                    size => size,
                };
                if !Sites::has(size) {
                    return None;
                }
                let alignment = match guest.kind {
                    Kind::Vector { alignment, .. } | Kind::X87 { alignment, .. } => alignment,
                    _ if instruction.mnemonic() == Mnemonic::Cmpxchg16b => 16,
                    _ => 1,
                };
                let write = writes(*accesses.get(n as usize)?);
                let stack = by_stack(&instruction);
                let access = Access { size, write, alignment, stack };
                match (grouped, self.based_operand(guest, access)) {
                    (Some(Grouped { base, .. }), _) => place_at(&mut instruction, base, R11),
                    (None, Some(Sum { base, .. })) => place_at(&mut instruction, base, R10),
                    (None, None) => place_at_r10(&mut instruction),
                }
                Some(access)
            }
            None => None,
        };
        let mut borrowed: [Option<Borrowed>; 2] = [None; 2];
        for n in 0..instruction.op_count() {
            if instruction.op_kind(n) != OpKind::Register || !instruction.op_register(n).is_gpr() {
                continue;
            }
            let (register, access) = (instruction.op_register(n), *accesses.get(n as usize)?);
            let number = register.full_register().number();
            let host = match host(number) {
                Some(host) => host,
                None => {
                    let read = access != OpAccess::Write || register.size() < 4;
                    let (read, written) = (read, writes(access));
                    match borrowed.iter_mut().flatten().find(|b| b.number == number) {
                        Some(known) => {
                            known.read |= read;
                            known.written |= written;
                            known.scratch
                        }
                        None => {
                            let scratch = match (borrowed[0], memory) {
                                // In a group, R11 is a part of the address.
                                (None, Some(_)) if grouped.is_some() => R10,
                                (None, Some(_)) => R11,
                                (None, None) => self.scratch.guest(number).unwrap_or_else(|| {
                                    self.scratch.place(|other| uses_register(&guest.instruction, other))
                                }),
                                (Some(Borrowed { scratch: R11, .. }), None) => R10,
                                (Some(_), None) => R11,
                                (Some(_), Some(_)) => return None,
                            };
                            let place = borrowed.iter_mut().find(|place| place.is_none())?;
                            *place = Some(Borrowed { number, scratch, read, written });
                            scratch
                        }
                    }
                }
            };
            instruction.set_op_register(n, sized(host, register));
        }
        instruction.set_has_rep_prefix(false);
        instruction.set_has_repne_prefix(false);
        let bytes = self.encode(&instruction)?;
        Some(Prepared { bytes, borrowed, access: memory })
    }

    /// The bytes of an instruction without a RIP-relative operand; `None` if it has no encoding.
    fn encode(&mut self, instruction: &Instruction) -> Option<Vec<u8>> {
        let encoded = self.encoder.encode(instruction, 0);
        let bytes = self.encoder.take_buffer();
        encoded.is_ok().then_some(bytes)
    }

    /// The encoder goes on with the memory of its last instruction's bytes.
    fn done_with(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.encoder.set_buffer(bytes);
    }

    /// LEA.
    pub fn lea(&mut self, guest: &Guest) {
        let instruction = &guest.instruction;
        let register = instruction.op0_register();
        if register.size() < 4 {
            return self.operation(guest);
        }
        let number = register.full_register().number();
        let Parts { base, index, displacement, narrow } = self.parts(instruction);
        let destination = host(number)
            .or_else(|| self.scratch.guest(number))
            .unwrap_or_else(|| self.scratch.place(|_| false));
        if narrow || register.size() == 4 {
            self.a.lea32_sum(destination, base, index, displacement);
        } else {
            self.a.lea_sum(destination, base, index, displacement);
        }
        if host(number).is_none() {
            self.a.store(frame::gpr(number), destination);
            self.scratch.hold_guest(destination, number);
        }
    }

    /// BT, BTS, BTR and BTC of a bit in memory whose number is in a register: the bit's word is found first.
    pub fn bit_string(&mut self, guest: &Guest) {
        let register = guest.instruction.op1_register();
        let (number, size) = (register.full_register().number(), register.size());
        let mut instruction = guest.instruction;
        place_at_r10(&mut instruction);
        instruction.set_op1_register(sized(R11, register));
        // An address of 32 bits wraps with the bit's distance.
        let bytes = match self.encode(&instruction) {
            Some(bytes) if !has_narrow_address(&guest.instruction) => bytes,
            _ => return self.operation(guest),
        };
        let live = guest.live_before();
        self.spare_flags(live);
        self.address(&guest.instruction);
        match (host(number), size) {
            (Some(register), 8) => self.a.mov(R11, register),
            (Some(register), _) => self.a.sign_extend(R11, register),
            (None, 8) => self.a.load(R11, frame::gpr(number)),
            (None, _) => self.a.load_sign_extended(R11, frame::gpr(number)),
        }
        let word_bits = size.trailing_zeros() as u8 + 3;
        self.a.sar(R11, word_bits);
        self.a.lea_sum(R10, Some(R10), Some((R11, size.trailing_zeros() as u8)), 0);
        let write = guest.instruction.mnemonic() != Mnemonic::Bt;
        let access = Access { size, write, alignment: 1, stack: by_stack(&guest.instruction) };
        let site = self.check(guest, access);
        match host(number) {
            Some(register) => self.a.mov(R11, register),
            None => self.a.load(R11, frame::gpr(number)),
        }
        self.a.and_immediate32(R11, (1 << word_bits) - 1);
        self.need_flags_keeping_r11(live);
        self.a.raw(&bytes);
        self.done_with(bytes);
        self.flags = Flags::Host;
        if write {
            self.stored(guest, Memory::Checked, site, size, guest.live_after);
        }
    }

    /// DIV and IDIV of 32 and 64 bits. What would fault here is left to the interpreter, and with it quotients of signed
    /// divisions that are too long to be judged quickly.
    pub fn divide(&mut self, guest: &Guest) {
        let instruction = &guest.instruction;
        let size = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        };
        if !matches!(size, 4 | 8) {
            return self.operation(guest);
        }
        let live = guest.live_before();
        self.spare_flags(live);
        let wide = size == 8;
        if instruction.op0_kind() == OpKind::Memory {
            let access = Access { size, write: false, alignment: 1, stack: by_stack(instruction) };
            let (memory, _) = self.operand(guest, access, live);
            self.a.load_guest(R11, memory, wide);
        } else {
            let number = instruction.op0_register().full_register().number();
            match host(number) {
                Some(register) if wide => self.a.mov(R11, register),
                Some(register) => self.a.mov32(R11, register),
                None => self.a.load(R11, frame::gpr(number)),
            }
        }
        let faults = self.a.label();
        self.cold.push(Cold::Interpret { at: faults, offset: guest.offset(), count: self.count });
        if instruction.mnemonic() == Mnemonic::Div {
            // cmp rdx, r11: the quotient is too long from there on, and a divisor of zero is among these.
            self.a.raw(if wide { &[0x4c, 0x39, 0xda] } else { &[0x44, 0x39, 0xda] });
            self.a.jcc(ABOVE_OR_EQUAL, faults);
            // div r11
            self.a.raw(if wide { &[0x49, 0xf7, 0xf3] } else { &[0x41, 0xf7, 0xf3] });
        } else {
            // Is RDX no more than the sign of RAX? mov r10, rax; sar r10, 63; cmp r10, rdx
            self.a.raw(if wide {
                &[0x49, 0x89, 0xc2, 0x49, 0xc1, 0xfa, 0x3f, 0x49, 0x39, 0xd2]
            } else {
                &[0x41, 0x89, 0xc2, 0x41, 0xc1, 0xfa, 0x1f, 0x41, 0x39, 0xd2]
            });
            self.a.jcc(NOT_EQUAL, faults);
            // Is the divisor 0 or -1? lea r10, [r11 + 1]; cmp r10, 1
            self.a.raw(if wide {
                &[0x4d, 0x8d, 0x53, 0x01, 0x49, 0x83, 0xfa, 0x01]
            } else {
                &[0x45, 0x8d, 0x53, 0x01, 0x41, 0x83, 0xfa, 0x01]
            });
            self.a.jcc(BELOW_OR_EQUAL, faults);
            // idiv r11
            self.a.raw(if wide { &[0x49, 0xf7, 0xfb] } else { &[0x41, 0xf7, 0xfb] });
        }
        self.flags = Flags::Host;
    }

    /// The interpreter executes the instruction's operation, which may lead anywhere. The flags are spared.
    pub fn transfer(&mut self, guest: &Guest) {
        if !self.target.linked || guest.instruction.is_invalid() {
            return self.interpret(guest);
        }
        let operation = self.add_operation(guest, true);
        self.a.sub_immediate32(frame::BUDGET, self.count);
        self.a.mov_immediate(R11, operation);
        self.a.jmp_out(self.stubs.transfer);
    }

    /// The interpreter executes the instruction's operation.
    pub fn operation(&mut self, guest: &Guest) {
        self.scratch.forget();
        let flags = guest.flags;
        if !self.target.linked {
            self.spare_flags(FlagSet::all());
            return self.interpret(guest);
        }
        let touches_flags = flags.changes || !flags.reads.is_empty();
        self.spare_flags(if touches_flags { FlagSet::all() } else { guest.live_before() });
        let operation = self.add_operation(guest, touches_flags);
        self.a.mov_immediate(R11, operation);
        self.a.call_out(self.stubs.operation);
        self.flags = Flags::Memory;
    }

    /// What translated code refers to, by its address, where the interpreter executes an instruction.
    pub fn add_operation(&mut self, guest: &Guest, touches_flags: bool) -> u64 {
        let touches_x87 = x87::touches(&guest.instruction);
        let operation = Box::new(Operation { op: guest.op, touches_flags, touches_x87 });
        let address = &raw const *operation as u64;
        self.operations.push(operation);
        address
    }
}

/// Puts the memory operand where its check leaves its address.
fn place_at_r10(instruction: &mut Instruction) {
    instruction.set_memory_base(Register::R10);
    instruction.set_memory_index(Register::None);
    instruction.set_memory_index_scale(1);
    instruction.set_memory_displacement64(0);
    instruction.set_memory_displ_size(0);
    instruction.set_segment_prefix(Register::None);
}

/// Leaves the memory operand where it is, but for the way to the host's address in `delta`, which has its index, too.
fn place_at(instruction: &mut Instruction, base: Host, delta: Host) {
    instruction.set_memory_base(sized(base, Register::RAX));
    instruction.set_memory_index(sized(delta, Register::RAX));
    instruction.set_memory_index_scale(1);
    instruction.set_memory_displ_size(8);
    instruction.set_segment_prefix(Register::None);
}

/// Whether one of the operands is a general register, or a part of it.
fn uses_register(instruction: &Instruction, number: usize) -> bool {
    (0..instruction.op_count()).any(|n| {
        let register = instruction.op_register(n);
        instruction.op_kind(n) == OpKind::Register
            && register.is_gpr()
            && register.full_register().number() == number
    })
}

/// The part of a host register that corresponds to a guest register. AH to BH keep their names: their registers do.
fn sized(host: Host, like: Register) -> Register {
    if matches!(like, Register::AH | Register::CH | Register::DH | Register::BH) {
        return like;
    }
    let number = u32::from(host.0);
    match like.size() {
        1 if number < 4 => Register::AL + number,
        1 => Register::SPL + (number - 4),
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}

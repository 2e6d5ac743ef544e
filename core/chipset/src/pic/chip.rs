//! One 8259A: its request, service and mask registers, its command words and its priorities.

use super::CASCADE;
use crate::InvalidState;
use serde::{Deserialize, Serialize};

/// Which initialization command word a write to the data port will be taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Initialization {
    /// Initialization is complete: a write to the data port sets the mask (OCW1).
    #[default]
    Done,
    /// ICW2, the vector base, is awaited.
    Icw2,
    /// ICW3, the cascade's wiring, is awaited.
    Icw3,
    /// ICW4, the modes, is awaited.
    Icw4,
}

/// What one controller holds. Bit n of a register belongs to input n.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipState {
    /// The levels of the input lines, from which edges are recognised.
    pub lines: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// In-service register.
    pub isr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// Edge/level control: a set bit makes the input level-triggered.
    pub elcr: u8,
    /// Vector of input 0 (ICW2, bits 7:3).
    pub vector_base: u8,
    /// The input with the highest priority at present, 0 to 7; the next ones follow in a circle.
    pub highest_priority: u8,
    /// A read of the command port gives the ISR, not the IRR (OCW3).
    pub read_isr: bool,
    /// The next read is an acknowledgement (OCW3, poll command).
    pub poll: bool,
    /// Special mask mode (OCW3): what is in service but masked holds nothing else back.
    pub special_mask: bool,
    /// Special fully nested mode (ICW4).
    pub special_fully_nested: bool,
    /// Acknowledging ends the interrupt (ICW4).
    pub auto_eoi: bool,
    /// An automatic end of interrupt rotates the priorities (OCW2).
    pub rotate_on_auto_eoi: bool,
    /// ICW1 announced an ICW4.
    pub icw4_announced: bool,
    /// How far initialization has come.
    pub initialization: Initialization,
}

/// One controller. Its registers are all there is to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chip {
    registers: ChipState,
    /// Whether this is the one that the other is cascaded into.
    is_primary: bool,
}

impl Chip {
    pub(super) fn new(is_primary: bool) -> Self {
        Self { registers: ChipState::default(), is_primary }
    }

    pub(super) fn save(&self) -> ChipState {
        self.registers.clone()
    }

    pub(super) fn from_state(state: &ChipState, is_primary: bool) -> Result<Self, InvalidState> {
        let reason = if state.highest_priority > 7 {
            "the highest priority belongs to an input beyond the eighth"
        } else if state.vector_base & 7 != 0 {
            "the vector base is not a multiple of eight"
        } else {
            return Ok(Self { registers: state.clone(), is_primary });
        };
        Err(InvalidState { device: "8259 interrupt controllers", reason })
    }

    pub(super) fn set_line(&mut self, input: u8, level: bool) {
        let r = &mut self.registers;
        let bit = 1 << (input & 7);
        if r.elcr & bit != 0 {
            set(&mut r.irr, bit, level);
        } else if level && r.lines & bit == 0 {
            r.irr |= bit;
        }
        set(&mut r.lines, bit, level);
    }

    /// The cascade input follows the other controller's output, which falls and rises again
    /// between two acknowledgements: its level says it all.
    pub(super) fn set_cascade(&mut self, level: bool) {
        set(&mut self.registers.irr, 1 << CASCADE, level);
        set(&mut self.registers.lines, 1 << CASCADE, level);
    }

    pub(super) fn elcr(&self) -> u8 {
        self.registers.elcr
    }

    pub(super) fn set_elcr(&mut self, value: u8) {
        let r = &mut self.registers;
        r.elcr = value;
        // A level-triggered input requests exactly while its line is asserted.
        r.irr = r.irr & !value | r.lines & value;
    }

    pub(super) fn vector(&self, input: u8) -> u8 {
        self.registers.vector_base | input & 7
    }

    /// The rank of the most urgent bit of `inputs`: 0 is the highest, 8 means none.
    fn rank(&self, inputs: u8) -> u32 {
        let rotated = inputs.rotate_right(u32::from(self.registers.highest_priority));
        rotated.trailing_zeros()
    }

    fn input_of_rank(&self, rank: u32) -> u8 {
        self.registers.highest_priority.wrapping_add(rank as u8) & 7
    }

    /// The input to be acknowledged next, if the priorities let any through.
    fn deliverable(&self) -> Option<u8> {
        let r = &self.registers;
        let mut in_service = r.isr;
        if r.special_mask {
            in_service &= !r.imr;
        }
        if r.special_fully_nested && self.is_primary {
            // More urgent requests of the secondary pass although it is in service already.
            in_service &= !(1 << CASCADE);
        }
        let rank = self.rank(r.irr & !r.imr);
        (rank < self.rank(in_service)).then(|| self.input_of_rank(rank))
    }

    pub(super) fn output(&self) -> bool {
        self.deliverable().is_some()
    }

    /// Puts the next input in service. `None` if there is none.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let input = self.deliverable()?;
        let r = &mut self.registers;
        let bit = 1 << input;
        if r.elcr & bit == 0 {
            r.irr &= !bit;
        }
        if !r.auto_eoi {
            r.isr |= bit;
        } else if r.rotate_on_auto_eoi {
            r.highest_priority = (input + 1) & 7;
        }
        Some(input)
    }

    fn poll(&mut self) -> u8 {
        self.registers.poll = false;
        match self.acknowledge() {
            Some(input) => 0x80 | input,
            None => 0,
        }
    }

    pub(super) fn read_command(&mut self) -> u8 {
        if self.registers.poll {
            self.poll()
        } else if self.registers.read_isr {
            self.registers.isr
        } else {
            self.registers.irr
        }
    }

    pub(super) fn read_data(&mut self) -> u8 {
        if self.registers.poll { self.poll() } else { self.registers.imr }
    }

    pub(super) fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.write_icw1(value);
        } else if value & 0x08 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        let r = &mut self.registers;
        r.initialization = match r.initialization {
            Initialization::Done => {
                r.imr = value;
                Initialization::Done
            }
            Initialization::Icw2 => {
                r.vector_base = value & 0xf8;
                Initialization::Icw3
            }
            // The wiring is the PC's, whatever the guest believes.
            Initialization::Icw3 if r.icw4_announced => Initialization::Icw4,
            Initialization::Icw3 => Initialization::Done,
            Initialization::Icw4 => {
                r.auto_eoi = value & 0x02 != 0;
                r.special_fully_nested = value & 0x10 != 0;
                Initialization::Done
            }
        };
    }

    /// ICW1 clears everything but the wiring: an input must rise anew to request.
    fn write_icw1(&mut self, value: u8) {
        let r = &self.registers;
        self.registers = ChipState {
            lines: r.lines,
            elcr: r.elcr,
            irr: r.lines & r.elcr,
            vector_base: r.vector_base,
            icw4_announced: value & 0x01 != 0,
            initialization: Initialization::Icw2,
            ..ChipState::default()
        };
    }

    fn write_ocw2(&mut self, value: u8) {
        let selected = value & 7;
        match value >> 5 {
            0b000 => self.registers.rotate_on_auto_eoi = false,
            0b100 => self.registers.rotate_on_auto_eoi = true,
            0b001 => {
                self.end_of_interrupt();
            }
            0b101 => {
                if let Some(input) = self.end_of_interrupt() {
                    self.set_lowest_priority(input);
                }
            }
            0b011 => self.registers.isr &= !(1 << selected),
            0b111 => {
                self.registers.isr &= !(1 << selected);
                self.set_lowest_priority(selected);
            }
            0b110 => self.set_lowest_priority(selected),
            _ => {}
        }
    }

    /// Non-specific end of interrupt: the most urgent input in service, unless special mask mode
    /// hides it.
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let r = &self.registers;
        let candidates = if r.special_mask { r.isr & !r.imr } else { r.isr };
        let rank = self.rank(candidates);
        (rank < 8).then(|| {
            let input = self.input_of_rank(rank);
            self.registers.isr &= !(1 << input);
            input
        })
    }

    fn set_lowest_priority(&mut self, input: u8) {
        self.registers.highest_priority = (input + 1) & 7;
    }

    fn write_ocw3(&mut self, value: u8) {
        let r = &mut self.registers;
        r.poll = value & 0x04 != 0;
        if value & 0x02 != 0 {
            r.read_isr = value & 0x01 != 0;
        }
        if value & 0x40 != 0 {
            r.special_mask = value & 0x20 != 0;
        }
    }
}

fn set(register: &mut u8, bit: u8, to: bool) {
    if to {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

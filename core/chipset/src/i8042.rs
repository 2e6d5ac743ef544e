//! The 8042 keyboard controller, with nothing plugged in.
//!
//! Follows the IBM PS/2 Hardware Interface Technical Reference ("Keyboard and Auxiliary Device
//! Controller"). It exists because operating systems reset a PC through it, and probe it: every
//! command is answered at once, the controller's self-tests pass, and the two sockets say plainly
//! that they are empty, so that no driver waits for a device.

use crate::InvalidState;
use crate::power::SystemEvent;
use serde::{Deserialize, Serialize};

/// Status: the output buffer is full. (The input buffer never is.)
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
/// Status: the self-test was passed.
const STATUS_SYSTEM: u8 = 1 << 2;
/// Status: the last write was a command.
const STATUS_COMMAND: u8 = 1 << 3;
/// Status: the keyboard is not locked.
const STATUS_UNLOCKED: u8 = 1 << 4;
/// Status: the device did not answer.
const STATUS_TIMEOUT: u8 = 1 << 6;

/// Command byte: interrupt 1 when the output buffer is full.
const COMMAND_BYTE_INTERRUPT: u8 = 1 << 0;
/// Command byte: the system flag.
const COMMAND_BYTE_SYSTEM: u8 = 1 << 2;
/// Command byte: the keyboard is disabled.
const COMMAND_BYTE_KEYBOARD_OFF: u8 = 1 << 4;
/// Command byte: the auxiliary device is disabled.
const COMMAND_BYTE_AUXILIARY_OFF: u8 = 1 << 5;

/// Output port: low resets the processor.
const OUTPUT_PORT_RESET: u8 = 1 << 0;
/// Output port: address line 20 is enabled.
const OUTPUT_PORT_A20: u8 = 1 << 1;

/// What a device answers to whatever it did not understand; from an empty socket, with
/// [`STATUS_TIMEOUT`], it means that nobody is there.
const RESEND: u8 = 0xfe;
/// The self-test was passed.
const SELF_TEST_PASSED: u8 = 0x55;
/// A socket's test: its clock line is stuck low.
const CLOCK_STUCK_LOW: u8 = 0x01;

/// The controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct I8042 {
    state: State,
}

/// What the controller holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The byte to be read from port 0x60, if there is one.
    pub output: Option<u8>,
    /// That byte stands for a device that did not answer.
    pub timeout: bool,
    /// The last write went to the command port.
    pub last_was_command: bool,
    /// The command that awaits its parameter at the data port.
    pub command: Option<u8>,
    /// The command byte.
    pub command_byte: u8,
    /// The output port.
    pub output_port: u8,
}

impl I8042 {
    /// The controller after its self-test.
    pub fn new() -> Self {
        Self {
            state: State {
                output: None,
                timeout: false,
                last_was_command: false,
                command: None,
                command_byte: COMMAND_BYTE_SYSTEM | COMMAND_BYTE_KEYBOARD_OFF | COMMAND_BYTE_AUXILIARY_OFF,
                output_port: OUTPUT_PORT_RESET | OUTPUT_PORT_A20,
            },
        }
    }

    /// Answers a read of port 0x60.
    pub fn read_data(&mut self) -> u8 {
        self.state.timeout = false;
        self.state.output.take().unwrap_or(0)
    }

    /// Answers a read of port 0x64.
    pub fn read_status(&self) -> u8 {
        let state = &self.state;
        let mut status = STATUS_UNLOCKED | state.command_byte & STATUS_SYSTEM;
        if state.output.is_some() {
            status |= STATUS_OUTPUT_FULL;
        }
        if state.timeout {
            status |= STATUS_TIMEOUT;
        }
        if state.last_was_command {
            status |= STATUS_COMMAND;
        }
        status
    }

    /// Takes a write to port 0x60: a command's parameter, or a byte for the keyboard.
    pub fn write_data(&mut self, value: u8) -> Option<SystemEvent> {
        self.state.last_was_command = false;
        match self.state.command.take() {
            Some(0x60) => self.state.command_byte = value,
            Some(0xd1) => return self.write_output_port(value),
            // Loops: the byte comes back as if from the device. From the auxiliary one it lacks
            // the status bit that would mark it as such, which tells that there is no such socket.
            Some(0xd2 | 0xd3) => self.answer(value),
            // For the keyboard, or (0xd4) the auxiliary device: nobody is there.
            _ => {
                self.answer(RESEND);
                self.state.timeout = true;
            }
        }
        None
    }

    /// Takes a write to port 0x64: a command, which may reset the machine.
    pub fn write_command(&mut self, value: u8) -> Option<SystemEvent> {
        self.state.last_was_command = true;
        self.state.command = None;
        match value {
            0x20 => self.answer(self.state.command_byte),
            0xa7 => self.state.command_byte |= COMMAND_BYTE_AUXILIARY_OFF,
            0xa8 => self.state.command_byte &= !COMMAND_BYTE_AUXILIARY_OFF,
            0xa9 | 0xab => self.answer(CLOCK_STUCK_LOW),
            0xaa => {
                self.state.command_byte |= COMMAND_BYTE_SYSTEM;
                self.answer(SELF_TEST_PASSED);
            }
            0xad => self.state.command_byte |= COMMAND_BYTE_KEYBOARD_OFF,
            0xae => self.state.command_byte &= !COMMAND_BYTE_KEYBOARD_OFF,
            0xc0 => self.answer(0),
            0xd0 => self.answer(self.state.output_port),
            0x60 | 0xd1..=0xd4 => self.state.command = Some(value),
            // Pulses those of the output port's lowest four bits that are zero here.
            0xf0..=0xff if value & OUTPUT_PORT_RESET == 0 => return Some(SystemEvent::Reset),
            _ => {}
        }
        None
    }

    /// The level of interrupt line 1.
    pub fn interrupt(&self) -> bool {
        self.state.output.is_some() && self.state.command_byte & COMMAND_BYTE_INTERRUPT != 0
    }

    fn answer(&mut self, value: u8) {
        self.state.output = Some(value);
        self.state.timeout = false;
    }

    fn write_output_port(&mut self, value: u8) -> Option<SystemEvent> {
        self.state.output_port = value | OUTPUT_PORT_RESET;
        (value & OUTPUT_PORT_RESET == 0).then_some(SystemEvent::Reset)
    }

    /// What the controller holds.
    pub fn save(&self) -> State {
        self.state.clone()
    }

    /// Puts back what [`I8042::save`] gave.
    ///
    /// # Errors
    ///
    /// If a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        let reason = if state.output_port & OUTPUT_PORT_RESET == 0 {
            "its output port holds the processor in reset"
        } else if !matches!(state.command, None | Some(0x60 | 0xd1..=0xd4)) {
            "it awaits a parameter for a command that has none"
        } else {
            self.state = state.clone();
            return Ok(());
        };
        Err(InvalidState { device: "keyboard controller", reason })
    }
}

impl Default for I8042 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(controller: &mut I8042, command: u8) -> Option<u8> {
        assert_eq!(controller.write_command(command), None);
        (controller.read_status() & STATUS_OUTPUT_FULL != 0).then(|| controller.read_data())
    }

    #[test]
    fn the_reset_pulse_resets() {
        let mut controller = I8042::new();
        assert_eq!(controller.write_command(0xfe), Some(SystemEvent::Reset));
        assert_eq!(controller.write_command(0xff), None);
        controller.write_command(0xd1);
        assert_eq!(controller.write_data(0x03), None);
        controller.write_command(0xd1);
        assert_eq!(controller.write_data(0x02), Some(SystemEvent::Reset));
    }

    #[test]
    fn it_is_always_ready_for_a_command() {
        let mut controller = I8042::new();
        for command in 0..0xf0 {
            controller.write_command(command);
            assert_eq!(controller.read_status() & 0x02, 0);
        }
    }

    #[test]
    fn the_controller_passes_its_test_and_the_sockets_fail_theirs() {
        let mut controller = I8042::new();
        assert_eq!(ask(&mut controller, 0xaa), Some(0x55));
        assert_eq!(ask(&mut controller, 0xab), Some(0x01));
        assert_eq!(ask(&mut controller, 0xa9), Some(0x01));
    }

    #[test]
    fn the_command_byte_is_kept() {
        let mut controller = I8042::new();
        controller.write_command(0x60);
        controller.write_data(0x47);
        assert_eq!(ask(&mut controller, 0x20), Some(0x47));
        assert_eq!(ask(&mut controller, 0xad), None);
        assert_eq!(ask(&mut controller, 0x20), Some(0x57));
    }

    #[test]
    fn a_byte_for_a_device_times_out_at_once() {
        let mut controller = I8042::new();
        controller.write_command(0x60);
        controller.write_data(COMMAND_BYTE_INTERRUPT);
        controller.write_data(0xff);
        assert!(controller.interrupt());
        assert_eq!(controller.read_status() & 0x41, 0x41);
        assert_eq!(controller.read_data(), RESEND);
        assert!(!controller.interrupt());
        assert_eq!(controller.read_status() & 0x41, 0);
        controller.write_command(0xd4);
        controller.write_data(0xf2);
        assert_eq!(controller.read_status() & 0x41, 0x41);
    }

    #[test]
    fn a_loop_through_the_absent_auxiliary_device_is_not_marked_as_its() {
        let mut controller = I8042::new();
        controller.write_command(0xd3);
        controller.write_data(0x5a);
        assert_eq!(controller.read_status() & 0x21, 0x01);
        assert_eq!(controller.read_data(), 0x5a);
    }

    #[test]
    fn a20_is_enabled() {
        assert_eq!(ask(&mut I8042::new(), 0xd0), Some(0x03));
    }

    #[test]
    fn a_saved_state_behaves_like_the_original_and_a_made_up_one_is_refused() {
        let mut controller = I8042::new();
        controller.write_data(0xff);
        controller.write_command(0x60);
        let mut copy = I8042::new();
        copy.restore(&controller.save()).unwrap();
        assert_eq!(copy, controller);
        let mut state = controller.save();
        state.command = Some(0x20);
        assert!(copy.restore(&state).is_err());
        let mut state = controller.save();
        state.output_port = 0;
        assert!(copy.restore(&state).is_err());
        assert_eq!(copy, controller);
    }
}

//! The common configuration (virtio 1.2, section 4.1.4.3) as a state machine: registers in, events out.
//!
//! Fields are written in their own width, 64-bit ones also in two halves; a write of another width has no effect. Reads may
//! be of any width.

use tern_chipset::InvalidState;

use super::saved::{CommonState, QueueState};
use super::status::Status;
use crate::feature;
use crate::interrupts::NO_VECTOR;
use crate::queue::{QueueSetup, Violation};

/// Bytes of the structure.
pub const SIZE: u64 = 0x3c;

const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_MSIX_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const DEVICE_STATUS: u64 = 0x14;
const CONFIG_GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const QUEUE_DEVICE: u64 = 0x30;
const QUEUE_RESET: u64 = 0x3a;

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The device is to be reset.
    Reset,
    /// The driver offers to agree on [`Common::driver_features`].
    FeaturesOk,
    /// The device is to work.
    DriverOk,
    /// The queue is to be used.
    EnableQueue(u16),
    /// The queue is to be reset.
    ResetQueue(u16),
    /// The vector for changes of the configuration was chosen.
    ConfigVector(u16),
    /// A queue's vector was chosen.
    QueueVector(u16, u16),
    /// A rule was broken.
    Broken(Violation),
}

/// What of the registers is held elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Outside {
    /// The vector for changes of the configuration.
    pub config_vector: u16,
    /// The selected queue's vector.
    pub queue_vector: u16,
    /// How often the configuration has changed.
    pub generation: u8,
    /// What the status shows beside the driver's bits.
    pub status: Status,
    /// Whether the selected queue is being reset.
    pub is_resetting: bool,
}

/// One queue's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRegisters {
    /// How it is to be set up.
    pub setup: QueueSetup,
    /// Whether it is used.
    pub is_enabled: bool,
}

impl QueueRegisters {
    const fn new(index: u16, most: u16) -> Self {
        let setup = QueueSetup { index, most, size: most, descriptors: 0, driver: 0, device: 0 };
        Self { setup, is_enabled: false }
    }
}

/// The registers.
#[derive(Debug, Clone)]
pub struct Common {
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    /// The driver accepted a feature beyond the 64 that there are.
    accepted_unknown: bool,
    /// The bits that the driver has set, as far as the device agreed.
    status: Status,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl Common {
    /// After reset, for a device that offers these features and queues.
    #[must_use]
    pub fn new(offered: u64, queues: &[u16]) -> Self {
        let queues = (0..).zip(queues).map(|(index, most)| QueueRegisters::new(index, *most)).collect();
        Self {
            offered,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            accepted_unknown: false,
            status: Status::empty(),
            queue_select: 0,
            queues,
        }
    }

    /// The status, as far as it is the driver's.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// The features that the driver accepts.
    #[must_use]
    pub const fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// Whether the driver's features are a choice of the offered ones that a device can work with.
    #[must_use]
    pub const fn may_agree(&self) -> bool {
        let unknown = self.driver_features & !self.offered != 0 || self.accepted_unknown;
        !unknown && self.driver_features & feature::VERSION_1 != 0
    }

    /// Features are agreed on.
    pub fn agree(&mut self) {
        self.status |= Status::FEATURES_OK;
    }

    /// All queues' registers.
    #[must_use]
    pub fn queues(&self) -> &[QueueRegisters] {
        &self.queues
    }

    /// The selected queue.
    #[must_use]
    pub const fn selected(&self) -> u16 {
        self.queue_select
    }

    /// Enables a queue.
    pub fn enable(&mut self, index: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            queue.is_enabled = true;
        }
    }

    /// A queue was reset: its registers are as they were at first.
    pub fn reset_queue(&mut self, index: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            *queue = QueueRegisters::new(index, queue.setup.most);
        }
    }

    /// Puts all registers into their reset state.
    pub fn reset(&mut self) {
        let most: Vec<_> = self.queues.iter().map(|queue| queue.setup.most).collect();
        *self = Self::new(self.offered, &most);
    }

    /// Answers a read at `offset`.
    pub fn read(&self, offset: u64, data: &mut [u8], outside: &Outside) {
        let image = self.image(outside);
        for (index, byte) in (0..).zip(data) {
            let place = offset.checked_add(index).and_then(|place| usize::try_from(place).ok());
            *byte = place.and_then(|place| image.get(place)).copied().unwrap_or(0);
        }
    }

    /// All registers as they read.
    fn image(&self, outside: &Outside) -> [u8; SIZE as usize] {
        let mut image = [0; SIZE as usize];
        let mut put = |offset: u64, bytes: &[u8]| {
            let start = offset as usize;
            image[start..start + bytes.len()].copy_from_slice(bytes);
        };
        put(DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(DEVICE_FEATURE, &half(self.offered, self.device_feature_select).to_le_bytes());
        put(DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(DRIVER_FEATURE, &half(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(CONFIG_MSIX_VECTOR, &outside.config_vector.to_le_bytes());
        // There are fewer than can be counted so: they are numbered.
        put(NUM_QUEUES, &(self.queues.len() as u16).to_le_bytes());
        put(DEVICE_STATUS, &[(self.status | outside.status).bits()]);
        put(CONFIG_GENERATION, &[outside.generation]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        put(QUEUE_MSIX_VECTOR, &NO_VECTOR.to_le_bytes());
        // A queue that does not exist has the size 0.
        if let Some(QueueRegisters { setup, is_enabled }) = self.queues.get(usize::from(self.queue_select)) {
            put(QUEUE_SIZE, &setup.size.to_le_bytes());
            put(QUEUE_MSIX_VECTOR, &outside.queue_vector.to_le_bytes());
            put(QUEUE_ENABLE, &u16::from(*is_enabled).to_le_bytes());
            put(QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(QUEUE_DESC, &setup.descriptors.to_le_bytes());
            put(QUEUE_DRIVER, &setup.driver.to_le_bytes());
            put(QUEUE_DEVICE, &setup.device.to_le_bytes());
            put(QUEUE_RESET, &u16::from(outside.is_resetting).to_le_bytes());
        }
        image
    }

    /// Takes a write at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Event> {
        match *data {
            [value] if offset == DEVICE_STATUS => self.write_status(value),
            [a, b] => self.write_word(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_double_word(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if offset.is_multiple_of(8) => {
                self.write_double_word(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_double_word(offset + 4, u32::from_le_bytes([e, f, g, h]))
            }
            _ => None,
        }
    }

    fn write_status(&mut self, value: u8) -> Option<Event> {
        let wanted = Status::from_bits_truncate(value);
        if value == 0 {
            return Some(Event::Reset);
        }
        // The device's own bit is not the driver's to set or clear.
        let wanted = wanted - Status::NEEDS_RESET;
        if !wanted.contains(self.status) {
            return Some(Event::Broken(Violation::StatusCleared));
        }
        let new = wanted - self.status;
        if new.contains(Status::DRIVER_OK) && !self.status.contains(Status::FEATURES_OK) {
            return Some(Event::Broken(Violation::NotNegotiated));
        }
        self.status |= new - Status::FEATURES_OK;
        if new.contains(Status::FEATURES_OK) {
            return Some(Event::FeaturesOk);
        }
        new.contains(Status::DRIVER_OK).then_some(Event::DriverOk)
    }

    fn write_word(&mut self, offset: u64, value: u16) -> Option<Event> {
        let index = self.queue_select;
        match offset {
            CONFIG_MSIX_VECTOR => return Some(Event::ConfigVector(value)),
            QUEUE_SELECT => self.queue_select = value,
            _ => {}
        }
        let features_ok = self.status.contains(Status::FEATURES_OK);
        let may_reset = self.driver_features & feature::RING_RESET != 0;
        let queue = self.queues.get_mut(usize::from(index))?;
        match (offset, value) {
            (QUEUE_MSIX_VECTOR, vector) => Some(Event::QueueVector(index, vector)),
            // What is in use does not change. Whether a size can be is seen when the queue is enabled.
            (QUEUE_SIZE, size) if !queue.is_enabled => {
                queue.setup.size = size;
                None
            }
            (QUEUE_ENABLE, 1) if !features_ok => Some(Event::Broken(Violation::NotNegotiated)),
            (QUEUE_ENABLE, 1) if !queue.is_enabled => Some(Event::EnableQueue(index)),
            (QUEUE_RESET, 1) if queue.is_enabled && may_reset => Some(Event::ResetQueue(index)),
            _ => None,
        }
    }

    fn write_double_word(&mut self, offset: u64, value: u32) -> Option<Event> {
        let features_ok = self.status.contains(Status::FEATURES_OK);
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            // What was agreed on stays.
            DRIVER_FEATURE if !features_ok => match self.driver_feature_select {
                select @ 0..=1 => set_half(&mut self.driver_features, select, value),
                _ => self.accepted_unknown |= value != 0,
            },
            _ => {}
        }
        let queue = self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.is_enabled)?;
        let (field, base) = match offset {
            QUEUE_DESC..QUEUE_DRIVER => (&mut queue.setup.descriptors, QUEUE_DESC),
            QUEUE_DRIVER..QUEUE_DEVICE => (&mut queue.setup.driver, QUEUE_DRIVER),
            QUEUE_DEVICE..0x38 => (&mut queue.setup.device, QUEUE_DEVICE),
            _ => return None,
        };
        match offset - base {
            0 => set_half(field, 0, value),
            4 => set_half(field, 1, value),
            _ => {}
        }
        None
    }

    /// What is held. Queues' progress and vectors are elsewhere.
    #[must_use]
    pub fn save(&self) -> CommonState {
        CommonState {
            device_feature_select: self.device_feature_select,
            driver_feature_select: self.driver_feature_select,
            driver_features: self.driver_features,
            accepted_unknown: self.accepted_unknown,
            status: self.status,
            queue_select: self.queue_select,
        }
    }

    /// Puts back what [`Common::save`] gave, with the queues' registers.
    ///
    /// # Errors
    /// It is another device's, or no device's.
    pub fn restore(&mut self, state: &CommonState, queues: &[QueueState]) -> Result<(), InvalidState> {
        let invalid = |reason| Err(InvalidState { device: "virtio device", reason });
        let is_same = |(ours, theirs): (&QueueRegisters, &QueueState)| {
            ours.setup.most == theirs.setup.most && ours.setup.index == theirs.setup.index
        };
        if queues.len() != self.queues.len() || !self.queues.iter().zip(queues).all(is_same) {
            return invalid("its queues are another device's");
        }
        let mut new = Self {
            device_feature_select: state.device_feature_select,
            driver_feature_select: state.driver_feature_select,
            driver_features: state.driver_features,
            accepted_unknown: state.accepted_unknown,
            status: state.status,
            queue_select: state.queue_select,
            ..Self::new(self.offered, &[])
        };
        new.queues = queues
            .iter()
            .map(|queue| QueueRegisters { setup: queue.setup, is_enabled: queue.is_enabled })
            .collect();
        let features_ok = state.status.contains(Status::FEATURES_OK);
        if features_ok && !new.may_agree() {
            return invalid("its driver uses features that this device does not offer");
        }
        if state.status.contains(Status::DRIVER_OK) && !features_ok {
            return invalid("its driver is ready before features are agreed on");
        }
        *self = new;
        Ok(())
    }
}

/// The low (0) or high (1) half; zero beyond.
const fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// Replaces the low (0) or the high half.
const fn set_half(value: &mut u64, select: u32, new: u32) {
    *value = match select {
        0 => *value & !0xffff_ffff | new as u64,
        _ => *value & 0xffff_ffff | (new as u64) << 32,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: Outside = Outside {
        config_vector: 7,
        queue_vector: 8,
        generation: 9,
        status: Status::empty(),
        is_resetting: false,
    };
    const OFFERED: u64 = feature::OF_EVERY_DEVICE | 1 << 5;

    fn common() -> Common {
        Common::new(OFFERED, &[64, 16])
    }

    /// Agreed on everything.
    fn agreed() -> Common {
        let mut common = common();
        accept(&mut common, OFFERED);
        for status in [1, 3] {
            assert_eq!(common.write(DEVICE_STATUS, &[status]), None);
        }
        assert_eq!(common.write(DEVICE_STATUS, &[0xb]), Some(Event::FeaturesOk));
        common.agree();
        common
    }

    fn read(common: &Common, offset: u64) -> u32 {
        let mut data = [0; 4];
        common.read(offset, &mut data, &OUTSIDE);
        u32::from_le_bytes(data)
    }

    fn read_word(common: &Common, offset: u64) -> u32 {
        read(common, offset) & 0xffff
    }

    fn write(common: &mut Common, offset: u64, value: u32) -> Option<Event> {
        common.write(offset, &value.to_le_bytes())
    }

    fn write_word(common: &mut Common, offset: u64, value: u16) -> Option<Event> {
        common.write(offset, &value.to_le_bytes())
    }

    fn accept(common: &mut Common, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            write(common, DRIVER_FEATURE_SELECT, select);
            write(common, DRIVER_FEATURE, half);
        }
    }

    #[test]
    fn features_are_read_by_halves_and_there_are_64() {
        let mut common = common();
        let mut half = |select| {
            write(&mut common, DEVICE_FEATURE_SELECT, select);
            read(&common, DEVICE_FEATURE)
        };
        assert_eq!([half(0), half(1), half(2), half(u32::MAX)], [0x3000_0020, 0x101, 0, 0]);
    }

    #[test]
    fn a_driver_of_virtio_1_that_takes_only_what_is_offered_may_agree() {
        for (features, may_agree) in [
            (OFFERED, true),
            (feature::VERSION_1, true),
            (0, false),
            (OFFERED & !feature::VERSION_1, false),
            (OFFERED | 1 << 33, false),
            (OFFERED | 1, false),
        ] {
            let mut common = common();
            accept(&mut common, features);
            assert_eq!(common.may_agree(), may_agree, "{features:#x}");
        }
        let mut common = common();
        accept(&mut common, OFFERED);
        write(&mut common, DRIVER_FEATURE_SELECT, 2);
        write(&mut common, DRIVER_FEATURE, 1);
        assert!(!common.may_agree(), "a feature beyond all");
    }

    #[test]
    fn features_stay_once_they_are_agreed_on() {
        let mut common = agreed();
        accept(&mut common, feature::VERSION_1);
        assert_eq!(common.driver_features(), OFFERED);
    }

    #[test]
    fn features_ok_reads_back_only_if_the_device_agrees() {
        let mut common = common();
        assert_eq!(common.write(DEVICE_STATUS, &[0xb]), Some(Event::FeaturesOk));
        assert_eq!(read(&common, DEVICE_STATUS) & 0xff, 3);
        common.agree();
        assert_eq!(read(&common, DEVICE_STATUS) & 0xff, 0xb);
        assert_eq!(common.write(DEVICE_STATUS, &[0xf]), Some(Event::DriverOk));
        assert_eq!(common.write(DEVICE_STATUS, &[0xf]), None, "it works already");
    }

    #[test]
    fn a_driver_that_skips_a_step_or_goes_back_breaks_the_rules() {
        let broken = |violation| Some(Event::Broken(violation));
        assert_eq!(common().write(DEVICE_STATUS, &[7]), broken(Violation::NotNegotiated));
        assert_eq!(common().write(DEVICE_STATUS, &[0xf]), broken(Violation::NotNegotiated));
        assert_eq!(agreed().write(DEVICE_STATUS, &[3]), broken(Violation::StatusCleared));
        assert_eq!(agreed().write(DEVICE_STATUS, &[0]), Some(Event::Reset));
        assert_eq!(agreed().write(DEVICE_STATUS, &[0x8b]), None, "it gives up");
        assert_eq!(write_word(&mut common(), QUEUE_ENABLE, 1), broken(Violation::NotNegotiated));
    }

    #[test]
    fn the_devices_own_bit_is_shown_and_not_the_drivers() {
        let mut common = agreed();
        assert_eq!(common.write(DEVICE_STATUS, &[0x4b]), None);
        assert_eq!(read(&common, DEVICE_STATUS) & 0xff, 0xb);
        let mut data = [0];
        let outside = Outside { status: Status::NEEDS_RESET, ..OUTSIDE };
        common.read(DEVICE_STATUS, &mut data, &outside);
        assert_eq!(data, [0x4b]);
    }

    #[test]
    fn queues_are_set_up_one_by_one() {
        let mut common = agreed();
        write_word(&mut common, QUEUE_SELECT, 1);
        assert_eq!([QUEUE_SIZE, QUEUE_NOTIFY_OFF].map(|at| read_word(&common, at)), [16, 1]);
        write_word(&mut common, QUEUE_SIZE, 8);
        for (offset, value) in [(QUEUE_DESC, 0x1000), (QUEUE_DRIVER, 0x2000), (QUEUE_DEVICE, 0x3000)] {
            write(&mut common, offset, value);
            write(&mut common, offset + 4, 1);
        }
        assert_eq!(write_word(&mut common, QUEUE_ENABLE, 1), Some(Event::EnableQueue(1)));
        common.enable(1);
        let setup = QueueSetup {
            index: 1,
            most: 16,
            size: 8,
            descriptors: 0x1_0000_1000,
            driver: 0x1_0000_2000,
            device: 0x1_0000_3000,
        };
        assert_eq!(common.queues()[1], QueueRegisters { setup, is_enabled: true });
        assert_eq!((read_word(&common, QUEUE_ENABLE), read(&common, QUEUE_DESC + 4)), (1, 1));
        write_word(&mut common, QUEUE_SIZE, 4);
        write(&mut common, QUEUE_DESC, 0);
        assert_eq!(common.queues()[1].setup, setup, "what is in use does not change");
        assert_eq!(write_word(&mut common, QUEUE_ENABLE, 1), None);
        assert_eq!(write_word(&mut common, QUEUE_ENABLE, 0), None);
        assert_eq!(write_word(&mut common, QUEUE_RESET, 1), Some(Event::ResetQueue(1)));
        common.reset_queue(1);
        assert_eq!(common.queues()[1], QueueRegisters::new(1, 16));
        common.write(QUEUE_DESC, &0x12_3456_7000_u64.to_le_bytes());
        assert_eq!(common.queues()[1].setup.descriptors, 0x12_3456_7000);
    }

    #[test]
    fn a_queue_that_does_not_exist_has_no_size_and_takes_nothing() {
        let mut common = agreed();
        write_word(&mut common, QUEUE_SELECT, 2);
        assert_eq!([QUEUE_SIZE, QUEUE_MSIX_VECTOR].map(|at| read_word(&common, at)), [0, 0xffff]);
        for offset in [QUEUE_SIZE, QUEUE_ENABLE, QUEUE_RESET, QUEUE_MSIX_VECTOR] {
            assert_eq!(write_word(&mut common, offset, 1), None);
        }
        write(&mut common, QUEUE_DESC, 0x1000);
        assert_eq!(read(&common, QUEUE_DESC), 0);
    }

    #[test]
    fn queues_are_reset_one_by_one_only_if_that_was_agreed_on() {
        let mut common = common();
        accept(&mut common, feature::VERSION_1);
        common.write(DEVICE_STATUS, &[0xb]);
        common.agree();
        common.enable(0);
        assert_eq!(write_word(&mut common, QUEUE_RESET, 1), None);
    }

    #[test]
    fn writes_of_another_width_have_no_effect_and_reads_of_any_width_have_one() {
        let mut common = common();
        for (offset, data) in [
            (DEVICE_STATUS, &[1, 0][..]),
            (DEVICE_STATUS, &[1, 0, 0, 0]),
            (QUEUE_SIZE, &[1]),
            (QUEUE_SIZE, &[1, 0, 0, 0]),
            (DRIVER_FEATURE, &[1, 0]),
            (DRIVER_FEATURE + 1, &[1, 0, 0, 0]),
            (QUEUE_DESC + 2, &[1, 0, 0, 0]),
            (QUEUE_DESC + 4, &[1; 8]),
            (u64::MAX, &[1; 8]),
        ] {
            assert_eq!(common.write(offset, data), None);
        }
        assert_eq!(common.save(), self::common().save());
        assert_eq!(common.queues(), self::common().queues());
        let mut all = [0xff; 0x40];
        common.read(0, &mut all, &OUTSIDE);
        assert_eq!((all[0x10], all[0x12], all[0x15], all[0x1a], all[0x3f]), (7, 2, 9, 8, 0));
        common.read(u64::MAX - 1, &mut all[..4], &OUTSIDE);
        assert_eq!(all[..4], [0; 4]);
    }

    #[test]
    fn vectors_are_others_to_keep() {
        let mut common = common();
        assert_eq!(write_word(&mut common, CONFIG_MSIX_VECTOR, 3), Some(Event::ConfigVector(3)));
        assert_eq!(write_word(&mut common, QUEUE_MSIX_VECTOR, 4), Some(Event::QueueVector(0, 4)));
    }
}

//! What a guest tells about its memory (virtio 1.2, section 5.5.6.3).

/// Bytes of an entry: a tag and a value.
const ENTRY: usize = 10;
/// As many entries as have a meaning, and some that may come to have one.
pub(super) const MOST_BYTES: usize = 64 * ENTRY;

/// How a guest's memory is used. What it has not told is `None`. Sizes are in bytes; counts are since the guest's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Swapped in.
    pub swapped_in: Option<u64>,
    /// Swapped out.
    pub swapped_out: Option<u64>,
    /// How often a page had to be read from a disk.
    pub major_faults: Option<u64>,
    /// How often a page was found in memory.
    pub minor_faults: Option<u64>,
    /// Not used for anything.
    pub free: Option<u64>,
    /// All that there is.
    pub total: Option<u64>,
    /// What programs could get without swapping.
    pub available: Option<u64>,
    /// What could be given back at once: files' contents, for example.
    pub caches: Option<u64>,
    /// Huge pages that were given.
    pub huge_pages: Option<u64>,
    /// Huge pages that could not be.
    pub huge_page_failures: Option<u64>,
}

impl Statistics {
    /// Reads a driver's buffer. Tags without a meaning are passed over, and of what is told twice the last counts.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut statistics = Self::default();
        for entry in bytes.as_chunks::<ENTRY>().0 {
            let [low, high, value @ ..] = *entry;
            let place = match u16::from_le_bytes([low, high]) {
                0 => &mut statistics.swapped_in,
                1 => &mut statistics.swapped_out,
                2 => &mut statistics.major_faults,
                3 => &mut statistics.minor_faults,
                4 => &mut statistics.free,
                5 => &mut statistics.total,
                6 => &mut statistics.available,
                7 => &mut statistics.caches,
                8 => &mut statistics.huge_pages,
                9 => &mut statistics.huge_page_failures,
                _ => continue,
            };
            *place = Some(u64::from_le_bytes(value));
        }
        statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_say_what_a_value_is() {
        let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        let bytes = [entry(4, 1000), entry(0xffff, 9), entry(5, 1), entry(5, 1 << 40), vec![6]].concat();
        let expected = Statistics { free: Some(1000), total: Some(1 << 40), ..Statistics::default() };
        assert_eq!(Statistics::parse(&bytes), expected);
        assert_eq!(Statistics::parse(&[]), Statistics::default());
    }
}

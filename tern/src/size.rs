//! Sizes as people write them: `512M`, `2G`, `1GiB`; and how many processors.
//!
//! A unit is required, because a bare number means bytes to some tools and mebibytes to others. Units
//! are powers of 1024.

use tern_soft::SoftEngine;
use tern_vmm::config::{HostPages, LEAST_MEMORY as LEAST, MOST_CPUS, MOST_MEMORY as MOST};

/// What a page is on this architecture; guest memory comes in these.
const PAGE: u64 = 4096;

/// Reads a size in bytes.
///
/// # Errors
/// A text for the user, with an example of what works.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || unit.starts_with('.') {
        return Err("a size is a whole number and a unit, such as 512M or 2G".to_owned());
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "" => {
            return Err(format!("a unit is missing: write {number}M for mebibytes, {number}G for gibibytes"));
        }
        "kb" | "mb" | "gb" | "tb" => {
            return Err(format!("'{unit}' is no unit: write {number}{}", unit[..1].to_ascii_uppercase()));
        }
        _ => return Err(format!("'{unit}' is no unit: use K, M, G or T (KiB, MiB, GiB, TiB)")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "that is more than any computer has".to_owned())
}

/// Reads how much memory translated code may take.
///
/// # Errors
/// A text for the user, with an example of what works.
pub(crate) fn parse_code_cache(text: &str) -> Result<u64, String> {
    match parse(text)? {
        size if size < SoftEngine::LEAST_CODE_CACHE as u64 => {
            Err("translated code needs 1M at least".to_owned())
        }
        size => Ok(size),
    }
}

/// Reads the size of a disk.
///
/// # Errors
/// A text for the user, with an example of what works.
pub(crate) fn parse_disk_size(text: &str) -> Result<u64, String> {
    // Clusters may be as small as this, and a number without a unit is as clear here as with one.
    if text == "512" { Ok(512) } else { parse(text) }
}

/// What a disk's size is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewSize {
    /// So many bytes.
    Of(u64),
    /// So many more.
    More(u64),
}

/// Reads a new size: `40G`, or `+10G` for so much more.
///
/// # Errors
/// A text for the user, with an example of what works.
pub(crate) fn parse_new_size(text: &str) -> Result<NewSize, String> {
    match text.strip_prefix('+') {
        Some(more) => parse(more).map(NewSize::More),
        None => parse(text).map(NewSize::Of),
    }
}

/// A size for people, in the largest unit of which there is at least one, with a decimal if it is not whole.
pub(crate) fn human(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let tenths = (u128::from(bytes) * 10) >> shift;
        if tenths >= 10 {
            let fraction = if tenths % 10 == 0 { String::new() } else { format!(".{}", tenths % 10) };
            return format!("{}{fraction} {unit}", tenths / 10);
        }
    }
    format!("{bytes} bytes")
}

/// A machine's memory, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Bytes.
    pub size: u64,
    /// The host's pages that it is made of.
    pub pages: HostPages,
}

/// Reads a machine's memory: a size, and after a comma `hugepages=KIND`.
///
/// # Errors
/// A text for the user, with what would work.
pub(crate) fn parse_memory(text: &str) -> Result<Memory, String> {
    let (size, options) = text.split_once(',').map_or((text, None), |(size, options)| (size, Some(options)));
    let size = parse_memory_size(size)?;
    let pages = match options {
        None => HostPages::Usual,
        Some("hugepages=thp") => HostPages::Transparent,
        Some("hugepages=on" | "hugepages=2M") => HostPages::Huge2M,
        Some("hugepages=1G") => HostPages::Huge1G,
        Some(other) => {
            return Err(format!(
                "'{other}' is no option of memory: write hugepages=thp, hugepages=2M or hugepages=1G"
            ));
        }
    };
    if size % pages.size() != 0 {
        return Err(format!("memory of huge pages comes in multiples of {}M", pages.size() >> 20));
    }
    Ok(Memory { size, pages })
}

/// Reads the size of a machine's memory: 1M to 256G, in whole pages.
fn parse_memory_size(text: &str) -> Result<u64, String> {
    let size = parse(text)?;
    match size {
        ..LEAST => Err("a machine needs at least 1M; Linux wants 128M or more".to_owned()),
        _ if size > MOST => Err(format!("a machine can have at most {}G", MOST >> 30)),
        _ if size % PAGE != 0 => Err("memory comes in pages of 4K".to_owned()),
        _ => Ok(size),
    }
}

/// Reads how many processors a machine is to have.
///
/// # Errors
/// A text for the user, with what would work.
pub(crate) fn parse_cpus(text: &str) -> Result<u32, String> {
    let cpus = text.parse().ok().filter(|cpus| (1..=MOST_CPUS).contains(cpus));
    cpus.ok_or_else(|| format!("it is a whole number from 1 to {MOST_CPUS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024_in_either_case() {
        for (text, bytes) in [
            ("4K", 4 << 10),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("2G", 2 << 30),
            ("1GiB", 1 << 30),
            ("3mib", 3 << 20),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            ((1 << 40) - 1, "1023.9 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn a_new_size_may_be_so_much_more() {
        assert_eq!(parse_new_size("+10G"), Ok(NewSize::More(10 << 30)));
        assert_eq!(parse_new_size("10G"), Ok(NewSize::Of(10 << 30)));
        assert!(parse_new_size("-1G").is_err());
    }

    #[test]
    fn a_bare_number_is_refused_with_what_to_write() {
        let error = parse("512").unwrap_err();
        assert!(error.contains("512M"), "{error}");
    }

    #[test]
    fn a_decimal_unit_is_told_as_written_with_the_binary_one() {
        for (text, way_out) in
            [("2GB", "'GB' is no unit: write 2G"), ("512mb", "'mb' is no unit: write 512M")]
        {
            assert_eq!(parse(text), Err(way_out.to_owned()));
        }
    }

    #[test]
    fn processors_are_counted_in_whole_numbers() {
        assert_eq!(parse_cpus("64"), Ok(64));
        for text in ["0", "65", "-1", "four", "1.5", ""] {
            assert!(parse_cpus(text).unwrap_err().contains("a whole number from 1 to 64"), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "M",
            "-1M",
            "1.5G",
            "1MB",
            "1 G",
            "0x10M",
            "1Q",
            "99999999999999999999M",
            "18446744073709551615K",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_can_be_of_huge_pages_of_which_it_is_a_multiple() {
        let gibibyte = |pages| Ok(Memory { size: 1 << 30, pages });
        assert_eq!(parse_memory("1G,hugepages=on"), gibibyte(HostPages::Huge2M));
        assert_eq!(parse_memory("1G,hugepages=2M"), gibibyte(HostPages::Huge2M));
        assert_eq!(parse_memory("1024M,hugepages=1G"), gibibyte(HostPages::Huge1G));
        assert_eq!(parse_memory("1G,hugepages=thp"), gibibyte(HostPages::Transparent));
        for text in ["1536M,hugepages=1G", "1M,hugepages=on", "1G,hugepages=4K", "1G,", ",hugepages=on"] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_has_a_least_and_a_most() {
        let usual = |size| Ok(Memory { size, pages: HostPages::Usual });
        assert_eq!(parse_memory("1M"), usual(LEAST));
        assert_eq!(parse_memory("256G"), usual(MOST));
        for text in ["0M", "1023K", "257G", "1T", "1025K"] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
    }
}

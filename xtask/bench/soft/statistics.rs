//! Reading what `tern run --stats` says.

/// The line that is read.
const SPEED: &str = "MIPS while busy";

/// The guest's speed, in millions of instructions per second without the time in which it slept.
pub(crate) fn mips(statistics: &str) -> Option<f64> {
    statistics.lines().find_map(|line| line.trim().strip_prefix(SPEED)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_found_among_other_numbers() {
        let text = "  instructions  387,767,956\n  MIPS while busy    112.5\n  halt   1\n";
        assert_eq!(mips(text), Some(112.5));
        assert_eq!(mips("  instructions  387,767,956\n"), None);
    }
}

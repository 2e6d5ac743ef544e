//! What a guest's initramfs gets in addition: the agent, and what starts it.
//!
//! The tiny guest looks for the agent itself; in a distribution's initramfs a script of ours does.

use tern_image::cpio::Archive;

use crate::initramfs;

/// The agent, as the build made it.
const AGENT: &[u8] = include_bytes!(env!("TERN_AGENT"));

/// Has the agent put itself where the system finds it.
const SCRIPT: &str = include_str!("place.sh");

/// The archive that is put behind a guest's own.
pub(super) fn segment(is_tiny: bool) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("tern");
    archive.file("tern/agent", 0o755, AGENT);
    if !is_tiny {
        initramfs::run_last(&mut archive, SCRIPT);
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_a_program_that_needs_no_other_file() {
        assert!(AGENT.starts_with(b"\x7fELF\x02\x01\x01"));
        let number = |at: usize, size: usize| {
            AGENT[at..at + size].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        // e_phoff, e_phentsize and e_phnum; and p_type, which is 3 for PT_INTERP.
        let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        let needs_interpreter = (0..count).any(|n| number(start + n * size, 4) == 3);
        assert!(count > 0 && !needs_interpreter, "it is linked dynamically");
        assert!(AGENT.len() < 2 << 20, "{} bytes", AGENT.len());
    }

    #[test]
    fn only_a_distributions_initramfs_gets_scripts() {
        let has_scripts = |segment: Vec<u8>| segment.windows(12).any(|bytes| bytes == b"scripts/init");
        assert!(has_scripts(segment(false)));
        assert!(!has_scripts(segment(true)));
    }
}

//! Finds the key that leaves the machine in what is typed.

/// Ctrl-], as telnet has it: no shell or editor wants it.
const ESCAPE: u8 = 0x1d;

/// What was typed, seen by the escape key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Typed<'a> {
    /// What is for the guest.
    pub guest: &'a [u8],
    /// Whether the user leaves after that.
    pub leave: bool,
}

/// Splits what was typed at the first Ctrl-]. What follows it in the same read is for nobody.
pub(super) fn split(bytes: &[u8]) -> Typed<'_> {
    match bytes.iter().position(|&byte| byte == ESCAPE) {
        Some(at) => Typed { guest: &bytes[..at], leave: true },
        None => Typed { guest: bytes, leave: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_escape_key_is_for_the_guest() {
        let others: Vec<u8> = (0..=255).filter(|&byte| byte != 0x1d).collect();
        assert_eq!(split(&others), Typed { guest: &others, leave: false });
    }

    #[test]
    fn what_was_typed_before_the_escape_key_still_reaches_the_guest() {
        assert_eq!(split(b"ls\r\x1dmore\x1d"), Typed { guest: b"ls\r", leave: true });
        assert_eq!(split(b"\x1d"), Typed { guest: b"", leave: true });
    }

    #[test]
    fn nothing_typed_is_nothing() {
        assert_eq!(split(b""), Typed { guest: b"", leave: false });
    }
}

//! Tests that are left out in the rig, by name and with the reason.
//!
//! A list is a text file beside this one: a line that begins in the first column is a reason, the indented lines below are
//! the tests that it holds for. They count as skipped, and a name that no test has is an error, so that the list cannot
//! outlive what it is about. Reasons that begin with `time:` hold for who cannot wait.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Result, ensure};

/// How reasons begin that are about how long a test takes there, and not about what cannot be.
const TIME: &str = "time:";

/// One test program's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeftOut<'a> {
    /// Names and reasons.
    tests: Vec<(&'a str, &'a str)>,
}

impl<'a> LeftOut<'a> {
    /// Reads a list.
    ///
    /// # Errors
    /// A test stands there without a reason, or twice.
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        let mut reason = None;
        let mut tests = Vec::new();
        let mut names = BTreeSet::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let name = line.trim();
            match reason {
                _ if !line.starts_with(' ') => reason = Some(line),
                None => anyhow::bail!("'{name}' is to be left out, and no line above it says why"),
                Some(reason) => {
                    ensure!(names.insert(name), "'{name}' is to be left out twice");
                    tests.push((name, reason));
                }
            }
        }
        Ok(Self { tests })
    }

    /// Compares with all tests that the program has: its answer to `--list --format terse`.
    ///
    /// # Errors
    /// One that is to be left out does not exist.
    pub(super) fn check(&self, list: &str) -> Result<()> {
        let known: BTreeSet<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        for (name, _) in &self.tests {
            ensure!(known.contains(name), "'{name}' is to be left out, and there is no such test");
        }
        Ok(())
    }

    /// The list of somebody who can wait: without what is only there because of its time.
    pub(super) fn patient(mut self) -> Self {
        self.tests.retain(|(_, reason)| !reason.starts_with(TIME));
        self
    }

    /// What the program is to be told.
    pub(super) fn arguments(&self) -> String {
        let mut arguments = String::new();
        for (name, _) in &self.tests {
            write!(arguments, " --skip {name}").expect("a string takes everything");
        }
        if !arguments.is_empty() {
            arguments.push_str(" --exact");
        }
        arguments
    }

    /// A section like a test program's, in which all of them are ignored; `None` if there are none. It holds no quotation
    /// marks, because the rig's shell is what prints it.
    pub(super) fn section(&self) -> Option<String> {
        if self.tests.is_empty() {
            return None;
        }
        let tests = self.tests.iter().map(|(name, reason)| format!("test {name} ... ignored, {reason}\n"));
        let count = self.tests.len();
        let result = "0 measured; 0 filtered out; finished in 0.00s";
        Some(format!(
            "{}test result: ok. 0 passed; 0 failed; {count} ignored; {result}",
            tests.collect::<String>().replace('\'', "")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str =
        "the emulator loses XCR0\n  state::xsave\n  state::avx\n\nhardware resets\n  crash::shows\n";

    #[test]
    fn each_test_has_the_reason_above_it() {
        let list = LeftOut::parse(LIST).unwrap();
        assert_eq!(list.tests[1], ("state::avx", "the emulator loses XCR0"));
        assert_eq!(list.tests[2], ("crash::shows", "hardware resets"));
        assert_eq!(list.arguments(), " --skip state::xsave --skip state::avx --skip crash::shows --exact");
        assert_eq!(LeftOut::parse("").unwrap().arguments(), "");
    }

    #[test]
    fn a_test_without_a_reason_or_named_twice_is_refused() {
        assert!(LeftOut::parse("  state::xsave\n").is_err());
        assert!(LeftOut::parse("why\n  one\nalso\n  one\n").is_err());
    }

    #[test]
    fn a_name_that_no_test_has_is_refused() {
        let list = LeftOut::parse(LIST).unwrap();
        let tests = "state::xsave: test\nstate::avx: test\ncrash::shows: test\nother: test\n";
        list.check(tests).unwrap();
        let error = list.check(&tests.replace("avx:", "avx512:")).unwrap_err();
        assert!(error.to_string().contains("'state::avx'"), "{error}");
    }

    #[test]
    fn who_can_wait_leaves_out_what_cannot_be_and_nothing_else() {
        let list = LeftOut::parse("time: slow\n  one\nthe emulator loses XCR0\n  two\n").unwrap();
        assert_eq!(list.patient().tests, [("two", "the emulator loses XCR0")]);
    }

    #[test]
    fn what_is_left_out_counts_as_skipped() {
        let text = LeftOut::parse(LIST).unwrap().section().unwrap();
        assert!(text.contains("test crash::shows ... ignored, hardware resets\n"), "{text}");
        let result =
            "test result: ok. 0 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert!(text.ends_with(result), "{text}");
        assert_eq!(LeftOut::parse("").unwrap().section(), None);
    }
}

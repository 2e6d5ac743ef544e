//! Reading what `cargo test` prints.
//!
//! Its output is a sequence of sections, one for each test program: cargo's heading
//! (`     Running unittests src/lib.rs (target/debug/deps/name-0123456789abcdef)` or
//! `   Doc-tests name`), a line for each test, the failures, and one or (documentation) several lines
//! `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
//! A program that dies leaves its section without a result.

use std::fmt;
use std::ops::AddAssign;

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

impl Tally {
    /// Reads a `test result:` line.
    fn parse(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let count = |what: &str| {
            let count = counts.split("; ").find_map(|part| part.strip_suffix(what))?;
            count.trim_end().parse().ok()
        };
        Some(Self { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
    }
}

/// The output of one test program.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub title: String,
    pub tally: Tally,
    has_result: bool,
    lines: Vec<String>,
}

impl Section {
    fn headed(line: &str) -> Option<Self> {
        let title = if let Some(program) = line.strip_prefix("     Running ") {
            let (source, file) = program.strip_suffix(')')?.rsplit_once(" (")?;
            let file = file.rsplit('/').next()?;
            let name = file.rsplit_once('-').map_or(file, |(name, _hash)| name);
            format!("{name} ({source})")
        } else {
            format!("{} (documentation)", line.strip_prefix("   Doc-tests ")?)
        };
        Some(Self { title, ..Self::default() })
    }

    /// Whether a test failed, or the program died before it could tell.
    pub fn failed(&self) -> bool {
        self.tally.failed > 0
    }

    /// All it printed, without the tests that passed.
    pub fn failures(&self) -> String {
        let told = self.lines.iter().filter(|line| !(is_test(line) && line.ends_with(" ... ok")));
        told.map(|line| format!("{line}\n")).collect()
    }

    fn closed(mut self) -> Self {
        if !self.has_result {
            self.tally.failed += 1;
        }
        self
    }
}

/// Whether this is a line about one test.
pub(super) fn is_test(line: &str) -> bool {
    line.starts_with("test ") && line.contains(" ... ")
}

/// Takes the output line by line.
#[derive(Debug, Default)]
pub(super) struct Report {
    total: Tally,
    open: Option<Section>,
    /// What came before the first section: what the compiler says.
    preamble: Vec<String>,
}

impl Report {
    /// Reads one line, without its end; returns the section that it shows to be over.
    pub fn read(&mut self, line: &str) -> Option<Section> {
        if let Some(next) = Section::headed(line) {
            return self.open.replace(next).map(|section| self.close(section));
        }
        let Some(section) = &mut self.open else {
            self.preamble.push(line.to_owned());
            return None;
        };
        if let Some(tally) = Tally::parse(line) {
            section.tally += tally;
            section.has_result = true;
        }
        section.lines.push(line.to_owned());
        None
    }

    /// The total, and what was not returned before. `success` is whether cargo itself succeeded: if it
    /// did not although no test failed, that counts as a failure, with all that was said outside tests.
    pub fn finish(mut self, success: bool) -> (Tally, Vec<Section>) {
        let mut rest: Vec<_> = self.open.take().map(|section| self.close(section)).into_iter().collect();
        if !success && self.total.failed == 0 {
            let title = "cargo test".to_owned();
            let mut lines = self.preamble;
            lines.extend(rest.iter().flat_map(|section| section.lines.iter().cloned()));
            let section = Section { title, lines, ..Section::default() }.closed();
            self.total += section.tally;
            rest.push(section);
        }
        (self.total, rest)
    }

    fn close(&mut self, section: Section) -> Section {
        let section = section.closed();
        self.total += section.tally;
        section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "     Running unittests src/lib.rs (target/debug/deps/tern_x86-0123456789abcdef)

running 2 tests
test decode::tests::it_works ... ok
test slow ... ignored

test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    const BAD: &str = "     Running tests/boot.rs (target/debug/deps/boot-0123456789abcdef)

running 2 tests
test good ... ok
test bad ... FAILED

failures:

---- bad stdout ----
left: 1, right: 2

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

error: test failed, to rerun pass `-p vmm --test boot`
";

    const DEAD: &str = "     Running tests/smp.rs (target/debug/deps/smp-0123456789abcdef)

running 1 test
error: test failed, to rerun pass `-p vmm --test smp`

Caused by:
  process didn't exit successfully: `smp` (signal: 11, SIGSEGV: invalid memory reference)
";

    const DOCUMENTATION: &str = "   Doc-tests tern_x86

running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 2 tests
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    fn read(text: &str, success: bool) -> (Tally, Vec<Section>) {
        let mut report = Report::default();
        let mut sections: Vec<_> = text.lines().filter_map(|line| report.read(line)).collect();
        let (tally, rest) = report.finish(success);
        sections.extend(rest);
        (tally, sections)
    }

    #[test]
    fn the_tallies_of_all_programs_are_summed() {
        let (tally, sections) = read(&[GOOD, DOCUMENTATION].concat(), true);
        assert_eq!(tally, Tally { passed: 4, failed: 0, skipped: 1 });
        let titles: Vec<_> = sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["tern_x86 (unittests src/lib.rs)", "tern_x86 (documentation)"]);
    }

    #[test]
    fn a_failure_is_told_in_full_and_what_passed_is_not() {
        let (tally, sections) = read(&[BAD, GOOD].concat(), false);
        assert_eq!(tally, Tally { passed: 2, failed: 1, skipped: 1 });
        assert!(sections[0].failed() && !sections[1].failed());
        let told = sections[0].failures();
        assert!(told.contains("left: 1, right: 2\n") && told.contains("test bad ... FAILED\n"));
        assert!(!told.contains("test good"));
    }

    #[test]
    fn a_test_program_that_dies_is_a_failure() {
        let (tally, sections) = read(&[DEAD, GOOD].concat(), false);
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert!(sections[0].failures().contains("SIGSEGV"));
    }

    #[test]
    fn a_failure_outside_all_tests_is_counted_and_told() {
        let (tally, sections) = read("error[E0425]: cannot find value\n", false);
        assert_eq!(tally.failed, 1);
        assert!(sections[0].failures().contains("E0425"));
    }

    #[test]
    fn the_count_names_skipped_tests_only_if_there_are_any() {
        let tally = Tally { passed: 3, failed: 1, skipped: 0 };
        assert_eq!(tally.to_string(), "3 passed, 1 failed");
        assert_eq!(Tally { skipped: 2, ..tally }.to_string(), "3 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn a_line_that_only_resembles_a_result_is_not_counted() {
        assert_eq!(Tally::parse("test result: ok. many passed; 0 failed; 0 ignored"), None);
        assert_eq!(Tally::parse("test results: 1 passed"), None);
    }
}

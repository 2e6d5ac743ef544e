//! What is told of an image, for people.

use std::fmt::Write as _;
use std::path::Path;

use tern_disk::tool::{Checked, Info};

use crate::size::human;

/// Everything about an image and what it stands on.
pub(super) fn info(info: &Info) -> String {
    let mut text = String::new();
    one(&mut text, info);
    let mut below = info.backing.as_deref();
    while let Some(info) = below {
        text.push('\n');
        one(&mut text, info);
        below = info.backing.as_deref();
    }
    text
}

fn one(text: &mut String, info: &Info) {
    let kind = info.kind.as_ref().map_or_else(String::new, |kind| format!(" ({kind})"));
    line(text, "image", &info.path.display().to_string());
    line(text, "format", &format!("{}{kind}", info.format));
    line(text, "disk size", &exactly(info.size));
    line(text, "file", &format!("{} long, takes {}", human(info.file_length), human(info.allocated)));
    if let Some(size) = info.cluster_size {
        line(text, "in pieces of", &human(size));
    }
    if info.is_dirty {
        line(
            text,
            "state",
            "was not closed by its last user: it is mended when it is next opened to be written",
        );
    }
    if info.is_damaged {
        line(text, "state", "marked as damaged: see `tern image check`");
    }
    for snapshot in &info.snapshots {
        let state = if snapshot.machine_state > 0 {
            format!(", with {} of a machine's state", human(snapshot.machine_state))
        } else {
            String::new()
        };
        line(text, "snapshot", &format!("{} '{}'{state}", snapshot.id, snapshot.name));
    }
    if let Some(file) = &info.backing_file {
        let format = info.backing_format.as_ref().map_or_else(String::new, |format| format!(" ({format})"));
        line(text, "stands on", &format!("{file}{format}"));
    }
    if let Some(problem) = &info.backing_problem {
        line(text, "problem", problem);
    }
}

fn line(text: &mut String, what: &str, value: &str) {
    writeln!(text, "{what:<13} {value}").expect("a string takes everything");
}

/// A size for people, and to the byte.
fn exactly(size: u64) -> String {
    format!("{} ({size} bytes)", human(size))
}

/// What a check found.
pub(super) fn checked(path: &Path, checked: &Checked) -> String {
    let mut text = String::new();
    let name = path.display();
    for problem in &checked.problems {
        writeln!(text, "{name}: {problem}").expect("a string takes everything");
    }
    let told = checked.problems.len() as u64;
    if checked.damages > told {
        writeln!(text, "{name}: and {} more", checked.damages - told).expect("a string takes everything");
    }
    if checked.mended > 0 {
        writeln!(text, "{name}: {} places mended", checked.mended).expect("a string takes everything");
    }
    if checked.leaked > 0 {
        writeln!(
            text,
            "{name}: {} clusters count as used, and nobody uses them; --repair frees them",
            checked.leaked
        )
        .expect("a string takes everything");
    }
    if checked.damages == 0 {
        writeln!(text, "{name}: sound; {} of data", human(checked.data)).expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_image_is_called_so() {
        let text = checked(Path::new("a"), &Checked { data: 5 << 30, ..Checked::default() });
        assert_eq!(text, "a: sound; 5 GiB of data\n");
    }

    #[test]
    fn a_damaged_image_is_not_called_sound() {
        let found = Checked { damages: 3, problems: vec!["x".to_owned()], ..Checked::default() };
        assert_eq!(checked(Path::new("a"), &found), "a: x\na: and 2 more\n");
    }
}

//! `tern image list`.

use std::fmt::Write as _;

use serde::Serialize;
use tern_image::Cache;
use tern_image::system::{Kept, Release, System};

use crate::cli::OutputForm;
use crate::exit::Failure;
use crate::size::human;

/// A line of the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// What kind of thing it is: `system`, `kept`, `cache`.
    kind: &'static str,
    /// Bytes on the host's disk that go when it goes.
    size: u64,
    /// What it is, in words.
    about: String,
}

/// Prints what there is.
pub(super) fn list(cache: &Cache, kept: Option<&Kept>, form: OutputForm) -> Result<(), Failure> {
    let rows = rows(cache, kept)?;
    let text = match form {
        OutputForm::Text => text(&rows),
        OutputForm::Json => serde_json::to_string_pretty(&rows).map_err(Failure::host)? + "\n",
    };
    crate::print(text.as_bytes())
}

fn rows(cache: &Cache, kept: Option<&Kept>) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for machine in kept.map(Kept::all).transpose()?.unwrap_or_default() {
        let about = format!("of {}, Debian {}", machine.system.about.name, machine.system.about.version);
        rows.push(Row { size: machine.size(), name: machine.name, kind: "kept", about });
    }
    for entry in cache.entries()? {
        let release = Release::ALL.into_iter().find(|release| release.key() == entry.key);
        rows.push(match release.and_then(|release| System::cached(cache, release)) {
            Some(System { about, .. }) => Row {
                name: about.name,
                kind: "system",
                size: entry.size,
                about: format!("Debian {} with Linux {}, from {}", about.version, about.kernel, about.origin),
            },
            None => Row { name: entry.key, kind: "cache", size: entry.size, about: entry.files.join(", ") },
        });
    }
    // Systems first, then what was kept of them.
    rows.sort_by_key(|row| ["system", "kept", "cache"].iter().position(|kind| *kind == row.kind));
    Ok(rows)
}

fn text(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Row { name, kind, size, about } in rows {
        writeln!(text, "{name:<width$}  {kind:<6}  {:>9}  {about}", human(*size))
            .expect("a string takes everything");
    }
    text
}

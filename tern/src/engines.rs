//! `tern engines`: which ways there are to run a guest, and whether and why each can be used here.

use std::fmt::Write as _;

use serde::Serialize;
use tern_engine::Availability;

use crate::cli::OutputForm;
use crate::exit::Failure;

/// One engine as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    description: &'static str,
    available: bool,
    reason: String,
    /// What to do if it is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Row {
    fn new(name: &'static str, description: &'static str, availability: Availability) -> Self {
        let (available, reason, remedy) = match availability {
            Availability::Available(reason) => (true, reason, None),
            Availability::Unavailable { reason, remedy } => (false, reason, Some(remedy)),
        };
        Self { name, description, available, reason, remedy }
    }
}

/// Prints the list.
pub(crate) fn list(form: OutputForm) -> Result<(), Failure> {
    let rows = rows();
    let text = match form {
        OutputForm::Text => text(&rows),
        OutputForm::Json => serde_json::to_string_pretty(&rows).expect("texts and booleans serialize") + "\n",
    };
    crate::print(text.as_bytes())
}

fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let verdict = if row.available { "can run here" } else { "cannot run here" };
        write!(text, "{:<6} {verdict}: {}", row.name, row.reason).expect("a string takes everything");
        if let Some(remedy) = &row.remedy {
            write!(text, ". {remedy}").expect("a string takes everything");
        }
        writeln!(text, "\n       {}", row.description).expect("a string takes everything");
    }
    text
}

/// The engines, fastest first.
fn rows() -> Vec<Row> {
    vec![Row::new("soft", "guest code is interpreted in an ordinary process", soft())]
}

/// WIRE: `tern_soft`'s own `Engine::probe`, `name` and `description` once it has them.
fn soft() -> Availability {
    if cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        Availability::Available("it needs no hardware and no privileges".to_owned())
    } else {
        Availability::Unavailable {
            reason: "it runs on x86-64 Linux only".to_owned(),
            remedy: "Use such a computer".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unavailable_engine_is_shown_with_its_remedy() {
        let availability = Availability::Unavailable {
            reason: "there is no /dev/kvm".to_owned(),
            remedy: "Load the module kvm".to_owned(),
        };
        let rows = [Row::new("kvm", "hardware", availability)];
        let text = text(&rows);
        assert!(text.contains("cannot run here: there is no /dev/kvm. Load the module kvm"), "{text}");
    }
}

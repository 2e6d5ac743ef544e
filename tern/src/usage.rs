//! From the words of a command line to what was said; or what is wrong with it, and what would work.

use std::ffi::OsString;

use anyhow::anyhow;
use clap::Parser;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::cli::Cli;
use crate::exit::Failure;
use crate::habits;

/// Why a line cannot be read.
#[derive(Debug)]
enum Wrong {
    /// What is said of it here.
    Answered(String),
    /// What clap says of it, which is also where help comes from.
    Refused(Box<Error>),
}

/// Reads a command line, whose first word is this program. What clap says, of errors or for help, ends the process.
///
/// # Errors
/// It is wrong, and there is more to say than clap knows.
pub(crate) fn read(words: &[OsString]) -> Result<Cli, Failure> {
    parse(words).map_err(|wrong| match wrong {
        Wrong::Answered(answer) => Failure::usage(anyhow!(answer)),
        Wrong::Refused(error) => error.exit(),
    })
}

fn parse(words: &[OsString]) -> Result<Cli, Wrong> {
    // Behind a word that belongs to the guest's command, all may be its own.
    if let Some((place, answer)) = habits::find(words)
        && !has_unknown(&words[..place])
    {
        return Err(Wrong::Answered(answer));
    }
    Cli::try_parse_from(words).map_err(|mut error| {
        if is_run(words) {
            if let Some(answer) = answer(&error, words) {
                return Wrong::Answered(answer);
            }
            // That a word may follow `--` as the guest's helps nobody who mistyped an option.
            error.remove(ContextKind::Suggested);
        }
        Wrong::Refused(Box::new(error))
    })
}

fn is_run(words: &[OsString]) -> bool {
    words.get(1).is_some_and(|command| command == "run")
}

/// Whether a word of the line is none of ours.
fn has_unknown(words: &[OsString]) -> bool {
    Cli::try_parse_from(words).is_err_and(|error| error.kind() == ErrorKind::UnknownArgument)
}

/// What is said in clap's place of a line that begins with `tern run`.
fn answer(error: &Error, words: &[OsString]) -> Option<String> {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let is_about = |option: &str| {
        let mut names = [ContextKind::InvalidArg, ContextKind::PriorArg].into_iter().filter_map(said);
        names.any(|name| name.split(' ').next() == Some(option))
    };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let word = said(ContextKind::InvalidArg)?;
            if word.starts_with('-') { habits::option(word) } else { Some(command_after_hyphens(word, words)) }
        }
        ErrorKind::ArgumentConflict if is_about("--detach") => Some(
            "a machine in the background runs no command: leave out --detach, or the command and its options --env, --terminal and \
             --workdir"
                .to_owned(),
        ),
        ErrorKind::InvalidValue
            if is_about("--engine") && said(ContextKind::InvalidValue) == Some("metal") =>
        {
            Some("the engine 'metal' is planned, not there yet; `tern engines` lists those that are".to_owned())
        }
        _ => None,
    }
}

/// The line as it was meant: with two hyphens before `word`, which begins a command.
fn command_after_hyphens(word: &str, words: &[OsString]) -> String {
    let place = (2..words.len()).find(|place| has_unknown(&words[..=*place])).unwrap_or(words.len());
    let (machine, command) = words.split_at(place);
    let line: Vec<_> = ["tern".into()]
        .into_iter()
        .chain(machine.iter().skip(1).cloned())
        .chain(["--".into()])
        .chain(command.iter().cloned())
        .map(|word: OsString| quoted(&word.to_string_lossy()))
        .collect();
    format!("unexpected word '{word}': a command goes after `--`: `{}`", line.join(" "))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:=,@+%".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    /// What is said of a line that clap does not judge alone.
    #[track_caller]
    fn said(line: &str) -> String {
        match parse(&words(line)) {
            Err(Wrong::Answered(answer)) => answer,
            other => panic!("'{line}' has no answer: {other:?}"),
        }
    }

    #[test]
    fn a_command_without_hyphens_is_told_where_they_belong() {
        for (line, meant) in [
            ("tern run debian ls", "`tern run debian -- ls`"),
            ("./tern run -m 1G debian ls ls", "`tern run -m 1G debian -- ls ls`"),
            ("tern run -it debian mkdir -p /a", "`tern run -it debian -- mkdir -p /a`"),
            ("tern run debian echo $HOME", "`tern run debian -- echo '$HOME'`"),
        ] {
            let said = said(line);
            assert!(said.contains(meant), "{line}: {said}");
        }
    }

    #[test]
    fn a_machine_in_the_background_takes_nothing_that_belongs_to_a_command() {
        for line in [
            "tern run -d -- ls",
            "tern run -d -e A=1 debian",
            "tern run -e A=1 -d debian",
            "tern run -dt",
            "tern run --workdir / debian --detach",
        ] {
            let said = said(line);
            assert!(said.contains("leave out --detach"), "{line}: {said}");
        }
    }

    #[test]
    fn what_is_said_at_once_in_other_programs_is_answered_too() {
        for line in ["tern run -p8080:80 debian", "tern run -qv/a:/b"] {
            let said = said(line);
            assert!(said.contains("yet: use "), "{line}: {said}");
        }
        assert!(parse(&words("tern run -i --rm --tty -- ls")).is_ok());
    }

    #[test]
    fn a_mistyped_option_is_not_taken_for_the_guests() {
        let Err(Wrong::Refused(error)) = parse(&words("tern run --memroy 1G")) else {
            panic!("it was taken")
        };
        let text = error.to_string();
        assert!(text.contains("'--memory'") && !text.contains("as a value"), "{text}");
    }
}

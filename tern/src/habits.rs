//! What people say who come from docker(1) or qemu(1), or who try what a command might be called: exact words, and what is said here
//! instead. QEMU's options must be found before clap reads the line: with one hyphen, they would be bundles of short options.

use std::ffi::OsString;

use clap::Args;

/// Words that mean the same, and what is said to whoever uses one of them.
type Table = &'static [(&'static [&'static str], &'static str)];

/// What is said to whoever asks for a network; the help of `tern run` says the same.
const NO_NETWORK: &str =
    "a guest has no network card yet: use --vsock for sockets between host and guest, and --disk for files";

const NO_FOLDERS: &str = "folders cannot be shared yet: use `--disk`";

/// Words that are no commands of `tern`.
const COMMANDS: Table = &[
    (
        &["rm", "rmi", "remove"],
        "`tern image rm NAME` removes an image or a kept machine; other machines are gone at their end",
    ),
    (
        &["exec"],
        "a command cannot be brought into a running machine yet. `tern console NAME` is its console; `tern run --keep NAME -- COMMAND` \
         runs a command in a kept machine that does not run",
    ),
    (
        &["logs"],
        "`tern console NAME` shows what the guest has written last. What went wrong in a machine in the background is in \
         `logs/NAME.log` in $TERN_STATE_DIR or ~/.local/state/tern",
    ),
    (&["pull"], "`tern image pull NAME` fetches a system; `tern run NAME` does by itself what is needed"),
    (&["build"], "`tern image build NAME` makes a system; `tern run NAME` does by itself what is needed"),
    (&["images"], "`tern image list` lists images and kept machines"),
    (&["kill"], "`tern stop --force NAME` ends a machine at once"),
    (&["start"], "`tern run --keep NAME` goes on with a kept machine; `tern run IMAGE` starts a new one"),
    (&["attach", "shell"], "`tern console NAME` is the console of a running machine; Ctrl-] leaves it"),
    (&["ls", "list"], "`tern ps` lists what runs, `tern image list` images and kept machines"),
    (&["version"], "`tern --version` tells it"),
];

/// Words that are no options of `tern ps`.
const OF_PS: Table =
    &[(&["-a", "--all"], "`tern ps` lists all that runs, `tern image list` the kept machines")];

/// Words that are no options of `tern run`.
const OF_RUN: Table = &[
    (&["-v", "--volume", "--mount", "-virtfs", "-fsdev"], NO_FOLDERS),
    (
        &["-p", "-P", "--publish", "--publish-all", "--net", "--network", "-net", "-nic", "-netdev"],
        NO_NETWORK,
    ),
    (&["-smp"], "say `--cpus N`"),
    (&["-cpu"], "say `--cpu MODEL`"),
    (&["-hda", "-hdb", "-hdc", "-hdd", "-drive"], "say `--disk FILE`"),
    (&["-cdrom"], "say `--disk FILE,ro`"),
    (&["-snapshot"], "say `--disk FILE,overlay`"),
    (&["-kernel"], "say `--kernel FILE`"),
    (&["-initrd"], "say `--initrd FILE`"),
    (&["-append", "--append"], "say `--cmdline TEXT`"),
    (&["-bios", "-boot"], "a guest starts with a kernel, not with a boot loader yet: say `--kernel FILE`"),
    (
        &["-enable-kvm", "--enable-kvm", "-accel", "--accel"],
        "say `--engine kvm`, or nothing: KVM is taken where it works",
    ),
    (&["-nographic"], "leave it out, it is always so"),
    (&["-machine", "-M"], "leave it out, there is one machine"),
    (
        &["-device"],
        "say `--disk`, `--console`, `--vsock`, `--balloon` or `--rng`; there are no other devices yet",
    ),
    (&["-display", "-vga"], "leave it out, a guest has no screen; its console is this terminal"),
    (
        &["-monitor", "-qmp"],
        "leave it out, `tern ps`, `tern console` and `tern stop` reach a running machine",
    ),
    (
        &["-serial", "-chardev"],
        "leave it out, the serial port is standard input and output; `--console PATH` gives a guest more terminals",
    ),
    (&["-daemonize"], "say `--detach`"),
    (&["-name"], "say `--name NAME`"),
    (&["-no-reboot"], "say `--no-reboot`"),
];

/// What docker(1) must be told and is always so here.
#[derive(Debug, Args)]
pub(crate) struct AlwaysSo {
    /// Standard input is passed on.
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// What is not kept is gone at the end.
    #[arg(long, hide = true, conflicts_with = "keep")]
    rm: bool,
}

/// The first word of a command line that is another program's: where it is, and the answer to it.
pub(crate) fn find(words: &[OsString]) -> Option<(usize, String)> {
    let command = words.get(1)?.to_str()?;
    let answer = match command {
        "run" => option,
        "ps" => |word: &str| answer(OF_PS, word),
        _ => return Some((1, answer(COMMANDS, command)?)),
    };
    let own = words.iter().enumerate().skip(2).take_while(|(_, word)| *word != "--");
    // The kernel's command line may begin with a hyphen.
    let mut options = own.filter(|(place, _)| words[place - 1] != "--cmdline");
    options.find_map(|(place, word)| Some((place, answer(word.to_str()?)?)))
}

/// The answer to an option of `tern run` that is another program's.
pub(crate) fn option(word: &str) -> Option<String> {
    let (name, _value) = word.split_once('=').unwrap_or((word, ""));
    answer(OF_RUN, name)
}

fn answer(table: Table, word: &str) -> Option<String> {
    let (_, answer) = table.iter().find(|(words, _)| words.contains(&word))?;
    Some(format!("there is no '{word}': {answer}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn found(line: &str) -> Option<(usize, String)> {
        find(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_word_of_anothers_is_found_with_its_value_and_before_the_guests_command() {
        for (line, place) in [
            ("tern run -smp 4", Some(2)),
            ("tern run debian --network=host", Some(3)),
            ("tern run -m 1G -cdrom a.iso", Some(4)),
            ("tern kill web", Some(1)),
            ("tern ps -a", Some(2)),
            ("tern run -- mkdir -p /a", None),
            ("tern run --cmdline -append", None),
            ("tern run -m 1G", None),
            ("tern image rm", None),
            ("tern", None),
        ] {
            assert_eq!(found(line).map(|(place, _)| place), place, "{line}");
        }
    }

    #[test]
    fn no_word_of_ours_is_taken_for_anothers() {
        let tern = Cli::command();
        for command in tern.get_subcommands() {
            assert_eq!(answer(COMMANDS, command.get_name()), None);
        }
        for (name, table) in [("run", OF_RUN), ("ps", OF_PS)] {
            let command = tern.find_subcommand(name).unwrap();
            for option in command.get_arguments() {
                let long = option.get_long().map(|long| format!("--{long}"));
                let short = option.get_short().map(|short| format!("-{short}"));
                for word in long.into_iter().chain(short) {
                    assert_eq!(answer(table, &word), None);
                }
            }
        }
    }

    #[test]
    fn the_help_says_the_same_of_networks() {
        let mut tern = Cli::command();
        let help = tern.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.to_lowercase().contains(NO_NETWORK), "{help}");
    }
}

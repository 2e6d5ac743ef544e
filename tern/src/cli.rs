//! What can be said to `tern`. Each option is defined once, here; parser, help and shell completions
//! follow from it.
//!
//! Of an option that is given twice the last one counts, so that aliases and scripts can hold what is usual and be
//! overridden; only what may be repeated is gathered.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tern_disk::DiskOptions;
use tern_vmm::config::CpuModel;

use crate::command::CommandArguments;
use crate::control::parse_name;
use crate::devices::{ConsoleOptions, VsockOptions};
use crate::engines::{EngineChoice, TranslationChoice};
use crate::exit;
use crate::guest::{Format, Module};
use crate::habits::AlwaysSo;
use crate::size::{self, Memory, parse_memory};

/// Runs virtual machines anywhere: on a computer with virtualization hardware or without, with or
/// without privileges.
#[derive(Debug, Parser)]
#[command(name = "tern", version, args_override_self = true)]
#[command(after_help = EXAMPLES, after_long_help = after_long(EXAMPLES))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tern run                              a small Linux, at a shell on this terminal
  tern run -- uname -a                  one command in it; its output and exit code are the command's
  tern run debian                       a whole Debian, logged in on this terminal
  tern run debian --detach --name web   the same in the background; then: tern ps, tern console web, tern stop web
  tern run --kernel vmlinuz             a kernel of your own
  tern run --help                       everything that a machine can have
  tern engines                          how guests can run on this computer
  tern completions bash > ~/.local/share/bash-completion/completions/tern
";

const RUN_EXAMPLES: &str = "\
Examples:
  tern run
      a small Linux at a shell; `poweroff` in it, or Ctrl-], ends it
  tern run debian --cpus 4 --memory 2G
      a whole Debian 13, made on first use; root is logged in, what it writes is gone at the end
  tern run debian --keep web
      the same, and the next time it goes on where this ended
  tern run disk.qcow2 --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0 root=/dev/vda1'
      a system of your own, with a layer for what it writes: --disk instead of IMAGE writes to the file
  tern run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0' --memory 1G --cpus 2
      a Linux kernel of your own
  echo 'uname -a; poweroff' | tern run --quiet > log
      a guest that a script drives: its serial console is standard input and output
  tern run --kernel kernel.elf --module 'root.img first' --debug-exit
      a Multiboot kernel with a module; its exit status is the command's
  tern run debian -- make -C /src test
      one command in a fresh guest: its input, output and exit code are the command's
  tern run -t -- top
      the same with this terminal
  tern run --kernel boot.bin --memory 1M
      a boot sector

The console: standard input and output are the guest's first serial port. On a terminal every key
goes to the guest, except Ctrl-], which leaves and ends the machine. The end of a piped input is not
the end of the guest.
";

fn after_long(examples: &str) -> String {
    format!("{examples}\n{}", exit::help())
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a machine in the foreground; its end is the command's exit code
    #[command(after_help = "See --help for examples and exit codes.", after_long_help = after_long(RUN_EXAMPLES))]
    Run(Box<RunArguments>),

    /// List the machines that run
    Ps {
        /// How to print
        #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
        output: OutputForm,
    },

    /// End machines: press the power button, and after a while end those by force whose guests do not hear it
    Stop(crate::control::StopArguments),

    /// Use this terminal as the console of a running machine; Ctrl-] leaves it
    Console {
        /// Which machine
        #[arg(value_name = "NAME", value_parser = parse_name)]
        name: String,
        /// Say nothing but errors
        #[arg(short, long)]
        quiet: bool,
    },

    /// List the engines, and whether and why each can run here
    Engines {
        /// How to print
        #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
        output: OutputForm,
    },

    /// Look after images: those that were fetched and built, and disk images of your own
    #[command(subcommand)]
    Image(ImageCommand),

    /// Print a completion script for a shell
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// The choice of the most capable processor model that is possible.
pub(crate) const AUTO: &str = "auto";

/// What `--cpu` takes: that, and the models' names.
const CPU_MODELS: [&str; CpuModel::ALL.len() + 1] = {
    let mut names = [AUTO; CpuModel::ALL.len() + 1];
    let mut index = 0;
    while index < CpuModel::ALL.len() {
        names[index + 1] = CpuModel::ALL[index].name;
        index += 1;
    }
    names
};

/// What `tern run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The guest image: `tiny`, this host's Debian cloud kernel with a busybox shell, which is what runs if nothing is said;
    /// `debian` (13) or `debian:12`, a whole Debian on a disk; or a disk image of your own, with --kernel. Made on first use,
    /// offline afterwards. What the guest writes to the disk is gone at the end, unless there is --keep
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,

    /// A command in place of a shell.
    #[command(flatten)]
    pub command: CommandArguments,

    #[command(flatten)]
    pub always_so: AlwaysSo,

    /// Keep what the guest writes to its disk, under this name: the next run with the same name goes on with it. `tern image
    /// list` shows it, `tern image rm` removes it
    #[arg(long, value_name = "NAME", value_parser = parse_name, help_heading = "Guest")]
    pub keep: Option<String>,

    /// Start this kernel, in place of the image's own: a Linux bzImage or ELF, a PVH or Multiboot ELF, or a boot sector
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub kernel: Option<PathBuf>,

    /// Give the kernel this initial RAM file system, in place of the image's own
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line, in place of the image's own. Linux shows its console here with
    /// `console=ttyS0`, which is what a Linux kernel gets if this is not given
    #[arg(long, value_name = "TEXT", help_heading = "Guest", allow_hyphen_values = true)]
    pub cmdline: Option<String>,

    /// Give a Multiboot kernel this module: a file, and after a space its command line. May be repeated
    #[arg(long = "module", value_name = "FILE ARGS", help_heading = "Guest", requires = "kernel")]
    pub modules: Vec<Module>,

    /// What kind of file the kernel is, if that does not show
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        value_name = "FORMAT",
        help_heading = "Guest",
        requires = "kernel"
    )]
    pub format: Format,

    /// Memory, with a unit: 512M, 2G; if this is not given 512M, and for a whole system 1G. After a comma the host's pages that it is made of: `hugepages=2M` (or `on`) and `hugepages=1G`
    /// are reserved ones, `hugepages=thp` asks for transparent ones
    #[arg(short, long, value_name = "SIZE[,hugepages=KIND]", value_parser = parse_memory, help_heading = "Machine")]
    pub memory: Option<Memory>,

    /// Processors; if this is not given one, and for a whole system as many as the host has, 4 at most
    #[arg(short, long, value_name = "N", value_parser = size::parse_cpus, help_heading = "Machine")]
    pub cpus: Option<u32>,

    /// The processor that the guest sees: `tern-v2` (SSE4.2) can be had everywhere, `tern-v3` (AVX2) where the host's processor
    /// is of x86-64-v3, and `auto` is the better of them that this host and the engine can give; `host` has all that they can.
    /// A machine goes on only where another host can give the same
    #[arg(long, default_value = AUTO, value_name = "MODEL", value_parser = CPU_MODELS, help_heading = "Machine")]
    pub cpu: String,

    /// How guest code runs; `tern engines` tells what can run here
    #[arg(long, value_enum, default_value = "auto", value_name = "ENGINE", help_heading = "Machine")]
    pub engine: EngineChoice,

    /// What the engine `soft` does with hot code; `off` and `verify` imply that engine
    #[arg(
        long,
        value_enum,
        default_value = "on",
        value_name = "HOW",
        help_heading = "Machine",
        hide_short_help = true
    )]
    pub translation: TranslationChoice,

    /// Memory that the engine `soft` may take for translated code, of all processors together, but at least 1M for each; decoded code
    /// may take as much again. Less means that code is translated again and again [default: 256M, and 8M for each of more than 32
    /// processors]
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = size::parse_code_cache,
        help_heading = "Machine",
        hide_short_help = true
    )]
    pub code_cache: Option<u64>,

    /// Write what the engine `soft` translates to the file jit-PID.dump here, for perf: `perf record -k mono tern run --jitdump`,
    /// then `perf inject --jit -i perf.data -o perf.jit.data` and `perf report -i perf.jit.data`. Implies that engine
    #[arg(long, help_heading = "Machine", hide_short_help = true)]
    pub jitdump: bool,

    /// A disk: the image's path, and after commas `ro`, `format=FORMAT`, `cache=writeback|none|unsafe`, `overlay` (writes are
    /// gone with the machine), `backing=PATH`, `lock=off`. May be repeated; the guest finds them as /dev/vda, /dev/vdb...
    #[arg(long = "disk", value_name = "PATH[,OPTION]", help_heading = "Devices")]
    pub disks: Vec<DiskOptions>,

    /// A terminal of the guest's (virtio-console: hvc0, hvc1...) at the Unix socket PATH, or with a name a channel
    /// (/dev/virtio-ports/NAME, /dev/vport0p0...); one program at a time may connect. May be repeated
    #[arg(long = "console", value_name = "PATH[,name=NAME]", help_heading = "Devices")]
    pub consoles: Vec<ConsoleOptions>,

    /// A balloon (virtio-balloon): memory that the guest does not need goes back to the host, and `tern ps` tells how much it uses.
    /// With a SIZE the guest is asked to give up that much from the start
    #[arg(
        long,
        value_name = "SIZE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0M",
        value_parser = size::parse,
        help_heading = "Devices"
    )]
    pub balloon: Option<u64>,

    /// A source of random numbers for the guest (virtio-rng)
    #[arg(long, value_enum, default_value = "on", value_name = "SWITCH", help_heading = "Devices")]
    pub rng: Switch,

    /// Sockets between guest and host (virtio-vsock): a program of the host connects to the Unix socket PATH and sends `CONNECT
    /// PORT` and a line feed; one of the guest that connects to a port of address 2 reaches who listens at PATH_PORT. The
    /// guest's own address is 3, or CID. A guest has no network card yet: use --vsock for sockets between host and guest, and --disk
    /// for files
    #[arg(long, value_name = "PATH[,cid=CID]", help_heading = "Devices")]
    pub vsock: Option<VsockOptions>,

    /// Give the machine a debug-exit port at 0xf4: a guest that writes V there ends with (V << 1) | 1
    #[arg(long, help_heading = "Machine")]
    pub debug_exit: bool,

    /// End when the guest asks for a reboot
    #[arg(long, help_heading = "Machine")]
    pub no_reboot: bool,

    /// The machine's name, by which `tern stop` and others find it; if this is not given, the name under which it is kept, or one that
    /// is made up
    #[arg(long, value_name = "NAME", value_parser = parse_name, help_heading = "Machine")]
    pub name: Option<String>,

    /// Run in the background: print the machine's name when it runs. `tern console` shows it, `tern stop` ends it.
    /// Errors that come later are in `logs/NAME.log` in $TERN_STATE_DIR or ~/.local/state/tern
    #[arg(short, long, conflicts_with_all = ["words", "has_terminal", "environment", "directory"])]
    pub detach: bool,

    /// At the end, tell what the machine did: instructions, speed, exits by kind. `=free` leaves out what slows the machine down: the
    /// engine `soft`'s TLB hits and its times
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all",
        hide_possible_values = true
    )]
    pub stats: Option<Stats>,

    /// How --stats prints, on standard error: `json` is one object in the last line
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM", requires = "stats")]
    pub output: OutputForm,

    /// Say nothing but errors; standard error stays empty otherwise
    #[arg(short, long)]
    pub quiet: bool,
}

/// What `--stats` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stats {
    /// All that can be told
    All,
    /// What costs nothing to know
    Free,
}

/// Whether there is something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// There is
    On,
    /// There is not
    Off,
}

/// The forms of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// For people
    Text,
    /// For programs
    Json,
}

/// A system, and how it is told of it.
#[derive(Debug, Args)]
pub(crate) struct SystemArguments {
    /// Its name: `debian`, `debian:12`
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// What `tern image` does.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Fetch and build the tiny guest now, so that `tern run` works offline
    Fetch,
    /// List the systems that there are, the kept machines, and what else is in the cache
    #[command(after_help = crate::images::LIST_EXAMPLES)]
    List {
        /// How to print
        #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
        output: OutputForm,
    },
    /// Make a system from its distribution's packages, anew if it is there: `debian`, `debian:12`. It takes mmdebstrap, and root or
    /// subordinate users
    #[command(after_help = crate::images::BUILD_EXAMPLES)]
    Build(SystemArguments),
    /// Fetch a system's cloud image and check it, in place of what is there: `debian`, `debian:12`
    #[command(after_help = crate::images::PULL_EXAMPLES)]
    Pull {
        /// Which
        #[command(flatten)]
        system: SystemArguments,
        /// The web server's folder with the image and its SHA512SUMS, if not the distribution's own
        #[arg(long, value_name = "URL")]
        from: Option<String>,
    },
    /// Check disk images against the rules of their formats, or cached files against the digests they had when they were built
    #[command(after_help = crate::images::CHECK_EXAMPLES)]
    Check {
        /// Which: files with disk images, or entries of the cache; all entries if nothing is given
        #[arg(value_name = "FILE|ENTRY")]
        entries: Vec<String>,
        /// Mend what can be mended in disk images (qcow2): wrong counts, lost clusters
        #[arg(long, requires = "entries")]
        repair: bool,
        /// How to print what is found in a disk image
        #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
        output: OutputForm,
    },
    /// Remove systems or other entries of the cache, which the next start that needs them makes again; or kept machines, for good
    #[command(after_help = crate::images::RM_EXAMPLES)]
    Rm {
        /// Which systems, kept machines or entries
        #[arg(required_unless_present = "all")]
        entries: Vec<String>,
        /// Remove everything from the cache; kept machines stay
        #[arg(long, conflicts_with = "entries")]
        all: bool,
    },
    /// Tell what a disk image is: format, sizes, snapshots, what it stands on
    #[command(after_help = crate::disks::INFO_EXAMPLES)]
    Info(crate::disks::InfoArguments),
    /// Make an empty disk image, or a layer over another
    #[command(after_help = crate::disks::CREATE_EXAMPLES)]
    Create(crate::disks::CreateArguments),
    /// Copy a disk image into a new one, of any format
    #[command(after_help = crate::disks::CONVERT_EXAMPLES)]
    Convert(crate::disks::ConvertArguments),
    /// Give a disk more or less room
    #[command(after_help = crate::disks::RESIZE_EXAMPLES)]
    Resize(crate::disks::ResizeArguments),
    /// Write what a disk image holds into the one that it stands on
    #[command(after_help = crate::disks::COMMIT_EXAMPLES)]
    Commit(crate::disks::CommitArguments),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(words: &[&str]) -> Result<RunArguments, clap::Error> {
        let line = ["tern", "run"].iter().chain(words);
        Cli::try_parse_from(line).map(|cli| match cli.command {
            Command::Run(arguments) => *arguments,
            other => panic!("'run' was taken for {other:?}"),
        })
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_arguments_it_is_the_tiny_guest() {
        let arguments = run(&[]).unwrap();
        assert_eq!((arguments.image, arguments.kernel, arguments.keep), (None, None, None));
        assert_eq!((arguments.memory, arguments.cpus), (None, None));
        assert_eq!(arguments.cpu, "auto");
    }

    #[test]
    fn an_image_may_have_another_kernel() {
        assert!(run(&["debian", "--kernel", "k"]).is_ok());
        assert!(run(&["--kernel", "k"]).is_ok());
    }

    #[test]
    fn command_lines_may_begin_with_a_hyphen() {
        let arguments = run(&["--kernel", "k", "--cmdline", "-s 1"]).unwrap();
        assert_eq!(arguments.cmdline.as_deref(), Some("-s 1"));
    }

    #[test]
    fn of_an_option_that_is_given_twice_the_last_one_counts() {
        let usual = ["--engine", "soft", "--cpus", "2", "--quiet", "--kernel", "k"];
        let arguments = run(&[&usual[..], &["--quiet", "--engine", "kvm", "--cpus", "1"]].concat()).unwrap();
        assert_eq!((arguments.engine, arguments.cpus, arguments.quiet), (EngineChoice::Kvm, Some(1), true));
        let arguments = run(&["--kernel", "k", "--module", "a", "--module", "b"]).unwrap();
        assert_eq!(arguments.modules.len(), 2);
    }

    #[test]
    fn a_command_follows_two_hyphens_with_or_without_an_image() {
        let arguments = run(&["debian", "-e", "A=b", "--", "ls", "-l", "--quiet"]).unwrap();
        assert_eq!(arguments.image.as_deref(), Some("debian"));
        assert_eq!(arguments.command.words, ["ls", "-l", "--quiet"]);
        assert!(!arguments.quiet);
        assert_eq!(run(&["--", "true"]).unwrap().image, None);
        assert!(run(&["--detach", "--", "true"]).is_err());
        assert!(run(&["-t"]).is_err());
    }

    #[test]
    fn statistics_are_all_unless_they_are_to_be_free() {
        let stats = |words: &[&str]| run(words).unwrap().stats;
        assert_eq!(stats(&[]), None);
        assert_eq!(stats(&["--stats"]), Some(Stats::All));
        assert_eq!(stats(&["--stats", "debian"]), Some(Stats::All));
        assert_eq!(stats(&["--stats=free"]), Some(Stats::Free));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        assert!(run(&["--module", "m"]).is_err());
        assert!(run(&["--format", "elf"]).is_err());
        assert!(run(&["-o", "json"]).is_err());
        assert!(run(&["--stats", "-o", "json"]).is_ok());
        assert!(run(&["--stats=most"]).is_err());
        for cpus in ["0", "65", "-1", "two"] {
            assert!(run(&["--cpus", cpus]).is_err(), "{cpus}");
        }
    }
}

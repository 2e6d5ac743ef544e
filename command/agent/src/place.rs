//! Before a system starts: puts the agent and its unit into `/run`, which stays when the initramfs makes way for the system.
//!
//! Nothing is written to the system's disk. Programs may be forbidden to run from `/run` itself, so the agent has a file system of its
//! own there. The unit is systemd.unit(5); the machine ends with it.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, symlink};

use rustix::mount::{MountFlags, mount};

/// The agent's folder, and the agent in it.
const FOLDER: &str = "/run/tern";
const AGENT: &str = "/run/tern/agent";

/// The unit's folder, and the folder of what the system starts at last.
const UNITS: &str = "/run/systemd/system";
const WANTED: &str = "/run/systemd/system/multi-user.target.wants";
const NAME: &str = "tern-command.service";

/// The login on the first serial port, which nobody is to see or type into.
const LOGIN: &str = "/run/systemd/system/serial-getty@ttyS0.service";

const UNIT: &str = include_str!("tern-command.service");

pub(crate) fn place() -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    mount("tern", FOLDER, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")?;
    let mut program = fs::File::open(env::current_exe()?)?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o755).open(AGENT)?;
    io::copy(&mut program, &mut copy)?;
    fs::create_dir_all(WANTED)?;
    fs::write(format!("{UNITS}/{NAME}"), UNIT)?;
    symlink(format!("../{NAME}"), format!("{WANTED}/{NAME}"))?;
    // As `systemctl mask --runtime` does.
    symlink("/dev/null", LOGIN)
}

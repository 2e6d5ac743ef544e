//! `tern image`: the cache of fetched and built images, for those who want to look after it. What it does with disk images is in
//! `disks/`.

use std::path::Path;

use anyhow::anyhow;
use tern_image::system::{Kept, Release, System};
use tern_image::{Cache, OnStderr, Progress, Silent};

use crate::cli::{ImageCommand, OutputForm, SystemArguments};
use crate::disks;
use crate::exit::Failure;
use crate::patience::Patience;

mod listing;

pub(crate) const LIST_EXAMPLES: &str = "\
Examples:
  tern image list
      what there is, what it takes on the disk, and where it comes from
  tern image list -o json | jq '.[] | select(.kind == \"kept\")'
      the same for a program; sizes are in bytes
";

pub(crate) const BUILD_EXAMPLES: &str = "\
Examples:
  tern image build debian
      a Debian 13 with today's packages; machines that are kept stay on what they began with
";

pub(crate) const PULL_EXAMPLES: &str = "\
Examples:
  tern image pull debian
      the distribution's own image, for hosts that cannot make one
  tern image pull debian:12 --from http://mirror.example/bookworm/latest
      from a server of your own; the image must be what SHA512SUMS there says
";

pub(crate) const CHECK_EXAMPLES: &str = "\
Examples:
  tern image check disk.qcow2
      damage ends with 66, and the way out is told
  tern image check --repair disk.qcow2
      mends what can be mended: work on a copy
  tern image check
      everything in the cache
";

pub(crate) const RM_EXAMPLES: &str = "\
Examples:
  tern image rm debian:12
      the next `tern run debian:12` makes it again
  tern image rm web
      the machine that was kept as 'web', with all that it wrote
  tern image rm --all
      the whole cache, and what was left of systems whose making was interrupted
";

/// Does what was asked for.
pub(crate) fn manage(command: &ImageCommand) -> Result<(), Failure> {
    match command {
        ImageCommand::Fetch => {
            tern_image::tiny(&Cache::of_user()?, &OnStderr::new())?;
            Ok(())
        }
        ImageCommand::List { output } => {
            listing::list(&Cache::of_user()?, Kept::of_user().ok().as_ref(), *output)
        }
        ImageCommand::Build(system) => {
            made(system, |cache, release, progress| System::build(cache, release, true, progress))
        }
        ImageCommand::Pull { system, from } => made(system, |cache, release, progress| {
            System::pull(cache, release, from.as_deref(), true, progress)
        }),
        ImageCommand::Check { entries, repair, output } => check(entries, *repair, *output),
        ImageCommand::Rm { entries, all } => remove(&Cache::of_user()?, entries, *all),
        ImageCommand::Info(arguments) => disks::info(arguments),
        ImageCommand::Create(arguments) => disks::create(arguments),
        ImageCommand::Convert(arguments) => disks::convert(arguments),
        ImageCommand::Resize(arguments) => disks::resize(arguments),
        ImageCommand::Commit(arguments) => disks::commit(arguments),
    }
}

/// The system of this name.
///
/// # Errors
/// There is none.
fn release(name: &str) -> Result<Release, Failure> {
    Release::named(name).ok_or_else(|| {
        let names = Release::ALL.map(Release::name).join(", ");
        Failure::input(anyhow!("there is no system '{name}': there are debian, {names}"))
    })
}

/// Makes a system, and tells what there is now.
fn made(
    arguments: &SystemArguments,
    make: impl FnOnce(&Cache, Release, &dyn Progress) -> Result<System, tern_image::Error>,
) -> Result<(), Failure> {
    let shown = OnStderr::new();
    let progress: &dyn Progress = if arguments.quiet { &Silent } else { &shown };
    let about = make(&Cache::of_user()?, release(&arguments.name)?, progress)?.about;
    crate::print(format!("{}: Debian {} with Linux {}\n", about.name, about.version, about.kernel).as_bytes())
}

/// Checks what is named: a file, or what can only be one, is a disk image; everything else an entry of the cache.
fn check(entries: &[String], is_mended: bool, output: OutputForm) -> Result<(), Failure> {
    let (files, entries): (Vec<&String>, Vec<&String>) =
        entries.iter().partition(|name| Path::new(name).is_file() || name.contains('/'));
    for file in &files {
        disks::check(Path::new(file), is_mended, output)?;
    }
    if entries.is_empty() && !files.is_empty() {
        return Ok(());
    }
    let cache = Cache::of_user()?;
    let entries: Vec<String> = entries.into_iter().cloned().collect();
    for key in some_or_all(&cache, &entries)? {
        let patience = Patience::new(format!("checking {key}"));
        cache.check(&key, &mut |done, total| patience.told(done, total))?;
        drop(patience);
        crate::print(format!("{key}: as it was built\n").as_bytes())?;
    }
    Ok(())
}

/// Removes what is named: a kept machine, a system, or an entry of the cache by its own name.
fn remove(cache: &Cache, entries: &[String], all: bool) -> Result<(), Failure> {
    if all {
        cache.sweep()?;
    }
    let keys = if all { some_or_all(cache, &[])? } else { entries.to_vec() };
    for key in keys {
        // Without a place for them nothing is kept.
        let kept = Kept::of_user().ok().filter(|kept| !all && kept.get(&key).is_ok());
        match (Release::named(&key), kept) {
            (Some(release), _) => cache.remove(&release.key())?,
            (None, Some(kept)) => kept.remove(&key)?,
            (None, None) => cache.remove(&key)?,
        }
    }
    Ok(())
}

fn some_or_all(cache: &Cache, entries: &[String]) -> Result<Vec<String>, Failure> {
    if entries.is_empty() {
        return Ok(cache.entries()?.into_iter().map(|entry| entry.key).collect());
    }
    Ok(entries.to_vec())
}

//! `tern image`: the cache of fetched and built images, for those who want to look after it. What it does with disk images is in
//! `disks/`.

use std::fmt::Write as _;
use std::path::Path;

use tern_image::{Cache, OnStderr};

use crate::cli::{ImageCommand, OutputForm};
use crate::disks;
use crate::exit::Failure;

/// Does what was asked for.
pub(crate) fn manage(command: &ImageCommand) -> Result<(), Failure> {
    match command {
        ImageCommand::Fetch => {
            tern_image::tiny(&Cache::of_user()?, &OnStderr::new())?;
            Ok(())
        }
        ImageCommand::List => list(&Cache::of_user()?),
        ImageCommand::Check { entries, repair, output } => check(entries, *repair, *output),
        ImageCommand::Rm { entries, all } => remove(&Cache::of_user()?, entries, *all),
        ImageCommand::Info(arguments) => disks::info(arguments),
        ImageCommand::Create(arguments) => disks::create(arguments),
        ImageCommand::Convert(arguments) => disks::convert(arguments),
        ImageCommand::Resize(arguments) => disks::resize(arguments),
        ImageCommand::Commit(arguments) => disks::commit(arguments),
    }
}

fn list(cache: &Cache) -> Result<(), Failure> {
    let mut text = String::new();
    for entry in cache.entries()? {
        let mebibytes = entry.size.div_ceil(1 << 20);
        writeln!(text, "{:<34} {mebibytes:>5} MiB  {}", entry.key, entry.files.join(", "))
            .expect("a string takes everything");
    }
    crate::print(text.as_bytes())
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
        cache.check(&key)?;
        crate::print(format!("{key}: as it was built\n").as_bytes())?;
    }
    Ok(())
}

fn remove(cache: &Cache, entries: &[String], all: bool) -> Result<(), Failure> {
    let keys = if all { some_or_all(cache, &[])? } else { entries.to_vec() };
    for key in keys {
        cache.remove(&key)?;
    }
    Ok(())
}

fn some_or_all(cache: &Cache, entries: &[String]) -> Result<Vec<String>, Failure> {
    if entries.is_empty() {
        return Ok(cache.entries()?.into_iter().map(|entry| entry.key).collect());
    }
    Ok(entries.to_vec())
}

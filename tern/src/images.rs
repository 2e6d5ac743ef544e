//! `tern image`: the cache of fetched and built images, for those who want to look after it.

use std::fmt::Write as _;

use tern_image::{Cache, OnStderr};

use crate::cli::ImageCommand;
use crate::exit::Failure;

/// Does what was asked for.
pub(crate) fn manage(command: &ImageCommand) -> Result<(), Failure> {
    let cache = Cache::of_user()?;
    match command {
        ImageCommand::Fetch => {
            tern_image::tiny(&cache, &OnStderr::new())?;
            Ok(())
        }
        ImageCommand::List => list(&cache),
        ImageCommand::Check { entries } => check(&cache, entries),
        ImageCommand::Rm { entries, all } => remove(&cache, entries, *all),
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

fn check(cache: &Cache, entries: &[String]) -> Result<(), Failure> {
    for key in some_or_all(cache, entries)? {
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

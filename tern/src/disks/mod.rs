//! `tern image` on disk images: info, create, convert, resize, commit, check.
//!
//! ```text
//! arguments.rs   what can be said
//! text.rs        what is told of an image
//! ```

mod arguments;
mod text;

use std::path::Path;

use tern_disk::DiskError;
use tern_disk::tool::{self, Committing, Existing, NewBacking, NewImage, Subformat};

use crate::cli::OutputForm;
use crate::exit::Failure;
use crate::patience::Patience;
use crate::size::{NewSize, human};

pub(crate) use arguments::{
    COMMIT_EXAMPLES, CONVERT_EXAMPLES, CREATE_EXAMPLES, CommitArguments, ConvertArguments, CreateArguments,
    INFO_EXAMPLES, InfoArguments, RESIZE_EXAMPLES, ResizeArguments,
};

use arguments::{NewArguments, format_of_name};

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Io { .. } | DiskError::Lane(_) => Self::host(error),
            _ => Self::input(error),
        }
    }
}

fn say(text: &str) -> Result<(), Failure> {
    crate::print(format!("{text}\n").as_bytes())
}

fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(&serde_json::to_string_pretty(value).map_err(Failure::host)?)
}

/// `tern image info`
pub(crate) fn info(arguments: &InfoArguments) -> Result<(), Failure> {
    let info = tool::info(&arguments.image.existing())?;
    match arguments.output {
        OutputForm::Text => crate::print(text::info(&info).as_bytes()),
        OutputForm::Json => json(&info),
    }
}

/// `tern image create`
pub(crate) fn create(arguments: &CreateArguments) -> Result<(), Failure> {
    let mut new = new_image(&arguments.file, &arguments.new, arguments.fixed)?;
    new.size = arguments.size;
    new.backing = arguments
        .backing
        .as_ref()
        .map(|path| NewBacking { path: path.clone(), format: arguments.backing_format });
    tool::create(&new)?;
    Ok(())
}

/// `tern image convert`
pub(crate) fn convert(arguments: &ConvertArguments) -> Result<(), Failure> {
    let mut new = new_image(&arguments.target, &arguments.new, arguments.fixed)?;
    new.size = arguments.size;
    if arguments.compress {
        new.subformat = Subformat::Compressed;
    }
    let mut from = Existing::new(&arguments.file);
    (from.format, from.backing) = (arguments.from_format, arguments.backing.clone());
    let patience = Patience::new("copying");
    let converted = tool::convert(&from, &new, &mut |done, total| patience.told(done, total))?;
    drop(patience);
    say(&format!(
        "{}: a {} disk in {}, which takes {}",
        arguments.target.display(),
        human(converted.size),
        new.format,
        human(converted.allocated)
    ))
}

fn new_image(path: &Path, arguments: &NewArguments, is_fixed: bool) -> Result<NewImage, Failure> {
    let format = arguments.format.or_else(|| format_of_name(path)).ok_or_else(|| {
        let text = format!(
            "what '{}' is to be does not show in its name: end it in .qcow2, .img, .vmdk, .vhd or .vhdx, or say it with --format",
            path.display()
        );
        Failure::from(DiskError::Options(text))
    })?;
    let mut new = NewImage::new(path, format, None);
    new.cluster_size = arguments.cluster_size;
    new.is_replacing = arguments.force;
    // Whoever knows what it is can tell later starts, too.
    new.may_look_different = arguments.format.is_some();
    if is_fixed {
        new.subformat = Subformat::Fixed;
    }
    Ok(new)
}

/// `tern image resize`
pub(crate) fn resize(arguments: &ResizeArguments) -> Result<(), Failure> {
    let image = arguments.image.existing();
    let size = match arguments.size {
        NewSize::Of(size) => size,
        NewSize::More(more) => tool::info(&image)?.size.saturating_add(more),
    };
    let before = tool::resize(&image, size, arguments.shrink)?;
    say(&format!("{}: {} instead of {}", arguments.image.file.display(), human(size), human(before)))
}

/// `tern image commit`
pub(crate) fn commit(arguments: &CommitArguments) -> Result<(), Failure> {
    let patience = Patience::new("committing");
    let image = arguments.image.existing();
    let how = Committing { is_kept: arguments.keep, backing_format: arguments.backing_format };
    let committed = tool::commit(&image, how, &mut |done, total| patience.told(done, total))?;
    drop(patience);
    let emptied = if committed.is_emptied { "; it is empty now" } else { "" };
    say(&format!(
        "{}: {} written to {}{emptied}",
        arguments.image.file.display(),
        human(committed.written),
        committed.backing.display()
    ))
}

/// `tern image check` on a disk image.
pub(crate) fn check(path: &Path, is_mended: bool, output: OutputForm) -> Result<(), Failure> {
    let patience = Patience::new("checking");
    let checked =
        tool::check(&Existing::new(path), is_mended, &mut |done, total| patience.told(done, total))?;
    drop(patience);
    match output {
        OutputForm::Text => crate::print(text::checked(path, &checked).as_bytes())?,
        OutputForm::Json => json(&checked)?,
    }
    if checked.damages == 0 {
        return Ok(());
    }
    let way_out = if checked.format == "qcow2" && !is_mended {
        "`tern image check --repair` mends what can be mended; work on a copy of the file"
    } else {
        "`tern image convert` saves what can still be read"
    };
    Err(Failure::input(anyhow::anyhow!("'{}' is damaged. {way_out}", path.display())))
}

//! What can be said about disk images, and what the help says of it.

use std::path::{Path, PathBuf};

use clap::Args;
use tern_disk::Format;
use tern_disk::tool::Existing;

use crate::cli::OutputForm;
use crate::size::{NewSize, parse_disk_size, parse_new_size};

pub(crate) const INFO_EXAMPLES: &str = "\
Examples:
  tern image info disk.qcow2
      format, sizes, snapshots, and the images that it stands on
  tern image info disk.qcow2 -o json | jq .size
      the same for a program; sizes are in bytes

The image may be in use: nothing is locked, nothing is changed.
";

pub(crate) const CREATE_EXAMPLES: &str = "\
Examples:
  tern image create disk.qcow2 20G
      an empty disk; its file grows with what is written
  tern image create --backing debian.qcow2 mine.qcow2
      a layer over an image: what is written goes to mine.qcow2, and debian.qcow2 stays
  tern image create disk.img 20G
      a raw disk, with holes where nothing was written

The format is what the file's name ends in: .qcow2, .vmdk, .vhd, .vhdx, .raw or .img; --format
says otherwise.
";

pub(crate) const CONVERT_EXAMPLES: &str = "\
Examples:
  tern image convert disk.vmdk disk.qcow2
      from VMware's format
  tern image convert --compress disk.img small.qcow2
      as small as it gets, to be stored or sent
  tern image convert --size 40G disk.vhdx larger.vhdx
      a larger copy, of a format that cannot grow in place

The new image holds everything, also what the old one stands on; zeros and holes take no space in
it. It appears under its name when it is complete.
";

pub(crate) const RESIZE_EXAMPLES: &str = "\
Examples:
  tern image resize disk.qcow2 40G
  tern image resize disk.qcow2 +10G
      the guest sees the new size at its next start; its partitions and file systems are for it to grow
  tern image resize --shrink disk.qcow2 10G
      cuts off the end, and what is there is lost: shrink the file systems in it before
";

pub(crate) const COMMIT_EXAMPLES: &str = "\
Examples:
  tern image commit mine.qcow2
      writes what mine.qcow2 holds into the image that it stands on, and empties it

Other layers over the same image are useless afterwards: they hold changes to what it was before.
";

/// The format of an image, for those who know better than its contents show.
fn parse_format(text: &str) -> Result<Format, String> {
    text.parse().map_err(|error: tern_disk::DiskError| error.to_string())
}

/// An image that there is.
#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    /// The image
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// What the image is: raw, qcow2, vmdk, vhd, vhdx. Its contents show, except that a raw one may look like anything
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub format: Option<Format>,

    /// Where the image's backing file is, if not where the image says
    #[arg(long, value_name = "PATH")]
    pub backing: Option<PathBuf>,
}

impl ImageArguments {
    pub(super) fn existing(&self) -> Existing {
        let mut existing = Existing::new(&self.file);
        existing.format = self.format;
        existing.backing.clone_from(&self.backing);
        existing
    }
}

/// `tern image info`
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    #[command(flatten)]
    pub image: ImageArguments,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    pub output: OutputForm,
}

/// What a new image is.
#[derive(Debug, Args)]
pub(crate) struct NewArguments {
    /// What the new image is to be: raw, qcow2, vmdk, vhd, vhdx. If it is not given, what its name ends in
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub format: Option<Format>,

    /// Clusters of this size (qcow2): 512 to 2M, a power of two; 64K is usual
    #[arg(long, value_name = "SIZE", value_parser = parse_disk_size)]
    pub cluster_size: Option<u64>,

    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

/// `tern image create`
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The new image
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The disk's size, with a unit: 512M, 20G; that of the backing file if it is not given
    #[arg(value_name = "SIZE", value_parser = parse_disk_size, required_unless_present = "backing")]
    pub size: Option<u64>,

    /// The image that the new one stands on (qcow2): it is read where nothing was written, and never written itself
    #[arg(long, value_name = "FILE")]
    pub backing: Option<PathBuf>,

    /// What that is, if it does not show: raw, qcow2, vmdk, vhd, vhdx
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, requires = "backing")]
    pub backing_format: Option<Format>,

    /// Take all space at once (vhd)
    #[arg(long)]
    pub fixed: bool,

    #[command(flatten)]
    pub new: NewArguments,
}

/// `tern image convert`
#[derive(Debug, Args)]
pub(crate) struct ConvertArguments {
    /// The image
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The new image
    #[arg(value_name = "NEW")]
    pub target: PathBuf,

    /// What the image is, if it does not show: raw, qcow2, vmdk, vhd, vhdx
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub from_format: Option<Format>,

    /// Where the image's backing file is, if not where the image says
    #[arg(long, value_name = "PATH")]
    pub backing: Option<PathBuf>,

    /// The new disk's size, if it is to be larger
    #[arg(long, value_name = "SIZE", value_parser = parse_disk_size)]
    pub size: Option<u64>,

    /// Compress what is copied (qcow2); what is written later is not compressed
    #[arg(long)]
    pub compress: bool,

    /// Take all space at once (vhd)
    #[arg(long, conflicts_with = "compress")]
    pub fixed: bool,

    #[command(flatten)]
    pub new: NewArguments,
}

/// `tern image resize`
#[derive(Debug, Args)]
pub(crate) struct ResizeArguments {
    #[command(flatten)]
    pub image: ImageArguments,

    /// The new size, with a unit: 40G; or how much more: +10G
    #[arg(value_name = "SIZE", value_parser = parse_new_size)]
    pub size: NewSize,

    /// Allow the disk to become smaller: what is beyond its new end is lost
    #[arg(long)]
    pub shrink: bool,
}

/// `tern image commit`
#[derive(Debug, Args)]
pub(crate) struct CommitArguments {
    #[command(flatten)]
    pub image: ImageArguments,

    /// Leave the image as it is, instead of emptying it
    #[arg(long)]
    pub keep: bool,

    /// What the backing file is: raw, qcow2, vmdk, vhd, vhdx. The image knows; but only if you say so may a raw one, or a
    /// fixed vhd, begin like another format afterwards
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    pub backing_format: Option<Format>,
}

/// What the name of a file says of its format.
pub(super) fn format_of_name(path: &Path) -> Option<Format> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "img" | "raw" | "iso" => Some(Format::Raw),
        other => other.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        for (name, format) in [
            ("a.qcow2", Some(Format::Qcow2)),
            ("a.VHD", Some(Format::Vhd)),
            ("a.b.img", Some(Format::Raw)),
            ("a", None),
            ("a.txt", None),
        ] {
            assert_eq!(format_of_name(Path::new(name)), format, "{name}");
        }
    }
}

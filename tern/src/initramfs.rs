//! What is put behind a guest's initramfs: more archives, of which Linux unpacks one after the other (initramfs buffer format), so
//! that the guest's own needs no change.
//!
//! A distribution's initramfs made by initramfs-tools(7) runs the scripts that `scripts/init-bottom/ORDER` names when the system's disk
//! is there: ours is one more. A later file replaces an earlier one, so the new ORDER runs whatever is in the folder.

use tern_image::cpio::Archive;

/// Runs every script of the folder, as the file did that this replaces.
const ORDER: &str = include_str!("initramfs/order.sh");

/// Has a distribution's initramfs run one more script, before it makes way for the system; what that puts into `/run` stays there.
pub(crate) fn run_last(archive: &mut Archive, script: &str) {
    for directory in ["scripts", "scripts/init-bottom"] {
        archive.directory(directory);
    }
    archive.file("scripts/init-bottom/ORDER", 0o644, ORDER.as_bytes());
    archive.file("scripts/init-bottom/tern", 0o755, script.as_bytes());
}

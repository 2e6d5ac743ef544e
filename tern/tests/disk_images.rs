//! `tern image` on disk images, as a shell sees it.

use std::path::Path;
use std::process::{Command, Output};

/// Runs `tern image` in a folder of its own.
fn image(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tern"))
        .arg("image")
        .args(arguments)
        .current_dir(folder)
        .env("TERN_CACHE_DIR", folder.join("cache"))
        .output()
        .expect("the built command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it, and it works.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = image(folder, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs it, and it ends with 66 and this in its error.
fn refused(folder: &Path, arguments: &[&str], part: &str) {
    let output = image(folder, arguments);
    assert_eq!(output.status.code(), Some(66), "{arguments:?}: {}", text(&output.stderr));
    assert!(text(&output.stderr).contains(part), "{arguments:?}: {}", text(&output.stderr));
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn contents() -> Vec<u8> {
    (0..3 << 20_u32).map(|at| if at % 65536 < 20_000 { (at / 7) as u8 } else { 0 }).collect()
}

#[test]
fn images_are_made_looked_at_and_checked() {
    let folder = folder();
    let here = folder.path();
    for name in ["a.qcow2", "a.img", "a.vmdk", "a.vhd", "a.vhdx"] {
        done(here, &["create", name, "64M"]);
        assert!(done(here, &["info", name]).contains("64 MiB (67108864 bytes)"), "{name}");
        assert!(
            done(here, &["check", name]).ends_with(&format!("{name}: sound; {}\n", data_of(name))),
            "{name}"
        );
    }
    let info: serde_json::Value =
        serde_json::from_str(&done(here, &["info", "a.qcow2", "-o", "json"])).expect("JSON");
    assert_eq!((&info["format"], &info["size"]), (&"qcow2".into(), &67_108_864.into()));
}

/// A raw image is all data, as far as its format is concerned.
fn data_of(name: &str) -> &'static str {
    if name.ends_with(".img") { "64 MiB of data" } else { "0 bytes of data" }
}

#[test]
fn contents_survive_a_journey_through_all_formats() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("start.img"), contents()).expect("a temporary file");
    let mut from = "start.img";
    for to in ["a.qcow2", "b.vmdk", "c.vhdx", "d.vhd", "end.img"] {
        let told = done(here, &["convert", from, to]);
        assert!(told.starts_with(&format!("{to}: a 3 MiB disk in ")), "{told}");
        from = to;
    }
    assert!(std::fs::read(here.join("end.img")).expect("the last image") == contents());
    done(here, &["convert", "--compress", "end.img", "small.qcow2"]);
    let length = |name: &str| here.join(name).metadata().expect("an image").len();
    assert!(length("small.qcow2") < length("a.qcow2"));
}

#[test]
fn a_layer_is_made_grown_and_committed() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("base.img"), contents()).expect("a temporary file");
    done(here, &["create", "--backing", "base.img", "top.qcow2"]);
    assert!(done(here, &["info", "top.qcow2"]).contains("stands on     base.img (raw)"));
    assert_eq!(done(here, &["resize", "top.qcow2", "+1M"]), "top.qcow2: 4 MiB instead of 3 MiB\n");
    refused(here, &["resize", "top.qcow2", "1M"], "--shrink");
    let told = done(here, &["commit", "top.qcow2"]);
    assert!(told.contains("written to base.img; it is empty now"), "{told}");
    assert_eq!(here.join("base.img").metadata().expect("the base").len(), 4 << 20);
}

#[test]
fn what_cannot_be_done_is_told_with_a_way_out() {
    let folder = folder();
    let here = folder.path();
    done(here, &["create", "a.vhdx", "64M"]);
    for (arguments, part) in [
        (&["info", "nothing.img"][..], "`tern image create`"),
        (&["create", "a.vhdx", "1M"], "--force"),
        (&["create", "nameless", "1M"], "--format"),
        (&["convert", "a.vhdx", "a.vhdx"], "--force"),
        (&["resize", "a.vhdx", "128M"], "tern image convert --size"),
        (&["commit", "a.vhdx"], "stands on no other"),
        (&["create", "--backing", "nothing", "b.qcow2"], "there is no such file"),
        (&["convert", "--compress", "a.vhdx", "b.img"], "only qcow2"),
        (&["check", "./nothing"], "there is no such file"),
    ] {
        refused(here, arguments, part);
    }
    let left: Vec<_> =
        std::fs::read_dir(here).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["a.vhdx"], "something was left behind");
}

#[test]
fn a_disk_that_begins_like_another_format_becomes_a_raw_image_only_if_that_is_said() {
    let folder = folder();
    let here = folder.path();
    let mut bytes = contents();
    bytes[..4].copy_from_slice(b"QFI\xfb");
    std::fs::write(here.join("start.img"), &bytes).expect("a temporary file");
    done(here, &["convert", "--from-format", "raw", "start.img", "a.qcow2"]);
    refused(here, &["convert", "a.qcow2", "end.img"], "--format raw");
    assert!(!here.join("end.img").exists());
    done(here, &["convert", "--format", "raw", "a.qcow2", "end.img"]);
    assert!(std::fs::read(here.join("end.img")).expect("the last image") == bytes);
}

#[test]
fn damage_is_found_and_mended_and_ends_with_66_meanwhile() {
    let folder = folder();
    let here = folder.path();
    std::fs::write(here.join("start.img"), contents()).expect("a temporary file");
    done(here, &["convert", "start.img", "a.qcow2"]);
    let mut bytes = std::fs::read(here.join("a.qcow2")).expect("the image");
    // The first block of refcounts is in the third cluster: the header itself counts as free.
    bytes[0x20000..0x20002].fill(0);
    std::fs::write(here.join("a.qcow2"), &bytes).expect("the image");
    refused(here, &["check", "a.qcow2"], "--repair");
    assert!(done(here, &["check", "--repair", "a.qcow2"]).contains("1 places mended"));
    assert!(done(here, &["check", "a.qcow2"]).contains("sound"));
}

#[test]
fn help_teaches_with_examples() {
    for verb in ["list", "build", "pull", "check", "rm", "info", "create", "convert", "resize", "commit"] {
        let help = done(Path::new("."), &[verb, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("tern image {verb}")), "{verb}");
    }
}

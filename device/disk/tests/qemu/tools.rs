//! What `tern image` does, judged by `qemu-img`.

use tern_disk::tool::{self, Committing, Existing, NewBacking, NewImage, Subformat};
use tern_disk::{DiskOptions, Format};

use crate::client::Client;
use crate::tool::{Folder, assert_same, contents, img, read_all, write_randomly};

const SIZE: u64 = 8 << 20;

fn qemu_name(format: Format) -> &'static str {
    if format == Format::Vhd { "vpc" } else { format.name() }
}

fn silent() -> impl FnMut(u64, u64) + Send {
    |_, _| {}
}

fn existing(folder: &Folder, name: &str) -> Existing {
    Existing::new(folder.file(name))
}

fn check(folder: &Folder, name: &str, format: Format) {
    if !matches!(format, Format::Raw | Format::Vhd) {
        img(&["check", "-f", qemu_name(format), name], folder.path());
    }
    let mut image = existing(folder, name);
    image.format = Some(format);
    let checked = tool::check(&image, false, &mut silent()).unwrap();
    assert_eq!((checked.problems, checked.leaked), (Vec::new(), 0), "{name}");
}

#[test]
fn every_format_is_converted_into_every_other() {
    let folder = Folder::new();
    let bytes = folder.raw("start.raw", SIZE, 11);
    let mut from = existing(&folder, "start.raw");
    for (turn, format) in Format::ALL.into_iter().chain(Format::ALL.into_iter().rev()).enumerate() {
        let name = format!("{turn}.{}", format.name());
        let to = NewImage::new(folder.file(&name), format, None);
        let converted = tool::convert(&from, &to, &mut silent()).unwrap();
        assert_eq!(converted.size, SIZE);
        check(&folder, &name, format);
        assert_same(&folder.as_qemu_reads(&name, qemu_name(format)), &bytes, &name);
        from = existing(&folder, &name);
    }
    let text =
        tool::convert(&from, &NewImage::new(folder.file("1.qcow2"), Format::Qcow2, None), &mut silent());
    assert!(text.unwrap_err().to_string().contains("--force"));
}

#[test]
fn compressed_images_are_smaller_and_the_same() {
    let folder = Folder::new();
    let bytes = folder.raw("start.raw", SIZE + 1024, 12);
    // The last is the usual one, whose length is compared.
    for cluster_size in [Some(512), Some(4096), Some(2 << 20), None] {
        let mut to = NewImage::new(folder.file("small.qcow2"), Format::Qcow2, None);
        (to.subformat, to.cluster_size, to.is_replacing) = (Subformat::Compressed, cluster_size, true);
        tool::convert(&existing(&folder, "start.raw"), &to, &mut silent()).unwrap();
        check(&folder, "small.qcow2", Format::Qcow2);
        assert_same(&folder.as_qemu_reads("small.qcow2", "qcow2"), &bytes, &format!("{cluster_size:?}"));
        assert_same(&folder.as_read_here("small.qcow2"), &bytes, &format!("{cluster_size:?}"));
    }
    let length = |name: &str| std::fs::metadata(folder.file(name)).unwrap().len();
    assert!(length("small.qcow2") < length("start.raw"));
}

#[test]
fn new_images_are_empty_disks_to_both() {
    let folder = Folder::new();
    for format in Format::ALL {
        for size in [512, 1 << 20, 3 << 30] {
            let name = format!("{size}.{}", format.name());
            tool::create(&NewImage::new(folder.file(&name), format, Some(size))).unwrap();
            let told = img(&["info", "--output=json", "-f", qemu_name(format), &name], folder.path());
            assert!(told.contains(&format!("\"virtual-size\": {size}")), "{name}: {told}");
            let info = tool::info(&existing(&folder, &name)).unwrap();
            // A raw image may look like anything, and these are zeros.
            assert_eq!((info.format, info.size), (format.name(), size));
            check(&folder, &name, format);
        }
    }
}

#[test]
fn a_new_image_names_its_backing_file_so_that_both_can_be_moved_together() {
    let folder = Folder::new();
    let mut model = folder.raw("base.raw", SIZE, 13);
    std::fs::create_dir(folder.file("sub")).unwrap();
    let mut new = NewImage::new(folder.file("top.qcow2"), Format::Qcow2, None);
    new.backing = Some(NewBacking { path: folder.file("sub/../base.raw"), format: Some(Format::Raw) });
    new.backing.as_mut().unwrap().path = relative(&folder.file("base.raw"));
    tool::create(&new).unwrap();
    let info = tool::info(&existing(&folder, "top.qcow2")).unwrap();
    assert_eq!(
        (info.backing_file.as_deref(), info.backing_format.as_deref()),
        (Some("base.raw"), Some("raw"))
    );
    assert_eq!(info.backing.unwrap().size, SIZE);
    write_randomly(&mut folder.writable("top.qcow2"), &mut model, 14, 50);
    assert_same(&folder.as_qemu_reads("top.qcow2", "qcow2"), &model, "the top");
}

/// A path from where the test runs.
fn relative(path: &std::path::Path) -> std::path::PathBuf {
    let here = std::env::current_dir().unwrap();
    let up: std::path::PathBuf = here.components().skip(1).map(|_| "..").collect();
    up.join(path.strip_prefix("/").unwrap())
}

#[test]
fn what_is_committed_is_in_the_backing_file_and_the_top_is_empty() {
    for (format, name) in [("raw", "base.raw"), ("qcow2", "base.qcow2")] {
        let folder = Folder::new();
        let mut model = folder.raw("start.raw", SIZE / 2, 15);
        img(&["convert", "-f", "raw", "-O", format, "start.raw", name], folder.path());
        img(&["create", "-f", "qcow2", "-b", name, "-F", format, "top.qcow2", "8M"], folder.path());
        model.resize(SIZE as usize, 0);
        write_randomly(&mut folder.writable("top.qcow2"), &mut model, 16, 80);
        let committed =
            tool::commit(&existing(&folder, "top.qcow2"), Committing::default(), &mut silent()).unwrap();
        assert!(committed.is_emptied);
        assert_same(&folder.as_qemu_reads(name, format), &model, name);
        assert_same(&folder.as_read_here("top.qcow2"), &model, "the top");
        check(&folder, "top.qcow2", Format::Qcow2);
        let checked = tool::check(&existing(&folder, "top.qcow2"), false, &mut silent()).unwrap();
        assert_eq!(checked.data, 0);
    }
}

#[test]
fn disks_grow_and_shrink() {
    for options in ["cluster_size=64k", "cluster_size=512", "compat=0.10,cluster_size=4k"] {
        let folder = Folder::new();
        img(&["create", "-f", "qcow2", "-o", options, "disk.qcow2", "1M"], folder.path());
        let mut model = vec![0; 1 << 20];
        let image = existing(&folder, "disk.qcow2");
        for (turn, size) in [2 << 20, 5 << 20, 6 << 20, (3 << 20) + 512, 8 << 20].into_iter().enumerate() {
            write_randomly(&mut folder.writable("disk.qcow2"), &mut model, 17 + turn as u64, 40);
            if size < model.len() as u64 {
                let error = tool::resize(&image, size, false).unwrap_err().to_string();
                assert!(error.contains("--shrink"), "{error}");
            }
            assert_eq!(tool::resize(&image, size, true).unwrap(), model.len() as u64);
            model.resize(usize::try_from(size).unwrap(), 0);
            check(&folder, "disk.qcow2", Format::Qcow2);
            assert_same(&folder.as_qemu_reads("disk.qcow2", "qcow2"), &model, options);
        }
    }
}

#[test]
fn what_grows_does_not_show_what_lies_below() {
    let folder = Folder::new();
    let base = folder.raw("base.raw", SIZE, 18);
    img(&["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2", "3M"], folder.path());
    tool::resize(&existing(&folder, "top.qcow2"), SIZE, false).unwrap();
    let mut expected = base[..3 << 20].to_vec();
    expected.resize(SIZE as usize, 0);
    assert_same(&folder.as_read_here("top.qcow2"), &expected, "here");
    assert_same(&folder.as_qemu_reads("top.qcow2", "qcow2"), &expected, "by QEMU");
}

#[test]
fn leaks_and_wrong_counts_are_found_and_mended() {
    let folder = Folder::new();
    let mut model = vec![0; SIZE as usize];
    img(&["create", "-f", "qcow2", "-o", "cluster_size=4k", "disk.qcow2", "8M"], folder.path());
    write_randomly(&mut folder.writable("disk.qcow2"), &mut model, 19, 100);
    let image = existing(&folder, "disk.qcow2");
    // The first block of counts is the third cluster: its entries have two bytes.
    let mut bytes = std::fs::read(folder.file("disk.qcow2")).unwrap();
    let block = u64::from_be_bytes(bytes[4096..4104].try_into().unwrap()) as usize;
    bytes[block + 40..block + 42].copy_from_slice(&[0, 0]);
    bytes[block + 60..block + 62].copy_from_slice(&[0, 9]);
    std::fs::write(folder.file("disk.qcow2"), &bytes).unwrap();
    let found = tool::check(&image, false, &mut silent()).unwrap();
    assert_eq!((found.damages, found.leaked), (1, 1), "{found:?}");
    let mended = tool::check(&image, true, &mut silent()).unwrap();
    assert_eq!((mended.damages, mended.leaked, mended.mended), (0, 0, 2));
    check(&folder, "disk.qcow2", Format::Qcow2);
    assert_same(&folder.as_qemu_reads("disk.qcow2", "qcow2"), &model, "the disk");
}

#[test]
fn info_tells_of_what_is_in_use_and_of_what_is_missing() {
    let folder = Folder::new();
    folder.raw("base.raw", 1 << 20, 20);
    img(&["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"], folder.path());
    img(&["snapshot", "-c", "before", "top.qcow2"], folder.path());
    let client = folder.writable("top.qcow2");
    let info = tool::info(&existing(&folder, "top.qcow2")).unwrap();
    assert_eq!(info.snapshots[0].name, "before");
    drop(client);
    std::fs::remove_file(folder.file("base.raw")).unwrap();
    let info = tool::info(&existing(&folder, "top.qcow2")).unwrap();
    assert!(info.backing_problem.unwrap().contains("does not exist"));
    let error = tern_disk::open(&DiskOptions::new(folder.file("top.qcow2"))).unwrap_err().to_string();
    let expected = format!(
        "Cannot open disk image '{0}': its backing file '{1}' does not exist. Put it back, or tell where it is: '{0},backing=PATH'",
        folder.file("top.qcow2").display(),
        folder.file("base.raw").display()
    );
    assert_eq!(error, expected);
}

#[test]
fn a_backing_file_is_found_where_the_user_says() {
    let folder = Folder::new();
    let bytes = folder.raw("base.raw", 1 << 20, 21);
    img(&["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"], folder.path());
    std::fs::create_dir(folder.file("elsewhere")).unwrap();
    std::fs::rename(folder.file("base.raw"), folder.file("elsewhere/b")).unwrap();
    let mut options = DiskOptions::new(folder.file("top.qcow2"));
    options.backing = Some(folder.file("elsewhere/b"));
    assert_same(&read_all(&mut Client::open(&options)), &bytes, "the disk");
}

#[test]
fn an_image_cannot_name_any_file_as_its_raw_backing_file() {
    let folder = Folder::new();
    let secret = Folder::new();
    std::fs::write(secret.file("secret"), contents(8192, 22)).unwrap();
    std::fs::write(folder.file("notes.txt"), "not a whole sector").unwrap();
    let path = secret.file("secret").display().to_string();
    for backing in [path.as_str(), "notes.txt"] {
        img(&["create", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", "top.qcow2", "1M"], folder.path());
        let error = tern_disk::open(&DiskOptions::new(folder.file("top.qcow2"))).unwrap_err().to_string();
        assert!(error.contains("could be any file of yours"), "{error}");
    }
    // An image that shows that it is one may be anywhere.
    img(&["convert", "-f", "raw", "-O", "qcow2", &path, "elsewhere.qcow2"], secret.path());
    let path = secret.file("elsewhere.qcow2").display().to_string();
    img(&["create", "-f", "qcow2", "-u", "-b", &path, "-F", "qcow2", "top.qcow2", "8k"], folder.path());
    assert_same(&folder.as_read_here("top.qcow2"), &contents(8192, 22), "the disk");
}

#[test]
fn a_chain_that_comes_back_to_itself_has_no_end() {
    let folder = Folder::new();
    img(&["create", "-f", "qcow2", "a.qcow2", "1M"], folder.path());
    img(&["create", "-f", "qcow2", "-u", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2", "1M"], folder.path());
    img(&["create", "-f", "qcow2", "-u", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2", "1M"], folder.path());
    let mut options = DiskOptions::new(folder.file("a.qcow2"));
    options.is_read_only = true;
    let error = tern_disk::open(&options).unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text += &format!(" because {cause}");
        source = cause.source();
    }
    assert!(text.contains("has no end"), "{text}");
}

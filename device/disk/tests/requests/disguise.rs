//! Guests that write another format's beginning into their disk, to be given other files of the host at the next start.

use std::path::Path;

use tern_disk::tool::{self, Committing, Existing, NewBacking, NewImage, Subformat};
use tern_disk::{DiskOptions, Format};

use crate::client::Client;

const SIZE: u64 = 1 << 20;

/// What a guest wants to read.
const SECRET: [u8; 4096] = [0x55; 4096];

/// A fixed VHD in a folder with a file that is no business of its guest's.
fn fixed_vhd(folder: &Path) -> DiskOptions {
    std::fs::write(folder.join("other.raw"), SECRET).unwrap();
    let path = folder.join("disk.vhd");
    let mut new = NewImage::new(&path, Format::Vhd, Some(SIZE));
    new.subformat = Subformat::Fixed;
    tool::create(&new).unwrap();
    DiskOptions::new(path)
}

/// The first bytes of disks that consist of the other file, or stand on it.
fn disguises(folder: &Path) -> Vec<Vec<u8>> {
    let mut descriptor = b"# Disk DescriptorFile\nversion=1\nCID=0123abcd\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\nRW 8 FLAT \"other.raw\" 0\n"
        .to_vec();
    descriptor.resize(4096, 0);
    let top = folder.join("top.qcow2");
    let mut new = NewImage::new(&top, Format::Qcow2, None);
    new.backing = Some(NewBacking { path: folder.join("other.raw"), format: None });
    tool::create(&new).unwrap();
    let mut qcow2 = std::fs::read(&top).unwrap();
    qcow2.resize(qcow2.len().next_multiple_of(512), 0);
    vec![descriptor, qcow2]
}

#[test]
fn a_fixed_vhd_stays_one_whatever_its_guest_writes() {
    let folder = tempfile::tempdir().unwrap();
    let options = fixed_vhd(folder.path());
    for disguise in disguises(folder.path()) {
        let mut client = Client::open(&options);
        assert!(client.write(0, &disguise, 4096).is_err(), "its beginning decides what it is");
        client.write(512, &disguise, 4096).unwrap();
        client.write(0, &[7; 4096], 512).unwrap();
        client.flush().unwrap();
        drop(client);
        let mut client = Client::open(&options);
        assert_eq!(client.disk.size(), SIZE);
        assert_eq!(client.read(0, 4096, 512).unwrap(), [7; 4096]);
    }
}

#[test]
fn a_fixed_vhd_that_was_written_elsewhere_shows_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = fixed_vhd(folder.path());
    for disguise in disguises(folder.path()) {
        // Whoever names the format is not kept from anything.
        options.format = Some(Format::Vhd);
        Client::open(&options).write(0, &disguise, 4096).unwrap();
        options.format = None;
        let error = tern_disk::open(&options).map(|disk| disk.size()).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(source.contains("format=vhd"), "{error}: {source}");
        options.format = Some(Format::Vhd);
        assert_eq!(Client::open(&options).disk.size(), SIZE);
    }
}

#[test]
fn a_backing_file_of_no_named_format_shows_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("other.raw"), SECRET).unwrap();
    let (base, top) = (folder.path().join("base.raw"), folder.path().join("disk.qcow2"));
    std::fs::write(&base, [7; 4096]).unwrap();
    let mut new = NewImage::new(&top, Format::Qcow2, None);
    new.backing = Some(NewBacking { path: base.clone(), format: None });
    tool::create(&new).unwrap();
    // The extension of the header that names the format becomes one that nobody knows.
    let mut bytes = std::fs::read(&top).unwrap();
    let extension = [0xe2, 0x79, 0x2a, 0xca];
    let place = bytes.windows(4).position(|word| word == extension).unwrap();
    bytes[place..place + 4].fill(0x11);
    std::fs::write(&top, bytes).unwrap();
    let options = DiskOptions::new(&top);
    assert_eq!(Client::open(&options).read(0, 4096, 4096).unwrap(), [7; 4096]);
    // Once it was a raw disk, whose guest wrote this.
    for disguise in disguises(folder.path()) {
        std::fs::write(&base, disguise).unwrap();
        let error = tern_disk::open(&options).map(|disk| disk.size()).unwrap_err().to_string();
        assert!(error.contains("could be a guest's doing"), "{error}");
    }
}

#[test]
fn an_overlay_that_names_the_format_of_its_base_does_not_mind_what_that_looks_like() {
    let folder = tempfile::tempdir().unwrap();
    let mut base = fixed_vhd(folder.path());
    base.format = Some(Format::Vhd);
    let top = folder.path().join("overlay.qcow2");
    let mut new = NewImage::new(&top, Format::Qcow2, None);
    new.backing = Some(NewBacking { path: base.path.clone(), format: base.format });
    tool::create(&new).unwrap();
    for disguise in disguises(folder.path()) {
        Client::open(&base).write(0, &disguise, 4096).unwrap();
        let mut client = Client::open(&DiskOptions::new(&top));
        assert_eq!(client.read(0, disguise.len(), 4096).unwrap(), disguise);
    }
}

/// An overlay over `base`, whose format it names, with this in its first bytes.
fn overlay(folder: &Path, base: &DiskOptions, disguise: &[u8]) -> Existing {
    let path = folder.join("overlay.qcow2");
    let mut new = NewImage::new(&path, Format::Qcow2, None);
    new.backing = Some(NewBacking { path: base.path.clone(), format: base.format });
    new.is_replacing = true;
    tool::create(&new).unwrap();
    let mut client = Client::open(&DiskOptions::new(&path));
    client.write(0, disguise, 4096).unwrap();
    client.flush().unwrap();
    Existing::new(path)
}

/// A raw disk and fixed VHDs, one of which does not show by its name what it is.
fn bases(folder: &Path) -> Vec<DiskOptions> {
    let vhd = fixed_vhd(folder);
    let (raw, unnamed) = (folder.join("base.raw"), folder.join("base.disk"));
    std::fs::write(&raw, vec![0; SIZE as usize]).unwrap();
    std::fs::copy(&vhd.path, &unnamed).unwrap();
    [(raw, Format::Raw), (vhd.path, Format::Vhd), (unnamed, Format::Vhd)]
        .map(|(path, format)| {
            let mut options = DiskOptions::new(path);
            options.format = Some(format);
            options
        })
        .into()
}

#[test]
fn what_a_guest_wrote_to_an_overlay_is_not_committed_if_its_base_would_look_like_another_format() {
    let folder = tempfile::tempdir().unwrap();
    let bases = bases(folder.path());
    let disguises = disguises(folder.path());
    for base in bases {
        let format = base.format.unwrap();
        for disguise in &disguises {
            let before = std::fs::read(&base.path).unwrap();
            let top = overlay(folder.path(), &base, disguise);
            let error = tool::commit(&top, Committing::default(), &mut |_, _| {}).unwrap_err().to_string();
            assert!(error.contains(&format!("--backing-format {format}")), "{error}");
            assert!(std::fs::read(&base.path).unwrap() == before, "{format}: something was written");
            // What was not committed is still there.
            let mut client = Client::open(&DiskOptions::new(&top.path));
            assert_eq!(client.read(0, disguise.len(), 4096).unwrap(), *disguise);
        }
    }
}

#[test]
fn whoever_names_the_format_of_the_base_commits_anything() {
    let folder = tempfile::tempdir().unwrap();
    let bases = bases(folder.path());
    let disguises = disguises(folder.path());
    for base in bases {
        for disguise in &disguises {
            let top = overlay(folder.path(), &base, disguise);
            let mut how = Committing { backing_format: Some(Format::Qcow2), ..Committing::default() };
            let error = tool::commit(&top, how, &mut |_, _| {}).unwrap_err().to_string();
            assert!(error.contains("and not qcow2"), "{error}");
            how.backing_format = base.format;
            tool::commit(&top, how, &mut |_, _| {}).unwrap();
            assert_eq!(Client::open(&base).read(0, disguise.len(), 4096).unwrap(), *disguise);
        }
    }
}

#[test]
fn what_looks_like_another_format_is_converted_to_raw_only_if_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let base = bases(folder.path()).remove(0);
    for disguise in disguises(folder.path()) {
        let top = overlay(folder.path(), &base, &disguise);
        for (format, subformat) in [
            (Format::Raw, Subformat::Usual),
            (Format::Vhd, Subformat::Fixed),
            (Format::Vhd, Subformat::Usual),
            (Format::Qcow2, Subformat::Compressed),
        ] {
            let begins_with_disk = format == Format::Raw || subformat == Subformat::Fixed;
            let mut new = NewImage::new(folder.path().join("new"), format, None);
            (new.subformat, new.is_replacing) = (subformat, true);
            if begins_with_disk {
                let error = tool::convert(&top, &new, &mut |_, _| {}).unwrap_err().to_string();
                assert!(error.contains(&format!("--format {format}")), "{error}");
                assert!(!new.path.exists());
                new.may_look_different = true;
            }
            tool::convert(&top, &new, &mut |_, _| {}).unwrap();
            let mut options = DiskOptions::new(&new.path);
            options.format = Some(format);
            assert_eq!(Client::open(&options).read(0, disguise.len(), 4096).unwrap(), disguise);
            std::fs::remove_file(&new.path).unwrap();
        }
    }
}

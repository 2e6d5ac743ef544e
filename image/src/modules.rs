//! Modules of Linux in an initramfs, with the two tables by which busybox's modprobe finds them: `modules.dep` and
//! `modules.alias`.
//!
//! What a module needs and what it is called by stands in itself, in the section `.modinfo` of its ELF file: `NAME=VALUE`,
//! ended by zero bytes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;

use crate::Error;
use crate::cpio::Archive;

/// What the names of compressed modules end in. A guest's busybox does not unpack them.
const PACKED: &str = ".ko.xz";
/// What the names of modules end in.
const UNPACKED: &str = ".ko";

/// A module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file's name, without the ending.
    name: String,
    contents: Vec<u8>,
    /// The names of the modules that it needs.
    needs: Vec<String>,
    /// What it is called by, beside its name.
    aliases: Vec<String>,
}

/// The name of a module's file without its ending; `None` if it is no module.
pub(crate) fn name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(PACKED).or_else(|| name.strip_suffix(UNPACKED))
}

/// Unpacks all compressed modules in `directory`.
///
/// # Errors
/// If one is damaged, or cannot be written.
pub(crate) fn unpack(directory: &Path) -> Result<(), Error> {
    let listing = fs::read_dir(directory).map_err(Error::io("read directory", directory))?;
    for item in listing {
        let path = item.map_err(Error::io("read directory", directory))?.path();
        let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(PACKED)) else {
            continue;
        };
        let target = directory.join(format!("{stem}{UNPACKED}"));
        let packed = File::open(&path).map_err(Error::io("open", &path))?;
        let mut unpacked = File::create(&target).map_err(Error::io("create", &target))?;
        io::copy(&mut XzReader::new(packed, false), &mut unpacked).map_err(Error::io("unpack", &path))?;
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Reads modules.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Module>, Error> {
    let module = |path: &PathBuf| {
        let contents = fs::read(path).map_err(Error::io("read", path))?;
        Ok(Module::new(name(path).unwrap_or_default(), contents))
    };
    files.iter().map(module).collect()
}

/// Puts modules where modprobe looks for those of the kernel `release`.
pub(crate) fn pack(archive: &mut Archive, release: &str, modules: &[Module]) {
    let directory = format!("lib/modules/{release}");
    for directory in ["lib", "lib/modules", &directory] {
        archive.directory(directory);
    }
    for module in modules {
        archive.file(&format!("{directory}/{}{UNPACKED}", module.name), 0o644, &module.contents);
    }
    archive.file(&format!("{directory}/modules.dep"), 0o644, dependencies(modules).as_bytes());
    archive.file(&format!("{directory}/modules.alias"), 0o644, aliases(modules).as_bytes());
}

/// Names are the same to Linux with a hyphen or an underscore.
fn is_named(module: &Module, name: &str) -> bool {
    module.name.replace('-', "_") == name.replace('-', "_")
}

/// `modules.dep`: each module's file, and all that must be loaded before it, what is needed first last.
fn dependencies(modules: &[Module]) -> String {
    let mut text = String::new();
    for module in modules {
        let mut needed: Vec<&Module> = Vec::new();
        let mut left: Vec<&str> = module.needs.iter().map(String::as_str).collect();
        // Breadth first; what is needed again further down moves there. What is not among them is built in.
        let mut steps = 0;
        while let Some(name) = (!left.is_empty()).then(|| left.remove(0)) {
            // Dependencies have no circles, but files may say so.
            steps += 1;
            if steps > modules.len() * modules.len() {
                break;
            }
            if let Some(other) = modules.iter().find(|other| is_named(other, name)) {
                needed.retain(|known| known.name != other.name);
                needed.push(other);
                left.extend(other.needs.iter().map(String::as_str));
            }
        }
        text.push_str(&format!("{}{UNPACKED}:", module.name));
        for other in needed {
            text.push_str(&format!(" {}{UNPACKED}", other.name));
        }
        text.push('\n');
    }
    text
}

/// `modules.alias`: names and patterns, each with its module.
fn aliases(modules: &[Module]) -> String {
    let line = |module: &Module, alias: &String| format!("alias {alias} {}\n", module.name.replace('-', "_"));
    modules.iter().flat_map(|module| module.aliases.iter().map(|alias| line(module, alias))).collect()
}

impl Module {
    fn new(name: &str, contents: Vec<u8>) -> Self {
        let information = section(&contents, b".modinfo").unwrap_or_default();
        let entries: Vec<_> =
            information.split(|byte| *byte == 0).filter_map(|text| str::from_utf8(text).ok()).collect();
        let values = |key: &'static str| entries.iter().filter_map(move |entry| entry.strip_prefix(key));
        let needs = values("depends=").flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
        let needs = needs.map(str::to_owned).collect();
        let aliases = values("alias=").map(str::to_owned).collect();
        Self { name: name.to_owned(), needs, aliases, contents }
    }
}

/// A section of a 64-bit ELF file.
fn section<'a>(file: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let word = |at: usize| Some(usize::from(u16::from_le_bytes(file.get(at..)?.first_chunk().copied()?)));
    let long = |at: usize| usize::try_from(u64::from_le_bytes(file.get(at..)?.first_chunk().copied()?)).ok();
    let (table, size, count, names) = (long(0x28)?, word(0x3a)?, word(0x3c)?, word(0x3e)?);
    let header = |index: usize| table.checked_add(index.checked_mul(size)?);
    let contents = |header: usize| {
        let (start, length) = (long(header.checked_add(0x18)?)?, long(header.checked_add(0x20)?)?);
        file.get(start..start.checked_add(length)?)
    };
    let names = contents(header(names)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let at = usize::try_from(u32::from_le_bytes(file.get(header..)?.first_chunk().copied()?)).ok()?;
        let found = names.get(at..)?.split(|byte| *byte == 0).next()?;
        (found == name).then(|| contents(header))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with nothing but these entries of `.modinfo`.
    fn file(entries: &[&str]) -> Vec<u8> {
        let information: Vec<u8> =
            entries.iter().flat_map(|entry| [entry.as_bytes(), &[0]].concat()).collect();
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut file = vec![0; 64];
        let headers = 64 + names.len() + information.len();
        file[0x28..0x30].copy_from_slice(&(headers as u64).to_le_bytes());
        file[0x3a..0x40].copy_from_slice(&[64, 0, 2, 0, 0, 0]);
        file.extend(names);
        file.extend(&information);
        for (name, start, length) in [(1_u32, 64, names.len()), (11, 64 + names.len(), information.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend(header);
        }
        file
    }

    fn modules() -> Vec<Module> {
        vec![
            Module::new("ring", file(&["depends=", "alias=ring"])),
            Module::new("pci-bus", file(&["alias=pci:v1*", "depends=ring,core"])),
            Module::new("core", file(&["depends=ring,built_in"])),
            Module::new("disk", file(&["license=GPL", "depends=core,pci_bus"])),
        ]
    }

    #[test]
    fn what_is_needed_first_stands_last() {
        let expected = "ring.ko:\npci-bus.ko: core.ko ring.ko\ncore.ko: ring.ko\n\
            disk.ko: pci-bus.ko core.ko ring.ko\n";
        assert_eq!(dependencies(&modules()), expected);
    }

    #[test]
    fn aliases_lead_to_modules() {
        assert_eq!(aliases(&modules()), "alias ring ring\nalias pci:v1* pci_bus\n");
    }

    #[test]
    fn files_that_are_no_modules_say_nothing() {
        let good = file(&["depends=a"]);
        for length in 0..good.len() {
            let _ = Module::new("cut", good[..length].to_vec());
        }
        let mut wild = good;
        for place in 0x28..0x40 {
            wild[place] = 0xff;
            let _ = Module::new("wild", wild.clone());
        }
        let circle = [Module::new("a", file(&["depends=b"])), Module::new("b", file(&["depends=a"]))];
        assert!(dependencies(&circle).starts_with("a.ko:"));
    }

    #[test]
    fn modules_are_known_packed_and_unpacked() {
        let name = |path: &'static str| name(Path::new(path));
        assert_eq!([name("a/virtio.ko"), name("virtio.ko.xz")], [Some("virtio"); 2]);
        assert_eq!(name("vmlinuz"), None);
    }
}

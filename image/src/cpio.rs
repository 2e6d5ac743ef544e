//! Writes cpio archives in the "newc" format, the one that Linux unpacks as its initramfs.
//!
//! The format is the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: per entry
//! a header of 6 + 13 × 8 ASCII characters, the name with its NUL, and the content, name and content
//! each padded to 4 bytes; the archive ends with an entry named `TRAILER!!!`.
//!
//! The same entries always give the same bytes: owner and time are 0, inodes count up from 1.

/// The file types of a mode, as in `stat(2)`.
mod kind {
    pub const CHARACTER: u32 = 0o020_000;
    pub const DIRECTORY: u32 = 0o040_000;
    pub const REGULAR: u32 = 0o100_000;
    pub const SYMLINK: u32 = 0o120_000;
}

/// An archive in the making. Parents must be added before what is in them.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a directory that everybody may read.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, kind::DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file with permissions such as `0o644`.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, kind::REGULAR | permissions, (0, 0), content);
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, name: &str, target: &str) {
        self.entry(name, kind::SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device that only root may use.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, kind::CHARACTER | 0o600, (major, minor), &[]);
    }

    /// Ends the archive and hands it out.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.header("TRAILER!!!", [0, 0, 1], (0, 0), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let links = if mode & kind::DIRECTORY != 0 { 2 } else { 1 };
        let size = u32::try_from(content.len()).expect("the format's files are below 4 GiB");
        self.header(name, [self.inode, mode, links], device, size);
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn header(&mut self, name: &str, inode_mode_links: [u32; 3], device: (u32, u32), size: u32) {
        let [inode, mode, links] = inode_mode_links;
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        let (uid, gid, mtime, device_of_file, check) = (0, 0, 0, (0, 0), 0);
        self.bytes.extend_from_slice(b"070701");
        for field in [
            inode,
            mode,
            uid,
            gid,
            links,
            mtime,
            size,
            device_of_file.0,
            device_of_file.1,
            device.0,
            device.1,
            name_size,
            check,
        ] {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry as a reader of the format sees it.
    #[derive(Debug, PartialEq)]
    struct Seen {
        name: String,
        fields: Vec<u32>,
        content: Vec<u8>,
    }

    fn read(bytes: &[u8]) -> Vec<Seen> {
        let mut at = 0;
        let mut seen = Vec::new();
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let fields: Vec<u32> = (0..13)
                .map(|i| {
                    let digits = &bytes[at + 6 + 8 * i..at + 14 + 8 * i];
                    u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
                })
                .collect();
            let (size, name_size) = (fields[6] as usize, fields[11] as usize);
            let name = bytes[at + 110..at + 110 + name_size - 1].to_vec();
            assert_eq!(bytes[at + 110 + name_size - 1], 0);
            let data = (at + 110 + name_size).next_multiple_of(4);
            seen.push(Seen {
                name: String::from_utf8(name).unwrap(),
                fields,
                content: bytes[data..data + size].to_vec(),
            });
            at = (data + size).next_multiple_of(4);
        }
        assert_eq!(at, bytes.len());
        seen
    }

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.character_device("dev/console", 5, 1);
        archive.file("init", 0o755, b"#!/bin/sh\n");
        archive.symlink("bin", "usr/bin");
        archive.finish()
    }

    #[test]
    fn entries_come_back_in_order_with_name_and_content() {
        let seen = read(&sample());
        let names: Vec<_> = seen.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["dev", "dev/console", "init", "bin", "TRAILER!!!"]);
        assert_eq!(seen[2].content, b"#!/bin/sh\n");
        assert_eq!(seen[3].content, b"usr/bin");
    }

    #[test]
    fn modes_and_device_numbers_are_in_their_fields() {
        let seen = read(&sample());
        let modes: Vec<_> = seen.iter().map(|entry| entry.fields[1]).collect();
        assert_eq!(modes, [0o040_755, 0o020_600, 0o100_755, 0o120_777, 0]);
        assert_eq!(seen[1].fields[9..11], [5, 1]);
    }

    #[test]
    fn owner_and_time_are_zero_and_inodes_differ() {
        let seen = read(&sample());
        for (index, entry) in seen[..4].iter().enumerate() {
            assert_eq!(entry.fields[0] as usize, index + 1);
            assert_eq!((entry.fields[2], entry.fields[3], entry.fields[5]), (0, 0, 0));
        }
    }

    #[test]
    fn headers_start_at_multiples_of_four() {
        for length in 0..8 {
            let mut archive = Archive::default();
            archive.file("odd", 0o644, &vec![b'x'; length]);
            archive.file(&"n".repeat(length + 1), 0o644, b"");
            let seen = read(&archive.finish());
            assert_eq!(seen.len(), 3);
            assert_eq!(seen[0].content.len(), length);
        }
    }
}

//! Files read on the spot, where that cannot wait for a disk: what the operating system has in memory costs less to read than to hand to
//! another thread. `openat2` looks only at names that it has cached (`RESOLVE_CACHED`, Linux 5.12), and `preadv2` only at pages that it has
//! (`RWF_NOWAIT`); anything else, and a system or file system without them, is a `None`, and the file is to be read where it may block.

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Most records are shorter.
const FIRST_BYTES: usize = 4096;
/// Longer files are read elsewhere, so that this stays short.
const BYTES_MAXIMUM: usize = 64 * 1024;

/// The whole file.
pub(super) fn whole(path: &Path) -> Option<Vec<u8>> {
    let file = open(path)?;
    let mut first = [0; FIRST_BYTES];
    let mut filled = 0;
    while filled < FIRST_BYTES {
        match read(&file, &mut first[filled..], filled)? {
            0 => return Some(first[..filled].to_vec()),
            read => filled += read,
        }
    }
    let mut bytes = vec![0; 2 * FIRST_BYTES];
    bytes[..FIRST_BYTES].copy_from_slice(&first);
    loop {
        match read(&file, &mut bytes[filled..], filled)? {
            0 => break,
            read => filled += read,
        }
        if filled == bytes.len() {
            if filled >= BYTES_MAXIMUM {
                return None;
            }
            bytes.resize(2 * filled, 0);
        }
    }
    bytes.truncate(filled);
    bytes.shrink_to_fit();
    Some(bytes)
}

/// The first bytes of the file, fewer only where it ends.
pub(super) fn head<const N: usize>(path: &Path) -> Option<([u8; N], usize)> {
    let file = open(path)?;
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match read(&file, &mut bytes[filled..], filled)? {
            0 => break,
            read => filled += read,
        }
    }
    Some((bytes, filled))
}

fn open(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()
}

fn read(file: &OwnedFd, buffer: &mut [u8], offset: usize) -> Option<usize> {
    loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match preadv2(file, &mut slices, offset as u64, ReadWriteFlags::NOWAIT) {
            Err(Errno::INTR) => {}
            result => return result.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A temporary directory may be on a file system that cannot say what it has: then there is nothing to compare.
    fn is_supported(directory: &Path) -> bool {
        let path = directory.join("probe");
        std::fs::write(&path, b"probe").expect("written");
        whole(&path).is_some()
    }

    #[test]
    fn a_file_is_read_as_it_is_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let is_supported = is_supported(directory.path());
        for length in [0, 1, FIRST_BYTES - 1, FIRST_BYTES, FIRST_BYTES + 1, 60_000] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let path = directory.path().join(length.to_string());
            std::fs::write(&path, &content).expect("written");
            let Some(read) = whole(&path) else {
                assert!(!is_supported, "{length} bytes that were just written");
                continue;
            };
            assert_eq!(read, content);
            let (head, filled) = head::<50>(&path).expect("what is whole has a head");
            assert_eq!(head[..filled], content[..length.min(50)]);
        }
    }

    #[test]
    fn a_long_file_and_a_missing_one_are_left_to_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("long");
        std::fs::write(&path, vec![1; 2 * BYTES_MAXIMUM]).expect("written");
        assert_eq!(whole(&path), None);
        assert_eq!(whole(&directory.path().join("missing")), None);
    }
}

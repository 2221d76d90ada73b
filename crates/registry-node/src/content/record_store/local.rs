//! Records as files of a local directory, shared by any number of processes of one host.
//!
//! A record is written to a file of its own, synced, and put in its place by a hard link (create) or a rename (replace), so a
//! reader sees all of it or nothing. Replace and remove compare the operation id under `flock` on one of 256 lock files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use time::OffsetDateTime;

use super::cached_read;
use super::{
    Durability, ListedRecord, OPERATION_HEAD_BYTES, ReadError, RecordStore, StoredRecord, Version,
    WriteError, operation_id,
};
use crate::content::sources::Sources;
use crate::limits::TOUCH_INTERVAL;

/// Directory of lock files below the root.
const LOCKS: &str = "_locks";
/// Directory of files being written below the root.
const STAGED: &str = "_staged";
/// Number of lock files: enough that two processes rarely wait for each other over different records.
const LOCK_FILES: u64 = 256;
/// A staged file older than this belongs to a process that died.
const STAGED_AGE_MAXIMUM_SECONDS: i64 = 24 * 60 * 60;
/// A directory's sorted names may be remembered once its modification time is this old: time stamps are coarse.
const NAMES_SETTLED_AFTER_SECONDS: i64 = 1;
/// Memory for remembered names.
const NAMES_REMEMBERED_BYTES: u64 = 8 * 1024 * 1024;
/// Directories remembered as synced into their parents.
const DIRECTORIES_REMEMBERED: u64 = 20_000;
/// For how long: less than a deleted registry keeps its directories, which another process may make again after they were removed.
const DIRECTORY_REMEMBERED_FOR: Duration = TOUCH_INTERVAL;
/// How often a directory is made that a pass of collection removes because it has no entry yet.
const DIRECTORY_ATTEMPTS: usize = 16;

/// The names of one directory, sorted as keys sort: a directory counts with its trailing slash.
struct Names {
    modified: (i64, i64),
    sorted: Vec<Box<str>>,
}

/// A record store in a directory.
#[derive(Clone)]
pub struct LocalRecords {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    sources: Sources,
    names: moka::sync::Cache<String, Arc<Names>>,
    /// Directories this process knows to be entered durably in their parents: another process may have made one and
    /// not have synced it yet.
    synced_directories: moka::sync::Cache<PathBuf, ()>,
}

impl LocalRecords {
    /// Opens, and if need be makes, a store in `root`. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(root: &Path, sources: Sources) -> io::Result<Self> {
        fs::create_dir_all(root.join(LOCKS))?;
        fs::create_dir_all(root.join(STAGED))?;
        File::open(root)?.sync_all()?;
        let inner = Inner {
            root: root.to_owned(),
            sources,
            names: moka::sync::Cache::builder()
                .max_capacity(NAMES_REMEMBERED_BYTES)
                .weigher(|_, names: &Arc<Names>| {
                    let bytes: usize = names.sorted.iter().map(|name| name.len() + 16).sum();
                    u32::try_from(bytes).unwrap_or(u32::MAX)
                })
                .build(),
            synced_directories: moka::sync::Cache::builder()
                .max_capacity(DIRECTORIES_REMEMBERED)
                .time_to_live(DIRECTORY_REMEMBERED_FOR)
                .build(),
        };
        inner.remove_abandoned_files()?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Runs file-system work where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

#[async_trait]
impl RecordStore for LocalRecords {
    async fn get(&self, key: &str) -> Result<Option<StoredRecord>, ReadError> {
        if let Some(bytes) = cached_read::whole(&self.inner.path(key)) {
            return Ok(Some(stored_record(bytes)));
        }
        let owned_key = key.to_owned();
        self.blocking(move |inner| inner.get(&owned_key))
            .await
            .map_err(|error| read_error(key, error))
    }

    async fn version(&self, key: &str) -> Result<Option<Version>, ReadError> {
        let path = self.inner.path(key);
        if let Some((head, filled)) = cached_read::head::<OPERATION_HEAD_BYTES>(&path) {
            return Ok(Some(record_version(&head[..filled])));
        }
        let owned_key = key.to_owned();
        self.blocking(move |inner| version_at(&inner.path(&owned_key)))
            .await
            .map_err(|error| read_error(key, error))
    }

    async fn get_and_version(
        &self,
        key: &str,
        other: &str,
    ) -> Result<(Option<StoredRecord>, Option<Version>), ReadError> {
        let (owned_key, owned_other) = (key.to_owned(), other.to_owned());
        self.blocking(move |inner| {
            Ok((
                inner.get(&owned_key)?,
                version_at(&inner.path(&owned_other))?,
            ))
        })
        .await
        .map_err(|error| read_error(key, error))
    }

    async fn create(
        &self,
        key: &str,
        bytes: Bytes,
        durability: Durability,
    ) -> Result<Version, WriteError> {
        let owned_key = key.to_owned();
        let version = record_version(&bytes);
        self.blocking(move |inner| inner.create(&owned_key, &bytes, durability))
            .await
            .map(|()| version)
            .map_err(|error| write_error(key, error))
    }

    async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        version: &Version,
        durability: Durability,
    ) -> Result<Version, WriteError> {
        let owned_key = key.to_owned();
        let expected = version.clone();
        let written = record_version(&bytes);
        self.blocking(move |inner| inner.replace(&owned_key, &bytes, &expected, durability))
            .await
            .map(|()| written)
            .map_err(|error| write_error(key, error))
    }

    async fn remove(
        &self,
        key: &str,
        version: &Version,
        durability: Durability,
    ) -> Result<(), WriteError> {
        let owned_key = key.to_owned();
        let expected = version.clone();
        self.blocking(move |inner| inner.remove(&owned_key, &expected, durability))
            .await
            .map_err(|error| write_error(key, error))
    }

    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedRecord>, ReadError> {
        let owned_prefix = prefix.to_owned();
        let after = after.to_owned();
        self.blocking(move |inner| {
            let mut listed = Vec::new();
            inner.list(&owned_prefix, &after, limit, &mut listed)?;
            Ok(listed)
        })
        .await
        .map_err(|error| read_error(prefix, error))
    }
}

impl Inner {
    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn get(&self, key: &str) -> io::Result<Option<StoredRecord>> {
        Ok(absent_as_none(fs::read(self.path(key)))?.map(stored_record))
    }

    fn create(&self, key: &str, bytes: &[u8], durability: Durability) -> io::Result<()> {
        let path = self.path(key);
        let staged = self.stage(bytes, durability)?;
        Self::link(&staged.path, &path)?;
        self.sync_parent(&path, durability)
    }

    fn replace(
        &self,
        key: &str,
        bytes: &[u8],
        expected: &Version,
        durability: Durability,
    ) -> io::Result<()> {
        let path = self.path(key);
        let staged = self.stage(bytes, durability)?;
        let _lock = self.lock(key)?;
        if version_at(&path)?.as_ref() != Some(expected) {
            return Err(conflict());
        }
        fs::rename(&staged.path, &path)?;
        self.sync_parent(&path, durability)
    }

    fn remove(&self, key: &str, expected: &Version, durability: Durability) -> io::Result<()> {
        let path = self.path(key);
        let _lock = self.lock(key)?;
        if version_at(&path)?.as_ref() != Some(expected) {
            return Err(conflict());
        }
        fs::remove_file(&path)?;
        self.sync_parent(&path, durability)
    }

    /// Writes the bytes to a file of their own. The file goes when the returned guard does, unless it was renamed.
    fn stage(&self, bytes: &[u8], durability: Durability) -> io::Result<Staged> {
        let path = self
            .root
            .join(STAGED)
            .join((self.sources.random_id)().to_string());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let staged = Staged { path };
        file.write_all(bytes)?;
        if durability == Durability::OnReturn {
            file.sync_data()?;
        }
        Ok(staged)
    }

    /// Holds one of the lock files until the returned file is dropped.
    fn lock(&self, key: &str) -> io::Result<File> {
        let number = stable_hash(key) % LOCK_FILES;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.root.join(LOCKS).join(number.to_string()))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// Puts a file in its place where nothing is yet, making the directory first where it is missing.
    fn link(staged: &Path, path: &Path) -> io::Result<()> {
        for _ in 0..DIRECTORY_ATTEMPTS {
            match fs::hard_link(staged, path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                done => return done,
            }
            let Some(directory) = path.parent() else {
                continue;
            };
            match fs::create_dir_all(directory) {
                // One above it went meanwhile, or it went between being found and being looked at.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
                done => done?,
            }
        }
        fs::hard_link(staged, path)
    }

    /// Makes the directory's own entry, and those above it, durable.
    fn sync_directory_entries(&self, directory: &Path) -> io::Result<()> {
        let mut fresh = Vec::new();
        for ancestor in directory.ancestors() {
            if ancestor == self.root || self.synced_directories.contains_key(ancestor) {
                break;
            }
            fresh.push(ancestor);
        }
        for ancestor in fresh.into_iter().rev() {
            if let Some(parent) = ancestor.parent() {
                File::open(parent)?.sync_all()?;
            }
            self.synced_directories.insert(ancestor.to_owned(), ());
        }
        Ok(())
    }

    fn sync_parent(&self, path: &Path, durability: Durability) -> io::Result<()> {
        let (Durability::OnReturn, Some(directory)) = (durability, path.parent()) else {
            return Ok(());
        };
        let synced = self
            .sync_directory_entries(directory)
            .and_then(|()| File::open(directory)?.sync_all());
        // A directory that is gone had no entry any more.
        absent_as_none(synced).map(drop)
    }

    /// Appends to `listed` what lies below `prefix` and after `after`, up to `limit` entries in all.
    fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
        listed: &mut Vec<ListedRecord>,
    ) -> io::Result<()> {
        let names = self.sorted_names(prefix)?;
        let start = match after.strip_prefix(prefix) {
            Some(rest) => first_after(&names.sorted, rest),
            None if after < prefix => 0,
            None => return Ok(()),
        };
        for name in &names.sorted[start..] {
            if listed.len() >= limit {
                return Ok(());
            }
            let key = format!("{prefix}{name}");
            if key.ends_with('/') {
                self.list(&key, after, limit, listed)?;
            } else if let Some(metadata) = absent_as_none(fs::metadata(self.path(&key)))? {
                listed.push(ListedRecord {
                    key,
                    size_bytes: metadata.len(),
                    version: None,
                    modified: OffsetDateTime::from_unix_timestamp(metadata.mtime()).ok(),
                });
            }
        }
        Ok(())
    }

    /// The sorted names of a directory: remembered while its modification time is unchanged and was old enough, when the
    /// names were read, for a later change to show.
    fn sorted_names(&self, prefix: &str) -> io::Result<Arc<Names>> {
        let path = self.path(prefix);
        let Some(metadata) = absent_as_none(fs::metadata(&path))? else {
            return Ok(Arc::new(Names {
                modified: (0, 0),
                sorted: Vec::new(),
            }));
        };
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        if let Some(names) = self.names.get(prefix)
            && names.modified == modified
        {
            return Ok(names);
        }
        let settled =
            (self.sources.now)().unix_timestamp() - modified.0 > NAMES_SETTLED_AFTER_SECONDS;
        let sorted = absent_as_none(read_sorted_names(&path))?.unwrap_or_default();
        let names = Arc::new(Names { modified, sorted });
        if settled {
            self.names.insert(prefix.to_owned(), Arc::clone(&names));
        }
        Ok(names)
    }

    /// Removes what processes that died left half written.
    fn remove_abandoned_files(&self) -> io::Result<()> {
        let now = (self.sources.now)().unix_timestamp();
        for entry in fs::read_dir(self.root.join(STAGED))? {
            let entry = entry?;
            let Some(metadata) = absent_as_none(entry.metadata())? else {
                continue;
            };
            if now - metadata.mtime() > STAGED_AGE_MAXIMUM_SECONDS {
                absent_as_none(fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }
}

/// A file being written; removed when dropped, which does nothing once it was renamed.
struct Staged {
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; a file that cannot be removed goes at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

fn read_sorted_names(path: &Path) -> io::Result<Vec<Box<str>>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Keys are ASCII: a name that is not text was not written by a store.
        let Ok(mut name) = entry.file_name().into_string() else {
            continue;
        };
        if entry.file_type()?.is_dir() {
            name.push('/');
        }
        names.push(name.into_boxed_str());
    }
    names.sort_unstable();
    Ok(names)
}

/// Index of the first name with something after `rest`: a directory that `rest` points into counts.
fn first_after(sorted: &[Box<str>], rest: &str) -> usize {
    let start = sorted.partition_point(|name| **name <= *rest);
    match start.checked_sub(1) {
        Some(before) if sorted[before].ends_with('/') && rest.starts_with(&*sorted[before]) => {
            before
        }
        _ => start,
    }
}

/// FNV-1a: every process of the host, of whatever build, must pick the same lock file for a key.
fn stable_hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn version_at(path: &Path) -> io::Result<Option<Version>> {
    let Some(mut file) = absent_as_none(File::open(path))? else {
        return Ok(None);
    };
    let mut head = [0; OPERATION_HEAD_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(Some(record_version(&head[..filled])))
}

fn stored_record(bytes: Vec<u8>) -> StoredRecord {
    let version = record_version(&bytes);
    StoredRecord {
        bytes: Bytes::from(bytes),
        version,
    }
}

/// A record without an operation id is one damaged by a loss of power; it has a version too, so that it can be removed.
fn record_version(record: &[u8]) -> Version {
    Version::new(operation_id(record).unwrap_or("damaged"))
}

fn absent_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The error that stands for a comparison that failed, like the one of a hard link onto an existing name.
fn conflict() -> io::Error {
    ErrorKind::AlreadyExists.into()
}

fn read_error(key: &str, error: io::Error) -> ReadError {
    ReadError {
        key: key.to_owned(),
        source: Box::new(error),
    }
}

/// Any failure but a comparison's is final: after a failed sync a second look would find the record in place, and it might
/// still not be on the disk.
fn write_error(key: &str, error: io::Error) -> WriteError {
    match error.kind() {
        ErrorKind::AlreadyExists => WriteError::Conflict,
        _ => WriteError::Failed {
            key: key.to_owned(),
            source: Box::new(error),
        },
    }
}

//! The configuration on the node's own disk: what it serves from when no control plane answers.
//!
//! Every change is one transaction that also carries epoch, revision and checksum, so the copy is
//! always the state at some mark. A damaged copy is set aside, never repaired by guessing.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use config_documents::{Checksum, Epoch, Kind, Region, Revision, StoredDocument};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table,
    TableDefinition, WriteTransaction, backends::InMemoryBackend,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Index,
    copy_file::{CopyFile, without_panic},
};

const FILE: &str = "configuration.redb";
/// Key: region, kind and key, each ended by a zero byte; the bytes 0 and 1 in them are written as 1 and 1, 1 and 2. Value: revision (8 bytes), then the body.
const DOCUMENTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("documents");
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
const STATE_KEY: &str = "state";
/// The uids of registries whose deletion was applied and whose content is not marked yet.
const DELETED: TableDefinition<'_, u128, ()> = TableDefinition::new("deleted-registries");
/// Bytes of the file that are kept in memory. The index is in memory anyway; this only serves writing.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

/// How far the copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyState {
    /// The history that the revision belongs to.
    pub epoch: Epoch,
    /// Everything up to this revision is in the copy.
    pub revision: Revision,
    /// Over all documents in the copy.
    pub checksum: Checksum,
    /// The control plane's clock when it vouched for this state.
    #[serde(with = "time::serde::rfc3339")]
    pub as_of: OffsetDateTime,
}

/// Why the copy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Another process has it open.
    #[error("the configuration copy {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The disk does not do what it should.
    #[error("cannot read or write the configuration copy {}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the store said.
        #[source]
        source: Box<redb::Error>,
    },
    /// A damaged file could not be set aside.
    #[error("cannot set the damaged configuration copy {} aside", path.display())]
    SetAside {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// The copy, open for this process alone.
pub struct LocalCopy {
    path: PathBuf,
    file: CopyFile,
    /// What was written last and is certainly in the file. After an error a later one may be there.
    state: Option<CopyState>,
}

/// The registries whose deletion was applied and whose content is not marked yet: written with the deletion, so that a crash forgets none.
#[derive(Clone)]
pub struct DeletedRegistries {
    path: PathBuf,
    file: CopyFile,
}

impl DeletedRegistries {
    /// Their uids.
    ///
    /// # Errors
    /// [`CopyError::Disk`]
    pub fn list(&self) -> Result<Vec<Uuid>, CopyError> {
        let read = |database: &Database| -> Result<Vec<Uuid>, redb::Error> {
            let table = database.begin_read()?.open_table(DELETED)?;
            table
                .iter()?
                .map(|entry| Ok(Uuid::from_u128(entry?.0.value())))
                .collect()
        };
        self.file
            .with(read)
            .map_err(|error| disk(&self.path, error))
    }

    /// The content is marked.
    ///
    /// # Errors
    /// [`CopyError::Disk`]; it is marked once more after the next start then.
    pub fn marked(&self, registry: Uuid) -> Result<(), CopyError> {
        let write = |database: &Database| -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            transaction
                .open_table(DELETED)?
                .remove(registry.as_u128())?;
            Ok(transaction.commit()?)
        };
        self.file
            .with(write)
            .map_err(|error| disk(&self.path, error))
    }
}

fn disk(path: &Path, error: redb::Error) -> CopyError {
    CopyError::Disk {
        path: path.to_owned(),
        source: Box::new(error),
    }
}

/// A copy just opened, with what it holds.
pub struct Opened {
    /// The copy.
    pub copy: LocalCopy,
    /// Its documents, ready for requests. Made while they are read: a list of them all would take as much memory again.
    pub index: Index,
    /// How many they are.
    pub document_count: usize,
    /// Where a damaged copy was moved to and what was wrong with it.
    pub set_aside: Option<(PathBuf, String)>,
}

/// Whether a batch was taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// It is durable.
    Yes,
    /// With it the checksum would be another than the expected one, so nothing was changed.
    ChecksumDiffers {
        /// What it would have been.
        found: Checksum,
    },
    /// The file holds something else than what was written last: a change that was reported as failed reached the disk after all. Nothing
    /// was changed; only [`LocalCopy::replace`] helps.
    FileDiffers,
}

enum LoadFault {
    Damaged(String),
    Error(CopyError),
}

impl LocalCopy {
    /// Opens the copy in the directory, or begins an empty one. A damaged one is renamed to
    /// `configuration.redb.damaged-{now}` first.
    ///
    /// # Errors
    /// See [`CopyError`].
    pub fn open(directory: &Path, now: OffsetDateTime) -> Result<Opened, CopyError> {
        let path = directory.join(FILE);
        let reason = match Self::load(&path) {
            Ok(opened) => return Ok(opened),
            Err(LoadFault::Error(error)) => return Err(error),
            Err(LoadFault::Damaged(reason)) => reason,
        };
        let aside = directory.join(format!("{FILE}.damaged-{}", now.unix_timestamp()));
        fs::rename(&path, &aside).map_err(|source| CopyError::SetAside {
            path: path.clone(),
            source,
        })?;
        match Self::load(&path) {
            Ok(opened) => Ok(Opened {
                set_aside: Some((aside, reason)),
                ..opened
            }),
            Err(LoadFault::Error(error)) => Err(error),
            Err(LoadFault::Damaged(reason)) => Err(CopyError::Disk {
                path,
                source: Box::new(redb::Error::Corrupted(reason)),
            }),
        }
    }

    /// An empty copy that ends with this process, for measurements with many nodes in one process.
    ///
    /// # Errors
    /// [`CopyError::Disk`], though there is none.
    pub fn in_memory() -> Result<Self, CopyError> {
        let open = || {
            Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(InMemoryBackend::new())
        };
        Self::empty(PathBuf::from("in memory"), open)
    }

    /// A copy that holds nothing yet, in what `open` opens.
    pub(super) fn empty(
        path: PathBuf,
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Result<Self, CopyError> {
        let database = open().map_err(|error| disk(&path, error.into()))?;
        Ok(Self {
            path,
            file: CopyFile::new(database, open),
            state: None,
        })
    }

    fn load(path: &Path) -> Result<Opened, LoadFault> {
        let disk = |error: redb::Error| match error {
            redb::Error::DatabaseAlreadyOpen => LoadFault::Error(CopyError::InUse {
                path: path.to_owned(),
            }),
            redb::Error::Io(source) if !is_damage(&source) => LoadFault::Error(CopyError::Disk {
                path: path.to_owned(),
                source: Box::new(redb::Error::Io(source)),
            }),
            other => LoadFault::Damaged(other.to_string()),
        };
        let file = path.to_owned();
        let open = move || -> Result<Database, DatabaseError> {
            make_private(&file)?;
            Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create(&file)
        };
        // The store promises an error for a damaged file, but a panic must not end the node either.
        let database = without_panic(&open)
            .map_err(LoadFault::Damaged)?
            .map_err(|error| disk(error.into()))?;
        let mut index = Index::default();
        let (state, document_count) = without_panic(|| read_all(&database, &mut index))
            .map_err(LoadFault::Damaged)?
            .map_err(disk)?
            .map_err(LoadFault::Damaged)?;
        let copy = Self {
            path: path.to_owned(),
            file: CopyFile::new(database, open),
            state,
        };
        Ok(Opened {
            copy,
            index,
            document_count,
            set_aside: None,
        })
    }

    /// How far the copy has come; `None` while it has never held anything.
    pub fn state(&self) -> Option<&CopyState> {
        self.state.as_ref()
    }

    /// The registries whose content is to be marked as deleted.
    pub fn deleted_registries(&self) -> DeletedRegistries {
        DeletedRegistries {
            path: self.path.clone(),
            file: self.file.clone(),
        }
    }

    /// Adds what changed, if all documents together then have the checksum of `state`.
    ///
    /// # Errors
    /// [`CopyError::Disk`]; whether the file has changed is seen by the next call then.
    pub fn apply(
        &mut self,
        documents: &[StoredDocument],
        state: CopyState,
    ) -> Result<Written, CopyError> {
        self.write(documents, Base::Last(self.state), state)
    }

    /// Replaces everything, if the documents together have the checksum of `state`.
    ///
    /// # Errors
    /// [`CopyError::Disk`]; whether the file has changed is seen by the next call then.
    pub fn replace(
        &mut self,
        documents: &[StoredDocument],
        state: CopyState,
    ) -> Result<Written, CopyError> {
        self.write(documents, Base::Nothing, state)
    }

    fn write(
        &mut self,
        documents: &[StoredDocument],
        base: Base,
        state: CopyState,
    ) -> Result<Written, CopyError> {
        let written = self
            .file
            .with(|database| write(database, documents, base, &state))
            .map_err(|error| disk(&self.path, error))?;
        if written == Written::Yes {
            self.state = Some(state);
        }
        Ok(written)
    }
}

/// What documents are written over.
#[derive(Clone, Copy)]
enum Base {
    /// What is there goes.
    Nothing,
    /// What was written last, which has to be what is there.
    Last(Option<CopyState>),
}

fn write(
    database: &Database,
    documents: &[StoredDocument],
    base: Base,
    state: &CopyState,
) -> Result<Written, redb::Error> {
    let transaction = database.begin_write()?;
    let mut checksum = Checksum::default();
    match base {
        Base::Nothing => {
            transaction.delete_table(DOCUMENTS)?;
        }
        Base::Last(last) if !holds(&transaction, last)? => {
            transaction.abort()?;
            return Ok(Written::FileDiffers);
        }
        Base::Last(last) => checksum = last.map_or(checksum, |last| last.checksum),
    }
    {
        let mut table = transaction.open_table(DOCUMENTS)?;
        for document in documents {
            checksum += put(&mut table, document)?;
        }
    }
    if checksum != state.checksum {
        transaction.abort()?;
        return Ok(Written::ChecksumDiffers { found: checksum });
    }
    {
        let mut deleted = transaction.open_table(DELETED)?;
        for registry in deleted_registries_in(documents) {
            deleted.insert(registry.as_u128(), ())?;
        }
    }
    {
        let text = serde_json::to_vec(state).expect("the state has string keys only");
        transaction
            .open_table(STATE)?
            .insert(STATE_KEY, text.as_slice())?;
    }
    transaction.commit()?;
    Ok(Written::Yes)
}

/// Whether the file holds the documents of this state.
fn holds(transaction: &WriteTransaction, last: Option<CopyState>) -> Result<bool, redb::Error> {
    let table = transaction.open_table(STATE)?;
    let content = |state: CopyState| (state.epoch, state.checksum);
    Ok(match table.get(STATE_KEY)? {
        None => last.is_none(),
        Some(value) => serde_json::from_slice::<CopyState>(value.value())
            .is_ok_and(|found| Some(content(found)) == last.map(content)),
    })
}

/// The registries whose tombstones are among the documents.
pub(super) fn deleted_registries_in(documents: &[StoredDocument]) -> impl Iterator<Item = Uuid> {
    documents
        .iter()
        .filter(|document| document.body.is_none())
        .filter(|document| Kind::parse(&document.kind) == Some(Kind::Registry))
        .filter_map(|document| Uuid::try_parse(&document.key).ok())
}

/// Writes one document and says by how much the checksum changes.
fn put(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    document: &StoredDocument,
) -> Result<Checksum, StorageError> {
    let key = key_of(document);
    let mut change = Checksum::default();
    let old = match &document.body {
        Some(body) => {
            change += checksum_of(document, body);
            let value = [&document.revision.0.to_be_bytes(), body.as_bytes()].concat();
            table.insert(key.as_slice(), value.as_slice())?
        }
        None => table.remove(key.as_slice())?,
    };
    if let Some(old) = old {
        let body = old.value().get(8..).unwrap_or_default();
        // What is not text was never written, and shows as another checksum.
        change -= checksum_of(document, std::str::from_utf8(body).unwrap_or_default());
    }
    Ok(change)
}

fn checksum_of(document: &StoredDocument, body: &str) -> Checksum {
    Checksum::of(
        document.region.as_str(),
        &document.kind,
        &document.key,
        body,
    )
}

fn key_of(document: &StoredDocument) -> Vec<u8> {
    let mut key = Vec::new();
    for part in [document.region.as_str(), &document.kind, &document.key] {
        for byte in part.bytes() {
            match byte {
                0 | 1 => key.extend([1, byte + 1]),
                byte => key.push(byte),
            }
        }
        key.push(0);
    }
    key
}

/// How far the copy has come, and how many documents it holds.
type Content = (Option<CopyState>, usize);

/// Reads all documents into the index. The inner result says what is wrong with a file whose pages are intact; the index is worth nothing then.
fn read_all(
    database: &Database,
    index: &mut Index,
) -> Result<Result<Content, String>, redb::Error> {
    let transaction = database.begin_write()?;
    // Tables are made here, so that reading need not know whether they exist.
    transaction.open_table(DOCUMENTS)?;
    transaction.open_table(STATE)?;
    transaction.open_table(DELETED)?;
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let state = match transaction.open_table(STATE)?.get(STATE_KEY)? {
        None => None,
        Some(value) => match serde_json::from_slice::<CopyState>(value.value()) {
            Ok(state) => Some(state),
            Err(error) => return Ok(Err(format!("its state cannot be read: {error}"))),
        },
    };
    let mut count = 0;
    let mut checksum = Checksum::default();
    for entry in transaction.open_table(DOCUMENTS)?.iter()? {
        let (key, value) = entry?;
        let Some(document) = document_of(key.value(), value.value()) else {
            return Ok(Err("an entry is not a document".to_owned()));
        };
        checksum += checksum_of(&document, document.body.as_deref().unwrap_or_default());
        index.apply(&document);
        count += 1;
    }
    let expected = state.map_or(Checksum::default(), |state: CopyState| state.checksum);
    if checksum != expected {
        return Ok(Err(format!(
            "the checksum of its documents is {checksum} and should be {expected}"
        )));
    }
    Ok(Ok((state, count)))
}

fn document_of(key: &[u8], value: &[u8]) -> Option<StoredDocument> {
    let mut parts = key.split(|byte| *byte == 0);
    let mut part = || unescaped(parts.next()?);
    let (region, kind, name) = (part()?, part()?, part()?);
    let (revision, body) = value.split_at_checked(8)?;
    Some(StoredDocument {
        region: Region(region),
        kind,
        key: name,
        body: Some(std::str::from_utf8(body).ok()?.to_owned()),
        revision: Revision(u64::from_be_bytes(revision.try_into().ok()?)),
    })
}

fn unescaped(part: &[u8]) -> Option<String> {
    let mut bytes = part.iter();
    let mut text = Vec::with_capacity(part.len());
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            1 => bytes.next()?.checked_sub(1)?,
            byte => *byte,
        });
    }
    String::from_utf8(text).ok()
}

/// A new copy is for its owner only: it has verifiers of secrets, some of which people chose.
fn make_private(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map(drop)
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

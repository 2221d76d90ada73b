//! The copy on a disk that fails once and then works again.

use std::{io, path::PathBuf, sync::Arc};

use config_documents::{
    Checksum, ControlPlaneMessage, Epoch, NodeMessage, Region, Revision, StoredDocument,
};
use parking_lot::Mutex;
use redb::{Builder, StorageBackend};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Applier, ApplyError, Configuration, LocalCopy};

const EPOCH: Epoch = Epoch(Uuid::from_u128(7));

/// What fails next, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Nothing,
    /// A write: the disk is full.
    Write,
    /// Saying that all is on the disk, where it is.
    Sync,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    fails: Fails,
    openings: u32,
}

#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            bytes: Vec::new(),
            fails: Fails::Nothing,
            openings: 0,
        })))
    }

    fn fail(&self, fails: Fails) {
        self.0.lock().fails = fails;
    }

    fn failing(&self, operation: Fails) -> Result<(), io::Error> {
        let mut state = self.0.lock();
        if state.fails != operation {
            return Ok(());
        }
        state.fails = Fails::Nothing;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.0.lock();
        let begin = usize::try_from(offset).expect("a small disk");
        out.copy_from_slice(&state.bytes[begin..begin + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        let length = usize::try_from(length).expect("a small disk");
        self.0.lock().bytes.resize(length, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.failing(Fails::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.failing(Fails::Write)?;
        let begin = usize::try_from(offset).expect("a small disk");
        self.0.lock().bytes[begin..begin + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A node on that disk, and what it was sent.
struct Node {
    disk: Disk,
    applier: Applier,
    configuration: Arc<Configuration>,
    documents: Vec<StoredDocument>,
}

impl Node {
    /// One that has applied a snapshot of one document.
    fn start() -> Self {
        let disk = Disk::new();
        let opened = disk.clone();
        let open = move || {
            opened.0.lock().openings += 1;
            Builder::new().create_with_backend(opened.clone())
        };
        let copy = LocalCopy::empty(PathBuf::from("on a test's disk"), open).expect("works");
        let configuration = Arc::new(Configuration::default());
        let region = Region("westus".to_owned());
        let mut node = Self {
            disk,
            applier: Applier::new(Arc::clone(&configuration), copy, region),
            configuration,
            documents: Vec::new(),
        };
        node.documents.push(document(1));
        let answer = node.snapshot().expect("works");
        assert!(matches!(answer, Some(NodeMessage::Applied { .. })));
        node
    }

    fn receive(&mut self, message: ControlPlaneMessage) -> Result<Option<NodeMessage>, ApplyError> {
        self.applier.receive(message, OffsetDateTime::UNIX_EPOCH)
    }

    fn snapshot(&mut self) -> Result<Option<NodeMessage>, ApplyError> {
        self.receive(ControlPlaneMessage::SnapshotBegin { epoch: EPOCH })?;
        let documents = self.documents.clone();
        self.receive(ControlPlaneMessage::Documents { documents })?;
        self.receive(ControlPlaneMessage::SnapshotEnd)?;
        self.mark()
    }

    /// All changes since this revision, as on a stream that begins there.
    fn changes_since(&mut self, revision: u64) -> Result<Option<NodeMessage>, ApplyError> {
        let documents = self.documents.iter();
        let documents = documents
            .filter(|document| document.revision.0 > revision)
            .cloned()
            .collect();
        self.receive(ControlPlaneMessage::Documents { documents })?;
        self.mark()
    }

    fn mark(&mut self) -> Result<Option<NodeMessage>, ApplyError> {
        let mut checksum = Checksum::default();
        for document in &self.documents {
            let body = document.body.as_deref().expect("none is deleted");
            checksum += Checksum::of(
                document.region.as_str(),
                &document.kind,
                &document.key,
                body,
            );
        }
        self.receive(ControlPlaneMessage::Mark {
            epoch: EPOCH,
            revision: Revision(self.documents.len() as u64),
            time: OffsetDateTime::UNIX_EPOCH,
            checksum,
            heard: 0,
        })
    }

    /// Where the next stream begins.
    fn revision(&mut self) -> u64 {
        let state = self.applier.begin_stream().expect("there is one");
        state.revision.0
    }

    /// How many documents requests see.
    fn visible(&self) -> usize {
        self.configuration.index().rejected().count()
    }
}

/// One of a kind that no build knows, which is enough to be kept.
fn document(revision: u64) -> StoredDocument {
    StoredDocument {
        region: Region("westus".to_owned()),
        kind: "unheard-of".to_owned(),
        key: revision.to_string(),
        body: Some("{}".to_owned()),
        revision: Revision(revision),
    }
}

#[test]
fn a_disk_that_was_full_for_a_moment_costs_one_stream() {
    let mut node = Node::start();
    node.documents.push(document(2));
    node.disk.fail(Fails::Write);
    let refused = node.changes_since(1);
    assert!(matches!(refused, Err(ApplyError::Copy(_))), "{refused:?}");
    assert_eq!((node.revision(), node.visible()), (1, 1));
    let answer = node.changes_since(1).expect("the disk works again");
    assert!(
        matches!(answer, Some(NodeMessage::Applied { .. })),
        "{answer:?}"
    );
    assert_eq!((node.revision(), node.visible()), (2, 2));
    assert_eq!(node.disk.0.lock().openings, 2);
}

#[test]
fn a_disk_that_is_still_full_when_the_copy_is_opened_again_is_tried_once_more() {
    let mut node = Node::start();
    node.documents.push(document(2));
    for _ in 0..2 {
        node.disk.fail(Fails::Write);
        let refused = node.changes_since(1);
        assert!(matches!(refused, Err(ApplyError::Copy(_))), "{refused:?}");
        assert_eq!((node.revision(), node.visible()), (1, 1));
    }
    let answer = node.changes_since(1).expect("the disk works again");
    assert!(
        matches!(answer, Some(NodeMessage::Applied { .. })),
        "{answer:?}"
    );
    assert_eq!((node.revision(), node.visible()), (2, 2));
}

#[test]
fn a_change_that_reached_the_disk_though_it_failed_is_settled_by_a_snapshot() {
    let mut node = Node::start();
    node.documents.push(document(2));
    node.disk.fail(Fails::Sync);
    let refused = node.changes_since(1);
    assert!(matches!(refused, Err(ApplyError::Copy(_))), "{refused:?}");
    // Twice: the first of these streams breaks before the snapshot comes.
    for _ in 0..2 {
        assert_eq!((node.revision(), node.visible()), (1, 1));
        let answer = node.changes_since(1).expect("the disk works again");
        assert!(
            matches!(answer, Some(NodeMessage::SnapshotWanted { .. })),
            "{answer:?}"
        );
    }
    assert_eq!((node.revision(), node.visible()), (1, 1));
    let answer = node.snapshot().expect("the disk works");
    assert!(
        matches!(answer, Some(NodeMessage::Applied { .. })),
        "{answer:?}"
    );
    assert_eq!((node.revision(), node.visible()), (2, 2));
    node.documents.push(document(3));
    let answer = node.changes_since(2).expect("the disk works");
    assert!(
        matches!(answer, Some(NodeMessage::Applied { .. })),
        "{answer:?}"
    );
}

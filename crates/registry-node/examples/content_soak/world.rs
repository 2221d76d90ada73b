//! What all clients share: the nodes, a clock that runs fast, contents that several of them push, and what was counted.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use registry_node::content::record_store::LocalRecords;
use registry_node::content::{CollectOptions, CollectionReport, Content, Pace, Sources};
use registry_node::limits::GRACE_PERIOD_MINIMUM;
use registry_node::names::{Digest, RepositoryName};
use serde_json::{Value, json};
use service::clock;
use sha2::Digest as _;
use uuid::Uuid;

use crate::Problem;
use crate::store::FastStore;

/// How much faster time runs in the world.
const SPEED: u32 = 1200;
/// How old, in the world, what nobody refers to gets before it goes. What a push relies on is touched within half an hour there, so the push
/// has the rest of it, seven seconds here, to refer to it.
const GRACE_IN_THE_WORLD: Duration = Duration::from_secs(3 * GRACE_PERIOD_MINIMUM.as_secs());
/// The same as it is waited for here, and a little more.
pub(crate) const GRACE: Duration =
    Duration::from_secs(GRACE_IN_THE_WORLD.as_secs() / SPEED as u64 + 1);

const REGION: &str = "westus";
const REPOSITORIES: [&str; 3] = ["app", "team/service", "team/tools"];
/// Layers that everybody's images are made of.
const LAYERS: u64 = 24;

/// One store, and two nodes on it.
pub(crate) struct World {
    pub(crate) nodes: [Content; 2],
    pub(crate) registries: [Uuid; 2],
    pub(crate) repositories: Vec<RepositoryName>,
    pub(crate) counts: Counts,
    pub(crate) violations: AtomicU64,
    pub(crate) is_ending: AtomicBool,
    directory: PathBuf,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) pushes: AtomicU64,
    pub(crate) blobs_pushed: AtomicU64,
    pub(crate) blobs_promised: AtomicU64,
    pub(crate) blobs_mounted: AtomicU64,
    pub(crate) pulls: AtomicU64,
    pub(crate) referrers: AtomicU64,
    pub(crate) deletions: AtomicU64,
    passes: AtomicU64,
    links_removed: AtomicU64,
    objects_removed: AtomicU64,
}

impl Counts {
    pub(crate) fn to_json(&self) -> Value {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        json!({
            "pushes": of(&self.pushes),
            "blobs_pushed": of(&self.blobs_pushed),
            "blobs_promised": of(&self.blobs_promised),
            "blobs_mounted": of(&self.blobs_mounted),
            "pulls": of(&self.pulls),
            "referrers": of(&self.referrers),
            "deletions": of(&self.deletions),
            "passes": of(&self.passes),
            "links_removed": of(&self.links_removed),
            "objects_removed": of(&self.objects_removed),
        })
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl World {
    pub(crate) async fn open(directory: &Path) -> Result<Self, Problem> {
        let (began, start) = (Instant::now(), (clock::of_the_system())());
        let sources = Sources {
            now: Arc::new(move || start + began.elapsed() * SPEED),
            random_id: Arc::new(Uuid::new_v4),
        };
        let open = async || {
            // The records' own time is that of the file system: they remember names of directories by it.
            let records = LocalRecords::open(directory, Sources::of_the_system())?;
            let data = FastStore {
                store: LocalFileSystem::new_with_prefix(directory)?.with_fsync(true),
                start,
                speed: SPEED,
            };
            let content =
                Content::open_on(Arc::new(records), Arc::new(data), REGION, sources.clone());
            Ok::<_, Problem>(content.await?)
        };
        let repositories = REPOSITORIES.iter().map(|name| name.parse());
        Ok(Self {
            nodes: [open().await?, open().await?],
            registries: [Uuid::from_u128(1), Uuid::from_u128(2)],
            repositories: repositories.collect::<Result<_, _>>()?,
            counts: Counts::default(),
            violations: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
            directory: directory.to_owned(),
        })
    }

    pub(crate) fn collect_options(&self) -> CollectOptions {
        CollectOptions {
            grace_period: GRACE_IN_THE_WORLD,
            pace: Pace::Full,
            ..CollectOptions::default()
        }
    }

    pub(crate) fn collected(&self, report: CollectionReport) {
        count(&self.counts.passes);
        let add = |counter: &AtomicU64, number| counter.fetch_add(number, Ordering::Relaxed);
        add(&self.counts.links_removed, report.removed.links);
        add(&self.counts.objects_removed, report.removed.objects);
    }

    pub(crate) fn violation(&self, what: &str) {
        count(&self.violations);
        let _ = writeln!(std::io::stderr(), "violation: {what}");
    }

    /// Bytes of blobs that are in the store.
    pub(crate) fn bytes_of_data(&self) -> Result<u64, Problem> {
        let registries = self.registries.iter();
        let mut directories: Vec<PathBuf> = registries
            .map(|registry| self.directory.join(format!("r/{registry}/data")))
            .filter(|directory| directory.exists())
            .collect();
        let mut bytes = 0;
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => directories.push(entry.path()),
                    false => bytes += entry.metadata()?.len(),
                }
            }
        }
        Ok(bytes)
    }

    /// Bytes of contents, each once in each registry.
    pub(crate) fn bytes_of(&self, contents: &BTreeSet<(Uuid, Source)>) -> u64 {
        contents
            .iter()
            .map(|(_, source)| source.bytes().len() as u64)
            .sum()
    }
}

/// What a blob is made of: enough to make it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source(u64);

impl Source {
    /// One of those that many images have.
    pub(crate) fn shared(random: u64) -> Self {
        Self(random % LAYERS)
    }

    /// One that nobody else has.
    pub(crate) fn unique(client: u64, number: u64) -> Self {
        Self((client + 1) << 40 | number)
    }

    /// From 100 bytes to some tens of thousands.
    pub(crate) fn bytes(self) -> Bytes {
        let mut random = Random(self.0);
        let length = 100 + random.next() % 40_000;
        let words = length.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words)
            .flat_map(|_| random.next().to_le_bytes())
            .collect();
        bytes.truncate(usize::try_from(length).expect("small"));
        Bytes::from(bytes)
    }

    pub(crate) fn digest(self) -> Digest {
        digest_of(&self.bytes())
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    let hash = sha2::Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{hex}");
    digest.parse().expect("it is written as one")
}

/// The same numbers for the same seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is less than a usize")
    }
}

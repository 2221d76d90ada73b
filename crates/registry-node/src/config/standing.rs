//! Whether this node may serve at all: it may not when its configuration is older than its bound, nor once it was removed. Kept in the
//! state directory, so that a restart without control plane changes nothing.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use service::clock::{self, Clock};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::freshness::{BootTime, Freshness, Heard, Stale};
use crate::limits::STALENESS_BOUND_MINIMUM;

const BOUND_FILE: &str = "staleness-bound.json";
const FRESHNESS_FILE: &str = "freshness.json";
const REMOVED_FILE: &str = "removed.json";
/// When the configuration was fresh is written down this often. A restart that finds an older time only refuses sooner.
const FRESHNESS_INTERVAL: Duration = Duration::from_secs(1);
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The machine's own clock.
#[derive(Clone)]
pub struct BootClock {
    /// Names the time since which it counts.
    boot_id: String,
    now: Arc<dyn Fn() -> BootTime + Send + Sync>,
}

impl BootClock {
    /// A clock that counts since the start named by `boot_id`.
    pub fn new(boot_id: &str, now: impl Fn() -> BootTime + Send + Sync + 'static) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            now: Arc::new(now),
        }
    }

    /// The clock of the system, which goes on while the machine sleeps.
    pub fn of_the_system() -> Self {
        // Without a name no earlier start is known to be this one, and that is what an empty one says.
        let boot_id = fs::read_to_string(BOOT_ID_FILE).unwrap_or_default();
        Self::new(boot_id.trim(), || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
            let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
            BootTime(Duration::new(seconds, nanoseconds))
        })
    }

    pub(super) fn now(&self) -> BootTime {
        (self.now)()
    }
}

/// What the state directory says cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot keep whether this node may serve")]
    Write(#[from] service::configuration::ConfigurationError),
}

/// Why the node refuses every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A control plane said that it was removed.
    Removed {
        /// When that was heard.
        at: OffsetDateTime,
    },
    /// Its configuration is older than it may be.
    Stale {
        /// The bound and the age.
        stale: Stale,
        /// Since when, by the wall clock; `None` since it started.
        since: Option<OffsetDateTime>,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |time: &OffsetDateTime| {
            time.replace_nanosecond(0)
                .unwrap_or(*time)
                .format(&Rfc3339)
                .unwrap_or_default()
        };
        match self {
            Self::Removed { at } => write!(
                formatter,
                "this registry node was removed by an administrator and refuses every request since {}",
                shown(at)
            ),
            Self::Stale {
                stale:
                    Stale {
                        bound,
                        age: Some(age),
                    },
                since: Some(since),
            } => write!(
                formatter,
                "this registry node refuses every request since {}: no control plane has confirmed its configuration for {} seconds, and its staleness bound is {} seconds",
                shown(since),
                age.as_secs(),
                bound.as_secs()
            ),
            Self::Stale { stale, .. } => write!(
                formatter,
                "this registry node refuses every request since it started: no control plane has confirmed its configuration yet, and its staleness bound is {} seconds",
                stale.bound.as_secs()
            ),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct KeptBound {
    form: u32,
    bound_seconds: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct KeptFreshness {
    form: u32,
    boot_id: String,
    fresh_at: BootTime,
}

#[derive(Serialize, Deserialize)]
struct KeptRemoval {
    form: u32,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

/// Whether this node may serve.
pub struct Standing {
    clock: BootClock,
    /// Only for what people are told.
    wall_clock: Clock,
    /// `None` keeps nothing on disk.
    directory: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    freshness: Freshness,
    removed_at: Option<OffsetDateTime>,
    /// Whether the disk knows of the removal.
    removal_is_kept: bool,
    written: Option<BootTime>,
    /// Whether the last attempt to write failed: that is said once.
    is_failing: bool,
}

impl State {
    fn new(freshness: Freshness, removed_at: Option<OffsetDateTime>) -> Self {
        Self {
            freshness,
            removed_at,
            removal_is_kept: removed_at.is_some(),
            written: None,
            is_failing: false,
        }
    }
}

/// How it stands at one moment.
#[derive(Clone, Debug)]
pub struct StandingNow {
    /// The bound in force.
    pub bound: Option<Duration>,
    /// How long ago the configuration was certainly current, if that is known.
    pub freshness_age: Option<Duration>,
    /// Why the node refuses every request; `None` when it serves.
    pub refusal: Option<Refusal>,
}

impl Standing {
    /// A standing that is kept nowhere and has no bound.
    pub fn unbounded() -> Self {
        Self {
            clock: BootClock::of_the_system(),
            wall_clock: clock::of_the_system(),
            directory: None,
            state: Mutex::new(State::new(Freshness::new(None, None, None), None)),
        }
    }

    /// Takes up what an earlier start of the node left in its state directory. `bound` is that of this start; a shorter one than before
    /// is written down before anybody can count on it.
    ///
    /// # Errors
    /// See [`StandingError`]. A damaged file makes the node refuse until a control plane has heard it, not fail.
    pub fn open(
        directory: &Path,
        clock: BootClock,
        wall_clock: Clock,
        bound: Option<Duration>,
    ) -> Result<Self, StandingError> {
        let kept: Option<Result<KeptBound, String>> = read(&directory.join(BOUND_FILE))?;
        let kept_bound = match kept {
            None => None,
            Some(Ok(kept)) => kept.bound_seconds.map(Duration::from_secs),
            Some(Err(reason)) => {
                tracing::error!("{BOUND_FILE} is damaged, the least bound counts: {reason}");
                Some(STALENESS_BOUND_MINIMUM)
            }
        };
        let removed: Option<Result<KeptRemoval, String>> = read(&directory.join(REMOVED_FILE))?;
        let removed_at = removed.map(|removed| {
            removed.map_or_else(
                |reason| {
                    tracing::error!("{REMOVED_FILE} is damaged, but it is there: {reason}");
                    OffsetDateTime::UNIX_EPOCH
                },
                |removed| removed.at,
            )
        });
        let now = clock.now();
        let fresh: Option<Result<KeptFreshness, String>> = read(&directory.join(FRESHNESS_FILE))?;
        let fresh_at = fresh
            .and_then(Result::ok)
            .filter(|fresh| !fresh.boot_id.is_empty() && fresh.boot_id == clock.boot_id)
            .map(|fresh| fresh.fresh_at)
            .filter(|fresh_at| *fresh_at <= now);
        let standing = Self {
            clock,
            wall_clock,
            directory: Some(directory.to_owned()),
            state: Mutex::new(State::new(
                Freshness::new(bound, kept_bound, fresh_at),
                removed_at,
            )),
        };
        standing.keep_bound()?;
        Ok(standing)
    }

    /// The bound that this start of the node was given.
    pub(super) fn given_bound(&self) -> Option<Duration> {
        self.state.lock().freshness.given()
    }

    /// Why the node may not serve a request that is there now; `None` when it may.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal_in(&self.state.lock(), self.clock.now())
    }

    fn refusal_in(&self, state: &State, now: BootTime) -> Option<Refusal> {
        if let Some(at) = state.removed_at {
            return Some(Refusal::Removed { at });
        }
        let stale = state.freshness.stale(now)?;
        let since = stale
            .age
            .map(|age| (self.wall_clock)() - age.saturating_sub(stale.bound));
        Some(Refusal::Stale { stale, since })
    }

    /// How it stands.
    pub fn now(&self) -> StandingNow {
        let now = self.clock.now();
        let state = self.state.lock();
        StandingNow {
            bound: state.freshness.bound(),
            freshness_age: state.freshness.age(now),
            refusal: self.refusal_in(&state, now),
        }
    }

    pub(super) fn clock(&self) -> &BootClock {
        &self.clock
    }

    pub(super) fn begin_stream(&self) {
        self.state.lock().freshness.begin_stream();
    }

    /// Say this before an `applied` is sent.
    pub(super) fn sending(&self, sequence: u64) {
        let now = self.clock.now();
        self.state.lock().freshness.sending(sequence, now);
    }

    /// A mark arrived, whatever it says.
    #[cfg(feature = "faults-on-purpose")]
    pub(super) fn mark_arrived(&self) {
        if service::faults_on_purpose::is_on("freshness-from-marks-arrival") {
            let now = self.clock.now();
            self.state.lock().freshness.arrived(now);
        }
    }

    /// A mark that is applied says up to where this stream's answers are committed.
    pub(super) fn heard(&self, sequence: u64) {
        let heard = self.state.lock().freshness.heard(sequence);
        let kept = match heard {
            Heard::Nothing => return,
            Heard::Fresher => Ok(()),
            Heard::BoundInForce => self.keep_bound(),
        };
        let kept = kept.and_then(|()| self.keep_freshness());
        let was_failing = std::mem::replace(&mut self.state.lock().is_failing, kept.is_err());
        if let (Err(error), false) = (kept, was_failing) {
            tracing::warn!(
                "a restart of this node may refuse requests longer than it has to: {}",
                service::errors::chain(&error)
            );
        }
    }

    /// A control plane says that this node was removed. True when that is news.
    ///
    /// # Errors
    /// When that cannot be kept; it counts all the same until the node ends, and is tried again when it is said again.
    pub(super) fn removed(&self, at: OffsetDateTime) -> Result<bool, StandingError> {
        let (at, is_news) = {
            let mut state = self.state.lock();
            let is_news = state.removed_at.is_none();
            (*state.removed_at.get_or_insert(at), is_news)
        };
        if !self.state.lock().removal_is_kept {
            self.keep(REMOVED_FILE, &KeptRemoval { form: 1, at })?;
            self.state.lock().removal_is_kept = true;
        }
        Ok(is_news)
    }

    /// A control plane has this node among its nodes, and has sent it a configuration. True when it had been removed before.
    ///
    /// # Errors
    /// When that cannot be kept; a restart would refuse again until it is heard.
    pub(super) fn enrolled(&self) -> Result<bool, StandingError> {
        {
            let mut state = self.state.lock();
            if state.removed_at.take().is_none() {
                return Ok(false);
            }
            state.removal_is_kept = false;
        }
        if let Some(directory) = &self.directory {
            let path = directory.join(REMOVED_FILE);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(
                        service::configuration::ConfigurationError::Write { path, source }.into(),
                    );
                }
                Ok(()) => {}
            }
        }
        Ok(true)
    }

    /// Durable before anybody counts on it: a control plane that heard of a bound takes this node as fenced after it.
    fn keep_bound(&self) -> Result<(), StandingError> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let bound_seconds = self
            .state
            .lock()
            .freshness
            .bound()
            .map(|bound| bound.as_secs());
        let path = directory.join(BOUND_FILE);
        let kept: Option<Result<KeptBound, String>> = read(&path)?;
        let is_kept = match kept {
            None => bound_seconds.is_none(),
            Some(kept) => kept.is_ok_and(|kept| kept.bound_seconds == bound_seconds),
        };
        if is_kept {
            return Ok(());
        }
        self.keep(
            BOUND_FILE,
            &KeptBound {
                form: 1,
                bound_seconds,
            },
        )
    }

    /// Not synced: after a crash of the machine its clock begins anew, and the file says nothing.
    fn keep_freshness(&self) -> Result<(), StandingError> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let fresh_at = {
            let mut state = self.state.lock();
            let (Some(fresh_at), Some(_)) = (state.freshness.fresh_at(), state.freshness.bound())
            else {
                return Ok(());
            };
            let is_due = state
                .written
                .is_none_or(|written| fresh_at.since(written) >= FRESHNESS_INTERVAL);
            if !is_due {
                return Ok(());
            }
            state.written = Some(fresh_at);
            fresh_at
        };
        let kept = KeptFreshness {
            form: 1,
            boot_id: self.clock.boot_id.clone(),
            fresh_at,
        };
        let (path, beside) = (
            directory.join(FRESHNESS_FILE),
            directory.join(format!("{FRESHNESS_FILE}.new")),
        );
        fs::write(&beside, json(&kept))
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|source| service::configuration::ConfigurationError::Write { path, source })?;
        Ok(())
    }

    fn keep(&self, file: &str, value: &impl Serialize) -> Result<(), StandingError> {
        if let Some(directory) = &self.directory {
            service::configuration::write_secret_file(&directory.join(file), &json(value))?;
        }
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these have string keys only")
}

/// `None` without the file; the inner error says why it is not what was written.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<Result<T, String>>, StandingError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(
            serde_json::from_slice(&text).map_err(|error| error.to_string()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StandingError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A machine whose clock a test sets, in seconds.
    #[derive(Clone, Default)]
    struct Machine(Arc<AtomicU64>);

    impl Machine {
        fn at(&self, seconds: u64) {
            self.0.store(seconds, Ordering::Relaxed);
        }

        fn clock(&self, boot_id: &str) -> BootClock {
            let seconds = Arc::clone(&self.0);
            BootClock::new(boot_id, move || {
                BootTime(Duration::from_secs(seconds.load(Ordering::Relaxed)))
            })
        }
    }

    fn open(directory: &Path, machine: &Machine, boot_id: &str, bound: Option<u64>) -> Standing {
        let bound = bound.map(Duration::from_secs);
        let wall_clock = clock::of_the_system();
        Standing::open(directory, machine.clock(boot_id), wall_clock, bound).expect("a directory")
    }

    fn confirm(standing: &Standing) {
        standing.begin_stream();
        standing.sending(1);
        standing.heard(1);
    }

    #[test]
    fn a_restart_goes_on_counting_and_a_start_of_the_machine_refuses() {
        let directory = tempfile::tempdir().expect("a directory");
        let machine = Machine::default();
        machine.at(1_000);
        let standing = open(directory.path(), &machine, "first", Some(60));
        assert!(standing.refusal().is_some(), "nothing was ever heard");
        confirm(&standing);
        machine.at(1_059);
        assert_eq!(standing.refusal(), None);
        let restarted = open(directory.path(), &machine, "first", Some(60));
        assert_eq!(restarted.refusal(), None);
        machine.at(1_060);
        let said = restarted.refusal().expect("too old").to_string();
        assert!(said.contains("for 60 seconds"), "{said}");
        machine.at(1_030);
        let elsewhere = open(directory.path(), &machine, "second", Some(60));
        let said = elsewhere.refusal().expect("not known").to_string();
        assert!(said.contains("since it started"), "{said}");
        machine.at(10);
        let impossible = open(directory.path(), &machine, "first", Some(60));
        assert!(impossible.refusal().is_some(), "fresh in the future");
    }

    #[test]
    fn a_bound_outlives_its_flag_until_a_control_plane_has_heard_of_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let machine = Machine::default();
        machine.at(1_000);
        confirm(&open(directory.path(), &machine, "boot", Some(10)));
        machine.at(1_010);
        for bound in [None, Some(3_600)] {
            let restarted = open(directory.path(), &machine, "boot", bound);
            assert!(restarted.refusal().is_some(), "{bound:?}");
        }
        let unbounded = open(directory.path(), &machine, "boot", None);
        confirm(&unbounded);
        machine.at(100_000);
        assert_eq!(unbounded.refusal(), None);
        let again = open(directory.path(), &machine, "other boot", None);
        assert_eq!(again.refusal(), None);
        // A shorter one counts before anybody has heard of it, and so does its successor.
        drop(open(directory.path(), &machine, "boot", Some(10)));
        assert!(
            open(directory.path(), &machine, "boot", None)
                .refusal()
                .is_some()
        );
    }

    #[test]
    fn a_damaged_bound_is_the_least_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let machine = Machine::default();
        fs::write(directory.path().join(BOUND_FILE), "").expect("write");
        let standing = open(directory.path(), &machine, "boot", None);
        assert_eq!(standing.now().bound, Some(STALENESS_BOUND_MINIMUM));
        confirm(&standing);
        assert_eq!(standing.now().bound, None);
    }

    #[test]
    fn a_removal_survives_restarts_until_a_control_plane_has_the_node_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let machine = Machine::default();
        let standing = open(directory.path(), &machine, "boot", None);
        assert_eq!(standing.refusal(), None);
        let at = OffsetDateTime::UNIX_EPOCH;
        assert!(standing.removed(at).expect("writable"));
        assert!(!standing.removed(at).expect("known"));
        for boot_id in ["boot", "other boot"] {
            let restarted = open(directory.path(), &machine, boot_id, None);
            let said = restarted.refusal().expect("removed").to_string();
            assert!(said.contains("removed"), "{said}");
        }
        assert!(standing.enrolled().expect("writable"));
        assert!(!standing.enrolled().expect("nothing to do"));
        assert_eq!(standing.refusal(), None);
        assert_eq!(
            open(directory.path(), &machine, "boot", None).refusal(),
            None
        );
    }
}

//! The state directory: all that `wharfinger dev` keeps between runs, and the lock that one run has on it.
//!
//! Nothing in it is shared with another installation; deleting the directory is how one begins afresh.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use service::configuration::write_secret_file;

use super::error::DevError;

/// The form of `state.json` and of the directory.
const LAYOUT: u32 = 1;
const STATE_FILE: &str = "state.json";

/// An open state directory. The lock goes when this value does, also when the process is killed.
pub(crate) struct StateDirectory {
    path: PathBuf,
    /// The lock is on the directory itself, so there is no lock file that could be left behind or deleted.
    _lock: File,
    remembered: Remembered,
}

/// What is kept in `state.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remembered {
    layout: u32,
    /// Absent until the installation was made.
    #[serde(default)]
    pub(crate) installed: Option<Installed>,
    #[serde(default)]
    pub(crate) postgres_port: Option<u16>,
    /// Role → port of its metrics and health.
    #[serde(default)]
    pub(crate) metrics_ports: BTreeMap<String, u16>,
    /// Role → port of a registry node, but for the one on the login servers' port.
    #[serde(default)]
    pub(crate) node_ports: BTreeMap<String, u16>,
}

impl Remembered {
    /// Every port that is spoken for.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let found = self.metrics_ports.values().chain(self.node_ports.values());
        found.copied().chain(self.postgres_port).collect()
    }
}

/// What users of the installation have in their configuration, so that a run without options gives them the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Installed {
    pub(crate) port: u16,
    pub(crate) registry_port: u16,
    /// The region of the node on the login servers' port.
    pub(crate) region: String,
    #[serde(default)]
    pub(crate) further_regions: Vec<String>,
    #[serde(default = "one")]
    pub(crate) nodes_per_region: u16,
}

fn one() -> u16 {
    1
}

impl Installed {
    /// All regions, in the order in which they were named.
    pub(crate) fn regions(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.region)
            .chain(&self.further_regions)
            .map(String::as_str)
    }
}

impl StateDirectory {
    /// Opens the directory, making it where it is missing, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, DevError> {
        create(path)?;
        let path = fs::canonicalize(path).map_err(DevError::file("open", path))?;
        let lock = lock(&path)?;
        let remembered = match fs::read_to_string(path.join(STATE_FILE)) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => adopt(&path)?,
            Err(error) => return Err(DevError::file("read", path.join(STATE_FILE))(error)),
        };
        Ok(Self {
            path,
            _lock: lock,
            remembered,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file or directory in it.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// What earlier runs remembered.
    pub(crate) fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Changes what is remembered, on disk too.
    pub(crate) fn remember(
        &mut self,
        change: impl FnOnce(&mut Remembered),
    ) -> Result<(), DevError> {
        change(&mut self.remembered);
        write_state(&self.path, &self.remembered)
    }

    /// A directory in it that only we can enter, made where it is missing.
    pub(crate) fn private_directory(&self, name: &str) -> Result<PathBuf, DevError> {
        let path = self.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(DevError::file("make the directory", &path))?;
        Ok(path)
    }

    /// The error for something in it that is not as it must be.
    pub(crate) fn damaged(&self, fault: impl Into<String>) -> DevError {
        damaged(&self.path, fault)
    }
}

fn damaged(state_dir: &Path, fault: impl Into<String>) -> DevError {
    DevError::Damaged {
        state_dir: state_dir.to_owned(),
        fault: fault.into(),
    }
}

/// Root's directory can be passed through, because Postgres runs as another user in a part of it.
fn mode() -> u32 {
    if rustix::process::geteuid().is_root() {
        0o711
    } else {
        0o700
    }
}

fn create(path: &Path) -> Result<(), DevError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(DevError::file("make the directory", parent))?;
    }
    match DirBuilder::new().mode(mode()).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(DevError::file("make the directory", path)(error))
        }
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File, DevError> {
    let directory = File::open(path).map_err(DevError::file("open", path))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => Err(DevError::Locked {
            state_dir: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(DevError::file("lock", path)(error)),
    }
}

fn parse(path: &Path, text: &str) -> Result<Remembered, DevError> {
    let remembered: Remembered = serde_json::from_str(text)
        .map_err(|error| damaged(path, format!("{STATE_FILE} cannot be read ({error})")))?;
    if remembered.layout != LAYOUT {
        let layout = remembered.layout;
        let fault = format!("{STATE_FILE} has the layout {layout}, this program knows {LAYOUT}");
        return Err(damaged(path, fault));
    }
    Ok(remembered)
}

/// Makes an empty directory ours.
fn adopt(path: &Path) -> Result<Remembered, DevError> {
    let mut entries = fs::read_dir(path).map_err(DevError::file("list", path))?;
    // A half-written state.json of a run that was killed right here is not a reason to refuse.
    if entries.any(|entry| entry.is_ok_and(|entry| !is_ours(&entry.file_name()))) {
        return Err(DevError::NotAStateDirectory {
            path: path.to_owned(),
        });
    }
    fs::set_permissions(path, Permissions::from_mode(mode()))
        .map_err(DevError::file("set the permissions of", path))?;
    let remembered = Remembered {
        layout: LAYOUT,
        installed: None,
        postgres_port: None,
        metrics_ports: BTreeMap::new(),
        node_ports: BTreeMap::new(),
    };
    write_state(path, &remembered)?;
    Ok(remembered)
}

fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with(".state.json.")
}

fn write_state(path: &Path, remembered: &Remembered) -> Result<(), DevError> {
    let mut text =
        serde_json::to_string_pretty(remembered).expect("numbers and texts are always JSON");
    text.push('\n');
    write_secret_file(&path.join(STATE_FILE), text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_error(path: &Path) -> String {
        match StateDirectory::open(path) {
            Ok(_) => panic!("{} must be refused", path.display()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_remembered_is_there_at_the_next_run() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let path = parent.path().join("a/state");
        let mut state = StateDirectory::open(&path).expect("a new directory");
        state
            .remember(|remembered| remembered.postgres_port = Some(5))
            .expect("writes");
        drop(state);
        let state = StateDirectory::open(&path).expect("its own directory");
        assert_eq!(state.remembered().postgres_port, Some(5));
        let file = fs::metadata(state.join(STATE_FILE)).expect("metadata");
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn two_runs_on_one_directory_are_refused() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let _first = StateDirectory::open(parent.path()).expect("an empty directory");
        let line = open_error(parent.path());
        assert!(line.starts_with("another `wharfinger dev` uses"), "{line}");
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_refused_and_left_alone() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        fs::write(parent.path().join("thesis.tex"), "x").expect("write");
        let line = open_error(parent.path());
        assert!(line.contains("is not a state directory"), "{line}");
        assert_eq!(fs::read_dir(parent.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_garbled_or_foreign_state_file_is_named() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        for content in [
            "",
            "{",
            "{\"layout\": 1, \"postgres_port\": \"x\"}",
            "{\"layout\": 2}",
        ] {
            fs::write(parent.path().join(STATE_FILE), content).expect("write");
            let line = open_error(parent.path());
            assert!(line.contains("is damaged: state.json"), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
}

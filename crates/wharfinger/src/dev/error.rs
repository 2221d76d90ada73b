//! What can go wrong in `wharfinger dev`, each told in one line that says what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the development installation does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    #[error(
        "no state directory: neither HOME nor XDG_STATE_HOME is set; name one with --state-dir"
    )]
    NoStateDirectory,
    #[error(
        "another `wharfinger dev` uses the state directory {}; end it, or choose another with --state-dir",
        state_dir.display()
    )]
    Locked { state_dir: PathBuf },
    #[error(
        "{} is not a state directory of `wharfinger dev`: it is not empty and has no state.json; \
         choose a new one with --state-dir",
        path.display()
    )]
    NotAStateDirectory { path: PathBuf },
    #[error(
        "the state directory {} is damaged: {fault}; restore it, or delete it to begin afresh \
         (its registries and images go with it)",
        state_dir.display()
    )]
    Damaged { state_dir: PathBuf, fault: String },
    #[error(
        "the installation in {} was made with {flag} {existing}; leave {flag} out, or choose another --state-dir",
        state_dir.display()
    )]
    Fixed {
        state_dir: PathBuf,
        flag: &'static str,
        existing: String,
    },
    #[error(
        "processes of an earlier run still use {}: {}; end them first",
        state_dir.display(),
        join(process_ids)
    )]
    Leftovers {
        state_dir: PathBuf,
        process_ids: Vec<i32>,
    },
    #[error(
        "the registry node of {} was removed with `wharfinger admin node remove`; delete that directory, and another one \
         is enrolled in its place",
        directory.display()
    )]
    NodeRemoved { directory: PathBuf },
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the content store of a region cannot be named")]
    ContentStore(#[source] registry_node::content::bucket::BucketLocationError),
    #[error("{0}")]
    Secret(#[from] service::configuration::ConfigurationError),
    #[error("port {} is in use by another program ({address}); choose another with {flag}", address.port())]
    PortInUse {
        address: SocketAddr,
        flag: &'static str,
    },
    #[error(
        "port {port} cannot be that of the control plane and that of the login servers; choose another with --port or --registry-port"
    )]
    OnePort { port: u16 },
    #[error("cannot listen on {address}; choose another port with {flag}")]
    Listen {
        address: SocketAddr,
        flag: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("no free port found on 127.0.0.1 between {first} and {last}")]
    NoFreePort { first: u16, last: u16 },
    #[error(
        "no Postgres server programs found (looked in {}); install them (Debian: apt-get install postgresql) \
         or name a database in DATABASE_URL",
        looked_in.join(", ")
    )]
    NoPostgres { looked_in: Vec<String> },
    #[error(
        "the database in {} was made by Postgres {made_by}, but installed is only {}; install Postgres {made_by}, \
         or choose another --state-dir",
        data.display(),
        found.join(", ")
    )]
    ForeignPostgres {
        data: PathBuf,
        made_by: String,
        found: Vec<String>,
    },
    #[error("{} cannot be run: {detail}", program.display())]
    PostgresProgram { program: PathBuf, detail: String },
    #[error(
        "Postgres does not run as root and there is no user postgres in /etc/passwd; \
         install Debian's package postgresql, or run `wharfinger dev` as another user"
    )]
    NoPostgresUser,
    #[error(
        "the user postgres cannot reach {}, because {} is closed to it; choose another --state-dir",
        data.display(),
        closed.display()
    )]
    Unreachable { data: PathBuf, closed: PathBuf },
    #[error("{step} failed: {detail}")]
    Step { step: String, detail: String },
    #[error("{role} ended before it was ready ({how}): {detail} (its log: {})", log.display())]
    ChildEnded {
        role: String,
        how: String,
        detail: String,
        log: PathBuf,
    },
    #[error("{role} is not ready after {seconds} s: {detail} (its log: {})", log.display())]
    ChildNotReady {
        role: String,
        seconds: u64,
        detail: String,
        log: PathBuf,
    },
    #[error("cannot start {role}")]
    Spawn {
        role: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    #[error("cannot set up the process")]
    Process(#[source] io::Error),
    /// Ctrl-C or SIGTERM while things were starting: not a fault.
    #[error("interrupted")]
    Interrupted,
}

impl DevError {
    /// Turns an I/O error into one that says what was done to which file.
    pub(super) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

fn join(process_ids: &[i32]) -> String {
    let texts: Vec<String> = process_ids.iter().map(i32::to_string).collect();
    texts.join(", ")
}

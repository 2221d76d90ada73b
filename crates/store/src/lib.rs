//! Postgres: every SQL statement of the project, one file per resource.
//!
//! A function here is one statement or one transaction; each change of what nodes must know ends with [`config::publish`]. No function
//! takes a second connection while it holds one. Rights are not decided here.

pub mod access;
pub mod activity;
pub mod config;
mod connections;
pub mod directory;
mod head;
pub mod installation;
pub mod nodes;
pub mod refresh_tokens;
pub mod registries;
pub mod resource_groups;
pub mod role_assignments;
pub mod role_definitions;
pub mod sealing;
pub mod sign_in_keys;
pub mod subscriptions;
mod transaction;
pub mod used_credentials;

use access::RememberedCallers;
use connections::{Connection, Connections};
use directory::RememberedApplications;
use head::HeadReadings;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
pub use transaction::Transaction;

/// The migrations of this build.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// How long a request waits for a connection before it is told to come back later.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a statement waits for what another transaction holds: a writer that hangs must not take every other one with it.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of one control plane's feed and background tasks: few, because Postgres does not get faster with more. Each of the threads
/// that serve requests has its own besides, and the listener for notifications one.
pub const MAXIMUM_CONNECTIONS: u32 = 10;

/// A connection that has been idle for longer is asked whether it is still there before it is used.
const TRUSTED_IDLE: Duration = Duration::from_millis(500);

/// How statements are planned.
///
/// A connection keeps its plans, and makes them while tables are small: reading all of a table is cheapest then, and goes on until Postgres
/// next gathers statistics, however much the table has grown since. Every statement here finds its rows by key, so the index is never
/// wrong. Where reading all is unavoidable (tables of a few rows) its nominal cost would set off the compiler.
const PLANS: [(&str, &str); 2] = [("enable_seqscan", "off"), ("jit", "off")];

/// A failure of the database, as opposed to an outcome that the caller of a function has to expect.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, restarting or overloaded; the same call may succeed later.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
    #[error("the database URL is not of the form postgres://user:password@host:port/name")]
    InvalidUrl(#[source] sqlx::Error),
    #[error("cannot connect to Postgres at {address}")]
    Unreachable {
        address: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("a row of '{table}' cannot be read: {reason}")]
    Corrupt { table: &'static str, reason: String },
    #[error("the migrations of the database and of this build do not fit")]
    Migration(#[source] sqlx::migrate::MigrateError),
    #[error(
        "the database lacks a table of this build: run `wharfinger admin init` on a new one, `wharfinger migrate` after an upgrade"
    )]
    NotMigrated(#[source] sqlx::Error),
    #[error("the database is not initialised: run `wharfinger admin init` first")]
    NotInitialised,
    #[error("the database is being restored")]
    BeingRestored,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let unavailable = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Tls(_) => true,
            // Class 57: operator intervention (shutdown, crash recovery); 53: insufficient resources; 08: connection; 25006: read-only;
            // 55000: a replica that is not promoted; 55P03: a lock was waited for too long; 40: the transaction lost against another and may
            // be repeated.
            sqlx::Error::Database(database) => database.code().is_some_and(|code| {
                code.starts_with("57P")
                    || code.starts_with("53")
                    || code.starts_with("08")
                    || code.starts_with("40")
                    || code == "25006"
                    || code == "55000"
                    || code == "55P03"
            }),
            _ => false,
        };
        // Undefined table or function, no constraint for ON CONFLICT.
        let not_migrated = matches!(&error, sqlx::Error::Database(database)
            if matches!(database.code().as_deref(), Some("42P01" | "42883" | "42P10")));
        if unavailable {
            Self::Unavailable(error)
        } else if not_migrated {
            Self::NotMigrated(error)
        } else {
            Self::Database(error)
        }
    }
}

/// Bounds a call in time: a connection that broke without a word would be waited on for as long as TCP does.
///
/// # Errors
/// [`StoreError::Unavailable`] when it takes longer; otherwise those of the call.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(late(limit))))
}

fn late(limit: Duration) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("no answer within {} seconds", limit.as_secs_f64()),
    ))
}

/// The database of an installation. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    remembered: Arc<RememberedCallers>,
    remembered_applications: Arc<RememberedApplications>,
    /// Of this pool.
    connections: Arc<Connections>,
    head_readings: Arc<HeadReadings>,
}

impl Store {
    /// Prepares a pool; the first use connects.
    ///
    /// # Errors
    /// A malformed URL.
    pub fn open(database_url: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(database_url)
            .map_err(StoreError::InvalidUrl)?
            .application_name("wharfinger")
            .options([("lock_timeout", format!("{}ms", LOCK_TIMEOUT.as_millis()))])
            .options(PLANS);
        let pool = PgPoolOptions::new()
            .max_connections(MAXIMUM_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A ping before each use would cost a round trip a statement. Without any, each connection that a restart of Postgres broke
            // would fail a request, however long after; busy ones find out at once, and are replaced.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options);
        Ok(Self::over(pool))
    }

    /// The same database by a pool of its own, of so many connections.
    ///
    /// A connection belongs to the reactor of the thread that opened it. A thread that serves requests has a pool of its own, or each answer
    /// of the database would wake two threads.
    pub fn with_own_pool(&self, maximum_connections: u32) -> Self {
        let options = self
            .pool
            .options()
            .clone()
            .max_connections(maximum_connections);
        Self {
            pool: options.connect_lazy_with((*self.pool.connect_options()).clone()),
            remembered: Arc::clone(&self.remembered),
            remembered_applications: Arc::clone(&self.remembered_applications),
            // Half, so that statements which ask the pool find the others.
            connections: Connections::new(maximum_connections as usize / 2),
            head_readings: Arc::clone(&self.head_readings),
        }
    }

    /// A store over a pool.
    pub fn over(pool: PgPool) -> Self {
        Self {
            pool,
            remembered: Arc::default(),
            remembered_applications: Arc::default(),
            connections: Arc::default(),
            head_readings: Arc::default(),
        }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection for one statement that reads, or for a transaction; [`Store::put_by`] when it has come to its end.
    pub(crate) async fn connection(&self) -> Result<Connection, StoreError> {
        Ok(self.connections.take(&self.pool).await?)
    }

    /// Takes a connection back.
    pub(crate) fn put_by(&self, connection: Connection) {
        self.connections.put_by(connection, &self.pool);
    }

    /// Connects once, for whoever wants to know why it cannot be done: the pool only says that it waited.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`].
    pub async fn reach(&self) -> Result<(), StoreError> {
        let options = self.pool.connect_options();
        let unreachable = |source| StoreError::Unreachable {
            address: match options.get_socket() {
                Some(directory) => directory.display().to_string(),
                None => format!("{}:{}", options.get_host(), options.get_port()),
            },
            source,
        };
        let connecting = sqlx::PgConnection::connect_with(&options);
        let connection = tokio::time::timeout(ACQUIRE_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(late(ACQUIRE_TIMEOUT)))
            .map_err(unreachable)?;
        connection.close().await.map_err(unreachable)
    }

    /// Brings the schema to this build's version; only forward.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATIONS
            .run(&self.pool)
            .await
            .map_err(|error| match error {
                sqlx::migrate::MigrateError::Execute(error) => error.into(),
                other => StoreError::Migration(other),
            })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query!("SELECT 1 AS one")
            .fetch_one(&self.pool)
            .await?;
        Ok(())
    }

    /// Begins a transaction that changes something, and that records on whose behalf: whatever is done for somebody begins here. What a
    /// control plane counts and forgets by itself need not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let mut transaction = Transaction::begin(self).await?;
        activity::record(&mut transaction).await?;
        Ok(transaction)
    }
}

//! Connections for the statements that every request begins with, and for transactions.
//!
//! A pool asks each connection that it gets back whether it is still good, which is a round trip, as long as such a statement itself. Here it is put
//! by as it is when what it was taken for has come to its end, and given back to the pool otherwise.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

use crate::TRUSTED_IDLE;

/// How long a connection is used before the pool looks at it again, and replaces it when it is old.
const TRUSTED_AGE: Duration = Duration::from_secs(300);

/// The connections of one pool that are put by.
#[derive(Default)]
pub(crate) struct Connections {
    idle: Mutex<Vec<Idle>>,
    /// How many at most.
    limit: usize,
}

struct Idle {
    connection: PoolConnection<Postgres>,
    taken_at: Instant,
    since: Instant,
}

/// A connection that was taken.
pub(crate) struct Connection {
    connection: PoolConnection<Postgres>,
    taken_at: Instant,
}

impl Connections {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            idle: Mutex::default(),
            limit,
        })
    }

    /// A connection; [`Connections::put_by`] when it is done with.
    pub(crate) async fn take(&self, pool: &PgPool) -> Result<Connection, sqlx::Error> {
        let idle = self.idle.lock().pop();
        if let Some(idle) = idle.filter(|idle| idle.since.elapsed() < TRUSTED_IDLE) {
            return Ok(Connection {
                connection: idle.connection,
                taken_at: idle.taken_at,
            });
        }
        let connection = pool.acquire().await?;
        Ok(Connection {
            connection,
            taken_at: Instant::now(),
        })
    }

    /// Keeps a connection that has nothing under way.
    pub(crate) fn put_by(&self, connection: Connection, pool: &PgPool) {
        if is_wanted(pool) || connection.taken_at.elapsed() > TRUSTED_AGE {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < self.limit {
            idle.push(Idle {
                connection: connection.connection,
                taken_at: connection.taken_at,
                since: Instant::now(),
            });
        }
    }
}

/// Whether the pool has none left to give.
fn is_wanted(pool: &PgPool) -> bool {
    pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections()
}

impl Connection {
    /// Not to be used again by anybody.
    pub(crate) fn close(self) {
        // The pool would say goodbye to Postgres in a task, for which there may be no runtime any more.
        drop(self.connection.detach());
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

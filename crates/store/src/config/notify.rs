//! Telling other control planes that something was published: a latency optimisation. Correctness comes from reading the head.

use sqlx::postgres::{PgListener, PgPoolOptions};
use uuid::Uuid;

use crate::{Store, StoreError};

const CHANNEL: &str = "wharfinger_config";

/// The sender of what `wharfinger admin` announces: something about nodes that may not have moved the head.
pub const OPERATOR: Uuid = Uuid::nil();

/// Who announced something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcer {
    ControlPlane,
    /// [`OPERATOR`]: the list of nodes should be read too.
    Operator,
}

/// Tells every listening control plane that the head moved. Call it after the commit: inside the transaction it would serialise commits a
/// second time.
///
/// `sender` lets the sender pass over its own notifications.
///
/// # Errors
/// Those of the database.
pub async fn notify(store: &Store, sender: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        r#"SELECT 1 AS one FROM pg_notify($1, $2)"#,
        CHANNEL,
        sender.to_string()
    )
    .fetch_one(store.pool())
    .await?;
    Ok(())
}

/// A connection of its own that hears [`notify`]; it is not one of the pool's.
pub struct Listener(PgListener);

impl Listener {
    /// Connects and listens.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn connect(store: &Store) -> Result<Self, StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(crate::ACQUIRE_TIMEOUT)
            .connect_lazy_with(store.pool().connect_options().as_ref().clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Self(listener))
    }

    /// Returns when another than `own` announced something, or when the connection broke and came back: what was announced meanwhile is
    /// lost, so the head must be read.
    ///
    /// # Errors
    /// When the connection is gone and a new one cannot be made: make a new listener.
    pub async fn heard(&mut self, own: Uuid) -> Result<Announcer, StoreError> {
        let (own, operator) = (own.to_string(), OPERATOR.to_string());
        loop {
            match self.0.try_recv().await? {
                Some(notification) if notification.payload() == own => {}
                Some(notification) if notification.payload() != operator => {
                    return Ok(Announcer::ControlPlane);
                }
                // What was lost may have been an operator's.
                Some(_) | None => return Ok(Announcer::Operator),
            }
        }
    }
}

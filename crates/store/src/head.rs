//! The head of the configuration. Whatever decides about access publishes when it changes, and so counts the head's revision up: what was
//! read at the same head is still so.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{Store, StoreError};

/// A state of the configuration. Another history has another epoch, so the same two stand for the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) epoch: Uuid,
    pub(crate) revision: i64,
}

impl Head {
    /// Of two columns.
    pub(crate) fn of(epoch: Option<Uuid>, revision: Option<i64>) -> Option<Self> {
        let (epoch, revision) = epoch.zip(revision)?;
        Some(Self { epoch, revision })
    }

    /// # Errors
    /// [`StoreError::NotInitialised`] without a head; otherwise those of the database.
    pub(crate) async fn now(store: &Store) -> Result<Self, StoreError> {
        let mut connection = store.connection().await?;
        let head = sqlx::query_as!(
            Self,
            "SELECT epoch, revision FROM config_head WHERE singleton"
        )
        .fetch_optional(&mut *connection)
        .await?;
        store.put_by(connection);
        head.ok_or(StoreError::NotInitialised)
    }
}

/// Reads the head for many at once: those who ask while it is being read share the next reading.
///
/// A reading begins after everybody asked who gets it, so none is answered with what was before its question.
#[derive(Default)]
pub(crate) struct HeadReadings {
    /// The one that has not begun, if somebody waits for it.
    next: Mutex<Option<Reading>>,
    turn: tokio::sync::Mutex<()>,
}

type Reading = Shared<BoxFuture<'static, Option<Head>>>;

impl HeadReadings {
    /// The present head; `None` when it cannot be read, or there is none.
    pub(crate) async fn present(&self, store: &Store) -> Option<Head> {
        let reading = self
            .next
            .lock()
            .get_or_insert_with(|| read(store.clone()).boxed().shared())
            .clone();
        reading.await
    }
}

async fn read(store: Store) -> Option<Head> {
    let readings = &store.head_readings;
    let _turn = readings.turn.lock().await;
    // Requests that came in together are about to ask, too.
    tokio::task::yield_now().await;
    readings.next.lock().take();
    Head::now(&store).await.ok()
}

//! Transactions that change something.

use std::ops::{Deref, DerefMut};

use sqlx::PgConnection;

use crate::connections::Connection;
use crate::{Store, StoreError};

/// A transaction that changes something ([`Store::begin`]). Dropped without [`Transaction::commit`] it is rolled back.
///
/// When it has ended its connection is put by for the next one, or for a statement that reads, and not asked whether it is still good: that would be
/// one round trip more for every change.
pub struct Transaction {
    store: Store,
    /// `None` when it has ended.
    connection: Option<Connection>,
}

impl Transaction {
    pub(crate) async fn begin(store: &Store) -> Result<Self, StoreError> {
        let connection = store.connection().await?;
        // Before the statement: whoever waits for it may give up.
        let mut transaction = Self {
            store: store.clone(),
            connection: Some(connection),
        };
        sqlx::raw_sql("BEGIN").execute(&mut *transaction).await?;
        Ok(transaction)
    }

    /// Makes it last.
    ///
    /// # Errors
    /// Those of the database; whether it was committed is then not known.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("COMMIT").execute(&mut *self).await?;
        if let Some(connection) = self.connection.take() {
            self.store.put_by(connection);
        }
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(roll_back(self.store.clone(), connection));
            }
            Err(_) => connection.close(),
        }
    }
}

/// What was sent last may still be under way; Postgres answers in order.
async fn roll_back(store: Store, mut connection: Connection) {
    match sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await {
        Ok(_) => store.put_by(connection),
        Err(_) => connection.close(),
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("it has not ended")
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it has not ended")
    }
}

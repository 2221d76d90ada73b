//! The file behind the copy, open once. The store refuses everything after an operation that failed, also when the disk is well again, so it is
//! closed then, and opened anew for the next use.

use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, DatabaseError};

/// Opens the file.
type Open = dyn Fn() -> Result<Database, DatabaseError> + Send + Sync;

/// Clones share what is open.
#[derive(Clone)]
pub(super) struct CopyFile {
    open: Arc<Open>,
    database: Arc<Mutex<Option<Database>>>,
}

impl CopyFile {
    /// Open as `database`, and opened by `open` when that has failed.
    pub(super) fn new(
        database: Database,
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            open: Arc::new(open),
            database: Arc::new(Mutex::new(Some(database))),
        }
    }

    /// Does this with the open store, alone; its transactions must have ended when it returns.
    ///
    /// # Errors
    /// Those of `work`, and those of opening the file after an earlier one; what was committed then may be in the file or not.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let mut open = self.database.lock();
        let database = match open.take() {
            Some(database) => database,
            // The store promises an error for a damaged file, but a panic must not end the node either.
            None => without_panic(|| (self.open)()).map_err(redb::Error::Corrupted)??,
        };
        let done = work(&database)?;
        *open = Some(database);
        Ok(done)
    }
}

pub(super) fn without_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .map_err(|_| "reading it made the store give up".to_owned())
}

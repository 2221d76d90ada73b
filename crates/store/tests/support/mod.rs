//! What tests of the store begin with.

use config_documents::Epoch;
use store::{Store, config};

/// A store with a head, in which nothing is published.
pub(crate) async fn with_head(store: Store, epoch: Epoch) -> Store {
    let mut transaction = store.begin().await.expect("a transaction");
    config::initialise(&mut transaction, epoch)
        .await
        .expect("a head");
    transaction.commit().await.expect("committed");
    store
}

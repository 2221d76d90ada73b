//! The start-up probe: does this store compare before it writes, as everything above it relies on?

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Durability, OPERATION_PREFIX, PROBE_PREFIX, ReadError, RecordStore, Version, WriteError,
    operation_id,
};
use crate::content::sources::Sources;

/// Why a store cannot hold content.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The store answers, but not as it must.
    #[error("the record store cannot be used: {0}")]
    Unfit(&'static str),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Tries the store under a key of its own and leaves nothing behind.
///
/// # Errors
/// What the store got wrong, or that it does not work at all.
pub async fn probe(store: &dyn RecordStore, sources: &Sources) -> Result<(), ProbeError> {
    let prefix = format!("{PROBE_PREFIX}{}/", (sources.random_id)());
    // Names that sort before any root: a store that takes the start of a listing for relative to its prefix is found out.
    let keys = ["!a!", "!a-b!", "!a/b!"].map(|name| format!("{prefix}{name}"));
    let record = || probe_record((sources.random_id)());

    let first = store
        .create(&keys[1], record(), Durability::OnReturn)
        .await?;
    expect_conflict(
        store
            .create(&keys[1], record(), Durability::OnReturn)
            .await
            .map(drop),
        "a second create of the same record did not fail",
    )?;
    let bytes = record();
    let second = store
        .replace(&keys[1], bytes.clone(), &first, Durability::OnReturn)
        .await?;
    expect_conflict(
        store
            .replace(&keys[1], record(), &first, Durability::OnReturn)
            .await
            .map(drop),
        "a replace at an old version did not fail",
    )?;
    expect_conflict(
        store.remove(&keys[1], &first, Durability::OnReturn).await,
        "a remove at an old version did not fail",
    )?;
    let read = store.get(&keys[1]).await?;
    if read.is_none_or(|read| operation_id(&read.bytes) != operation_id(&bytes)) {
        return Err(ProbeError::Unfit("a read did not give what was written"));
    }
    probe_listing(store, &prefix, &keys, [record(), record()], second).await
}

async fn probe_listing(
    store: &dyn RecordStore,
    prefix: &str,
    keys: &[String; 3],
    [third, first]: [Bytes; 2],
    middle: Version,
) -> Result<(), ProbeError> {
    let third = store.create(&keys[2], third, Durability::OnReturn).await?;
    let first = store.create(&keys[0], first, Durability::OnReturn).await?;
    let listed = |entries: Vec<super::ListedRecord>| -> Vec<String> {
        entries.into_iter().map(|entry| entry.key).collect()
    };
    let all = listed(store.list(prefix, "", 10).await?);
    let rest = listed(store.list(prefix, &keys[0], 1).await?);
    for (key, version) in keys.iter().zip([first, middle, third]) {
        store.remove(key, &version, Durability::OnReturn).await?;
    }
    if all != keys[..] || rest != keys[1..2] {
        return Err(ProbeError::Unfit(
            "a listing is not in the order of the keys' bytes, or does not begin after the key named",
        ));
    }
    if store.get(&keys[1]).await?.is_some() {
        return Err(ProbeError::Unfit("a removed record is still there"));
    }
    Ok(())
}

fn probe_record(operation: Uuid) -> Bytes {
    let mut record = OPERATION_PREFIX.to_vec();
    record.extend_from_slice(format!("{operation}\"}}\n").as_bytes());
    Bytes::from(record)
}

fn expect_conflict(outcome: Result<(), WriteError>, fault: &'static str) -> Result<(), ProbeError> {
    match outcome {
        Err(WriteError::Conflict) => Ok(()),
        Ok(()) => Err(ProbeError::Unfit(fault)),
        Err(error) => Err(error.into()),
    }
}

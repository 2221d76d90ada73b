//! How much registries store, as nodes tell, and how much they may.
//!
//! What nodes tell is written often and lost without harm: it never touches the head of the configuration, and is not waited for on disk.
//! A limit is part of the documents of all registries of its SKU. Whoever publishes such a document locks the limits before any registry's
//! row, so that no document keeps a limit that has changed, and nobody waits in a circle.

use std::collections::BTreeMap;

use config_documents::{Region, RegistryUsage as SaidUsage};
use time::OffsetDateTime;
use uuid::Uuid;

use super::presence::{Presence, locked_registries, registry_changes};
use crate::config::{Published, publish};
use crate::{Store, StoreError, Transaction, activity};

/// The SKUs that have a limit each.
pub const STORAGE_SKUS: [&str; 3] = ["Basic", "Standard", "Premium"];

/// How much a registry stores and may store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryUsage {
    /// What nodes told last, and when that was so; `None` when they have not told yet.
    pub stored: Option<(u64, OffsetDateTime)>,
    /// `None`: no limit.
    pub limit_bytes: Option<u64>,
}

/// What each registry of a SKU may store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageLimit {
    pub sku: String,
    /// `None`: no limit.
    pub limit_bytes: Option<u64>,
}

/// The limits by SKU, for one transaction.
pub(super) struct StorageLimits(BTreeMap<String, u64>);

impl StorageLimits {
    /// Of one SKU, as a column.
    pub(super) fn of_one(sku: &str, limit_bytes: Option<i64>) -> Self {
        let limit = limit_bytes.map(|bytes| (sku.to_owned(), bytes_of(bytes)));
        Self(limit.into_iter().collect())
    }

    pub(super) fn of(&self, sku: &str) -> Option<u64> {
        self.0.get(sku).copied()
    }
}

/// The limits, locked against a change until the transaction ends.
pub(super) async fn storage_limits(
    transaction: &mut Transaction,
) -> Result<StorageLimits, StoreError> {
    let rows = sqlx::query!("SELECT sku, limit_bytes FROM storage_limits ORDER BY sku FOR SHARE")
        .fetch_all(&mut **transaction)
        .await?;
    let limits = rows
        .into_iter()
        .filter_map(|row| Some((row.sku, bytes_of(row.limit_bytes?))));
    Ok(StorageLimits(limits.collect()))
}

impl Store {
    /// How much a registry stores and may store.
    pub async fn registry_usage(&self, uid: Uuid, sku: &str) -> Result<RegistryUsage, StoreError> {
        let row = sqlx::query!(
            r#"SELECT usage.bytes AS "bytes?", usage.counted_at AS "counted_at?",
                 (SELECT limit_bytes FROM storage_limits WHERE sku = $2) AS limit_bytes
               FROM (SELECT 1) one LEFT JOIN registry_usage usage ON usage.registry_uid = $1"#,
            uid,
            sku
        )
        .fetch_one(self.pool())
        .await?;
        Ok(RegistryUsage {
            stored: row.bytes.map(bytes_of).zip(row.counted_at),
            limit_bytes: row.limit_bytes.map(bytes_of),
        })
    }

    /// What registries of each SKU may store, in the order of [`STORAGE_SKUS`].
    pub async fn storage_limit_list(&self) -> Result<Vec<StorageLimit>, StoreError> {
        let rows = sqlx::query!(
            "SELECT sku, limit_bytes FROM storage_limits ORDER BY array_position($1::text[], sku)",
            &STORAGE_SKUS.map(str::to_owned)
        )
        .fetch_all(self.pool())
        .await?;
        let limits = rows.into_iter().map(|row| StorageLimit {
            sku: row.sku,
            limit_bytes: row.limit_bytes.map(bytes_of),
        });
        Ok(limits.collect())
    }

    /// Sets what each registry of these SKUs may store; `None` lifts the limit. `None` comes back when there is no such registry.
    pub async fn storage_limit_set(
        &self,
        skus: &[&str],
        limit_bytes: Option<u64>,
    ) -> Result<Option<Published>, StoreError> {
        let skus: Vec<String> = skus.iter().map(|sku| (*sku).to_owned()).collect();
        activity::detail_list("skus", &skus);
        let limit = limit_bytes.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string());
        activity::detail("limitBytes", limit);
        let mut transaction = self.begin().await?;
        // All of them and in this order, as those who read them.
        sqlx::query!("SELECT sku FROM storage_limits ORDER BY sku FOR UPDATE")
            .fetch_all(&mut *transaction)
            .await?;
        sqlx::query!(
            "UPDATE storage_limits SET limit_bytes = $2 WHERE sku = ANY ($1)",
            &skus,
            limit_bytes.map(column_of)
        )
        .execute(&mut *transaction)
        .await?;
        let limits = storage_limits(&mut transaction).await?;
        let places = sqlx::query!(
            "SELECT uid, location, further_regions FROM registries WHERE sku = ANY ($1) ORDER BY uid FOR UPDATE",
            &skus
        )
        .fetch_all(&mut *transaction)
        .await?;
        let uids: Vec<Uuid> = places.iter().map(|place| place.uid).collect();
        let registries = locked_registries(&mut transaction, &uids).await?;
        let mut changes = Vec::with_capacity(registries.len());
        for (place, (registry, passwords)) in places.into_iter().zip(registries) {
            let presence = Presence::new(place.location, place.further_regions);
            changes.extend(registry_changes(&registry, passwords, &presence, &limits));
        }
        let published = match changes.is_empty() {
            true => None,
            false => Some(publish(&mut transaction, &changes).await?),
        };
        transaction.commit().await?;
        Ok(published)
    }
}

/// Remembers what nodes of regions told. What is older than what is known, or of a registry whose content is elsewhere, is passed over.
///
/// # Errors
/// Those of the database; nothing is remembered then.
pub async fn usage_record(store: &Store, said: &[(Region, SaidUsage)]) -> Result<(), StoreError> {
    let mut transaction = store
        .pool()
        .begin_with("BEGIN; SET LOCAL synchronous_commit = off")
        .await?;
    sqlx::query!(
        r#"
        WITH input AS (
            SELECT DISTINCT ON (registry_uid) registry_uid, region, bytes, counted_at
            FROM UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[]) AS input (registry_uid, region, bytes, counted_at)
            ORDER BY registry_uid, counted_at DESC
        )
        INSERT INTO registry_usage AS known (registry_uid, bytes, counted_at)
        SELECT input.registry_uid, input.bytes, input.counted_at
        FROM input JOIN registries ON registries.uid = input.registry_uid AND registries.location = input.region
        ORDER BY input.registry_uid
        ON CONFLICT (registry_uid) DO UPDATE SET bytes = EXCLUDED.bytes, counted_at = EXCLUDED.counted_at
        WHERE known.counted_at <= EXCLUDED.counted_at
        "#,
        &said.iter().map(|(_, usage)| usage.registry_uid).collect::<Vec<_>>(),
        &said.iter().map(|(region, _)| region.0.clone()).collect::<Vec<_>>(),
        &said.iter().map(|(_, usage)| column_of(usage.bytes)).collect::<Vec<_>>(),
        &said.iter().map(|(_, usage)| usage.counted_at).collect::<Vec<_>>(),
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

fn bytes_of(column: i64) -> u64 {
    u64::try_from(column).unwrap_or_default()
}

/// More than a column holds is more than any store holds.
fn column_of(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

//! What is sealed at rest, by which key-encryption key, and which control planes have which. The keys themselves never come here.

use std::time::Duration;

use uuid::Uuid;

use crate::{Store, StoreError};

/// A control plane that was not heard of for longer does not count.
const CONTROL_PLANE_LEASE: Duration = Duration::from_secs(15);

/// A running control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    pub instance_id: Uuid,
    pub key_fingerprints: Vec<String>,
    pub sealing_fingerprint: String,
}

/// Something sealed, by where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedPlace {
    RegistryPassword { registry_uid: Uuid, slot: String },
    SignInKey { kid: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub place: SealedPlace,
    pub bytes: Vec<u8>,
}

/// How much is sealed with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedCount {
    pub fingerprint: String,
    pub count: i64,
}

impl Store {
    /// Says that a control plane runs, and with which keys; which key is to seal.
    ///
    /// # Errors
    /// [`StoreError::NotInitialised`] without an installation; otherwise those of the database.
    pub async fn control_plane_seen(
        &self,
        control_plane: &ControlPlane,
    ) -> Result<String, StoreError> {
        sqlx::query_scalar!(
            r#"WITH seen AS (
                 INSERT INTO control_planes (instance_id, key_fingerprints, sealing_fingerprint, seen_at)
                 VALUES ($1, $2, $3, clock_timestamp())
                 ON CONFLICT (instance_id) DO UPDATE SET key_fingerprints = excluded.key_fingerprints,
                   sealing_fingerprint = excluded.sealing_fingerprint, seen_at = excluded.seen_at),
               gone AS (DELETE FROM control_planes WHERE seen_at < clock_timestamp() - interval '1 day')
               SELECT key_encryption_fingerprint FROM installation"#,
            control_plane.instance_id,
            &control_plane.key_fingerprints,
            control_plane.sealing_fingerprint
        )
        .fetch_optional(self.pool())
        .await?
        .ok_or(StoreError::NotInitialised)
    }

    /// Says that a control plane has ended.
    pub async fn control_plane_ended(&self, instance_id: Uuid) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM control_planes WHERE instance_id = $1",
            instance_id
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The control planes that run.
    pub async fn control_plane_list(&self) -> Result<Vec<ControlPlane>, StoreError> {
        let rows = sqlx::query_as!(
            ControlPlane,
            "SELECT instance_id, key_fingerprints, sealing_fingerprint FROM control_planes
             WHERE seen_at > clock_timestamp() - make_interval(secs => $1) ORDER BY instance_id",
            CONTROL_PLANE_LEASE.as_secs_f64()
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Has another key seal from now on; whether it was another.
    pub async fn sealing_key_set(&self, fingerprint: &str) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let changed = sqlx::query!(
            "UPDATE installation SET key_encryption_fingerprint = $1 WHERE key_encryption_fingerprint <> $1",
            fingerprint
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(changed == 1)
    }

    /// How much is sealed with each key, by the keys' names.
    pub async fn sealed_count(&self) -> Result<Vec<SealedCount>, StoreError> {
        let rows = sqlx::query_as!(
            SealedCount,
            r#"SELECT encode(substring(sealed FROM 2 FOR 8), 'hex') AS "fingerprint!", count(*) AS "count!"
               FROM (SELECT sealed FROM registry_passwords UNION ALL SELECT sealed_private FROM sign_in_keys) AS everything
               GROUP BY 1 ORDER BY 1"#
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Up to `limit` of what is sealed with another key than the named one.
    pub async fn sealed_otherwise(
        &self,
        fingerprint: &str,
        limit: i64,
    ) -> Result<Vec<Sealed>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT registry_uid AS "registry_uid?", name AS "name!", sealed AS "sealed!" FROM (
                 SELECT registry_uid, slot AS name, sealed FROM registry_passwords
                 UNION ALL SELECT NULL, kid, sealed_private FROM sign_in_keys) AS everything
               WHERE encode(substring(sealed FROM 2 FOR 8), 'hex') <> $1 LIMIT $2"#,
            fingerprint,
            limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Sealed {
                place: match row.registry_uid {
                    Some(registry_uid) => SealedPlace::RegistryPassword {
                        registry_uid,
                        slot: row.name,
                    },
                    None => SealedPlace::SignInKey { kid: row.name },
                },
                bytes: row.sealed,
            })
            .collect())
    }

    /// Puts newly sealed bytes in the place of others, in one transaction. What was changed or deleted meanwhile is left as it is; how many
    /// were replaced.
    pub async fn sealed_replace(&self, renewed: &[(Sealed, Vec<u8>)]) -> Result<u64, StoreError> {
        let mut transaction = self.begin().await?;
        let mut replaced = 0;
        for (before, bytes) in renewed {
            let done = match &before.place {
                SealedPlace::RegistryPassword { registry_uid, slot } => sqlx::query!(
                    "UPDATE registry_passwords SET sealed = $4 WHERE registry_uid = $1 AND slot = $2 AND sealed = $3",
                    registry_uid,
                    slot,
                    before.bytes,
                    bytes
                ),
                SealedPlace::SignInKey { kid } => sqlx::query!(
                    "UPDATE sign_in_keys SET sealed_private = $3 WHERE kid = $1 AND sealed_private = $2",
                    kid,
                    before.bytes,
                    bytes
                ),
            };
            replaced += done.execute(&mut *transaction).await?.rows_affected();
        }
        transaction.commit().await?;
        Ok(replaced)
    }
}

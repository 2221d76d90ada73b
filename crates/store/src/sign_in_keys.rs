//! The keys that sign access tokens of the control plane, the private part sealed, and what nodes know of them.

use std::collections::BTreeMap;

use config_documents::{Document, Kind, Region};
use time::{Duration, OffsetDateTime};

use crate::config::{Change, Published, publish, published_of};
use crate::{Store, StoreError, Transaction};

/// How much later than its end a key is forgotten: clocks of control planes may differ by as much, and none publishes anew what another
/// one withdrew.
const FORGOTTEN_AFTER: Duration = Duration::minutes(5);

/// A key as it is stored. Its public part comes from the private one, so nobody who can only write rows can slip in a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInKey {
    pub kid: String,
    pub sealed_private: Vec<u8>,
    /// It signs from then on; it is shown to verifiers before.
    pub not_before: OffsetDateTime,
    /// It no longer signs from then on; tokens that it signed are good until they expire.
    pub retired_at: Option<OffsetDateTime>,
}

/// How long something can be good after a key's last signature.
#[derive(Debug, Clone, Copy)]
pub struct TokenLifetimes {
    /// A token that it signed.
    pub signed: Duration,
    /// What nodes gave for such a token; it dies when nodes know the key no more.
    pub exchanged: Duration,
}

impl TokenLifetimes {
    pub fn after_last_signature(&self) -> Duration {
        self.signed + self.exchanged
    }
}

impl Store {
    /// Keys that are in use, will be, or were retired after `retired_since`, in the order of their first use.
    pub async fn sign_in_key_list(
        &self,
        retired_since: OffsetDateTime,
    ) -> Result<Vec<SignInKey>, StoreError> {
        let rows = sqlx::query_as!(
            SignInKey,
            "SELECT kid, sealed_private, not_before, retired_at FROM sign_in_keys
             WHERE retired_at IS NULL OR retired_at > $1 ORDER BY not_before, kid",
            retired_since
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Adds a key unless there is one that is not retired; whether it was added. Of several callers at once one succeeds.
    pub async fn sign_in_key_create_if_none(&self, key: &SignInKey) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        lock(&mut transaction).await?;
        let added = sqlx::query!(
            "INSERT INTO sign_in_keys (kid, sealed_private, not_before, retired_at)
             SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM sign_in_keys WHERE retired_at IS NULL)",
            key.kid,
            key.sealed_private,
            key.not_before,
            key.retired_at
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(added == 1)
    }

    /// Makes what nodes know of the keys what `keys` says, and forgets keys that ended; `None` when nodes know it already, or do not
    /// understand such documents yet.
    ///
    /// `keys` are the documents of all keys that were not over when they were read. What a key of another's making is, nobody but who can
    /// open it knows: of a document whose key is in the database and not in `keys` nothing is changed.
    pub async fn sign_in_keys_publish(
        &self,
        keys: &[config_documents::SignInKey],
        lifetimes: TokenLifetimes,
        now: OffsetDateTime,
    ) -> Result<Option<Published>, StoreError> {
        // First without a lock: nearly always there is nothing to do.
        let (known, form) =
            published_of(&mut *self.pool().acquire().await?, Kind::SignInKey).await?;
        let is_known = |document: &Document| {
            known.get(&document.key()) == document.body_in_form(form).as_ref()
        };
        if form == 0
            || (known.len() == keys.len()
                && keys
                    .iter()
                    .all(|key| is_known(&Document::SignInKey(key.clone()))))
        {
            return Ok(None);
        }
        let mut transaction = self.begin().await?;
        lock(&mut transaction).await?;
        let forgotten = sqlx::query_scalar!(
            "DELETE FROM sign_in_keys WHERE retired_at < $1 RETURNING kid",
            now - lifetimes.after_last_signature() - FORGOTTEN_AFTER
        )
        .fetch_all(&mut *transaction)
        .await?;
        let present = sqlx::query!("SELECT kid, retired_at FROM sign_in_keys")
            .fetch_all(&mut *transaction)
            .await?;
        let present: BTreeMap<String, Option<OffsetDateTime>> = present
            .into_iter()
            .map(|row| {
                (
                    row.kid,
                    row.retired_at
                        .map(|retired_at| retired_at + lifetimes.signed),
                )
            })
            .collect();
        let (known, form) = published_of(&mut transaction, Kind::SignInKey).await?;
        let mut changes: Vec<Change> = known
            .keys()
            .filter(|kid| !present.contains_key(*kid))
            .map(|kid| withdrawal(kid))
            .collect();
        for key in keys {
            let document = Document::SignInKey(key.clone());
            let kid = document.key();
            // As it was read, and not as a rotation has made it meanwhile.
            let is_present = present.get(&kid) == Some(&key.ends_at);
            let is_over = key
                .ends_at
                .is_some_and(|ends_at| ends_at + lifetimes.exchanged <= now);
            if is_present && !is_over && known.get(&kid) != document.body_in_form(form).as_ref() {
                changes.push(Change::Upsert {
                    region: Region::all(),
                    document,
                });
            }
        }
        let published = if changes.is_empty() {
            None
        } else {
            Some(publish(&mut transaction, &changes).await?)
        };
        if published.is_some() || !forgotten.is_empty() {
            transaction.commit().await?;
        }
        Ok(published)
    }
}

/// What becomes of the keys before a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormerKeys {
    /// They sign until the new one does, and tokens that they signed are good until they expire.
    Retire,
    /// Nothing that they signed counts any more.
    Revoke,
}

impl Store {
    /// Adds a key, tells nodes, and retires or revokes those before it, in one transaction.
    pub async fn sign_in_key_rotate(
        &self,
        new: &SignInKey,
        document: config_documents::SignInKey,
        former: FormerKeys,
        token_lifetime: Duration,
    ) -> Result<Published, StoreError> {
        let mut transaction = self.begin().await?;
        lock(&mut transaction).await?;
        let mut changes = match former {
            FormerKeys::Retire => retire(&mut transaction, new.not_before, token_lifetime).await?,
            FormerKeys::Revoke => revoke(&mut transaction).await?,
        };
        sqlx::query!(
            "INSERT INTO sign_in_keys (kid, sealed_private, not_before, retired_at) VALUES ($1, $2, $3, $4)",
            new.kid,
            new.sealed_private,
            new.not_before,
            new.retired_at
        )
        .execute(&mut *transaction)
        .await?;
        changes.push(Change::Upsert {
            region: Region::all(),
            document: Document::SignInKey(document),
        });
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(published)
    }
}

/// Retires every key at `retired_at`; what nodes have to know. What they know of none cannot be said here: who can open the key says it.
async fn retire(
    transaction: &mut Transaction,
    retired_at: OffsetDateTime,
    token_lifetime: Duration,
) -> Result<Vec<Change>, StoreError> {
    let retired = sqlx::query!(
        r#"UPDATE sign_in_keys SET retired_at = $1 WHERE retired_at IS NULL OR retired_at > $1
           RETURNING kid, retired_at AS "retired_at!""#,
        retired_at
    )
    .fetch_all(&mut **transaction)
    .await?;
    let (known, _) = published_of(&mut *transaction, Kind::SignInKey).await?;
    let mut changes = Vec::with_capacity(retired.len() + 1);
    for row in retired {
        let Some(body) = known.get(&row.kid) else {
            continue;
        };
        let parsed = Document::parse(Kind::SignInKey.as_str(), &row.kid, body);
        if let Ok(Document::SignInKey(mut document)) = parsed {
            document.ends_at = Some(row.retired_at + token_lifetime);
            changes.push(Change::Upsert {
                region: Region::all(),
                document: Document::SignInKey(document),
            });
        }
    }
    Ok(changes)
}

/// Forgets every key; what nodes have to know.
async fn revoke(transaction: &mut Transaction) -> Result<Vec<Change>, StoreError> {
    let revoked = sqlx::query_scalar!("DELETE FROM sign_in_keys RETURNING kid")
        .fetch_all(&mut **transaction)
        .await?;
    Ok(revoked.iter().map(|kid| withdrawal(kid)).collect())
}

fn withdrawal(kid: &str) -> Change {
    Change::Delete {
        region: Region::all(),
        kind: Kind::SignInKey,
        key: kid.to_owned(),
    }
}

/// Whoever waits here sees, in the statement after, what the one before committed.
async fn lock(transaction: &mut Transaction) -> Result<(), StoreError> {
    sqlx::query!("SELECT singleton FROM installation FOR UPDATE")
        .fetch_optional(&mut **transaction)
        .await?
        .ok_or(StoreError::NotInitialised)?;
    Ok(())
}

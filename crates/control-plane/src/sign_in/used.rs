//! When a credential last signed in, to the hour: nobody can rotate safely without knowing it.

use moka::sync::Cache;
use store::Store;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::limits::REMEMBERED_SECRETS;

const SECONDS_OF_AN_HOUR: i64 = 3600;

/// What this process has said already, so that it is said once an hour.
pub(super) struct UsedCredentials(Cache<Uuid, i64>);

impl UsedCredentials {
    pub(super) fn new() -> Self {
        Self(Cache::new(REMEMBERED_SECRETS))
    }

    /// Notes a use. That it cannot be written down keeps nobody from signing in; the next use says it again.
    pub(super) async fn note(&self, store: &Store, credential_id: Uuid, now: OffsetDateTime) {
        let hour = now.unix_timestamp().div_euclid(SECONDS_OF_AN_HOUR);
        if self.0.get(&credential_id) == Some(hour) {
            return;
        }
        let begun_at = OffsetDateTime::from_unix_timestamp(hour * SECONDS_OF_AN_HOUR)
            .expect("an hour that has begun is a time");
        match store.sign_in_credential_used(credential_id, begun_at).await {
            Ok(()) => self.0.insert(credential_id, hour),
            Err(error) => tracing::debug!(
                error.cause = %service::errors::chain(&error),
                "the use of a credential is not written down"
            ),
        }
    }
}

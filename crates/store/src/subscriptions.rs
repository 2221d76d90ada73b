//! Subscriptions.

use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Store, StoreError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub subscription_id: Uuid,
    pub tenant_id: Uuid,
    pub display_name: String,
}

impl Store {
    pub async fn subscription_list(&self) -> Result<Vec<Subscription>, StoreError> {
        let rows = sqlx::query_as!(
            Subscription,
            "SELECT subscription_id, tenant_id, display_name FROM subscriptions ORDER BY subscription_id"
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }
}

pub(crate) async fn subscription_create(
    transaction: &mut Transaction<'_, Postgres>,
    subscription: &Subscription,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO subscriptions (subscription_id, tenant_id, display_name, created_at) VALUES ($1, $2, $3, $4)",
        subscription.subscription_id,
        subscription.tenant_id,
        subscription.display_name,
        now
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

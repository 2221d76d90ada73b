//! Subscriptions.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::{Published, publish};
use crate::role_assignments::{RoleAssignment, role_assignment_create};
use crate::{Store, StoreError, Transaction, activity};

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

    /// Creates a subscription with its first Owner, all or nothing.
    pub async fn subscription_create(
        &self,
        subscription: &Subscription,
        owner: &RoleAssignment,
        now: OffsetDateTime,
    ) -> Result<SubscriptionCreation, StoreError> {
        let scope = rbac::Scope::parse(&owner.scope).map_err(|error| StoreError::Corrupt {
            table: "role_assignments",
            reason: error.to_string(),
        })?;
        activity::detail("displayName", subscription.display_name.as_str());
        activity::detail("ownerId", owner.principal_id.to_string());
        let mut transaction = self.begin().await?;
        let principal = sqlx::query!(
            "SELECT object_id FROM principals WHERE object_id = $1 FOR KEY SHARE",
            owner.principal_id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if principal.is_none() {
            return Ok(SubscriptionCreation::OwnerNotFound);
        }
        subscription_create(&mut transaction, subscription, now).await?;
        let change = role_assignment_create(&mut transaction, owner, &scope).await?;
        let published = publish(&mut transaction, &[change]).await?;
        transaction.commit().await?;
        Ok(SubscriptionCreation::Created(published))
    }

    /// Gives a subscription another name; whether there is one.
    pub async fn subscription_rename(
        &self,
        subscription_id: Uuid,
        display_name: &str,
    ) -> Result<bool, StoreError> {
        activity::detail("displayName", display_name);
        let mut transaction = self.begin().await?;
        let changed = sqlx::query!(
            "UPDATE subscriptions SET display_name = $2 WHERE subscription_id = $1",
            subscription_id,
            display_name
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if changed == 0 {
            return Ok(false);
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// What came of creating a subscription.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriptionCreation {
    Created(Published),
    OwnerNotFound,
}

pub(crate) async fn subscription_create(
    transaction: &mut Transaction,
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

//! Who owns applications, service principals and groups: their owners manage them.

use uuid::Uuid;

use super::{Addressed, applications, hold_individual, principals};
use crate::access::PrincipalKind;
use crate::{Store, StoreError, Transaction};

/// What kind of object has owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnedKind {
    Application,
    ServicePrincipal,
    Group,
}

/// What came of adding an owner.
#[derive(Debug, PartialEq, Eq)]
pub enum OwnerAddition {
    Added,
    /// It was an owner already.
    Exists,
    /// The directory has no such object of that kind.
    ObjectNotFound,
    /// The directory has no such user or service principal.
    OwnerNotFound,
    /// The object has as many owners as it may.
    TooMany,
}

impl Store {
    /// Whether a principal may manage an object: as its owner (who owns an application owns its service principal), or, where the object is
    /// an application or service principal, as an application administrator. All of these leave alone what administers the directory, or
    /// they could make themselves its administrators; only that service principal itself manages its own.
    pub async fn directory_manages(
        &self,
        object_id: Uuid,
        principal_id: Uuid,
    ) -> Result<bool, StoreError> {
        let manages = sqlx::query_scalar!(
            r#"SELECT (EXISTS (SELECT 1 FROM directory_owners WHERE object_id = $1 AND owner_id = $2)
                 OR EXISTS (SELECT 1 FROM service_principals s
                      JOIN applications a ON a.app_id = s.app_id
                      JOIN directory_owners o ON o.object_id = a.object_id
                      WHERE s.object_id = $1 AND o.owner_id = $2)
                 OR (EXISTS (SELECT 1 FROM directory_role_members d
                        WHERE d.role = 'application-administrator' AND d.principal_id = $2)
                      AND (EXISTS (SELECT 1 FROM applications a WHERE a.object_id = $1)
                        OR EXISTS (SELECT 1 FROM service_principals s WHERE s.object_id = $1))))
               AND NOT EXISTS (SELECT 1 FROM service_principals s
                 JOIN applications a ON a.app_id = s.app_id
                 JOIN directory_role_members x ON x.principal_id = s.object_id AND x.role = 'administrator'
                 WHERE (s.object_id = $1 OR a.object_id = $1) AND s.object_id <> $2) AS "manages!""#,
            object_id,
            principal_id
        )
        .fetch_one(self.pool())
        .await?;
        Ok(manages)
    }

    /// Makes a user or a service principal an owner of an object, unless that has `maximum` owners already.
    pub async fn owner_add(
        &self,
        object_id: Uuid,
        object_kind: OwnedKind,
        owner: Addressed,
        maximum: i64,
    ) -> Result<OwnerAddition, StoreError> {
        crate::activity::detail("ownerId", owner.object_id.to_string());
        let mut transaction = self.begin().await?;
        if !lock_object(&mut transaction, object_id, object_kind).await? {
            return Ok(OwnerAddition::ObjectNotFound);
        }
        if !hold_individual(&mut transaction, owner).await? {
            return Ok(OwnerAddition::OwnerNotFound);
        }
        let inserted = sqlx::query!(
            "INSERT INTO directory_owners (object_id, owner_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            object_id,
            owner.object_id
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if inserted == 0 {
            return Ok(OwnerAddition::Exists);
        }
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM directory_owners WHERE object_id = $1"#,
            object_id
        )
        .fetch_one(&mut *transaction)
        .await?;
        if count > maximum {
            return Ok(OwnerAddition::TooMany);
        }
        transaction.commit().await?;
        Ok(OwnerAddition::Added)
    }

    /// Takes an owner from an object; false when it was none, or the object is not of that kind.
    pub async fn owner_remove(
        &self,
        object_id: Uuid,
        object_kind: OwnedKind,
        owner_id: Uuid,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        if !lock_object(&mut transaction, object_id, object_kind).await? {
            return Ok(false);
        }
        let removed = sqlx::query!(
            "DELETE FROM directory_owners WHERE object_id = $1 AND owner_id = $2",
            object_id,
            owner_id
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(removed > 0)
    }
}

/// Keeps an object from being deleted, so that it leaves no owners behind; false when there is none of that kind.
async fn lock_object(
    transaction: &mut Transaction,
    object_id: Uuid,
    kind: OwnedKind,
) -> Result<bool, StoreError> {
    let wanted = match kind {
        OwnedKind::Application => {
            return Ok(applications::lock(transaction, object_id).await?.is_some());
        }
        OwnedKind::ServicePrincipal => PrincipalKind::ServicePrincipal,
        OwnedKind::Group => PrincipalKind::Group,
    };
    Ok(principals::lock(transaction, object_id).await? == Some(wanted))
}

//! Resource groups.

use arm::Tags;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::{Published, publish};
use crate::registries::{Presence, RESOURCE_TYPE, deletions, read_tags};
use crate::role_assignments::delete_at_and_below;
use crate::{Store, StoreError, activity};

#[derive(Debug, Clone, PartialEq)]
pub struct ResourceGroup {
    pub uid: Uuid,
    pub subscription_id: Uuid,
    pub name: String,
    pub location: String,
    pub tags: Tags,
    pub created_at: OffsetDateTime,
}

impl ResourceGroup {
    pub fn id(&self) -> arm::ResourceId {
        arm::ResourceId::resource_group(self.subscription_id, &self.name)
    }
}

/// What came of a PUT of a resource group.
#[derive(Debug)]
pub enum ResourceGroupPut {
    Created(ResourceGroup),
    Updated(ResourceGroup),
    /// The group exists in another location, which never changes.
    OtherLocation(ResourceGroup),
}

impl Store {
    /// Creates a group, or replaces its tags. The subscription exists.
    pub async fn resource_group_put(
        &self,
        group: &ResourceGroup,
    ) -> Result<ResourceGroupPut, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query!(
            r#"INSERT INTO resource_groups (uid, subscription_id, name, name_key, location, tags, created_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7)
               ON CONFLICT (subscription_id, name_key) DO UPDATE SET tags =
                 CASE WHEN resource_groups.location = excluded.location THEN excluded.tags ELSE resource_groups.tags END
               RETURNING uid, name, location, tags, created_at"#,
            group.uid,
            group.subscription_id,
            group.name,
            arm::canonical_key(&group.name),
            group.location,
            sqlx::types::Json(&group.tags) as _,
            group.created_at
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let stored = ResourceGroup {
            uid: row.uid,
            subscription_id: group.subscription_id,
            name: row.name,
            location: row.location,
            tags: read_tags("resource_groups", row.tags)?,
            created_at: row.created_at,
        };
        Ok(if stored.uid == group.uid {
            ResourceGroupPut::Created(stored)
        } else if stored.location == group.location {
            ResourceGroupPut::Updated(stored)
        } else {
            ResourceGroupPut::OtherLocation(stored)
        })
    }

    /// Replaces a group's tags; `None` when the group is gone.
    pub async fn resource_group_set_tags(
        &self,
        uid: Uuid,
        tags: &Tags,
    ) -> Result<Option<()>, StoreError> {
        let mut transaction = self.begin().await?;
        let changed = sqlx::query!(
            "UPDATE resource_groups SET tags = $2 WHERE uid = $1",
            uid,
            sqlx::types::Json(tags) as _
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok((changed == 1).then_some(()))
    }

    /// A page of a subscription's groups in the order of their keys, starting after `after`.
    pub async fn resource_group_list(
        &self,
        subscription_id: Uuid,
        after: &str,
        limit: i64,
    ) -> Result<Vec<ResourceGroup>, StoreError> {
        sqlx::query!(
            r#"SELECT uid, subscription_id, name, location, tags, created_at FROM resource_groups
               WHERE subscription_id = $1 AND name_key > $2
               ORDER BY name_key LIMIT $3"#,
            subscription_id,
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?
        .into_iter()
        .map(|row| {
            Ok(ResourceGroup {
                uid: row.uid,
                subscription_id: row.subscription_id,
                name: row.name,
                location: row.location,
                tags: read_tags("resource_groups", row.tags)?,
                created_at: row.created_at,
            })
        })
        .collect()
    }

    /// Deletes a group with everything in it and all role assignments at and below it; `None` when it is gone.
    pub async fn resource_group_delete(
        &self,
        group: &ResourceGroup,
    ) -> Result<Option<Option<Published>>, StoreError> {
        let mut transaction = self.begin().await?;
        // The lock keeps registries and assignments from appearing below the group meanwhile.
        let found = sqlx::query!(
            "SELECT uid FROM resource_groups WHERE uid = $1 FOR UPDATE",
            group.uid
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if found.is_none() {
            return Ok(None);
        }
        let registries = sqlx::query!(
            "DELETE FROM registries WHERE resource_group_uid = $1 RETURNING uid, name, name_key, location, further_regions",
            group.uid
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut changes = Vec::new();
        let mut deleted = Vec::new();
        for registry in registries {
            let id = arm::ResourceId::resource(
                group.subscription_id,
                &group.name,
                RESOURCE_TYPE,
                &registry.name,
            );
            deleted.push(activity::Deleted {
                resource_id: id.as_str().to_owned(),
                details: Vec::new(),
            });
            let presence = Presence::new(registry.location, registry.further_regions);
            changes.extend(deletions(registry.uid, registry.name_key, &presence));
        }
        activity::also_deleted(
            &mut transaction,
            "Microsoft.ContainerRegistry/registries/delete",
            &deleted,
        )
        .await?;
        changes.extend(delete_at_and_below(&mut transaction, group.id().key()).await?);
        sqlx::query!("DELETE FROM resource_groups WHERE uid = $1", group.uid)
            .execute(&mut *transaction)
            .await?;
        let published = if changes.is_empty() {
            None
        } else {
            Some(publish(&mut transaction, &changes).await?)
        };
        transaction.commit().await?;
        Ok(Some(published))
    }
}

//! Who is in which group and who owns what, as ids; what they stand for is looked up apart.

use uuid::Uuid;

use crate::{Store, StoreError};

/// How far memberships are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// One step.
    Direct,
    /// Through groups within groups.
    Transitive,
}

impl Store {
    /// A page of the members of a group, in the order of their ids, starting after `after`.
    pub async fn group_member_ids(
        &self,
        group_id: Uuid,
        reach: Reach,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let ids = match reach {
            Reach::Direct => {
                sqlx::query_scalar!(
                    "SELECT member_id FROM group_members WHERE group_id = $1 AND member_id > $2 ORDER BY member_id LIMIT $3",
                    group_id,
                    after,
                    limit
                )
                .fetch_all(self.pool())
                .await?
            }
            // UNION, not UNION ALL: each member once, so that groups that contain each other end.
            Reach::Transitive => {
                sqlx::query_scalar!(
                    r#"WITH RECURSIVE reached (id) AS (
                         SELECT member_id FROM group_members WHERE group_id = $1
                         UNION SELECT m.member_id FROM group_members m JOIN reached r ON m.group_id = r.id)
                       SELECT id AS "id!" FROM reached WHERE id > $2 ORDER BY id LIMIT $3"#,
                    group_id,
                    after,
                    limit
                )
                .fetch_all(self.pool())
                .await?
            }
        };
        Ok(ids)
    }

    /// A page of the groups that a principal is a member of, in the order of their ids, starting after `after`.
    pub async fn group_ids_of_member(
        &self,
        member_id: Uuid,
        reach: Reach,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let ids = match reach {
            Reach::Direct => {
                sqlx::query_scalar!(
                    "SELECT group_id FROM group_members WHERE member_id = $1 AND group_id > $2 ORDER BY group_id LIMIT $3",
                    member_id,
                    after,
                    limit
                )
                .fetch_all(self.pool())
                .await?
            }
            Reach::Transitive => {
                sqlx::query_scalar!(
                    r#"WITH RECURSIVE reached (id) AS (
                         SELECT group_id FROM group_members WHERE member_id = $1
                         UNION SELECT m.group_id FROM group_members m JOIN reached r ON m.member_id = r.id)
                       SELECT id AS "id!" FROM reached WHERE id > $2 ORDER BY id LIMIT $3"#,
                    member_id,
                    after,
                    limit
                )
                .fetch_all(self.pool())
                .await?
            }
        };
        Ok(ids)
    }

    /// A page of the owners of an object, in the order of their ids, starting after `after`.
    pub async fn owner_ids(
        &self,
        object_id: Uuid,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let ids = sqlx::query_scalar!(
            "SELECT owner_id FROM directory_owners WHERE object_id = $1 AND owner_id > $2 ORDER BY owner_id LIMIT $3",
            object_id,
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(ids)
    }

    /// A page of what a principal owns, in the order of the ids, starting after `after`.
    pub async fn owned_ids(
        &self,
        owner_id: Uuid,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let ids = sqlx::query_scalar!(
            "SELECT object_id FROM directory_owners WHERE owner_id = $1 AND object_id > $2 ORDER BY object_id LIMIT $3",
            owner_id,
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(ids)
    }

    /// Whether the directory has a principal with that id.
    pub async fn principal_exists(&self, object_id: Uuid) -> Result<bool, StoreError> {
        let exists = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM principals WHERE object_id = $1) AS "exists!""#,
            object_id
        )
        .fetch_one(self.pool())
        .await?;
        Ok(exists)
    }
}

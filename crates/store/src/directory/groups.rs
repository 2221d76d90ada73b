//! Groups and their direct members.

use time::OffsetDateTime;
use uuid::Uuid;

use super::principals::{self, publish_principal};
use super::{Addressed, Deletion, ObjectQuery, add_owner};
use crate::access::PrincipalKind;
use crate::config::{Published, publish};
use crate::role_assignments::owners;
use crate::{Store, StoreError, activity};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub object_id: Uuid,
    pub display_name: String,
    pub description: Option<String>,
    pub mail_nickname: String,
    pub created_at: OffsetDateTime,
}

#[derive(Debug, Clone)]
pub struct NewGroup {
    pub object_id: Uuid,
    pub display_name: String,
    pub description: Option<String>,
    pub mail_nickname: String,
    pub created_at: OffsetDateTime,
    pub owners: Vec<Addressed>,
    pub members: Vec<Addressed>,
}

/// What came of creating a group.
#[derive(Debug, PartialEq, Eq)]
pub enum GroupCreation {
    Created(Published),
    /// The directory has no such principal, which was to be a member.
    MemberNotFound(Uuid),
    /// The directory has no such principal, which was to be an owner.
    OwnerNotFound(Uuid),
    /// The one that was to be a member is a direct member of as many groups as it may.
    TooMany(Uuid),
}

/// What is to change of a group; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct GroupChange {
    pub display_name: Option<String>,
    /// `Some(None)` takes it away.
    pub description: Option<Option<String>>,
    pub mail_nickname: Option<String>,
}

/// What came of adding a member.
#[derive(Debug, PartialEq, Eq)]
pub enum MembershipAddition {
    /// With what was published: the member's document.
    Added(Published),
    /// It was a member already.
    Exists,
    GroupNotFound,
    /// The directory has no such principal.
    MemberNotFound,
    /// The member is a direct member of as many groups as it may.
    TooMany,
}

/// What came of taking a member out of a group.
#[derive(Debug, PartialEq, Eq)]
pub enum MembershipRemoval {
    /// With what was published: the document of whom it was.
    Removed(Option<Published>),
    /// It is no direct member.
    NotFound,
    /// A subscription would be left without an Owner.
    LastOwner,
}

impl Store {
    /// A page of groups in the order of their object ids.
    pub async fn group_list(&self, query: &ObjectQuery) -> Result<Vec<Group>, StoreError> {
        let rows = sqlx::query_as!(
            Group,
            "SELECT p.object_id, p.display_name, g.description, g.mail_nickname, p.created_at
             FROM principals p JOIN groups g ON g.object_id = p.object_id
             WHERE ($1::uuid[] IS NULL OR p.object_id = ANY ($1))
               AND ($2::text IS NULL OR p.name_key = $2)
               AND ($3::text IS NULL OR p.name_key LIKE $3)
               AND ($4::text IS NULL OR g.mail_nickname_key = $4)
               AND p.object_id > $5
             ORDER BY p.object_id LIMIT $6",
            query.object_ids.as_deref() as Option<&[Uuid]>,
            query.name_key(),
            query.name_pattern(),
            query.mail_nickname_key(),
            query.after,
            query.limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    pub async fn group_get(&self, object_id: Uuid) -> Result<Option<Group>, StoreError> {
        let found = self.group_list(&ObjectQuery::one(object_id)).await?;
        Ok(found.into_iter().next())
    }

    /// Creates a group with its first owners and members, all in one change. Each member may be a direct one of `maximum` groups.
    pub async fn group_create(
        &self,
        new: &NewGroup,
        maximum: i64,
    ) -> Result<GroupCreation, StoreError> {
        activity::detail("objectId", new.object_id.to_string());
        let ids = |references: &[Addressed]| -> Vec<Uuid> {
            references.iter().map(|to| to.object_id).collect()
        };
        activity::detail_list("memberIds", ids(&new.members));
        activity::detail_list("ownerIds", ids(&new.owners));
        let mut transaction = self.begin().await?;
        let mut wanted = new.members.clone();
        // All lock in one order.
        wanted.sort_unstable_by_key(|member| member.object_id);
        for member in &wanted {
            let kind = principals::lock(&mut transaction, member.object_id).await?;
            if !kind.is_some_and(|kind| member.means(kind)) {
                return Ok(GroupCreation::MemberNotFound(member.object_id));
            }
        }
        let mut members: Vec<Uuid> = wanted.iter().map(|member| member.object_id).collect();
        members.dedup();
        sqlx::query!(
            "INSERT INTO principals (object_id, kind, display_name, name_key, enabled, created_at)
             VALUES ($1, 'Group', $2, $3, true, $4)",
            new.object_id,
            new.display_name,
            arm::canonical_key(&new.display_name),
            new.created_at
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            "INSERT INTO groups (object_id, description, mail_nickname, mail_nickname_key) VALUES ($1, $2, $3, $4)",
            new.object_id,
            new.description,
            new.mail_nickname,
            arm::canonical_key(&new.mail_nickname)
        )
        .execute(&mut *transaction)
        .await?;
        for owner in &new.owners {
            if !add_owner(&mut transaction, new.object_id, *owner).await? {
                return Ok(GroupCreation::OwnerNotFound(owner.object_id));
            }
        }
        sqlx::query!(
            "INSERT INTO group_members (group_id, member_id) SELECT $1, unnest($2::uuid[])",
            new.object_id,
            &members
        )
        .execute(&mut *transaction)
        .await?;
        let in_too_many = sqlx::query_scalar!(
            "SELECT member_id FROM group_members WHERE member_id = ANY ($1)
             GROUP BY member_id HAVING count(*) > $2 ORDER BY member_id LIMIT 1",
            &members,
            maximum
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(member) = in_too_many {
            return Ok(GroupCreation::TooMany(member));
        }
        let mut changes = Vec::new();
        for object_id in members.into_iter().chain([new.object_id]) {
            changes.extend(principals::document(&mut transaction, object_id).await?);
        }
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(GroupCreation::Created(published))
    }

    /// Changes what a group is called; nodes need not know. False when there is no such group.
    pub async fn group_update(
        &self,
        object_id: Uuid,
        change: &GroupChange,
    ) -> Result<bool, StoreError> {
        activity::changed(&[
            ("displayName", change.display_name.is_some()),
            ("description", change.description.is_some()),
            ("mailNickname", change.mail_nickname.is_some()),
        ]);
        let mut transaction = self.begin().await?;
        if principals::lock(&mut transaction, object_id).await? != Some(PrincipalKind::Group) {
            return Ok(false);
        }
        sqlx::query!(
            "UPDATE principals SET display_name = coalesce($2, display_name), name_key = coalesce($3, name_key) WHERE object_id = $1",
            object_id,
            change.display_name,
            change.display_name.as_deref().map(arm::canonical_key)
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            "UPDATE groups SET description = CASE WHEN $2 THEN $3 ELSE description END,
               mail_nickname = coalesce($4, mail_nickname), mail_nickname_key = coalesce($5, mail_nickname_key)
             WHERE object_id = $1",
            object_id,
            change.description.is_some(),
            change.description.clone().flatten(),
            change.mail_nickname,
            change.mail_nickname.as_deref().map(arm::canonical_key)
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Deletes a group with its role assignments; its members lose at once what they had by it.
    pub async fn group_delete(&self, object_id: Uuid) -> Result<Deletion, StoreError> {
        self.delete_principal(object_id, PrincipalKind::Group).await
    }

    /// Makes a principal a direct member of a group, unless it is one of `maximum` groups already.
    pub async fn group_member_add(
        &self,
        group_id: Uuid,
        member: Addressed,
        maximum: i64,
    ) -> Result<MembershipAddition, StoreError> {
        let member_id = member.object_id;
        activity::detail("memberId", member_id.to_string());
        let mut transaction = self.begin().await?;
        let kind = principals::lock(&mut transaction, member_id).await?;
        // Kept from deletion, not from becoming a member of others itself.
        let group = sqlx::query_scalar!(
            "SELECT object_id FROM principals WHERE object_id = $1 AND kind = 'Group' FOR KEY SHARE",
            group_id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if group.is_none() {
            return Ok(MembershipAddition::GroupNotFound);
        }
        if !kind.is_some_and(|kind| member.means(kind)) {
            return Ok(MembershipAddition::MemberNotFound);
        }
        let inserted = sqlx::query!(
            "INSERT INTO group_members (group_id, member_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            group_id,
            member_id
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if inserted == 0 {
            return Ok(MembershipAddition::Exists);
        }
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM group_members WHERE member_id = $1"#,
            member_id
        )
        .fetch_one(&mut *transaction)
        .await?;
        if count > maximum {
            return Ok(MembershipAddition::TooMany);
        }
        let Some(published) = publish_principal(&mut transaction, member_id).await? else {
            return Ok(MembershipAddition::MemberNotFound);
        };
        transaction.commit().await?;
        Ok(MembershipAddition::Added(published))
    }

    /// Takes a principal out of a group.
    pub async fn group_member_remove(
        &self,
        group_id: Uuid,
        member_id: Uuid,
    ) -> Result<MembershipRemoval, StoreError> {
        activity::detail("memberId", member_id.to_string());
        let mut transaction = self.begin().await?;
        principals::lock(&mut transaction, member_id).await?;
        let owned = owners::lock_owned_by(&mut transaction, member_id).await?;
        let removed = sqlx::query!(
            "DELETE FROM group_members WHERE group_id = $1 AND member_id = $2",
            group_id,
            member_id
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if removed == 0 {
            return Ok(MembershipRemoval::NotFound);
        }
        if !owners::have_owners(&mut transaction, &owned).await? {
            return Ok(MembershipRemoval::LastOwner);
        }
        let published = publish_principal(&mut transaction, member_id).await?;
        transaction.commit().await?;
        Ok(MembershipRemoval::Removed(published))
    }
}

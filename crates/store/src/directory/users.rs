//! People.

use credentials::PasswordVerifier;
use time::OffsetDateTime;
use uuid::Uuid;

use super::principals::{self, Indispensable, publish_principal};
use super::{Deletion, DirectoryRole, ObjectQuery, roles};
use crate::access::PrincipalKind;
use crate::config::{Published, publish};
use crate::{Store, StoreError, Transaction, activity};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub object_id: Uuid,
    pub user_principal_name: String,
    pub display_name: String,
    pub mail_nickname: String,
    pub enabled: bool,
    pub created_at: OffsetDateTime,
    pub must_change_password: bool,
    pub last_signed_in_at: Option<OffsetDateTime>,
}

/// A password that is set, by its verifier.
#[derive(Debug, Clone)]
pub struct Password {
    pub verifier: PasswordVerifier,
    /// What tokens name that come from it; never used before.
    pub credential_id: Uuid,
}

#[derive(Debug, Clone)]
pub struct NewUser {
    pub object_id: Uuid,
    pub user_principal_name: String,
    pub display_name: String,
    pub mail_nickname: String,
    pub enabled: bool,
    pub password: Password,
    pub must_change_password: bool,
    /// A role of the directory to have from the beginning.
    pub directory_role: Option<DirectoryRole>,
    pub created_at: OffsetDateTime,
}

/// What came of creating a user.
#[derive(Debug, PartialEq, Eq)]
pub enum UserCreation {
    Created(Published),
    /// Somebody has the user principal name.
    NameTaken,
}

/// What is to change of a user; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    pub user_principal_name: Option<String>,
    pub display_name: Option<String>,
    pub mail_nickname: Option<String>,
    pub enabled: Option<bool>,
    /// Ends every session.
    pub password: Option<Password>,
    pub must_change_password: Option<bool>,
}

impl UserChange {
    /// For the activity log.
    fn note(&self) {
        activity::changed(&[
            ("userPrincipalName", self.user_principal_name.is_some()),
            ("displayName", self.display_name.is_some()),
            ("mailNickname", self.mail_nickname.is_some()),
            ("accountEnabled", self.enabled.is_some()),
            ("password", self.password.is_some()),
            (
                "forceChangePasswordNextSignIn",
                self.must_change_password.is_some(),
            ),
        ]);
        activity::enabled(self.enabled);
        if let Some(name) = &self.user_principal_name {
            activity::detail("userPrincipalName", name.as_str());
        }
    }
}

/// What came of changing a user.
#[derive(Debug, PartialEq, Eq)]
pub enum UserUpdate {
    /// With what was published, if nodes had to know.
    Done(Option<Published>),
    NotFound,
    /// Somebody else has the user principal name.
    NameTaken,
    Indispensable(Indispensable),
}

impl Store {
    /// A page of users in the order of their object ids.
    pub async fn user_list(&self, query: &ObjectQuery) -> Result<Vec<User>, StoreError> {
        let rows = sqlx::query_as!(
            User,
            "SELECT p.object_id, u.user_principal_name, p.display_name, u.mail_nickname, p.enabled, p.created_at,
               u.must_change_password, u.last_signed_in_at
             FROM principals p JOIN users u ON u.object_id = p.object_id
             WHERE ($1::uuid[] IS NULL OR p.object_id = ANY ($1))
               AND ($2::text IS NULL OR u.user_principal_name_key = $2)
               AND ($3::text IS NULL OR u.user_principal_name_key LIKE $3)
               AND ($4::text IS NULL OR p.name_key = $4)
               AND ($5::text IS NULL OR p.name_key LIKE $5)
               AND ($6::boolean IS NULL OR p.enabled = $6)
               AND p.object_id > $7
             ORDER BY p.object_id LIMIT $8",
            query.object_ids.as_deref() as Option<&[Uuid]>,
            query.user_principal_name_key(),
            query.user_principal_name_pattern(),
            query.name_key(),
            query.name_pattern(),
            query.enabled,
            query.after,
            query.limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// The object id of the user with that user principal name.
    pub async fn user_find(&self, user_principal_name: &str) -> Result<Option<Uuid>, StoreError> {
        let found = sqlx::query_scalar!(
            "SELECT object_id FROM users WHERE user_principal_name_key = $1",
            arm::canonical_key(user_principal_name)
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(found)
    }

    pub async fn user_get(&self, object_id: Uuid) -> Result<Option<User>, StoreError> {
        let found = self.user_list(&ObjectQuery::one(object_id)).await?;
        Ok(found.into_iter().next())
    }

    /// Creates a user.
    pub async fn user_create(&self, new: &NewUser) -> Result<UserCreation, StoreError> {
        activity::detail("objectId", new.object_id.to_string());
        activity::detail("userPrincipalName", new.user_principal_name.as_str());
        activity::enabled(Some(new.enabled));
        if let Some(role) = new.directory_role {
            activity::detail("role", role.as_str());
        }
        let mut transaction = self.begin().await?;
        sqlx::query!(
            "INSERT INTO principals (object_id, kind, display_name, name_key, enabled, created_at)
             VALUES ($1, 'User', $2, $3, $4, $5)",
            new.object_id,
            new.display_name,
            arm::canonical_key(&new.display_name),
            new.enabled,
            new.created_at
        )
        .execute(&mut *transaction)
        .await?;
        let inserted = sqlx::query!(
            "INSERT INTO users (object_id, user_principal_name, user_principal_name_key, mail_nickname, password_verifier, credential_id,
               must_change_password)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (user_principal_name_key) DO NOTHING",
            new.object_id,
            new.user_principal_name,
            arm::canonical_key(&new.user_principal_name),
            new.mail_nickname,
            new.password.verifier.as_str(),
            new.password.credential_id,
            new.must_change_password
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if inserted == 0 {
            return Ok(UserCreation::NameTaken);
        }
        if let Some(role) = new.directory_role {
            roles::insert(&mut transaction, role, new.object_id).await?;
        }
        let published = principals::document(&mut transaction, new.object_id).await?;
        let changes: Vec<_> = published.into_iter().collect();
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(UserCreation::Created(published))
    }

    /// Changes a user. A new password, like a disabled account, ends every session at once; `fresh_credential_id`, never used before, takes
    /// the place of a disabled account's, so that nothing from before counts when it is enabled again.
    pub async fn user_update(
        &self,
        object_id: Uuid,
        change: &UserChange,
        fresh_credential_id: Uuid,
    ) -> Result<UserUpdate, StoreError> {
        change.note();
        let mut transaction = self.begin().await?;
        if principals::lock(&mut transaction, object_id).await? != Some(PrincipalKind::User) {
            return Ok(UserUpdate::NotFound);
        }
        if let Some(name) = &change.user_principal_name
            && !rename(&mut transaction, object_id, name).await?
        {
            return Ok(UserUpdate::NameTaken);
        }
        let ends_sessions =
            write_change(&mut transaction, object_id, change, fresh_credential_id).await?;
        // The name of a caller is remembered with what was published.
        let mut must_publish = ends_sessions || change.user_principal_name.is_some();
        if let Some(enabled) = change.enabled {
            match principals::enable(&mut transaction, object_id, enabled).await? {
                Ok(changed) => must_publish |= changed,
                Err(reason) => return Ok(UserUpdate::Indispensable(reason)),
            }
        }
        let published = if must_publish {
            publish_principal(&mut transaction, object_id).await?
        } else {
            None
        };
        transaction.commit().await?;
        Ok(UserUpdate::Done(published))
    }

    /// Replaces a password that a token came from by another, which need not be changed at the next sign-in, and ends every session. `None`
    /// when the user has another password by now, or is not there.
    pub async fn user_change_own_password(
        &self,
        object_id: Uuid,
        present_credential_id: Uuid,
        password: &Password,
    ) -> Result<Option<Published>, StoreError> {
        let mut transaction = self.begin().await?;
        if principals::lock(&mut transaction, object_id).await? != Some(PrincipalKind::User) {
            return Ok(None);
        }
        let changed = sqlx::query!(
            "UPDATE users SET password_verifier = $3, credential_id = $4, must_change_password = false
             WHERE object_id = $1 AND credential_id = $2",
            object_id,
            present_credential_id,
            password.verifier.as_str(),
            password.credential_id
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if changed == 0 {
            return Ok(None);
        }
        end_sessions(&mut transaction, object_id).await?;
        let published = publish_principal(&mut transaction, object_id).await?;
        transaction.commit().await?;
        Ok(published)
    }

    /// Ends every session of a user: what was issued for the password until now is dead. The password stays. `None` when there is no such user.
    pub async fn user_revoke_sessions(
        &self,
        object_id: Uuid,
        credential_id: Uuid,
    ) -> Result<Option<Option<Published>>, StoreError> {
        let mut transaction = self.begin().await?;
        if principals::lock(&mut transaction, object_id).await? != Some(PrincipalKind::User) {
            return Ok(None);
        }
        sqlx::query!(
            "UPDATE users SET credential_id = $2 WHERE object_id = $1",
            object_id,
            credential_id
        )
        .execute(&mut *transaction)
        .await?;
        end_sessions(&mut transaction, object_id).await?;
        let published = publish_principal(&mut transaction, object_id).await?;
        transaction.commit().await?;
        Ok(Some(published))
    }

    /// Deletes a user with all role assignments and memberships.
    pub async fn user_delete(&self, object_id: Uuid) -> Result<Deletion, StoreError> {
        self.delete_principal(object_id, PrincipalKind::User).await
    }

    /// Deletes a person or a group.
    pub(super) async fn delete_principal(
        &self,
        object_id: Uuid,
        kind: PrincipalKind,
    ) -> Result<Deletion, StoreError> {
        let mut transaction = self.begin().await?;
        if principals::lock(&mut transaction, object_id).await? != Some(kind) {
            return Ok(Deletion::NotFound);
        }
        let changes = match principals::delete(&mut transaction, object_id, kind).await? {
            Ok(changes) => changes,
            Err(reason) => return Ok(Deletion::Indispensable(reason)),
        };
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(Deletion::Deleted(Some(published)))
    }
}

/// Gives a user another name; false when somebody else has it.
async fn rename(
    transaction: &mut Transaction,
    object_id: Uuid,
    name: &str,
) -> Result<bool, StoreError> {
    let renamed = sqlx::query!(
        "UPDATE users SET user_principal_name = $2, user_principal_name_key = $3 WHERE object_id = $1",
        object_id,
        name,
        arm::canonical_key(name)
    )
    .execute(&mut **transaction)
    .await;
    match renamed {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes all but the user principal name and whether the account is enabled; whether that ends the sessions from before.
async fn write_change(
    transaction: &mut Transaction,
    object_id: Uuid,
    change: &UserChange,
    fresh_credential_id: Uuid,
) -> Result<bool, StoreError> {
    let name_key = change.display_name.as_deref().map(arm::canonical_key);
    sqlx::query!(
        "UPDATE principals SET display_name = coalesce($2, display_name), name_key = coalesce($3, name_key) WHERE object_id = $1",
        object_id,
        change.display_name,
        name_key
    )
    .execute(&mut **transaction)
    .await?;
    let password = change.password.as_ref();
    let credential_id = password
        .map(|password| password.credential_id)
        .or_else(|| (change.enabled == Some(false)).then_some(fresh_credential_id));
    sqlx::query!(
        "UPDATE users SET mail_nickname = coalesce($2, mail_nickname),
           must_change_password = coalesce($3, must_change_password),
           password_verifier = coalesce($4, password_verifier), credential_id = coalesce($5, credential_id)
         WHERE object_id = $1",
        object_id,
        change.mail_nickname,
        change.must_change_password,
        password.map(|password| password.verifier.as_str()),
        credential_id
    )
    .execute(&mut **transaction)
    .await?;
    if credential_id.is_some() {
        end_sessions(transaction, object_id).await?;
    }
    Ok(credential_id.is_some())
}

/// Forgets the refresh tokens of a principal.
async fn end_sessions(transaction: &mut Transaction, object_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM refresh_tokens WHERE principal_id = $1",
        object_id
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

//! Federated credentials of applications: tokens of an external issuer that sign the service principal in.

use uuid::Uuid;

use super::applications;
use super::principals::publish_application;
use crate::config::Published;
use crate::{Store, StoreError, Transaction, activity};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedCredential {
    pub credential_id: Uuid,
    /// Unique in its application, and never changed.
    pub name: String,
    /// Issuer, subject and audiences compare exactly.
    pub issuer: String,
    pub subject: String,
    pub audiences: Vec<String>,
    pub description: Option<String>,
    /// To the hour; `None` when never.
    pub last_used_at: Option<time::OffsetDateTime>,
}

/// How a federated credential is named.
#[derive(Debug, Clone, Copy)]
pub enum FederatedCredentialName<'a> {
    Id(Uuid),
    Name(&'a str),
}

/// What came of writing a federated credential.
#[derive(Debug, PartialEq, Eq)]
pub enum FederatedCredentialPut {
    /// With what was published; nothing while the application has no service principal, or when nothing that nodes know changed.
    Done(Option<Published>),
    ApplicationNotFound,
    NotFound,
    NameTaken,
    /// Another of the application's has the same issuer and subject.
    SubjectTaken,
    /// The application has as many as it may.
    TooMany,
}

/// What is to change of a federated credential; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct FederatedCredentialChange {
    pub issuer: Option<String>,
    pub subject: Option<String>,
    pub audiences: Option<Vec<String>>,
    /// `Some(None)` takes it away.
    pub description: Option<Option<String>>,
}

impl Store {
    /// All federated credentials of an application, in the order of their names; `None` when there is no such application.
    pub async fn federated_credential_list(
        &self,
        application_id: Uuid,
    ) -> Result<Option<Vec<FederatedCredential>>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT f.credential_id AS "credential_id?", f.name AS "name?", f.issuer AS "issuer?", f.subject AS "subject?",
                 f.audiences AS "audiences?", f.description AS "description?", f.last_used_at AS "last_used_at?"
               FROM applications a LEFT JOIN federated_credentials f ON f.app_id = a.app_id
               WHERE a.object_id = $1 ORDER BY f.name_key"#,
            application_id
        )
        .fetch_all(self.pool())
        .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        Ok(Some(
            rows.into_iter()
                .filter_map(|row| {
                    Some(FederatedCredential {
                        credential_id: row.credential_id?,
                        name: row.name?,
                        issuer: row.issuer?,
                        subject: row.subject?,
                        audiences: row.audiences?,
                        description: row.description,
                        last_used_at: row.last_used_at,
                    })
                })
                .collect(),
        ))
    }

    /// Adds a federated credential to an application, unless that has `maximum` of them already.
    pub async fn federated_credential_create(
        &self,
        application_id: Uuid,
        new: &FederatedCredential,
        maximum: i64,
    ) -> Result<FederatedCredentialPut, StoreError> {
        note(new, new.credential_id);
        let mut transaction = self.begin().await?;
        let Some(app_id) = applications::lock(&mut transaction, application_id).await? else {
            return Ok(FederatedCredentialPut::ApplicationNotFound);
        };
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM federated_credentials WHERE app_id = $1"#,
            app_id
        )
        .fetch_one(&mut *transaction)
        .await?;
        if count >= maximum {
            return Ok(FederatedCredentialPut::TooMany);
        }
        let name_key = arm::canonical_key(&new.name);
        let name_taken = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM federated_credentials WHERE app_id = $1 AND name_key = $2) AS "taken!""#,
            app_id,
            name_key
        )
        .fetch_one(&mut *transaction)
        .await?;
        if name_taken {
            return Ok(FederatedCredentialPut::NameTaken);
        }
        if subject_is_taken(&mut transaction, app_id, new).await? {
            return Ok(FederatedCredentialPut::SubjectTaken);
        }
        sqlx::query!(
            "INSERT INTO federated_credentials (credential_id, app_id, name, name_key, issuer, subject, audiences, description)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            new.credential_id,
            app_id,
            new.name,
            name_key,
            new.issuer,
            new.subject,
            &new.audiences,
            new.description
        )
        .execute(&mut *transaction)
        .await?;
        let published = publish_application(&mut transaction, app_id).await?;
        transaction.commit().await?;
        Ok(FederatedCredentialPut::Done(published))
    }

    /// Changes a federated credential. When it then trusts other tokens, those issued for the old ones are dead: it gets the id `fresh_id`.
    pub async fn federated_credential_update(
        &self,
        application_id: Uuid,
        name: FederatedCredentialName<'_>,
        change: &FederatedCredentialChange,
        fresh_id: Uuid,
    ) -> Result<FederatedCredentialPut, StoreError> {
        activity::changed(&[
            ("issuer", change.issuer.is_some()),
            ("subject", change.subject.is_some()),
            ("audiences", change.audiences.is_some()),
            ("description", change.description.is_some()),
        ]);
        let mut transaction = self.begin().await?;
        let Some(app_id) = applications::lock(&mut transaction, application_id).await? else {
            return Ok(FederatedCredentialPut::ApplicationNotFound);
        };
        let Some(known) = find(&mut transaction, app_id, name).await? else {
            return Ok(FederatedCredentialPut::NotFound);
        };
        let mut wanted = known.clone();
        if let Some(issuer) = &change.issuer {
            wanted.issuer.clone_from(issuer);
        }
        if let Some(subject) = &change.subject {
            wanted.subject.clone_from(subject);
        }
        if let Some(audiences) = &change.audiences {
            wanted.audiences.clone_from(audiences);
        }
        if let Some(description) = &change.description {
            wanted.description.clone_from(description);
        }
        if subject_is_taken(&mut transaction, app_id, &wanted).await? {
            return Ok(FederatedCredentialPut::SubjectTaken);
        }
        let trusts_others = (&known.issuer, &known.subject, &known.audiences)
            != (&wanted.issuer, &wanted.subject, &wanted.audiences);
        let credential_id = if trusts_others {
            activity::detail(
                "formerFederatedCredentialId",
                known.credential_id.to_string(),
            );
            fresh_id
        } else {
            known.credential_id
        };
        note(&wanted, credential_id);
        sqlx::query!(
            "UPDATE federated_credentials SET credential_id = $2, issuer = $3, subject = $4, audiences = $5, description = $6
             WHERE credential_id = $1",
            known.credential_id,
            credential_id,
            wanted.issuer,
            wanted.subject,
            &wanted.audiences,
            wanted.description
        )
        .execute(&mut *transaction)
        .await?;
        let published = if trusts_others {
            publish_application(&mut transaction, app_id).await?
        } else {
            None
        };
        if published.is_none() {
            activity::write_details(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(FederatedCredentialPut::Done(published))
    }

    /// Removes a federated credential; what was issued for its tokens is dead at once.
    pub async fn federated_credential_delete(
        &self,
        application_id: Uuid,
        name: FederatedCredentialName<'_>,
    ) -> Result<FederatedCredentialPut, StoreError> {
        let mut transaction = self.begin().await?;
        let Some(app_id) = applications::lock(&mut transaction, application_id).await? else {
            return Ok(FederatedCredentialPut::ApplicationNotFound);
        };
        let Some(known) = find(&mut transaction, app_id, name).await? else {
            return Ok(FederatedCredentialPut::NotFound);
        };
        note(&known, known.credential_id);
        sqlx::query!(
            "DELETE FROM federated_credentials WHERE credential_id = $1",
            known.credential_id
        )
        .execute(&mut *transaction)
        .await?;
        let published = publish_application(&mut transaction, app_id).await?;
        if published.is_none() {
            activity::write_details(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(FederatedCredentialPut::Done(published))
    }
}

/// For the activity log: whose tokens it is about, and the id by which sign-ins name the credential.
fn note(credential: &FederatedCredential, id: Uuid) {
    activity::detail("federatedCredentialId", id.to_string());
    activity::detail("issuer", credential.issuer.as_str());
    activity::detail("subject", credential.subject.as_str());
}

async fn find(
    transaction: &mut Transaction,
    app_id: Uuid,
    name: FederatedCredentialName<'_>,
) -> Result<Option<FederatedCredential>, StoreError> {
    let (id, name_key) = match name {
        FederatedCredentialName::Id(id) => (Some(id), None),
        FederatedCredentialName::Name(name) => (None, Some(arm::canonical_key(name))),
    };
    let found = sqlx::query_as!(
        FederatedCredential,
        "SELECT credential_id, name, issuer, subject, audiences, description, last_used_at FROM federated_credentials
         WHERE app_id = $1 AND ($2::uuid IS NULL OR credential_id = $2) AND ($3::text IS NULL OR name_key = $3)",
        app_id,
        id,
        name_key
    )
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(found)
}

/// Whether another credential of the application, which is locked, has the same issuer and subject.
async fn subject_is_taken(
    transaction: &mut Transaction,
    app_id: Uuid,
    wanted: &FederatedCredential,
) -> Result<bool, StoreError> {
    let taken = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM federated_credentials
             WHERE app_id = $1 AND issuer = $2 AND subject = $3 AND credential_id <> $4) AS "taken!""#,
        app_id,
        wanted.issuer,
        wanted.subject,
        wanted.credential_id
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(taken)
}

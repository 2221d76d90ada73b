//! The directory: applications, their service principals and credentials, people, groups, who owns what, and who administers the directory.
//!
//! Whoever changes what a principal's document is made of (it, its credentials, its memberships) first locks the principal
//! (`principals::lock`: the application of a service principal, otherwise the principal's own row), so that the document is always made of
//! what was committed before it. Locks are taken in one order: application, principal, group, administrators, owners
//! (`role_assignments/owners.rs`), role assignments by name, config head.

mod applications;
mod certificates;
mod federated_credentials;
mod groups;
mod memberships;
mod owners;
mod principal_lookup;
pub(crate) mod principals;
mod query;
mod roles;
mod secrets;
mod service_principals;
mod sign_in;
mod users;

pub use applications::{
    Application, ApplicationChange, ApplicationCreation, ApplicationUpdate, Creator, NewApplication,
};
pub use certificates::{Certificate, CertificateRefusal, CertificateSet, NewCertificate};
pub use federated_credentials::{
    FederatedCredential, FederatedCredentialChange, FederatedCredentialName, FederatedCredentialPut,
};
pub use groups::{
    Group, GroupChange, GroupCreation, MembershipAddition, MembershipRemoval, NewGroup,
};
pub use memberships::Reach;
pub use owners::{OwnedKind, OwnerAddition};
pub use principal_lookup::FoundPrincipal;
pub use principals::Indispensable;
pub use query::ObjectQuery;
pub use roles::{DirectoryRole, DirectoryRoleMember, RoleAddition, RoleRemoval};
pub use secrets::{
    NewSecret, Secret, SecretAddition, SecretLimits, SecretOwner, SecretRemoval, SecretVerifier,
};
pub use service_principals::{
    NewServicePrincipal, ServicePrincipal, ServicePrincipalChange, ServicePrincipalCreation,
    ServicePrincipalUpdate,
};
pub(crate) use sign_in::RememberedApplications;
pub use sign_in::{
    AssertionFacts, SignInCertificate, SignInFacts, SignInFederated, SignInPrincipal, SignInSecret,
    SignInUser,
};
pub use users::{NewUser, Password, User, UserChange, UserCreation, UserUpdate};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::access::PrincipalKind;
use crate::config::{Change, Published};
use crate::{StoreError, Transaction};

/// What came of deleting an object of the directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Deletion {
    /// With what was published, if nodes knew of it.
    Deleted(Option<Published>),
    NotFound,
    Indispensable(Indispensable),
}

/// The first application of a directory: a service principal with a secret, which administers it.
pub struct Bootstrap<'a> {
    pub application_object_id: Uuid,
    pub service_principal_object_id: Uuid,
    pub app_id: Uuid,
    pub display_name: &'a str,
    pub secret: NewSecret,
    pub now: OffsetDateTime,
}

/// Creates the first application, its service principal with a secret, and makes it a directory administrator. For `admin init`.
///
/// Returns what the transaction has to publish.
///
/// # Errors
/// Those of the database; an id that is in use is one.
pub async fn bootstrap(
    transaction: &mut Transaction,
    bootstrap: &Bootstrap<'_>,
) -> Result<Vec<Change>, StoreError> {
    let application = NewApplication {
        object_id: bootstrap.application_object_id,
        app_id: bootstrap.app_id,
        display_name: bootstrap.display_name.to_owned(),
        certificates: Vec::new(),
        created_at: bootstrap.now,
    };
    applications::insert(transaction, &application, None).await?;
    service_principals::insert(
        transaction,
        &NewServicePrincipal {
            object_id: bootstrap.service_principal_object_id,
            app_id: bootstrap.app_id,
            enabled: true,
            created_at: bootstrap.now,
        },
        bootstrap.display_name,
    )
    .await?;
    secrets::insert(
        transaction,
        bootstrap.app_id,
        bootstrap.application_object_id,
        &bootstrap.secret,
    )
    .await?;
    sqlx::query!(
        "INSERT INTO directory_role_members (role, principal_id) VALUES ('administrator', $1)",
        bootstrap.service_principal_object_id
    )
    .execute(&mut **transaction)
    .await?;
    Ok(
        principals::document_of_application(transaction, bootstrap.app_id)
            .await?
            .into_iter()
            .collect(),
    )
}

/// A principal as a caller names it: by its id and, where the caller says so, as one of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressed {
    pub object_id: Uuid,
    /// `None`: of whatever kind.
    pub kind: Option<PrincipalKind>,
}

impl Addressed {
    pub fn any(object_id: Uuid) -> Self {
        Self {
            object_id,
            kind: None,
        }
    }

    /// Whether a principal that has the id is what is meant.
    pub(crate) fn means(&self, kind: PrincipalKind) -> bool {
        self.kind.is_none_or(|meant| meant == kind)
    }
}

/// Keeps a user or a service principal from being deleted; false when the directory has none that is meant.
async fn hold_individual(
    transaction: &mut Transaction,
    individual: Addressed,
) -> Result<bool, StoreError> {
    let kind = sqlx::query_scalar!(
        "SELECT kind FROM principals WHERE object_id = $1 AND kind <> 'Group' FOR KEY SHARE",
        individual.object_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let kind = kind.map(|kind| PrincipalKind::read(&kind)).transpose()?;
    Ok(kind.is_some_and(|kind| individual.means(kind)))
}

/// Makes a user or a service principal the owner of an object; false when the directory has none that is meant.
async fn add_owner(
    transaction: &mut Transaction,
    object_id: Uuid,
    owner: Addressed,
) -> Result<bool, StoreError> {
    if !hold_individual(transaction, owner).await? {
        return Ok(false);
    }
    sqlx::query!(
        "INSERT INTO directory_owners (object_id, owner_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        object_id,
        owner.object_id
    )
    .execute(&mut **transaction)
    .await?;
    Ok(true)
}

/// Forgets the owners of an object that goes.
async fn remove_owners(transaction: &mut Transaction, object_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM directory_owners WHERE object_id = $1",
        object_id
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

//! Who a user is, and what it may do now: always by the current index.

use std::sync::Arc;

use config_documents::{AdminPasswordSlot, Principal, UsedCredentialId};
use credentials::NOT_BEFORE_TOLERANCE;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{authorization::Login, chosen_secrets::Candidates};
use crate::config::{Index, RegistryEntry};

/// The user name that stands for "the password is a token".
const TOKEN_USER: Uuid = Uuid::nil();

/// Which credential a request came in with, and which state of it. A token carries this, and dies
/// when it is no longer so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    tag = "kind",
    rename_all_fields = "camelCase"
)]
pub enum CredentialId {
    /// A password of the registry's admin account.
    Admin {
        /// Which of the two.
        slot: AdminPasswordSlot,
        /// How often it was renewed or switched on.
        generation: u64,
    },
    /// A credential of a principal: a secret, or what it signed in with at the control plane.
    Principal {
        /// Whose.
        object_id: Uuid,
        /// Which; a credential never changes.
        key_id: Uuid,
    },
    /// None: the registry lets everybody pull.
    Anonymous,
}

impl CredentialId {
    /// How the control plane is told that it was used. Only what nodes check themselves is: sign-in sees the rest.
    pub(super) fn as_used(&self, registry_uid: Uuid) -> Option<UsedCredentialId> {
        match *self {
            Self::Admin { slot, .. } => {
                Some(UsedCredentialId::AdminPassword { registry_uid, slot })
            }
            Self::Principal { key_id, .. } => Some(UsedCredentialId::Secret { key_id }),
            Self::Anonymous => None,
        }
    }
}

/// What a caller came in with. A token carries this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) credential: CredentialId,
    /// The key of sign-in that vouched for the credential, when that was not shown to a node: what came from it dies when the key is revoked.
    pub(super) sign_in_key: Option<Arc<str>>,
}

impl From<CredentialId> for Origin {
    /// Of a credential that was shown here.
    fn from(credential: CredentialId) -> Self {
        Self {
            credential,
            sign_in_key: None,
        }
    }
}

/// Why a login is refused. Callers hear of it only that it is; logs and metrics tell more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginFailure {
    /// The password does not look like one: mistyped, cut off, or not one of ours.
    MalformedSecret,
    /// No admin account or service principal of this name.
    UnknownUser,
    /// The principal is disabled.
    Disabled,
    /// Not the right password.
    WrongSecret,
    /// The right one, before its time or after it.
    OutOfTime,
    /// A person's name: their passwords are not known here.
    Person,
    /// A token as password that is none, is not good any more, or came from a credential that counts no more.
    InvalidToken,
}

impl LoginFailure {
    /// For metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedSecret => "malformed-secret",
            Self::UnknownUser => "unknown-user",
            Self::Disabled => "disabled",
            Self::WrongSecret => "wrong-secret",
            Self::OutOfTime => "out-of-time",
            Self::Person => "person",
            Self::InvalidToken => "invalid-token",
        }
    }

    /// What the caller is told.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::InvalidToken => {
                "the password of the user 00000000-0000-0000-0000-000000000000 is a token of this registry, and this one is not valid, has expired, or came from what was withdrawn: run az acr login again"
            }
            Self::Person => {
                "a person's password is not taken here: run az acr login, or log in as the user 00000000-0000-0000-0000-000000000000 with a token of az acr login --expose-token"
            }
            Self::MalformedSecret => {
                "the password is mistyped or cut off: it is not one that this service generates"
            }
            Self::OutOfTime => {
                "the password has expired, or is not valid yet: use another one (az ad app credential list shows their times)"
            }
            Self::UnknownUser | Self::Disabled | Self::WrongSecret => {
                "the user name or password is wrong, or the account is disabled"
            }
        }
    }
}

/// Whether the password of this user is a token.
pub(super) fn is_token_user(user: &str) -> bool {
    parse_id(user) == Some(TOKEN_USER)
}

/// What a first look at a user name and password brings.
pub(super) enum Checked {
    /// The password is this credential.
    Is(CredentialId),
    /// It is one of these, or wrong: that takes time to find out.
    MayBe(Candidates),
}

/// Checks a user name and password, as far as that is quick.
///
/// # Errors
/// See [`LoginFailure`].
pub(super) fn log_in(
    index: &Index,
    entry: &RegistryEntry,
    login: &Login,
    now: OffsetDateTime,
) -> Result<Checked, LoginFailure> {
    let password = login.password.expose();
    let is_generated = credentials::recognise(password).is_ok();
    let user_id = parse_id(&login.user);
    if let Some(principal) = user_id.and_then(|app_id| index.principal_by_app_id(app_id)) {
        let known = if is_generated {
            log_in_as_principal(principal, password, now)
        } else {
            Err(LoginFailure::MalformedSecret)
        };
        return match known {
            Ok(credential) => Ok(Checked::Is(credential)),
            Err(LoginFailure::WrongSecret | LoginFailure::MalformedSecret)
                if !principal.chosen_secrets.is_empty() =>
            {
                chosen_secrets_of(principal, now).map(Checked::MayBe)
            }
            Err(failure) => Err(failure),
        };
    }
    if login.user.contains('@') {
        return Err(LoginFailure::Person);
    }
    if !is_generated {
        return Err(LoginFailure::MalformedSecret);
    }
    if entry.admin_user_key.as_deref() == Some(arm::canonical_key(&login.user).as_str()) {
        return log_in_as_admin(entry, password).map(Checked::Is);
    }
    Err(LoginFailure::UnknownUser)
}

/// Those that may let the principal in now.
fn chosen_secrets_of(
    principal: &Principal,
    now: OffsetDateTime,
) -> Result<Candidates, LoginFailure> {
    if !principal.enabled {
        return Err(LoginFailure::Disabled);
    }
    let in_time = principal
        .chosen_secrets
        .iter()
        .filter(|secret| is_in_time(secret.starts_at, secret.expires_at, now));
    Candidates::of(principal.object_id, in_time).ok_or(LoginFailure::OutOfTime)
}

/// An id as people and tools write it: 32 digits with four hyphens, in any casing.
fn parse_id(text: &str) -> Option<Uuid> {
    (text.len() == 36)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}

fn log_in_as_admin(entry: &RegistryEntry, password: &str) -> Result<CredentialId, LoginFailure> {
    entry
        .registry
        .admin_user
        .iter()
        .flat_map(|user| &user.passwords)
        .find(|candidate| candidate.verifier.matches(password))
        .map(|found| CredentialId::Admin {
            slot: found.slot,
            generation: found.generation,
        })
        .ok_or(LoginFailure::WrongSecret)
}

fn log_in_as_principal(
    principal: &Principal,
    password: &str,
    now: OffsetDateTime,
) -> Result<CredentialId, LoginFailure> {
    let secret = principal
        .secrets
        .iter()
        .find(|secret| secret.verifier.matches(password))
        .ok_or(LoginFailure::WrongSecret)?;
    if !principal.enabled {
        return Err(LoginFailure::Disabled);
    }
    if !is_in_time(secret.starts_at, secret.expires_at, now) {
        return Err(LoginFailure::OutOfTime);
    }
    Ok(CredentialId::Principal {
        object_id: principal.object_id,
        key_id: secret.key_id,
    })
}

fn is_in_time(starts_at: OffsetDateTime, expires_at: OffsetDateTime, now: OffsetDateTime) -> bool {
    starts_at <= now.saturating_add(NOT_BEFORE_TOLERANCE) && now < expires_at
}

/// Whether what a caller came in with still counts.
pub(super) fn is_current(
    index: &Index,
    entry: &RegistryEntry,
    origin: &Origin,
    now: OffsetDateTime,
) -> bool {
    #[cfg(feature = "faults-on-purpose")]
    if service::faults_on_purpose::is_on("token-outlives-credential") {
        return true;
    }
    let is_vouched_for = origin
        .sign_in_key
        .as_deref()
        .is_none_or(|kid| index.sign_in_key(kid).is_some());
    is_vouched_for && counts(index, entry, &origin.credential, now)
}

/// Whether the credential is still what it was.
fn counts(
    index: &Index,
    entry: &RegistryEntry,
    credential: &CredentialId,
    now: OffsetDateTime,
) -> bool {
    match *credential {
        CredentialId::Admin { slot, generation } => entry
            .registry
            .admin_user
            .iter()
            .flat_map(|user| &user.passwords)
            .any(|password| password.slot == slot && password.generation == generation),
        CredentialId::Principal { object_id, key_id } => index
            .principal(object_id)
            .is_some_and(|principal| principal.enabled && holds(principal, key_id, now)),
        CredentialId::Anonymous => entry.registry.anonymous_pull_enabled,
    }
}

/// Whether the principal has this credential, and its time is now.
fn holds(principal: &Principal, key_id: Uuid, now: OffsetDateTime) -> bool {
    let secret = principal.secrets.iter().find(|it| it.key_id == key_id);
    if let Some(secret) = secret {
        return is_in_time(secret.starts_at, secret.expires_at, now);
    }
    let chosen = principal
        .chosen_secrets
        .iter()
        .find(|it| it.key_id == key_id);
    if let Some(secret) = chosen {
        return is_in_time(secret.starts_at, secret.expires_at, now);
    }
    let mut others = principal.sign_in_credentials.iter();
    others.any(|it| it.key_id == key_id && it.expires_at.is_none_or(|end| now < end))
}

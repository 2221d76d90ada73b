//! Sessions of people that go on by refresh tokens (RFC 6749, 6): each is used once; one that is used again ends the session for all who
//! have a token of it. Only for a moment, and until what followed is used, it may be used again: the Azure CLI's processes share one.

use credentials::{Secret, SecretKind, Verifier};
use store::refresh_tokens::{
    NewRefreshToken, RefreshTokenFamily, RefreshTokenTerms, RefreshTokenUse,
};
use uuid::Uuid;

use super::form::Form;
use super::issue::{Person, SignedIn};
use super::password::{disabled, public_client, to_be_changed};
use super::refusal::{Outcome, Refusal};
use super::token::{Attempt, Failure};
use crate::App;
use crate::front_door::Request;
use crate::limits::{REFRESH_TOKEN_LEEWAY, REFRESH_TOKEN_LIFETIME, SESSION_LIFETIME};

/// Begins a session; its first refresh token.
pub(super) async fn begin(app: &App, request: &Request, who: &SignedIn) -> Result<Secret, Failure> {
    let (text, token) = new_token(app, request);
    let family = RefreshTokenFamily {
        principal_id: who.principal_id,
        credential_id: who.credential_id,
        client_id: who.client_id.to_string(),
    };
    if app.store.refresh_token_begin(&family, &token).await? {
        Ok(text)
    } else {
        // The password was replaced, or the person disabled, since it was checked.
        Err(credential_gone().into())
    }
}

/// Continues a session; the refresh token that follows.
pub(super) async fn sign_in(
    app: &App,
    request: &Request,
    form: &Form,
    attempt: &mut Attempt,
) -> Result<(SignedIn, Secret), Failure> {
    let client_id = public_client(form, attempt)?;
    let shown = form
        .get("refresh_token")
        .ok_or_else(|| Refusal::missing("refresh_token"))?;
    let (secret, token_id) = read(shown).ok_or_else(unknown)?;
    let (text, next) = new_token(app, request);
    let used = app
        .store
        .refresh_token_use(
            token_id,
            &secret,
            &client_id.to_string(),
            RefreshTokenTerms {
                family_lifetime: SESSION_LIFETIME,
                leeway: REFRESH_TOKEN_LEEWAY,
            },
            &next,
        )
        .await?;
    let session = match used {
        RefreshTokenUse::Followed(session) => session,
        RefreshTokenUse::Unknown => return Err(unknown().into()),
        RefreshTokenUse::OtherClient => {
            return Err(Refusal::invalid_grant(
                Outcome::InvalidRequest,
                700_005,
                "The refresh token was issued to another client.",
            )
            .into());
        }
        RefreshTokenUse::Expired => return Err(expired().into()),
        RefreshTokenUse::Reused { principal_id } => {
            attempt.principal_id = Some(principal_id);
            tracing::warn!(
                principal.object_id = %principal_id,
                client.address = request.peer.map(tracing::field::display),
                "a refresh token was used a second time: its session has ended"
            );
            return Err(reused().into());
        }
        RefreshTokenUse::CredentialGone => return Err(credential_gone().into()),
        RefreshTokenUse::Disabled {
            user_principal_name,
        } => return Err(disabled(&user_principal_name).into()),
        RefreshTokenUse::PasswordToBeChanged {
            user_principal_name,
        } => return Err(to_be_changed(&user_principal_name).into()),
    };
    attempt.principal_id = Some(session.principal_id);
    attempt.credential_id = Some(session.credential_id);
    let signed_in = SignedIn {
        principal_id: session.principal_id,
        client_id,
        credential_id: session.credential_id,
        person: Some(Person {
            user_principal_name: session.user_principal_name,
            display_name: session.display_name,
        }),
    };
    Ok((signed_in, text))
}

/// A new token, as the client gets it and as it is kept.
fn new_token(app: &App, request: &Request) -> (Secret, NewRefreshToken) {
    let secret = credentials::generate(SecretKind::RefreshToken, &*app.randomness);
    let token = NewRefreshToken {
        token_id: Uuid::new_v4(),
        verifier: Verifier::of(&secret, &*app.randomness),
        issued_at: request.now,
        expires_at: request.now + REFRESH_TOKEN_LIFETIME,
    };
    (write(&secret, token.token_id), token)
}

/// The secret, which scanners recognise, and which token it is of.
fn write(secret: &Secret, token_id: Uuid) -> Secret {
    Secret::new(format!("{}.{}", secret.expose(), token_id.simple()))
}

fn read(text: &str) -> Option<(Secret, Uuid)> {
    let (secret, token_id) = text.split_once('.')?;
    let is_ours = credentials::recognise(secret) == Ok(SecretKind::RefreshToken);
    let token_id = Uuid::try_parse(token_id).ok()?;
    is_ours.then(|| (Secret::new(secret.to_owned()), token_id))
}

fn unknown() -> Refusal {
    Refusal::invalid_grant(
        Outcome::WrongRefreshToken,
        70_000,
        "The refresh token is not known, or its session has ended. Sign in again.",
    )
}

fn reused() -> Refusal {
    Refusal::invalid_grant(
        Outcome::RefreshTokenReused,
        70_000,
        "The refresh token was used before, so its session has ended: somebody else may have it. Sign in again.",
    )
}

fn expired() -> Refusal {
    Refusal::invalid_grant(
        Outcome::SecretNotInForce,
        700_082,
        format!(
            "The session has ended: a refresh token is good for {} days, and a session for {}. Sign in again.",
            REFRESH_TOKEN_LIFETIME.whole_days(),
            SESSION_LIFETIME.whole_days()
        ),
    )
}

fn credential_gone() -> Refusal {
    Refusal::invalid_grant(
        Outcome::SecretNotInForce,
        50_173,
        "The session was revoked, or the password replaced, after it began. Sign in again.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use credentials::SystemRandomness;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let secret = credentials::generate(SecretKind::RefreshToken, &SystemRandomness);
        let token_id = Uuid::from_u128(7);
        let (read_secret, read_id) = read(write(&secret, token_id).expose()).expect("a token");
        assert_eq!(read_secret.expose(), secret.expose());
        assert_eq!(read_id, token_id);
        let other = credentials::generate(SecretKind::NodeCredential, &SystemRandomness);
        assert!(read(write(&other, token_id).expose()).is_none());
    }

    proptest! {
        #[test]
        fn any_other_text_is_none(text in "\\PC{0,100}") {
            prop_assert!(read(&text).is_none());
        }
    }
}

//! Applications that sign in with a secret: one that was generated, or one that somebody chose.

use actix_web::http::StatusCode;
use credentials::{NOT_BEFORE_TOLERANCE, PasswordVerifier, Secret, SecretKind};
use store::directory::{SecretVerifier, SignInFacts, SignInPrincipal, SignInSecret};
use time::OffsetDateTime;
use uuid::Uuid;

use super::failure_limiter::Subject;
use super::refusal::{Outcome, Refusal};
use super::token::{Attempt, Failure};
use crate::App;
use crate::front_door::Request;
use crate::limits::MAXIMUM_PASSWORD_BYTES;

/// The service principal of the application whose secret was shown, and the secret's key id.
pub(super) async fn check(
    app: &App,
    request: &Request,
    app_id: Uuid,
    shown: &Secret,
    attempt: &mut Attempt,
) -> Result<(Option<SignInPrincipal>, Uuid), Failure> {
    if shown.expose().len() > MAXIMUM_PASSWORD_BYTES {
        let reason = format!("it is longer than {MAXIMUM_PASSWORD_BYTES} bytes");
        return Err(Refusal::wrong_secret(app_id, &reason).into());
    }
    let kind = credentials::recognise(shown.expose());
    let facts = app
        .store
        .sign_in_facts(app_id)
        .await?
        .ok_or_else(|| Refusal::unknown_client(&app_id.to_string()))?;
    attempt.is_known_application = true;
    if kind == Ok(SecretKind::ServicePrincipalSecret) {
        let secret = generated(app_id, &facts, shown)?;
        return Ok((facts.principal, in_force(app_id, secret, request.now)?));
    }
    let chosen: Vec<(&SignInSecret, &PasswordVerifier)> = facts
        .secrets
        .iter()
        .filter_map(|secret| match &secret.verifier {
            SecretVerifier::Chosen(verifier) => Some((secret, verifier)),
            SecretVerifier::Generated(_) => None,
        })
        .collect();
    if chosen.is_empty() {
        // Nobody chose one, so it can only be meant for a generated one.
        let reason = match kind {
            Ok(other) => format!("it is the {other} of something else"),
            Err(error) => error.to_string(),
        };
        return Err(Refusal::wrong_secret(app_id, &reason).into());
    }
    attempt.subject = Some(Subject::chosen(app_id));
    let secret = chosen_one(app, request, app_id, &chosen, shown).await?;
    Ok((facts.principal, in_force(app_id, secret, request.now)?))
}

/// The generated secret that was shown.
fn generated<'a>(
    app_id: Uuid,
    facts: &'a SignInFacts,
    shown: &Secret,
) -> Result<&'a SignInSecret, Refusal> {
    let matches = |secret: &&SignInSecret| match &secret.verifier {
        SecretVerifier::Generated(verifier) => verifier.matches(shown.expose()),
        SecretVerifier::Chosen(_) => false,
    };
    facts
        .secrets
        .iter()
        .find(matches)
        .ok_or_else(|| no_such_secret(app_id))
}

/// The chosen secret that was shown: one that was right lately at once, another one slowly, and not at all after too many failures.
async fn chosen_one<'a>(
    app: &App,
    request: &Request,
    app_id: Uuid,
    chosen: &[(&'a SignInSecret, &PasswordVerifier)],
    shown: &Secret,
) -> Result<&'a SignInSecret, Refusal> {
    let sign_in = &app.sign_in;
    let checks = &sign_in.slow_checks;
    if let Some((secret, _)) = chosen
        .iter()
        .find(|(_, verifier)| checks.is_remembered(verifier, shown))
    {
        return Ok(secret);
    }
    let subject = Subject::chosen(app_id);
    let in_time: Vec<_> = chosen
        .iter()
        .filter(|(secret, _)| in_force(app_id, secret, request.now).is_ok())
        .collect();
    if in_time.is_empty() {
        let reason = "of the secrets that were chosen for it, none is in force";
        return Err(Refusal::wrong_secret(app_id, reason));
    }
    let mut place = checks.place().await?;
    sign_in
        .failures
        .check(request.peer, subject)
        .map_err(Refusal::limited)?;
    for (secret, verifier) in in_time {
        let (matches, again) = checks.matches(place, verifier, shown).await;
        if matches {
            checks.remember(verifier, shown);
            sign_in.failures.succeeded(request.peer, subject);
            return Ok(secret);
        }
        place = again;
    }
    Err(no_such_secret(app_id))
}

fn no_such_secret(app_id: Uuid) -> Refusal {
    Refusal::wrong_secret(app_id, "the application has no such secret")
}

/// The key id of a secret, if it is in force.
fn in_force(app_id: Uuid, secret: &SignInSecret, now: OffsetDateTime) -> Result<Uuid, Refusal> {
    let not_in_force = |number, message: String| {
        Err(Refusal::new(
            Outcome::SecretNotInForce,
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            number,
            message,
        ))
    };
    let key_id = secret.key_id;
    if now >= secret.expires_at {
        return not_in_force(
            7_000_222,
            format!(
                "The client secret '{key_id}' of the application '{app_id}' expired at {}. Add a new one.",
                arm::format_time(secret.expires_at)
            ),
        );
    }
    if secret.starts_at - now > NOT_BEFORE_TOLERANCE {
        return not_in_force(
            7_000_215,
            format!(
                "The client secret '{key_id}' of the application '{app_id}' is not valid before {}.",
                arm::format_time(secret.starts_at)
            ),
        );
    }
    Ok(key_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use credentials::{SystemRandomness, Verifier, generate};
    use time::Duration;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const APP: Uuid = Uuid::from_u128(1);

    fn facts(shown: &Secret, starts_in: Duration, expires_in: Duration) -> SignInFacts {
        let other = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let secret =
            |key_id, secret: &Secret, starts_in: Duration, expires_in: Duration| SignInSecret {
                key_id: Uuid::from_u128(key_id),
                verifier: SecretVerifier::Generated(Verifier::of(secret, &SystemRandomness)),
                starts_at: NOW + starts_in,
                expires_at: NOW + expires_in,
            };
        SignInFacts {
            principal: Some(SignInPrincipal {
                object_id: Uuid::from_u128(9),
                enabled: true,
            }),
            secrets: vec![
                secret(5, &other, Duration::ZERO, Duration::days(1)),
                secret(6, shown, starts_in, expires_in),
            ],
        }
    }

    fn matching_secret(facts: &SignInFacts, shown: &Secret) -> Result<Uuid, Refusal> {
        in_force(APP, generated(APP, facts, shown)?, NOW)
    }

    #[test]
    fn a_secret_is_in_force_from_five_minutes_before_its_start_until_its_end() {
        let shown = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let outcome = |starts_in, expires_in| {
            matching_secret(&facts(&shown, starts_in, expires_in), &shown)
                .map_err(|refusal| refusal.number)
        };
        let day = Duration::days(1);
        assert_eq!(outcome(-day, day), Ok(Uuid::from_u128(6)));
        assert_eq!(outcome(Duration::minutes(5), day), Ok(Uuid::from_u128(6)));
        assert_eq!(outcome(Duration::seconds(301), day), Err(7_000_215));
        assert_eq!(outcome(-day, Duration::seconds(1)), Ok(Uuid::from_u128(6)));
        assert_eq!(outcome(-day, Duration::ZERO), Err(7_000_222));
    }

    #[test]
    fn another_secret_is_a_guess_and_an_expired_one_is_not() {
        let shown = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let known = facts(&shown, Duration::ZERO, Duration::ZERO);
        let wrong = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let refusal = matching_secret(&known, &wrong).expect_err("no such secret");
        assert!(refusal.outcome.is_guess());
        let refusal = matching_secret(&known, &shown).expect_err("expired");
        assert!(!refusal.outcome.is_guess());
    }
}

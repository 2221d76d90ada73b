//! Who calls: by user name and password, by a token in the place of a password, or by a token.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, http::header};
use credentials::{SecretKind, TokenError};

use super::{
    Gate,
    authorization::{self, Authorization, Login},
    caller::Caller,
    challenge,
    chosen_secrets::Candidates,
    login::{self, Checked, CredentialId, LoginFailure},
    token::{TokenKind, VerifiedToken, failure_of},
};
use crate::{
    config::RegistryEntry,
    limits::MAXIMUM_PASSWORD_BYTES,
    names::shown,
    oci::{OciError, RequiredAccess},
};

/// The user name of whoever has none.
const ANONYMOUS: &str = "anonymous";

/// Why a token of a registry is refused. Never repeats the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenRefusal {
    /// It is no token, or not a good one.
    #[error("{0}: log in again")]
    Token(TokenError),
    /// It is for another one.
    #[error("the token is for another registry: log in to this one")]
    OtherRegistry,
    /// It is good, but not for this.
    #[error(
        "a refresh token does not give access: show it to /oauth2/token, or use it as the password of the user 00000000-0000-0000-0000-000000000000"
    )]
    RefreshAsAccess,
    /// It is good, but not for this.
    #[error("an access token is no refresh token")]
    AccessAsRefresh,
    /// Its credential counts no more.
    #[error(
        "the password, secret or other credential that the token came from was renewed or removed, has expired or was disabled: log in again"
    )]
    Withdrawn,
}

impl TokenRefusal {
    /// For logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Token(error) => failure_of(error),
            Self::OtherRegistry => "other-registry",
            Self::RefreshAsAccess => "refresh-token",
            Self::AccessAsRefresh => "access-token",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// Why somebody with user name and password is not let in.
enum Refused {
    Failure(LoginFailure),
    /// Not looked at: it has failed too often, and may try again after this.
    Limited(Duration),
    /// Too many are being looked at.
    Busy,
}

impl From<LoginFailure> for Refused {
    fn from(failure: LoginFailure) -> Self {
        Self::Failure(failure)
    }
}

impl Gate {
    pub(super) async fn authenticate(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        required: &[RequiredAccess],
    ) -> Result<Caller, OciError> {
        match self.authorization(request, entry, required)? {
            Authorization::None => self.without_credentials(entry, required),
            Authorization::Basic(login) => self.log_in(request, entry, &login, required).await,
            Authorization::Bearer(token) => self.show_token(token.expose(), entry, required),
        }
    }

    /// Everybody, where everybody may do this. The base is challenged all the same: by that clients learn where to show credentials, and
    /// ask for a token when they have none.
    fn without_credentials(
        &self,
        entry: &RegistryEntry,
        required: &[RequiredAccess],
    ) -> Result<Caller, OciError> {
        let caller = self.anonymous(entry);
        if required != [RequiredAccess::Base] && caller.has(required) {
            return Ok(caller);
        }
        Err(challenge::unauthorized(
            &entry.registry.login_server,
            required,
            "authentication required: log in with a user name and password, or show a token",
        ))
    }

    /// Somebody without credentials, who has rights only where the registry lets everybody pull.
    pub(super) fn anonymous(&self, entry: &RegistryEntry) -> Caller {
        Caller {
            configuration: Arc::clone(&self.configuration),
            sources: self.sources.clone(),
            registry: entry.registry.uid,
            name: ANONYMOUS.to_owned(),
            origin: CredentialId::Anonymous.into(),
            token: None,
        }
    }

    pub(super) fn authorization(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        required: &[RequiredAccess],
    ) -> Result<Authorization, OciError> {
        let value = request.headers().get(header::AUTHORIZATION);
        authorization::parse(value.map(header::HeaderValue::as_bytes)).map_err(|error| {
            challenge::unauthorized(&entry.registry.login_server, required, &error.to_string())
        })
    }

    /// Somebody by user name and password; the latter may be a token.
    pub(super) async fn log_in(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        login: &Login,
        required: &[RequiredAccess],
    ) -> Result<Caller, OciError> {
        let address = self.client_address(request, &entry.registry.login_server);
        match self.check_login(address, entry, login).await {
            Ok(caller) => {
                self.metrics.login(None);
                Ok(caller)
            }
            Err(Refused::Failure(failure)) => {
                self.metrics.login(Some(failure));
                Err(self.login_failed(address, entry, login, failure, required))
            }
            Err(Refused::Limited(wait)) => {
                self.metrics.login_limited();
                Err(challenge::too_many_failures(wait))
            }
            Err(Refused::Busy) => {
                self.metrics.login_busy();
                Err(challenge::too_many_slow_logins())
            }
        }
    }

    async fn check_login(
        &self,
        address: IpAddr,
        entry: &RegistryEntry,
        login: &Login,
    ) -> Result<Caller, Refused> {
        if login.password.expose().len() > MAXIMUM_PASSWORD_BYTES
            && !login::is_token_user(&login.user)
        {
            return Err(LoginFailure::MalformedSecret.into());
        }
        if login::is_token_user(&login.user) {
            let token = self
                .registry_token(login.password.expose(), entry)
                .map_err(|_| LoginFailure::InvalidToken)?;
            return Ok(self.caller_of(entry, &token));
        }
        let now = (self.sources.now)();
        let checked = {
            let index = self.configuration.index();
            let entry = index
                .registry(entry.registry.uid)
                .ok_or(LoginFailure::UnknownUser)?;
            login::log_in(&index, entry, login, now)?
        };
        let credential = match checked {
            Checked::Is(credential) => credential,
            Checked::MayBe(candidates) => {
                self.check_chosen(address, entry, login, candidates).await?
            }
        };
        if let Some(used) = credential.as_used(entry.registry.uid) {
            self.configuration.used().note(used, now);
        }
        Ok(Caller {
            configuration: Arc::clone(&self.configuration),
            sources: self.sources.clone(),
            registry: entry.registry.uid,
            name: login.user.clone(),
            origin: credential.into(),
            token: None,
        })
    }

    /// Which chosen secret the password is. One that was right is known; of others few are checked at once, and none for whoever has
    /// failed too often. What is found counts for each use only if it is still in force then.
    async fn check_chosen(
        &self,
        address: IpAddr,
        entry: &RegistryEntry,
        login: &Login,
        candidates: Candidates,
    ) -> Result<CredentialId, Refused> {
        let recall = || self.chosen_secrets.recall(&candidates, &login.password);
        if let Some(credential) = recall() {
            return Ok(credential);
        }
        let place = self.chosen_secrets.place().await.ok_or(Refused::Busy)?;
        // Clients log in several times at once: the first one's success is that of all.
        if let Some(credential) = recall() {
            return Ok(credential);
        }
        let (registry, account) = (entry.registry.uid, candidates.object_id());
        let (failures, now) = (&self.failed_logins, Instant::now());
        let wait = failures
            .wait(address, registry, &login.user, now)
            .max(failures.wait_of_guess(address, account, now));
        if let Some(wait) = wait {
            return Err(Refused::Limited(wait));
        }
        let guess = failures.look_at(address, registry, &login.user, account);
        let found = self
            .chosen_secrets
            .check(place, candidates, &login.password)
            .await;
        guess.answered();
        match found {
            Some(credential) => {
                failures.guessed_right(address, account);
                Ok(credential)
            }
            None => {
                failures.guessed_wrong(account, now);
                Err(Refused::Failure(LoginFailure::WrongSecret))
            }
        }
    }

    fn login_failed(
        &self,
        address: IpAddr,
        entry: &RegistryEntry,
        login: &Login,
        failure: LoginFailure,
        required: &[RequiredAccess],
    ) -> OciError {
        let counted =
            self.failed_logins
                .count(address, entry.registry.uid, &login.user, Instant::now());
        if let Err(wait) = counted {
            // Counted, but not logged: whoever tries without end must not fill the disk.
            self.metrics.login_limited();
            // Nobody guesses a token, and all who show one have the same name: each is told what is wrong.
            if failure != LoginFailure::InvalidToken {
                return challenge::too_many_failures(wait);
            }
            return challenge::unauthorized(
                &entry.registry.login_server,
                required,
                failure.message(),
            );
        }
        tracing::info!(
            registry = %entry.registry.name,
            login.user = %shown_user(&login.user),
            login.failure = failure.as_str(),
            peer = %address,
            "a login to {} failed: {}",
            entry.registry.name,
            failure.as_str()
        );
        challenge::unauthorized(&entry.registry.login_server, required, failure.message())
    }

    fn show_token(
        &self,
        token: &str,
        entry: &RegistryEntry,
        required: &[RequiredAccess],
    ) -> Result<Caller, OciError> {
        let verified = self
            .registry_token(token, entry)
            .and_then(|verified| match verified.kind {
                TokenKind::Access => Ok(verified),
                TokenKind::Refresh => Err(TokenRefusal::RefreshAsAccess),
            });
        match verified {
            Ok(verified) => Ok(self.caller_of(entry, &verified)),
            Err(refusal) => {
                self.metrics.token_refused();
                let message = refusal.to_string();
                let login_server = &entry.registry.login_server;
                Err(challenge::unauthorized(login_server, required, &message))
            }
        }
    }

    /// A token of this registry, of either kind, whose credential counts now.
    pub(super) fn registry_token(
        &self,
        token: &str,
        entry: &RegistryEntry,
    ) -> Result<Arc<VerifiedToken>, TokenRefusal> {
        let now = (self.sources.now)();
        let key = |kid: &str| {
            let index = self.configuration.index();
            let key = index.signing_key_for(kid, entry, self.forwarding.region());
            key.cloned()
        };
        let verified = self
            .tokens
            .verify(token, key, now)
            .map_err(TokenRefusal::Token)?;
        let registry = &entry.registry;
        if verified.registry != registry.uid || verified.audience != registry.login_server {
            return Err(TokenRefusal::OtherRegistry);
        }
        let index = self.configuration.index();
        index
            .registry(registry.uid)
            .is_some_and(|entry| login::is_current(&index, entry, &verified.origin, now))
            .then_some(verified)
            .ok_or(TokenRefusal::Withdrawn)
    }

    /// Whoever shows a token: an access token limits its owner, a refresh token does not.
    pub(super) fn caller_of(&self, entry: &RegistryEntry, token: &Arc<VerifiedToken>) -> Caller {
        Caller {
            configuration: Arc::clone(&self.configuration),
            sources: self.sources.clone(),
            registry: entry.registry.uid,
            name: token.subject.clone(),
            origin: token.origin.clone(),
            token: (token.kind == TokenKind::Access).then(|| Arc::clone(token)),
        }
    }
}

/// A user name as logs may show it. People paste passwords into the wrong field.
pub(super) fn shown_user(user: &str) -> String {
    let is_secret = SecretKind::ALL
        .into_iter()
        .any(|kind| user.contains(kind.prefix()));
    // How every token begins: base64 of '{"'.
    if is_secret || user.starts_with("eyJ") {
        return "(looks like a secret)".to_owned();
    }
    shown(user)
}

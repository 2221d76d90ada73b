//! `/oauth2/exchange`: an access token of sign-in against a refresh token of this registry, which `az acr login` then leaves to docker as
//! a password.

use std::time::Instant;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web::Payload,
};
use serde_json::json;

use super::{
    Gate,
    authentication::{TokenRefusal, shown_user},
    caller::Caller,
    challenge,
    sign_in_token::{self, RefusedToken, SignedIn},
    token::{Grant, GrantContent, TokenKind, Tokens, VerifiedToken, ends_at},
    token_endpoint::{bad_request, check_service, form_of, read_form},
};
use crate::{
    config::RegistryEntry,
    limits::REFRESH_TOKEN_LIFETIME,
    names::shown,
    oci::{ErrorCode, OciError, RequiredAccess},
};

impl Gate {
    /// Answers `POST /oauth2/exchange`.
    pub(super) async fn exchange(
        &self,
        request: &HttpRequest,
        payload: &mut Option<Payload>,
        entry: &RegistryEntry,
    ) -> Result<HttpResponse, OciError> {
        let result = match *request.method() {
            Method::POST => {
                let payload = payload.take().expect("nobody took the body before");
                self.exchange_of_body(request, payload, entry).await
            }
            _ => Err(OciError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorCode::Unsupported,
                "tokens are exchanged with POST",
            )
            .with_header(header::ALLOW, "POST")),
        };
        self.metrics.exchange(&result);
        result
    }

    async fn exchange_of_body(
        &self,
        request: &HttpRequest,
        payload: Payload,
        entry: &RegistryEntry,
    ) -> Result<HttpResponse, OciError> {
        let body = read_form(payload).await?;
        let form = form_of(&body)?;
        check_service(&form, entry)?;
        let text = |name: &str| form.get(name).filter(|text| !text.is_empty());
        match (
            text("grant_type"),
            text("access_token"),
            text("refresh_token"),
        ) {
            // With an access token there is no need for a refresh token of sign-in, which only sign-in can read.
            (Some("access_token" | "access_token_refresh_token"), Some(token), _) => {
                self.exchange_access_token(request, entry, token)
            }
            (Some("refresh_token"), _, Some(token)) => {
                self.exchange_refresh_token(request, entry, token)
            }
            (Some("access_token" | "access_token_refresh_token"), None, _) => Err(bad_request(
                "the form lacks access_token: a token of sign-in for the control plane or for registries",
            )),
            (Some("refresh_token"), _, None) => Err(bad_request("the form lacks refresh_token")),
            (Some(other), ..) => Err(bad_request(&format!(
                "grant_type {} is not supported: it is access_token, access_token_refresh_token or refresh_token",
                shown(other)
            ))),
            (None, ..) => Err(bad_request("the form lacks grant_type=access_token")),
        }
    }

    fn exchange_access_token(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        token: &str,
    ) -> Result<HttpResponse, OciError> {
        let now = (self.sources.now)();
        let verified = {
            let index = self.configuration.index();
            sign_in_token::verify(&index, entry, token, now)
        };
        let signed_in = verified.map_err(|RefusedToken { error, user }| {
            self.note_failed_exchange(request, entry, user.as_deref(), error.as_str());
            challenge::unauthorized(&entry.registry.login_server, &[], &error.to_string())
        })?;
        self.check_any_right(entry, &signed_in)?;
        tracing::info!(
            registry = %entry.registry.name,
            caller = %shown_user(&signed_in.name),
            "a token of sign-in was exchanged for one of {}",
            entry.registry.name
        );
        self.refresh_token(&Grant {
            entry,
            subject: &signed_in.name,
            origin: signed_in.origin.clone(),
            content: GrantContent::Refresh {
                tenant: Some(signed_in.tenant_id),
            },
            expires_at: ends_at(now, REFRESH_TOKEN_LIFETIME),
        })
    }

    /// One more token of this registry, that ends with the one that is shown: what one login gives is not prolonged without another.
    fn exchange_refresh_token(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        token: &str,
    ) -> Result<HttpResponse, OciError> {
        let shown = self.shown_refresh_token(entry, token).map_err(|refusal| {
            self.note_failed_exchange(request, entry, None, refusal.as_str());
            let message = match refusal {
                TokenRefusal::Token(_) => "the refresh token is not one of this registry; one of sign-in is not taken here: exchange an access token (grant_type=access_token)".to_owned(),
                refusal => refusal.to_string(),
            };
            challenge::unauthorized(&entry.registry.login_server, &[], &message)
        })?;
        self.refresh_token(&Grant {
            entry,
            subject: &shown.subject,
            origin: shown.origin.clone(),
            content: GrantContent::Refresh {
                tenant: shown.tenant,
            },
            expires_at: shown.expires_at,
        })
    }

    /// Logs a failure, as often as failed logins may be: whoever tries without end must not fill the disk. That is counted apart from
    /// logins, so that no login has to wait for it.
    fn note_failed_exchange(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        user: Option<&str>,
        failure: &'static str,
    ) {
        let address = self.client_address(request, &entry.registry.login_server);
        let counted = self.failed_exchanges.count(
            address,
            entry.registry.uid,
            user.unwrap_or_default(),
            Instant::now(),
        );
        if counted.is_err() {
            return;
        }
        tracing::info!(
            registry = %entry.registry.name,
            login.user = user.map(|user| display(shown_user(user))),
            login.failure = failure,
            peer = %address,
            "an exchange of a token for {} failed: {failure}",
            entry.registry.name
        );
    }

    /// A refresh token of this registry that is good now.
    ///
    /// # Errors
    /// Why it is not; an access token is none.
    pub(super) fn shown_refresh_token(
        &self,
        entry: &RegistryEntry,
        token: &str,
    ) -> Result<std::sync::Arc<VerifiedToken>, TokenRefusal> {
        let verified = self.registry_token(token, entry)?;
        match verified.kind {
            TokenKind::Refresh => Ok(verified),
            TokenKind::Access => Err(TokenRefusal::AccessAsRefresh),
        }
    }

    /// A token for nothing would only put the refusal off.
    fn check_any_right(&self, entry: &RegistryEntry, signed_in: &SignedIn) -> Result<(), OciError> {
        let caller = Caller {
            configuration: std::sync::Arc::clone(&self.configuration),
            sources: self.sources.clone(),
            registry: entry.registry.uid,
            name: signed_in.name.clone(),
            origin: signed_in.origin.clone(),
            token: None,
        };
        if caller.has(&[RequiredAccess::Base]) {
            return Ok(());
        }
        Err(self.no_rights(entry, &caller))
    }

    fn refresh_token(&self, grant: &Grant<'_>) -> Result<HttpResponse, OciError> {
        let key = self.token_key()?;
        let (id, now) = ((self.sources.random_id)(), (self.sources.now)());
        let token = Tokens::issue(&key, grant, id, now);
        Ok(HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((header::CONTENT_TYPE, "application/json; charset=utf-8"))
            .body(json!({ "refresh_token": token }).to_string()))
    }
}

//! `/oauth2/token`: a user name and password, or a refresh token, against an access token; or nothing, where everybody may pull.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web::Payload,
};
use credentials::{Secret, SigningKey};
use futures_util::StreamExt;
use serde_json::json;

use super::{
    Gate,
    authorization::{Authorization, Login},
    caller::Caller,
    challenge,
    form::Form,
    token::{Grant, GrantContent, Tokens, ends_at},
    token_scope::TokenScope,
};
use crate::{
    config::RegistryEntry,
    limits::{
        ACCESS_TOKEN_LIFETIME, BODY_IDLE_TIMEOUT, PATH_BYTES_MAXIMUM, RETRY_AFTER_SECONDS,
        TOKEN_REQUEST_BYTES_MAXIMUM,
    },
    names::shown,
    oci::{ErrorCode, OciError},
};

/// A request understood.
struct TokenRequest {
    shown: Shown,
    scope: TokenScope,
}

/// What an access token is asked for with.
enum Shown {
    Login(Login),
    RefreshToken(Secret),
    Nothing,
}

impl Gate {
    pub(super) async fn token(
        &self,
        request: &HttpRequest,
        payload: &mut Option<Payload>,
        entry: &RegistryEntry,
    ) -> Result<HttpResponse, OciError> {
        let parsed = match *request.method() {
            Method::GET => self.token_request_of_query(request, entry),
            Method::POST => {
                let payload = payload.take().expect("nobody took the body before");
                self.token_request_of_body(payload, entry).await
            }
            _ => Err(OciError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorCode::Unsupported,
                "the token endpoint takes GET and POST",
            )
            .with_header(header::ALLOW, "GET, POST")),
        };
        let result = match parsed {
            Ok(asked) => self.issue(request, entry, &asked).await,
            Err(error) => Err(error),
        };
        self.metrics.token(&result);
        result
    }

    async fn issue(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        asked: &TokenRequest,
    ) -> Result<HttpResponse, OciError> {
        let caller = match &asked.shown {
            Shown::Login(login) => self.log_in(request, entry, login, &[]).await?,
            Shown::RefreshToken(token) => self.caller_of_refresh_token(entry, token)?,
            Shown::Nothing => self.caller_without_credentials(entry)?,
        };
        let Some(scope) = caller.granted(&asked.scope) else {
            return Err(self.no_rights(entry, &caller));
        };
        let key = self.token_key()?;
        let (id, now) = ((self.sources.random_id)(), (self.sources.now)());
        let mut expires_at = ends_at(now, ACCESS_TOKEN_LIFETIME);
        if let Some(token) = &caller.token {
            // An access token as password gives no more than it has (see above), and for no longer.
            expires_at = expires_at.min(token.expires_at);
        }
        let grant = Grant {
            entry,
            subject: &caller.name,
            origin: caller.origin.clone(),
            content: GrantContent::Access(&scope),
            expires_at,
        };
        let token = Tokens::issue(&key, &grant, id, now);
        Ok(HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((header::CONTENT_TYPE, "application/json; charset=utf-8"))
            .body(
                json!({
                    "access_token": token,
                    "expires_in": expires_at - now.unix_timestamp(),
                })
                .to_string(),
            ))
    }

    fn caller_of_refresh_token(
        &self,
        entry: &RegistryEntry,
        token: &Secret,
    ) -> Result<Caller, OciError> {
        match self.shown_refresh_token(entry, token.expose()) {
            Ok(token) => Ok(self.caller_of(entry, &token)),
            Err(refusal) => Err(challenge::unauthorized(
                &entry.registry.login_server,
                &[],
                &refusal.to_string(),
            )),
        }
    }

    /// What to sign with now.
    pub(super) fn token_key(&self) -> Result<Arc<SigningKey>, OciError> {
        self.tokens.signing_key(&self.configuration).ok_or_else(|| {
            OciError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unavailable,
                "this node cannot sign tokens yet; try again, or send the user name and password with each request",
            )
            .with_header(header::RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string())
        })
    }

    /// `GET` with a Basic header, as docker does it.
    fn token_request_of_query(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
    ) -> Result<TokenRequest, OciError> {
        let query = request.query_string();
        if query.len() > PATH_BYTES_MAXIMUM {
            return Err(OciError::new(
                StatusCode::URI_TOO_LONG,
                ErrorCode::Unsupported,
                format!(
                    "the query has {} bytes and may have {PATH_BYTES_MAXIMUM}",
                    query.len()
                ),
            ));
        }
        let form = form_of(query.as_bytes())?;
        check_service(&form, entry)?;
        let scope = scope_of(&form)?;
        match self.authorization(request, entry, &[])? {
            Authorization::Basic(login) => Ok(TokenRequest {
                shown: Shown::Login(login),
                scope,
            }),
            Authorization::None => Ok(TokenRequest {
                shown: Shown::Nothing,
                scope,
            }),
            Authorization::Bearer(_) => Err(bad_request(
                "a token is asked for with user name and password (Basic), not with a token",
            )),
        }
    }

    /// `POST` of a form, as OAuth 2 has it (RFC 6749, 4.3).
    async fn token_request_of_body(
        &self,
        payload: Payload,
        entry: &RegistryEntry,
    ) -> Result<TokenRequest, OciError> {
        let body = read_form(payload).await?;
        let form = form_of(&body)?;
        check_service(&form, entry)?;
        let scope = scope_of(&form)?;
        match form.get("grant_type") {
            Some("password") => {}
            Some("refresh_token") => {
                let token = form.get("refresh_token").filter(|token| !token.is_empty());
                let token = token.ok_or_else(|| bad_request("the form lacks refresh_token"))?;
                return Ok(TokenRequest {
                    shown: Shown::RefreshToken(Secret::new(token.to_owned())),
                    scope,
                });
            }
            Some(other) => {
                return Err(bad_request(&format!(
                    "grant_type {} is not supported: it is password or refresh_token",
                    shown(other)
                )));
            }
            None => {
                return Err(bad_request(
                    "the form lacks grant_type: it is password or refresh_token",
                ));
            }
        }
        match (form.get("username"), form.get("password")) {
            (Some(user), Some(password)) if !user.is_empty() || !password.is_empty() => {
                let login = Login {
                    user: user.to_owned(),
                    password: Secret::new(password.to_owned()),
                };
                Ok(TokenRequest {
                    shown: Shown::Login(login),
                    scope,
                })
            }
            _ => Ok(TokenRequest {
                shown: Shown::Nothing,
                scope,
            }),
        }
    }

    fn caller_without_credentials(&self, entry: &RegistryEntry) -> Result<Caller, OciError> {
        let caller = self.anonymous(entry);
        caller.is_current().then_some(caller).ok_or_else(|| {
            challenge::unauthorized(
                &entry.registry.login_server,
                &[],
                "authentication required: log in with a user name and password, or show a refresh token",
            )
        })
    }
}

/// Reads a query or a body.
pub(super) fn form_of(text: &[u8]) -> Result<Form, OciError> {
    Form::parse(text).map_err(|error| bad_request(&format!("the form cannot be read: {error}")))
}

pub(super) fn check_service(form: &Form, entry: &RegistryEntry) -> Result<(), OciError> {
    let login_server = &entry.registry.login_server;
    match form.get("service") {
        Some(service) if !service.eq_ignore_ascii_case(login_server) => Err(bad_request(&format!(
            "service {} is not this registry: it is {login_server}",
            shown(service)
        ))),
        _ => Ok(()),
    }
}

fn scope_of(form: &Form) -> Result<TokenScope, OciError> {
    TokenScope::parse(form.all("scope")).map_err(|error| {
        OciError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::NameInvalid,
            service::errors::chain(&error),
        )
    })
}

pub(super) fn bad_request(message: &str) -> OciError {
    OciError::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
}

pub(super) async fn read_form(mut payload: Payload) -> Result<Vec<u8>, OciError> {
    let mut body = Vec::new();
    loop {
        let next = tokio::time::timeout(BODY_IDLE_TIMEOUT, payload.next())
            .await
            .map_err(|_| {
                OciError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    ErrorCode::Unsupported,
                    "the body did not arrive in time",
                )
            })?;
        match next {
            None => return Ok(body),
            Some(Err(_)) => return Err(bad_request("the body broke off")),
            Some(Ok(bytes)) if body.len() + bytes.len() > TOKEN_REQUEST_BYTES_MAXIMUM => {
                return Err(OciError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    ErrorCode::SizeInvalid,
                    format!("the body is larger than {TOKEN_REQUEST_BYTES_MAXIMUM} bytes"),
                ));
            }
            Some(Ok(bytes)) => body.extend_from_slice(&bytes),
        }
    }
}

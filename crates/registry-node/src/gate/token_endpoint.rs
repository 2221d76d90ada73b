//! `/oauth2/token`: a user name and password against an access token.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web::Payload,
};
use credentials::Secret;
use futures_util::StreamExt;
use serde_json::json;

use super::{
    Gate,
    authorization::{Authorization, Login},
    challenge,
    form::Form,
    token::{Grant, Tokens},
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
    login: Login,
    scope: TokenScope,
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
            Ok(asked) => self.issue(request, entry, &asked),
            Err(error) => Err(error),
        };
        self.metrics.token(&result);
        result
    }

    fn issue(
        &self,
        request: &HttpRequest,
        entry: &RegistryEntry,
        asked: &TokenRequest,
    ) -> Result<HttpResponse, OciError> {
        let caller = self.log_in(request, entry, &asked.login, &[])?;
        let rights = caller.rights();
        if rights.is_empty() {
            return Err(self.no_rights(entry, &caller));
        }
        let Some(key) = self.tokens.signing_key(&self.configuration) else {
            return Err(OciError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unavailable,
                "this node cannot sign tokens yet; try again, or send the user name and password with each request",
            )
            .with_header(header::RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string()));
        };
        let grant = Grant {
            entry,
            subject: &asked.login.user,
            credential: caller.credential,
            scope: &asked.scope.granted(rights),
        };
        let (id, now) = ((self.sources.random_id)(), (self.sources.now)());
        let token = Tokens::issue(&key, &grant, id, now);
        Ok(HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((header::CONTENT_TYPE, "application/json; charset=utf-8"))
            .body(
                json!({
                    "access_token": token,
                    "expires_in": ACCESS_TOKEN_LIFETIME.as_secs(),
                })
                .to_string(),
            ))
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
        let form = Form::parse(query.as_bytes())
            .ok_or_else(|| bad_request("the query is not UTF-8 text"))?;
        check_service(&form, entry)?;
        let scope = scope_of(&form)?;
        match self.authorization(request, entry, &[])? {
            Authorization::Basic(login) => Ok(TokenRequest { login, scope }),
            Authorization::None => Err(self.anonymous(entry, &[])),
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
        let form = Form::parse(&body).ok_or_else(|| bad_request("the body is not UTF-8 text"))?;
        check_service(&form, entry)?;
        let scope = scope_of(&form)?;
        match form.get("grant_type") {
            Some("password") => {}
            Some(other) => {
                return Err(bad_request(&format!(
                    "grant_type {} is not supported: it is password",
                    shown(other)
                )));
            }
            None => return Err(bad_request("the form lacks grant_type=password")),
        }
        match (form.get("username"), form.get("password")) {
            (Some(user), Some(password)) if !user.is_empty() || !password.is_empty() => {
                let login = Login {
                    user: user.to_owned(),
                    password: Secret::new(password.to_owned()),
                };
                Ok(TokenRequest { login, scope })
            }
            _ => Err(self.anonymous(entry, &[])),
        }
    }

    fn anonymous(
        &self,
        entry: &RegistryEntry,
        required: &[crate::oci::RequiredAccess],
    ) -> OciError {
        challenge::unauthorized(
            &entry.registry.login_server,
            required,
            "authentication required: log in with a user name and password",
        )
    }

    /// What needs an exchange of tokens is told so.
    pub(super) fn exchange(&self) -> OciError {
        OciError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::Unsupported,
            "this registry does not exchange tokens yet: log in with the admin account or a service principal's id and secret",
        )
    }
}

fn check_service(form: &Form, entry: &RegistryEntry) -> Result<(), OciError> {
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

fn bad_request(message: &str) -> OciError {
    OciError::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
}

async fn read_form(mut payload: Payload) -> Result<Vec<u8>, OciError> {
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

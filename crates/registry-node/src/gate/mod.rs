//! Every request passes here: which registry is it for, who is calling, may it do this now?
//!
//! Credentials are checked against the index as it is at that moment; a token only says which
//! credential it came from and what it allows at most. What is done with content is `oci`'s and `acr`'s.

mod admission;
mod allowance;
mod authentication;
mod authorization;
mod caller;
mod challenge;
mod chosen_secrets;
mod content_changes;
mod exchange;
mod failed_logins;
mod form;
mod forwarding;
mod host;
mod login;
mod operation;
mod quota;
mod server;
mod sign_in_token;
mod token;
mod token_endpoint;
mod token_scope;
mod unread_body;

pub use admission::LoadLimits;
pub use authorization::{
    Authorization, Login, MalformedAuthorization, parse as parse_authorization,
};
pub use caller::Caller;
pub use failed_logins::FailedLogins;
pub use form::{Form, InvalidForm};
pub use forwarding::Forwarding;
pub use host::RequestHost;
pub use login::{CredentialId, LoginFailure};
pub use server::{GateServer, ListenError, Stopper};
pub use token_scope::{AccessEntry, InvalidTokenScope, TokenScope};

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::{ConnectionType, Method, StatusCode, header},
    web::Payload,
};
use config_documents::{Region, RoleAssignmentMode};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    config::{Configuration, Identities, RegistryEntry},
    content::{Content, Sources},
    metrics::NodeMetrics,
    names::shown,
    oci::{ErrorCode, OciError, RequiredAccess},
};
use admission::{Admission, Admitted};
use authentication::shown_user;
use chosen_secrets::ChosenSecrets;
use forwarding::Destination;
use operation::Operation;
use token::Tokens;
use unread_body::Lent;

/// The gate of a node, shared by all requests.
pub struct Gate {
    configuration: Arc<Configuration>,
    content: Content,
    tokens: Tokens,
    failed_logins: FailedLogins,
    failed_exchanges: FailedLogins,
    chosen_secrets: ChosenSecrets,
    metrics: NodeMetrics,
    sources: Sources,
    forwarding: Forwarding,
    admission: Admission,
    is_stopping: AtomicBool,
}

/// By which a request is found in logs; its answer carries it.
#[derive(Clone, Copy)]
struct RequestId(Uuid);

/// Where the registry of a request is.
enum Place {
    /// Its callers are known here.
    Here(Arc<RegistryEntry>),
    /// Only nodes of this region know them.
    Elsewhere {
        login_server: String,
        region: Region,
    },
}

/// What a request turned out to be, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Token,
    Exchange,
    Registry,
}

impl Gate {
    /// A gate to `content`, by `configuration`. Tokens are signed with the key of one of the `identities`.
    pub fn new(
        configuration: Arc<Configuration>,
        content: Content,
        identities: Arc<Identities>,
        metrics: NodeMetrics,
        sources: Sources,
        forwarding: Forwarding,
        limits: LoadLimits,
    ) -> Self {
        Self {
            configuration,
            content,
            tokens: Tokens::new(identities),
            failed_logins: FailedLogins::default(),
            failed_exchanges: FailedLogins::default(),
            chosen_secrets: ChosenSecrets::default(),
            metrics,
            sources,
            forwarding,
            admission: Admission::new(limits),
            is_stopping: AtomicBool::new(false),
        }
    }

    /// From now on requests are refused, and connections end with the answer that they wait for.
    fn take_no_more(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Why nobody is served now, if that is so.
    fn not_serving(&self) -> Option<OciError> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Some(challenge::stopping());
        }
        let refusal = self.configuration.standing().refusal();
        refusal.as_ref().map(challenge::not_serving)
    }

    /// Answers a request.
    pub async fn serve(&self, request: HttpRequest, payload: Payload) -> HttpResponse {
        let id = (self.sources.random_id)();
        let span = tracing::info_span!(
            "request",
            request.id = %id,
            http.method = %request.method(),
            http.path = %shown(request.path()),
            registry = tracing::field::Empty,
            forwarded.id = tracing::field::Empty,
        );
        if let Some(before) = forwarding::id_before(&request) {
            span.record("forwarded.id", before.to_string());
        }
        request.extensions_mut().insert(RequestId(id));
        let mut response = self.answer(request, payload).instrument(span).await;
        let headers = response.headers_mut();
        let id = id.to_string();
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("access-control-expose-headers", "Docker-Content-Digest"),
            ("x-ms-correlation-request-id", id.as_str()),
        ] {
            let value = header::HeaderValue::from_str(value).expect("plain ASCII");
            headers.insert(header::HeaderName::from_static(name), value);
        }
        if self.is_stopping.load(Ordering::Acquire) {
            let head = response.head_mut();
            head.set_connection_type(ConnectionType::Close);
        }
        let admitted = response.extensions_mut().remove::<Admitted>();
        self.metrics.count_sent(response, admitted)
    }

    async fn answer(&self, request: HttpRequest, payload: Payload) -> HttpResponse {
        let started_at = Instant::now();
        let mut unread = Some(payload);
        let registry = match self.not_serving() {
            Some(refusal) => Err(("refused", refusal)),
            None => self
                .registry_of(&request)
                .map_err(|error| ("unknown-registry", forwarding::of_unknown(&request, error))),
        };
        let (operation, result) = match registry {
            Err((operation, error)) => (operation, Err(error)),
            Ok(Place::Elsewhere {
                login_server,
                region,
            }) => {
                tracing::Span::current().record("registry", login_server.as_str());
                let destination = Destination {
                    login_server: &login_server,
                    region: &region,
                };
                let forwarded = self.forward(&request, &mut unread, &destination).await;
                ("forwarded", forwarded)
            }
            Ok(Place::Here(entry)) => {
                tracing::Span::current().record("registry", entry.registry.name.as_str());
                match target_of(request.path()) {
                    Target::Token => ("token", self.token(&request, &mut unread, &entry).await),
                    Target::Exchange => (
                        "exchange",
                        self.exchange(&request, &mut unread, &entry).await,
                    ),
                    Target::Registry => self.registry_request(&request, &mut unread, &entry).await,
                }
            }
        };
        // From then on nobody has any right: that is not the caller's fault.
        let result = result.map_err(|error| match self.configuration.standing().refusal() {
            Some(refusal) if error.status == StatusCode::UNAUTHORIZED => {
                challenge::not_serving(&refusal)
            }
            _ => error,
        });
        if let Some(payload) = unread {
            unread_body::pass_over(&request, payload).await;
        }
        let response = result.unwrap_or_else(OciError::into_response);
        let (status, took) = (response.status(), started_at.elapsed());
        self.metrics.request(operation, status, took);
        // Reads are most of the traffic; writes are what somebody asks about later. What a stranger is refused is counted, but must
        // not fill the disk.
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_refused = matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS
        ) || matches!(operation, "refused" | "unknown-registry" | "malformed");
        let (status, milliseconds) = (status.as_u16(), took.as_secs_f64() * 1000.0);
        if is_read || is_refused {
            tracing::debug!(http.status = status, milliseconds, "{operation}: {status}");
        } else {
            tracing::info!(http.status = status, milliseconds, "{operation}: {status}");
        }
        response
    }

    /// An operation on the registry itself. The operation's name comes back for metrics.
    async fn registry_request(
        &self,
        request: &HttpRequest,
        payload: &mut Option<Payload>,
        entry: &RegistryEntry,
    ) -> (&'static str, Result<HttpResponse, OciError>) {
        let query = request.query_string();
        let asked = match Operation::parse(request.method(), request.path(), query) {
            Ok(asked) => asked,
            Err(error) => return ("malformed", Err(error)),
        };
        let operation = asked.name();
        let change = asked.change();
        let required = asked.required_access();
        let (caller, result) = match self.authenticate(request, entry, &required).await {
            Ok(caller) => {
                let result = self
                    .admitted(request, payload, entry, &caller, asked, &required)
                    .await;
                (Some(caller), result)
            }
            Err(error) => (None, Err(error)),
        };
        // What was handed on is noted where it was done.
        if let Some(change) = change
            && entry.registry.home_region == *self.forwarding.region()
        {
            self.note_change(request, entry, &change, caller.as_ref(), &result);
        }
        (operation, result)
    }

    /// What somebody known asks for, unless too much of theirs is under way.
    async fn admitted(
        &self,
        request: &HttpRequest,
        payload: &mut Option<Payload>,
        entry: &RegistryEntry,
        caller: &Caller,
        asked: Operation,
        required: &[RequiredAccess],
    ) -> Result<HttpResponse, OciError> {
        let admitted = self.admission.admit(caller.key(), Instant::now());
        let admitted = admitted.map_err(|refused| {
            self.metrics.limited(refused.limit.as_str());
            challenge::too_many_requests(refused.limit.message(), refused.retry_after)
        })?;
        let mut response = self
            .request_of(request, payload, entry, caller, asked, required)
            .await?;
        // What is sent bit by bit counts until it is sent.
        response.extensions_mut().insert(admitted);
        Ok(response)
    }

    /// What somebody known asks for.
    async fn request_of(
        &self,
        request: &HttpRequest,
        payload: &mut Option<Payload>,
        entry: &RegistryEntry,
        caller: &Caller,
        asked: Operation,
        required: &[RequiredAccess],
    ) -> Result<HttpResponse, OciError> {
        if !caller.has(required) {
            return Err(match required {
                [RequiredAccess::Base] => self.no_rights(entry, caller),
                _ => self.denied(entry, caller, required),
            });
        }
        let registry = &entry.registry;
        if registry.home_region != *self.forwarding.region() && required != [RequiredAccess::Base] {
            // Who calls is known here; what is asked for is there.
            let destination = Destination {
                login_server: &registry.login_server,
                region: &registry.home_region,
            };
            return self.forward(request, payload, &destination).await;
        }
        if let Operation::Oci(route) = &asked {
            self.check_quota(registry, route, request).await?;
        }
        let body = Lent::new(payload.take().expect("nobody took the body before"));
        let counted = self.metrics.count_received(request, body.reader()).await;
        let result = self.carry_out(asked, entry, caller, request, counted).await;
        if result.is_err() {
            *payload = body.rest();
        }
        result.map_err(|error| match error.code {
            ErrorCode::Denied => self.no_longer_allowed(entry, caller, required),
            _ => error,
        })
    }

    /// The registry that the request's host names.
    fn registry_of(&self, request: &HttpRequest) -> Result<Place, OciError> {
        let text = match request.uri().authority() {
            Some(authority) => authority.as_str(),
            None => request
                .headers()
                .get(header::HOST)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default(),
        };
        let unknown = || challenge::registry_unknown(text);
        let host = RequestHost::parse(text).ok_or_else(unknown)?;
        let index = self.configuration.index();
        if let Some(entry) = index.registry_by_host(host.host()) {
            return host
                .is_of(&entry.registry.login_server)
                .then(|| Place::Here(Arc::clone(entry)))
                .ok_or_else(unknown);
        }
        match index.name_by_host(host.host()) {
            Some(name) if !host.is_of(&name.login_server) => Err(unknown()),
            Some(name) if name.home_region == *self.forwarding.region() => {
                Err(challenge::registry_not_configured(host.host()))
            }
            Some(name) => Ok(Place::Elsewhere {
                login_server: name.login_server.clone(),
                region: name.home_region.clone(),
            }),
            _ => Err(unknown()),
        }
    }

    fn denied(
        &self,
        entry: &RegistryEntry,
        caller: &Caller,
        required: &[RequiredAccess],
    ) -> OciError {
        tracing::info!(
            registry = %entry.registry.name,
            caller = %shown_user(&caller.name),
            scope = %challenge::scope_of(required),
            "access to {} denied",
            entry.registry.name
        );
        challenge::denied(
            &entry.registry.login_server,
            required,
            &format!(
                "requested access to the resource is denied: it takes {}",
                challenge::scope_of(required)
            ),
        )
    }

    /// What the caller had when the request began was withdrawn before it was carried out.
    fn no_longer_allowed(
        &self,
        entry: &RegistryEntry,
        caller: &Caller,
        required: &[RequiredAccess],
    ) -> OciError {
        if caller.is_current() {
            return self.denied(entry, caller, required);
        }
        challenge::unauthorized(
            &entry.registry.login_server,
            required,
            "the password, secret or token was withdrawn, or has expired, before the request ended: log in again",
        )
    }

    fn no_rights(&self, entry: &RegistryEntry, caller: &Caller) -> OciError {
        tracing::info!(
            registry = %entry.registry.name,
            caller = %shown_user(&caller.name),
            "a login to {} was refused: no role gives any right there",
            entry.registry.name
        );
        let needed = match entry.registry.role_assignment_mode {
            RoleAssignmentMode::LegacyRegistryPermissions => {
                "it needs a role there, such as AcrPull"
            }
            RoleAssignmentMode::AbacRepositoryPermissions => {
                "it needs 'Container Registry Repository Reader' or 'Container Registry Repository Writer' there; Owner, Contributor, Reader, AcrPull, AcrPush and AcrDelete do not count in a registry whose role assignment mode is AbacRepositoryPermissions"
            }
        };
        challenge::denied(
            &entry.registry.login_server,
            &[],
            &format!(
                "this principal has no right in the registry {}: {needed}",
                entry.registry.name
            ),
        )
    }
}

/// Paths are compared without double and trailing slashes.
fn target_of(path: &str) -> Target {
    let mut segments = arm::split_path(path);
    match (segments.next(), segments.next(), segments.next()) {
        (Some("oauth2"), Some("token"), None) => Target::Token,
        (Some("oauth2"), Some("exchange"), None) => Target::Exchange,
        _ => Target::Registry,
    }
}

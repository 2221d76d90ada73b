//! The steps that a request passes, in their order.
//!
//! 1. ids; 2. path → operation; 3. api-version; 4. who; 5. body; 6. may they; 7. the handler; 8. propagation; 9. the answer.
//!
//! What comes of 5 to 7 is in the activity log before 8. Once its body is there a request is carried out to the end, also when its client hangs
//! up: wrong passwords would not be counted otherwise, refusals not recorded, nor nodes told at once.
//!
//! The body comes before the decision: a slow one would leave time to lose the right that was found. A handler with slow work of its own
//! asks again after it ([`super::decide_again`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use arm::{ApiError, ApiVersion, Kind};
use bytes::Bytes;
use futures_util::FutureExt;
use time::OffsetDateTime;
use tracing::Instrument;
use uuid::Uuid;

use super::activity::{Origin, attempt, recorded};
use super::authentication::{authenticate, challenge};
use super::authorization::{Question, decide};
use super::body::{pass_over, read_body};
use super::lookup::{FoundOperation, api_version, check_query, find, protocol_of};
use super::router::decode_query;
use super::{Access, Answer, Operation, Protocol, Request, cors, errors, store_error};
use crate::App;
use crate::limits::{ANSWER_TIMEOUT, MAXIMUM_CLIENT_REQUEST_ID_CHARACTERS, RETRY_AFTER_SECONDS};
use crate::sign_in::Claims;

/// Headers that only the service may set (RPC "common API details", R15); a client's are dropped.
const RESERVED_HEADERS: [&str; 11] = [
    "referer",
    "x-ms-client-ip-address",
    "x-ms-client-principal-name",
    "x-ms-client-principal-id",
    "x-ms-client-tenant-id",
    "x-ms-client-object-id",
    "x-ms-client-app-id",
    "x-ms-client-audience",
    "x-ms-client-issuer",
    "x-ms-client-wids",
    "x-ms-arm-resource-system-data",
];

/// What identifies a request in answers and logs.
struct Ids {
    request: Uuid,
    correlation: String,
    /// The caller's own, as it was sent.
    client: Option<String>,
    /// Whether the caller wants to see its own again.
    returns_client: bool,
}

/// Answers any request that is not the nodes' stream.
pub(crate) async fn dispatch(
    http: HttpRequest,
    mut payload: web::Payload,
    app: web::Data<Arc<App>>,
) -> HttpResponse {
    let started = Instant::now();
    let app = Arc::clone(&app);
    let _under_way = app.requests.begin();
    let now = whole_microseconds((app.clock)());
    let headers = headers_of_client(&http);
    let ids = ids(&headers);
    if let Some(mut response) = cors::preflight(&http) {
        if let Some(origin) = cors::allowed_origin(&app.settings.cors_allowed_origins, &http) {
            cors::expose(response.headers_mut(), origin);
        }
        return response;
    }
    let found = find(&app, &http);
    let protocol = found.as_ref().map_or_else(
        |_| protocol_of(http.path()),
        |found| found.operation.protocol,
    );
    let operation_id = found.as_ref().map_or("unknown", |found| found.operation.id);
    let has_own_log = found
        .as_ref()
        .is_ok_and(|found| found.operation.has_own_log);
    let allow = found.as_ref().err().and_then(|lost| lost.allow.clone());
    let span = tracing::info_span!("request",
        request.id = %ids.request, correlation.id = %ids.correlation, client.request_id = ids.client,
        operation = operation_id, caller.object_id = tracing::field::Empty);
    let outcome = async {
        let found = found.map_err(|lost| lost.error)?;
        answer(&app, &http, &mut payload, headers, found, &ids, now).await
    }
    .instrument(span.clone())
    .await;
    if outcome.is_err() {
        pass_over(&http, &mut payload).await;
    }
    let origin = cors::allowed_origin(&app.settings.cors_allowed_origins, &http);
    let mut response = match outcome {
        Ok(response) => response,
        Err(error) => failure(
            &app,
            &errors::presentable(error),
            protocol,
            &ids,
            now,
            &span,
        ),
    };
    common_headers(response.headers_mut(), &ids);
    if let Some(allow) = allow {
        insert(response.headers_mut(), "allow", &allow);
    }
    if let Some(origin) = origin {
        cors::expose(response.headers_mut(), origin);
    }
    app.request_metrics
        .record(operation_id, response.status().as_u16(), started.elapsed());
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                http.method = %http.method(), http.path = %shorten(http.path()), http.status = response.status().as_u16(),
                duration_milliseconds = started.elapsed().as_millis() as u64, "request answered")
        };
    }
    span.in_scope(|| match has_own_log {
        true => log!(debug),
        false => log!(info),
    });
    response
}

fn headers_of_client(http: &HttpRequest) -> HeaderMap {
    let all = http.headers();
    let mut headers = HeaderMap::with_capacity(all.len());
    for (name, value) in all {
        if !RESERVED_HEADERS.contains(&name.as_str()) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// What Postgres keeps of a time, so that an answer shows the same one as a later read.
fn whole_microseconds(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_microsecond(time.microsecond())
        .expect("a time's own microsecond is one")
}

/// A path as the log may have it.
fn shorten(path: &str) -> String {
    credentials::without_secrets(path)
        .chars()
        .take(300)
        .collect()
}

fn ids(headers: &HeaderMap) -> Ids {
    let request = Uuid::new_v4();
    let correlation = headers
        .get("x-ms-correlation-request-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| Uuid::try_parse(text).ok())
        .unwrap_or(request);
    let client = headers
        .get("x-ms-client-request-id")
        .and_then(|value| value.to_str().ok())
        .filter(|id| id.len() <= MAXIMUM_CLIENT_REQUEST_ID_CHARACTERS)
        .map(|id| credentials::without_secrets(id).into_owned());
    let returns_client = headers
        .get("x-ms-return-client-request-id")
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    Ids {
        request,
        correlation: correlation.to_string(),
        client,
        returns_client,
    }
}

async fn answer(
    app: &Arc<App>,
    http: &HttpRequest,
    payload: &mut web::Payload,
    headers: HeaderMap,
    found: FoundOperation,
    ids: &Ids,
    now: OffsetDateTime,
) -> Result<HttpResponse, ApiError> {
    let FoundOperation {
        operation,
        segments,
        parameters,
    } = found;
    let query = decode_query(http.query_string());
    check_query(&query, operation.protocol)?;
    let api_version = api_version(&operation, &query)?;
    let claims = match operation.access {
        Access::Public | Access::Node => None,
        _ => Some(authenticate(app, &headers, now)?),
    };
    let attempt = attempt(
        &operation,
        &Origin {
            request_id: ids.request,
            correlation_id: &ids.correlation,
            claims: claims.as_deref(),
            address: http.peer_addr().map(|address| address.ip()),
            segments: &segments,
            now,
        },
    );
    let parsed = Parsed {
        request_id: ids.request,
        correlation_id: ids.correlation.clone(),
        peer: http.peer_addr().map(|address| address.ip()),
        body: read_body(payload).await,
        operation,
        segments,
        parameters,
        query,
        api_version,
        headers,
        claims,
    };
    let app = Arc::clone(app);
    let under_way = app.requests.begin();
    let work = async move {
        let _under_way = under_way;
        let repeats = parsed.operation.may_repeat_a_change && attempt.is_some();
        let answer = recorded(&app, attempt, carry_out(&app, parsed)).await?;
        respond(&app, answer, repeats).await
    };
    actix_web::rt::spawn(work.instrument(tracing::Span::current()))
        .await
        .unwrap_or_else(|error| Err(ApiError::internal(error)))
}

/// A request that has come in whole; its head was understood, and its token is genuine.
struct Parsed {
    request_id: Uuid,
    correlation_id: String,
    peer: Option<IpAddr>,
    /// Or why there is none.
    body: Result<Bytes, ApiError>,
    operation: Arc<Operation>,
    segments: Vec<String>,
    parameters: Vec<(String, String)>,
    query: Vec<(String, String)>,
    api_version: Option<ApiVersion>,
    headers: HeaderMap,
    claims: Option<Arc<Claims>>,
}

/// Decides, and calls the handler.
async fn carry_out(app: &Arc<App>, parsed: Parsed) -> Result<Answer, ApiError> {
    let Parsed {
        request_id,
        correlation_id,
        peer,
        body,
        operation,
        segments,
        parameters,
        query,
        api_version,
        headers,
        claims,
    } = parsed;
    let body = body?;
    let now = whole_microseconds((app.clock)());
    let decided = match claims {
        None => None,
        Some(claims) => {
            tracing::Span::current()
                .record("caller.object_id", tracing::field::display(claims.oid));
            let question = Question {
                access: operation.access,
                protocol: operation.protocol,
                segments: &segments,
                object_id: parameters
                    .iter()
                    .find(|(name, _)| name == "objectId")
                    .map(|(_, value)| value.as_str()),
                object_id_of_caller: claims.oid,
                key_id: claims.cred,
                now,
            };
            Some(in_time(decide(app, &question)).await?)
        }
    };
    let (caller, facts) = decided
        .map(|decided| (decided.caller, decided.facts))
        .unzip();
    let request = Request {
        request_id,
        correlation_id,
        now,
        peer,
        segments,
        parameters,
        query,
        api_version,
        headers,
        body,
        caller,
        access: operation.access,
        protocol: operation.protocol,
        facts,
    };
    in_time((operation.handler)(Arc::clone(app), request)).await
}

/// Bounds the wait for a database that neither answers nor breaks its connections. Like a connection that breaks, it leaves open whether a
/// change was committed; repeating it tells.
fn in_time<T>(
    work: impl Future<Output = Result<T, ApiError>>,
) -> impl Future<Output = Result<T, ApiError>> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).map(|outcome| {
        outcome.unwrap_or_else(|elapsed| {
            Err(ApiError::unavailable(
                "The service's database does not answer at the moment. Repeat the request.",
                RETRY_AFTER_SECONDS,
                elapsed,
            ))
        })
    })
}

/// Waits for what the change published, then makes the response. After a commit nothing here fails.
///
/// A change that found everything as it should be published nothing, but may repeat one whose answer was lost: with `repeats` it waits for
/// whatever was published before it.
async fn respond(app: &Arc<App>, answer: Answer, repeats: bool) -> Result<HttpResponse, ApiError> {
    let propagation = match &answer.published {
        Some(published) => Some(app.config_feed.wait(published).await.headers()),
        None if repeats => {
            let head = store::config::published_so_far(&app.store);
            let head = in_time(head.map(|head| head.map_err(store_error))).await?;
            Some(app.config_feed.wait(&head).await.headers_of_repetition())
        }
        None => None,
    };
    let mut builder = HttpResponse::build(answer.status);
    for (name, value) in &answer.headers {
        builder.insert_header((*name, value.as_str()));
    }
    for (name, value) in propagation.unwrap_or_default() {
        builder.insert_header((name, value));
    }
    Ok(match answer.body {
        Some(body) => builder
            .content_type("application/json; charset=utf-8")
            .body(body),
        None => builder.finish(),
    })
}

fn failure(
    app: &App,
    error: &ApiError,
    protocol: Protocol,
    ids: &Ids,
    now: OffsetDateTime,
    span: &tracing::Span,
) -> HttpResponse {
    span.in_scope(|| match (&error.cause, error.kind) {
        (Some(cause), Kind::Internal) => {
            tracing::error!(error.code = error.code, error.cause = %service::errors::chain(cause.as_ref()), "request failed");
        }
        (Some(cause), _) => {
            tracing::warn!(error.code = error.code, error.cause = %service::errors::chain(cause.as_ref()), "request refused");
        }
        (None, _) => tracing::info!(error.code = error.code, error.message = error.message, "request refused"),
    });
    let mut response = errors::response(error, protocol, ids.request, &ids.correlation, now);
    if response.status() == StatusCode::UNAUTHORIZED && protocol != Protocol::OAuth {
        insert(
            response.headers_mut(),
            "www-authenticate",
            &challenge(app, error, now),
        );
    }
    response
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// The headers of every answer (arm-contract: R11 to R13).
fn common_headers(response: &mut HeaderMap, ids: &Ids) {
    insert(response, "x-ms-request-id", &ids.request.to_string());
    insert(response, "x-ms-correlation-request-id", &ids.correlation);
    insert(
        response,
        "strict-transport-security",
        "max-age=31536000; includeSubDomains",
    );
    insert(response, "x-content-type-options", "nosniff");
    if !response.contains_key("cache-control") {
        insert(response, "cache-control", "no-cache");
        insert(response, "pragma", "no-cache");
        insert(response, "expires", "-1");
    }
    if ids.returns_client
        && let Some(id) = &ids.client
    {
        insert(response, "x-ms-client-request-id", id);
    }
}

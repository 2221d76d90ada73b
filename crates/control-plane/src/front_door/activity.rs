//! The activity log's part of a request: which requests are attempts to change something, on whose behalf, and what came of them.
//!
//! A change writes its row in its own transaction ([`store::activity`]). What is refused, and what changed nothing, is written here, before
//! the answer. A request whose caller is not known (no token, or a bad one) is not recorded: anybody could fill the log.

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use store::activity::{Attempt, Conclusion, attempted};
use time::OffsetDateTime;
use uuid::Uuid;

use super::errors::{presentable, status};
use super::{Access, Answer, DirectoryRight, Operation, Protocol, store_error};
use crate::App;
use crate::limits::RECORD_TIMEOUT;
use crate::sign_in::Claims;

/// What of a request goes into its row.
pub(super) struct Origin<'a> {
    pub(super) request_id: Uuid,
    pub(super) correlation_id: &'a str,
    pub(super) claims: Option<&'a Claims>,
    pub(super) address: Option<IpAddr>,
    pub(super) segments: &'a [String],
    pub(super) now: OffsetDateTime,
}

/// Whether an operation changes something, or hands out secrets.
fn is_recorded(operation: &Operation) -> bool {
    let is_read = matches!(
        operation.method,
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    !is_read
        && match operation.access {
            Access::Public
            | Access::AnyPrincipal
            | Access::FilteredList(_)
            | Access::Directory(DirectoryRight::Read) => false,
            Access::Action { action, .. } => !action.ends_with("/read"),
            Access::Directory(_) | Access::Node => true,
        }
}

/// The attempt that a request is; `None` when it only reads.
pub(super) fn attempt(operation: &Operation, origin: &Origin<'_>) -> Option<Arc<Attempt>> {
    if !is_recorded(operation) {
        return None;
    }
    let resource = credentials::without_secrets(&resource(operation, origin.segments)).into_owned();
    let mut attempt = Attempt::new(
        origin.request_id,
        origin.now,
        operation_name(operation),
        &resource,
    );
    if let Ok(id) = Uuid::try_parse(origin.correlation_id) {
        attempt.correlation_id = id;
    }
    attempt.caller_address = origin.address;
    match origin.claims {
        Some(claims) => {
            attempt.caller_id = Some(claims.oid);
            attempt.detail("credentialId", claims.cred.to_string());
        }
        None => attempt.caller_name = Some("registry node".to_owned()),
    }
    attempt.success_statuses = operation
        .answers
        .iter()
        .map(|(status, _)| *status)
        .collect();
    Some(Arc::new(attempt))
}

/// An action's name, or one made of the operation's id where there is no action: `Applications_AddPassword` becomes
/// `Microsoft.Directory/applications/addPassword/action`.
fn operation_name(operation: &Operation) -> String {
    if let Access::Action { action, .. } = operation.access {
        return action.to_owned();
    }
    let (collection, verb) = operation.id.split_once('_').unwrap_or(("", operation.id));
    let (collection, verb) = (lower_first(collection), lower_first(verb));
    let namespace = match operation.protocol {
        Protocol::Graph => "Microsoft.Directory",
        _ => "Wharfinger",
    };
    match verb.as_str() {
        "create" | "update" | "put" => format!("{namespace}/{collection}/write"),
        "delete" => format!("{namespace}/{collection}/delete"),
        _ => format!("{namespace}/{collection}/{verb}/action"),
    }
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_ascii_lowercase())
        .into_iter()
        .chain(characters)
        .collect()
}

/// What a request is about: the path, without the name of an action; of the directory, below its namespace.
fn resource(operation: &Operation, segments: &[String]) -> String {
    let is_literal = |segment: &str| !segment.starts_with('{');
    let template: Vec<&str> = arm::split_path(&operation.path).collect();
    let ends_in_verb = template.last().is_some_and(|last| is_literal(last))
        && (operation.method == Method::POST || template.last() == Some(&"$ref"));
    let is_collection = operation.protocol == Protocol::Graph && template.len() == 2;
    let end = segments.len() - usize::from(ends_in_verb && !is_collection);
    match operation.protocol {
        Protocol::Graph => format!(
            "/providers/Microsoft.Directory/{}",
            segments[1..end].join("/")
        ),
        Protocol::Own => "/providers/Wharfinger/nodes".to_owned(),
        Protocol::Arm | Protocol::OAuth => format!("/{}", segments[..end].join("/")),
    }
}

/// Carries a request out on behalf of its attempt, and sees to it that what came of it is recorded.
///
/// # Errors
/// Those of the work; and that the log cannot be written, when nothing was changed yet: secrets, for one, are not shown unrecorded.
pub(super) async fn recorded(
    app: &App,
    attempt: Option<Arc<Attempt>>,
    work: impl Future<Output = Result<Answer, ApiError>>,
) -> Result<Answer, ApiError> {
    let Some(attempt) = attempt else {
        return work.await;
    };
    let outcome = attempted(Arc::clone(&attempt), work).await;
    let conclusion = match &outcome {
        // Its transaction wrote it.
        Ok(answer) if answer.published.is_some() => return outcome,
        Ok(answer) => Conclusion {
            http_status: Some(answer.status.as_u16()),
            failure: None,
        },
        // Whoever calls without being known would fill the log.
        Err(_) if attempt.caller_id.is_none() => return outcome,
        Err(error) => failed(error),
    };
    let is_refused = matches!(&outcome, Err(error) if status(error.kind).is_client_error());
    if is_refused && !app.activity.is_written_alone(&attempt, &conclusion) {
        return outcome;
    }
    let write = app.store.activity_conclude(&attempt, &conclusion);
    let Err(error) = store::within(RECORD_TIMEOUT, write).await else {
        return outcome;
    };
    tracing::error!(
        error.cause = %service::errors::chain(&error),
        activity.operation = attempt.operation_name, activity.conclusion = ?conclusion,
        "what came of a request is not in the activity log"
    );
    match outcome {
        Ok(_) if !attempt.has_begun() => Err(store_error(error)),
        outcome => outcome,
    }
}

fn failed(error: &ApiError) -> Conclusion {
    let shown = presentable(ApiError::new(
        error.kind,
        error.code.clone(),
        error.message.clone(),
    ));
    Conclusion {
        http_status: Some(status(error.kind).as_u16()),
        failure: Some((shown.code.to_string(), shown.message)),
    }
}

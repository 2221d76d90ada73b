//! An event as clients of ARM read it.
//!
//! A row of the log is one event, the end of a request. Who was given which role is read from pairs of a beginning and an end
//! (`az role assignment list-changelogs`), so the row of an assignment is shown as both.

use actix_web::http::StatusCode;
use serde_json::{Value, json};
use store::activity::ActivityEvent;
use uuid::{Builder, Uuid, Version};

use crate::App;

/// The members of an event, in their order.
pub(super) const MEMBERS: [&str; 24] = [
    "id",
    "eventDataId",
    "correlationId",
    "operationId",
    "eventName",
    "category",
    "level",
    "eventTimestamp",
    "submissionTimestamp",
    "operationName",
    "resourceId",
    "resourceGroupName",
    "resourceProviderName",
    "resourceType",
    "status",
    "subStatus",
    "subscriptionId",
    "tenantId",
    "caller",
    "claims",
    "authorization",
    "httpRequest",
    "description",
    "properties",
];

/// The status of a beginning.
pub(super) const STARTED: &str = "Started";

/// The id of a row's beginning: its own but for the version, so that one tells the other.
fn beginning_id(event_id: Uuid) -> Uuid {
    with_version(event_id, Version::Custom)
}

/// The row whose beginning has the id, if it is one of a beginning.
pub(super) fn row_of_beginning(id: Uuid) -> Option<Uuid> {
    (id.get_version() == Some(Version::Custom)).then(|| with_version(id, Version::Random))
}

fn with_version(id: Uuid, version: Version) -> Uuid {
    Builder::from_bytes(id.into_bytes())
        .with_version(version)
        .into_uuid()
}

/// The beginning of what a row is the end of: of a role assignment that is known.
pub(super) fn beginning(app: &App, event: &ActivityEvent) -> Option<Value> {
    let method = assignment_method(event)?;
    let assignment = assignment(event)?;
    let mut begun = body(app, event);
    let id = beginning_id(event.event_id);
    begun["id"] = json!(id_in_log(event, id));
    begun["eventDataId"] = json!(id);
    begun["eventName"] = word("BeginRequest", "Begin request");
    begun["level"] = json!("Informational");
    begun["status"] = word(STARTED, STARTED);
    begun["subStatus"] = sub_status(None);
    begun["properties"] = match method {
        "PUT" => json!({ "requestbody": assignment }),
        _ => json!({}),
    };
    Some(begun)
}

/// How a role was given or taken; `None` for anything else.
fn assignment_method(event: &ActivityEvent) -> Option<&'static str> {
    match event.operation_name.as_str() {
        "Microsoft.Authorization/roleAssignments/write" => Some("PUT"),
        "Microsoft.Authorization/roleAssignments/delete" => Some("DELETE"),
        _ => None,
    }
}

/// The role assignment that a row is about, as JSON in text; `None` where that is not known, as of one that was not there.
fn assignment(event: &ActivityEvent) -> Option<String> {
    let principal_id = event.properties.get("principalId")?;
    let role_definition_id = event.properties.get("roleDefinitionId")?;
    let scope = event
        .resource_id
        .split("/providers/Microsoft.Authorization/")
        .next()?;
    let properties = json!({ "principalId": principal_id, "roleDefinitionId": role_definition_id, "scope": scope });
    Some(json!({ "properties": properties }).to_string())
}

/// The body of an event. What differs from Azure's: `properties` has what an auditor of this service needs (`revision`: the configuration's,
/// `credentialId`: the credential that the caller's token came from), and sign-ins have a category of their own.
pub(super) fn body(app: &App, event: &ActivityEvent) -> Value {
    let segments: Vec<&str> = arm::split_path(&event.resource_id).collect();
    let after = |word: &str| {
        segments
            .iter()
            .position(|segment| segment.eq_ignore_ascii_case(word))
            .and_then(|at| segments.get(at + 1).copied())
    };
    let provider = event.operation_name.split('/').next().unwrap_or_default();
    let at = arm::format_time(event.occurred_at);
    let resource_type = resource_type(&segments);
    let failed = event.status == "Failed";
    json!({
        "id": id_in_log(event, event.event_id),
        "eventDataId": event.event_id,
        "correlationId": event.correlation_id,
        "operationId": event.event_id,
        "eventName": word("EndRequest", "End request"),
        "category": word(&event.category, &event.category),
        "level": if failed { "Error" } else { "Informational" },
        "eventTimestamp": at,
        "submissionTimestamp": at,
        "operationName": word(&event.operation_name, &event.operation_name),
        "resourceId": event.resource_id,
        "resourceGroupName": after("resourceGroups").unwrap_or_default(),
        "resourceProviderName": word(provider, provider),
        "resourceType": word(&resource_type, &resource_type),
        "status": word(&event.status, &event.status),
        "subStatus": sub_status(event.http_status),
        "subscriptionId": after("subscriptions").unwrap_or_default(),
        "tenantId": app.installation.tenant_id,
        "caller": event.caller_name,
        "claims": claims(event),
        "authorization": { "action": event.operation_name, "scope": event.resource_id },
        "httpRequest": http_request(event),
        "description": "",
        "properties": properties(event),
    })
}

fn id_in_log(event: &ActivityEvent, id: Uuid) -> String {
    format!("{}/events/{id}/ticks/{}", event.resource_id, ticks(event))
}

fn http_request(event: &ActivityEvent) -> Value {
    let mut request =
        json!({ "clientRequestId": event.event_id, "clientIpAddress": event.caller_address });
    if let Some(method) = assignment_method(event) {
        request["method"] = json!(method);
    }
    request
}

fn word(value: &str, shown: &str) -> Value {
    json!({ "value": value, "localizedValue": shown })
}

/// Since the year 1, in tenths of a microsecond, as .NET counts.
fn ticks(event: &ActivityEvent) -> i128 {
    const UNIX_EPOCH_TICKS: i128 = 621_355_968_000_000_000;
    event.occurred_at.unix_timestamp_nanos() / 100 + UNIX_EPOCH_TICKS
}

/// `Microsoft.ContainerRegistry/registries`: the provider's namespace and every other segment after it.
fn resource_type(segments: &[&str]) -> String {
    let provider = segments
        .iter()
        .rposition(|segment| segment.eq_ignore_ascii_case("providers"));
    match provider.and_then(|at| segments[at + 1..].split_first()) {
        Some((namespace, rest)) => std::iter::once(namespace)
            .chain(rest.iter().step_by(2))
            .copied()
            .collect::<Vec<_>>()
            .join("/"),
        None if segments.len() > 2 => "Microsoft.Resources/subscriptions/resourceGroups".to_owned(),
        None => "Microsoft.Resources/subscriptions".to_owned(),
    }
}

/// The HTTP status that was answered; empty where it is not known, as of a command at the database.
fn sub_status(http_status: Option<i16>) -> Value {
    let status = http_status
        .and_then(|status| u16::try_from(status).ok())
        .and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = status else {
        return word("", "");
    };
    let reason = status.canonical_reason().unwrap_or_default();
    let shown = format!("{reason} (HTTP Status Code: {})", status.as_u16());
    word(&reason.replace(' ', ""), &shown)
}

fn claims(event: &ActivityEvent) -> Value {
    let mut claims = serde_json::Map::new();
    if let Some(id) = event.caller_id {
        claims.insert(
            "http://schemas.microsoft.com/identity/claims/objectidentifier".to_owned(),
            json!(id),
        );
    }
    Value::Object(claims)
}

fn properties(event: &ActivityEvent) -> Value {
    let mut properties = event.properties.0.clone();
    if let Some(code) = &event.error_code {
        properties.insert("errorCode".to_owned(), json!(code));
    }
    if let Some(status) = event.http_status {
        properties.insert("statusCode".to_owned(), json!(status.to_string()));
    }
    if let Some(revision) = event.revision {
        properties.insert("revision".to_owned(), json!(revision.to_string()));
    }
    if let (Some("DELETE"), Some(assignment)) = (assignment_method(event), assignment(event)) {
        properties.insert("responseBody".to_owned(), json!(assignment));
    }
    Value::Object(properties)
}

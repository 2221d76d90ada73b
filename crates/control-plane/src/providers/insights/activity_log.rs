//! The lists of events: of a subscription, and of what belongs to no subscription (the directory, sign-ins, what operators did).

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Bound, Filter, Page, Term};
use serde_json::{Value, json};
use store::activity::{ActivityPosition, ActivityQuery, ReadableScopes};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{READ, VERSIONS, event};
use crate::App;
use crate::front_door::{Access, Answer, Operation, Request, store_error};
use crate::limits::ACTIVITY_PAGE_SIZE;
use crate::providers::{Visibility, is_full, page};

/// The namespaces whose operations are recorded.
const PROVIDERS: [&str; 5] = [
    "Microsoft.Authorization",
    "Microsoft.ContainerRegistry",
    "Microsoft.Directory",
    "Microsoft.Resources",
    "Wharfinger",
];

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "ActivityLogs_List",
            Method::GET,
            "/subscriptions/{subscriptionId}/providers/Microsoft.Insights/eventtypes/management/values",
            Access::FilteredList(READ),
            "Lists who did what at the scopes whose events the caller may read, newest first.",
            of_subscription,
        )
        .query(&["$filter", "$select", "$skiptoken"])
        .answers::<EventDataList>(200),
        Operation::new(
            "TenantActivityLogs_List",
            Method::GET,
            "/providers/Microsoft.Insights/eventtypes/management/values",
            Access::FilteredList(READ),
            "Lists what was done in the directory and by operators, and sign-ins, to directory administrators, newest first.",
            of_tenant,
        )
        .query(&["$filter", "$select", "$skiptoken"])
        .answers::<EventDataList>(200),
        Operation::new(
            "EventCategories_List",
            Method::GET,
            "/providers/Microsoft.Insights/eventcategories",
            Access::AnyPrincipal,
            "Lists the categories of events.",
            categories,
        )
        .answers::<EventCategoryList>(200),
    ]
    .into_iter()
    .map(|operation| operation.versions("eventtypes", VERSIONS))
    .collect()
}

/// A page of events.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "describes the answer in the OpenAPI document; bodies are made by `event`"
)]
struct EventDataList {
    value: Vec<Value>,
    next_link: Option<String>,
}

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the answer in the OpenAPI document; bodies are made by `categories`"
)]
struct EventCategoryList {
    value: Vec<Value>,
}

async fn categories(_app: Arc<App>, _request: Request) -> Result<Answer, ApiError> {
    let value = ["Administrative", "SignIn"]
        .map(|name| json!({ "value": name, "localizedValue": name }))
        .to_vec();
    Answer::ok(&Page::single(value))
}

async fn of_subscription(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let subscription = arm::canonical_key(&format!(
        "/subscriptions/{}",
        request.parameter("subscriptionId")
    ));
    let wanted = Wanted::parse(&request)?;
    let visibility = Visibility::load(&app, &request).await?;
    let mut readable = readable(&visibility.scopes_allowing(READ), &subscription);
    readable.tenant = wanted.is_particular() && reads_tenant(&request, &visibility);
    let below = match (&wanted.resource_group, &wanted.resource) {
        (Some(group), _) => format!(
            "{subscription}/resourcegroups/{}",
            arm::canonical_key(group)
        ),
        (None, Some(resource)) => arm::canonical_key(resource.trim_end_matches('/')),
        _ if readable.tenant => String::new(),
        _ => subscription,
    };
    list(&app, &request, wanted, readable, below).await
}

async fn of_tenant(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let mut wanted = Wanted::parse(&request)?;
    // What belongs to no subscription is in no group.
    wanted.is_impossible |= wanted.resource_group.is_some();
    let visibility = Visibility::load(&app, &request).await?;
    let readable = ReadableScopes {
        tenant: reads_tenant(&request, &visibility),
        ..ReadableScopes::default()
    };
    let below = wanted
        .resource
        .as_deref()
        .map(|resource| arm::canonical_key(resource.trim_end_matches('/')))
        .unwrap_or_default();
    list(&app, &request, wanted, readable, below).await
}

/// Whether the caller may read what belongs to no subscription.
fn reads_tenant(request: &Request, visibility: &Visibility) -> bool {
    request.caller().is_directory_administrator || visibility.allows("/", READ)
}

/// The scopes of a subscription among those whose events the caller may read, by their depth.
fn readable(allowed: &[String], subscription: &str) -> ReadableScopes {
    let below = format!("{subscription}/");
    let mut readable = ReadableScopes::default();
    if allowed.iter().any(|key| key == "/" || key == subscription) {
        readable.subscriptions.push(subscription.to_owned());
        return readable;
    }
    for key in allowed.iter().filter(|key| key.starts_with(&below)) {
        match arm::split_path(key).count() {
            0..=4 => readable.resource_groups.push(key.clone()),
            _ => readable.resources.push(key.clone()),
        }
    }
    readable
}

async fn list(
    app: &App,
    request: &Request,
    wanted: Wanted,
    readable: ReadableScopes,
    below: String,
) -> Result<Answer, ApiError> {
    let select = request.query("$select").map(selection).transpose()?;
    if wanted.is_impossible {
        return Answer::ok(&Page::<Value>::single(Vec::new()));
    }
    // Only rows of that namespace are shown with their beginnings.
    let only_assignments =
        (wanted.only == Some(Phase::Beginning)).then(|| "Microsoft.Authorization".to_owned());
    let query = ActivityQuery {
        readable,
        from: wanted.from.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        until: wanted.until.unwrap_or(request.now),
        below,
        provider: wanted.provider.or(only_assignments),
        correlation_id: wanted.correlation_id,
        event_id: wanted.event_id,
        caller: wanted.caller,
        status: wanted.status.filter(|status| status != event::STARTED),
        category: wanted.category,
        after: request.query("$skiptoken").map(position).transpose()?,
        limit: ACTIVITY_PAGE_SIZE,
    };
    let events = app.store.activity_list(&query).await.map_err(store_error)?;
    let token = events.last().map(|event| {
        let micros = event.occurred_at.unix_timestamp_nanos() / 1000;
        format!("{micros}_{}", event.event_id)
    });
    let is_full = is_full(events.len(), query.limit);
    let mut value = Vec::new();
    for event in &events {
        let end = (wanted.only != Some(Phase::Beginning)).then(|| event::body(app, event));
        let beginning = match wanted.only {
            Some(Phase::End) => None,
            _ => event::beginning(app, event),
        };
        let shown = end.into_iter().chain(beginning);
        value.extend(shown.map(|body| selected(body, select.as_deref())));
    }
    Answer::ok(&page(app, request, token.filter(|_| is_full), value))
}

/// Where the page before ended.
fn position(token: &str) -> Result<ActivityPosition, ApiError> {
    token
        .split_once('_')
        .and_then(|(micros, event_id)| {
            let nanos = micros.parse::<i64>().ok()?;
            Some(ActivityPosition {
                occurred_at: OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos) * 1000)
                    .ok()?,
                event_id: Uuid::try_parse(event_id).ok()?,
            })
        })
        .ok_or_else(|| {
            ApiError::invalid(
                "InvalidSkipToken",
                "The $skiptoken is not one of a nextLink.",
            )
            .with_target("$skiptoken")
        })
}

/// The members that `$select` names; all when it names none.
fn selection(text: &str) -> Result<Vec<&'static str>, ApiError> {
    let names = text.split(',').map(str::trim);
    let members = names.filter(|name| !name.is_empty()).map(|name| {
        let member = |known: &&str| known.eq_ignore_ascii_case(name);
        event::MEMBERS.into_iter().find(member).ok_or_else(|| {
            let message = format!(
                "Events have no property '{name}'. They have: {}.",
                event::MEMBERS.join(", ")
            );
            ApiError::invalid("InvalidQueryParameterValue", message).with_target("$select")
        })
    });
    let members: Vec<&str> = members.collect::<Result<_, _>>()?;
    Ok(match members.is_empty() {
        true => event::MEMBERS.to_vec(),
        false => members,
    })
}

fn selected(mut body: Value, names: Option<&[&str]>) -> Value {
    if let (Some(names), Some(members)) = (names, body.as_object_mut()) {
        members.retain(|name, _| names.contains(&name.as_str()));
    }
    body
}

/// What a filter asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    from: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
    resource_group: Option<String>,
    resource: Option<String>,
    provider: Option<String>,
    correlation_id: Option<Uuid>,
    event_id: Option<Uuid>,
    caller: Option<String>,
    status: Option<String>,
    category: Option<String>,
    /// Both when nothing is said of it.
    only: Option<Phase>,
    /// It names something that no event has.
    is_impossible: bool,
}

/// One of the events of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Beginning,
    End,
}

impl Wanted {
    fn parse(request: &Request) -> Result<Self, ApiError> {
        let text = request.query("$filter").unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        Self::of(text)
    }

    fn of(text: &str) -> Result<Self, ApiError> {
        let filter = Filter::parse(text).map_err(|error| invalid_filter(error.to_string()))?;
        let mut wanted = Self::default();
        for term in filter.0 {
            match term {
                Term::Bound {
                    property,
                    bound,
                    value,
                } if property == "eventtimestamp" => {
                    let place = match bound {
                        Bound::AtLeast => &mut wanted.from,
                        Bound::AtMost => &mut wanted.until,
                    };
                    set(place, &property, time(&value)?)?;
                }
                Term::Equals { property, value } => wanted.equals(&property, value)?,
                _ => {
                    return Err(invalid_filter(
                        "Events are filtered by eventTimestamp ge and le, and by property eq 'value', joined by 'and'.",
                    ));
                }
            }
        }
        // Nothing is in such a time; an empty list would hide that the two were exchanged.
        if let (Some(from), Some(until)) = (wanted.from, wanted.until)
            && from > until
        {
            return Err(invalid_filter(format!(
                "The start of the time, {}, is after its end, {}.",
                arm::format_time(from),
                arm::format_time(until)
            )));
        }
        Ok(wanted)
    }

    fn equals(&mut self, property: &str, value: String) -> Result<(), ApiError> {
        match property {
            "resourcegroupname" => set(&mut self.resource_group, property, value),
            "resourceuri" | "resourceid" => set(&mut self.resource, property, value),
            "caller" => set(&mut self.caller, property, value),
            "correlationid" => {
                let id = guid(property, &value)?;
                set(&mut self.correlation_id, property, id)
            }
            "operationid" => {
                let id = guid(property, &value)?;
                set(&mut self.event_id, property, id)
            }
            "eventdataid" => {
                let id = guid(property, &value)?;
                let row = event::row_of_beginning(id);
                self.show_only(match row {
                    Some(_) => Phase::Beginning,
                    None => Phase::End,
                });
                set(&mut self.event_id, property, row.unwrap_or(id))
            }
            "resourceprovider" | "resourceprovidername" => {
                let known = self.known(&PROVIDERS, value);
                set(&mut self.provider, property, known)
            }
            "status" => {
                let known = self.known(&[event::STARTED, "Succeeded", "Failed"], value);
                self.show_only(match known.as_str() {
                    event::STARTED => Phase::Beginning,
                    _ => Phase::End,
                });
                set(&mut self.status, property, known)
            }
            "category" => {
                let known = self.known(&["Administrative", "SignIn"], value);
                set(&mut self.category, property, known)
            }
            _ => Err(invalid_filter(format!(
                "Events cannot be filtered by '{property}'. Supported are: eventTimestamp, resourceGroupName, resourceId, resourceUri, resourceProvider, correlationId, operationId, eventDataId, caller, status and category."
            ))),
        }
    }

    fn show_only(&mut self, phase: Phase) {
        let before = self.only.replace(phase);
        self.is_impossible |= before.is_some_and(|before| before != phase);
    }

    /// The one of some names that is meant; nothing is found when it is none of them.
    fn known(&mut self, names: &[&str], value: String) -> String {
        let found = names.iter().find(|name| name.eq_ignore_ascii_case(&value));
        self.is_impossible |= found.is_none();
        found.map_or(value, |name| (*name).to_owned())
    }

    /// Whether it asks for more than a time and a place. Only then does a subscription's list show what belongs to no subscription.
    fn is_particular(&self) -> bool {
        self.resource.is_some()
            || self.provider.is_some()
            || self.correlation_id.is_some()
            || self.event_id.is_some()
            || self.caller.is_some()
            || self.category.is_some()
    }
}

fn set<T>(place: &mut Option<T>, property: &str, value: T) -> Result<(), ApiError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(invalid_filter(format!(
            "'{property}' stands in the filter more than once."
        ))),
    }
}

fn guid(property: &str, value: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(value)
        .map_err(|_| invalid_filter(format!("The {property} '{value}' is not a GUID.")))
}

/// A time of ISO 8601; one without an offset is in UTC.
fn time(text: &str) -> Result<OffsetDateTime, ApiError> {
    let has_offset =
        text.ends_with(['Z', 'z']) || text.get(10..).is_some_and(|rest| rest.contains(['+', '-']));
    let whole = match (text.len(), has_offset) {
        (10, _) => format!("{text}T00:00:00Z"),
        (_, true) => text.to_owned(),
        (_, false) => format!("{text}Z"),
    };
    OffsetDateTime::parse(&whole, &Rfc3339).map_err(|_| {
        invalid_filter(format!(
            "The eventTimestamp '{text}' is not a time like 2026-11-23T11:48:54Z."
        ))
    })
}

fn invalid_filter(message: impl Into<String>) -> ApiError {
    ApiError::invalid("InvalidFilterInQueryString", message).with_target("$filter")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::time::macros::datetime;
    use proptest::prelude::*;

    #[test]
    fn what_the_azure_cli_sends_is_understood() {
        let wanted = Wanted::of(
            "eventTimestamp ge 2026-11-23T11:48:54.207542 and eventTimestamp le 2026-11-23T13:00:00+01:00 and resourceGroupName eq 'Rg1' and caller eq 'a' and status eq 'succeeded'",
        );
        let expected = Wanted {
            from: Some(datetime!(2026-11-23 11:48:54.207542 UTC)),
            until: Some(datetime!(2026-11-23 12:00 UTC)),
            resource_group: Some("Rg1".to_owned()),
            caller: Some("a".to_owned()),
            status: Some("Succeeded".to_owned()),
            only: Some(Phase::End),
            ..Wanted::default()
        };
        assert_eq!(wanted.ok(), Some(expected));
    }

    #[test]
    fn a_faulty_filter_is_refused_by_what_is_wrong_with_it() {
        for (filter, word) in [
            ("eventTimestamp ge 'yesterday'", "yesterday"),
            ("correlationId eq '7'", "GUID"),
            ("colour eq 'red'", "colour"),
            ("caller eq 'a' and caller eq 'b'", "more than once"),
            ("startswith(caller,'a')", "property eq"),
        ] {
            let error = Wanted::of(filter).expect_err(filter);
            assert!(error.message.contains(word), "{}", error.message);
        }
        assert!(
            Wanted::of("resourceProvider eq 'Microsoft.Unknown'")
                .is_ok_and(|wanted| wanted.is_impossible)
        );
    }

    #[test]
    fn a_role_counts_at_its_scope_and_below() {
        let keys = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
        let registry =
            "/subscriptions/s/resourcegroups/g/providers/microsoft.containerregistry/registries/r";
        let found = readable(
            &keys(&[
                "/subscriptions/t",
                "/subscriptions/s/resourcegroups/h",
                registry,
            ]),
            "/subscriptions/s",
        );
        assert_eq!(
            found.resource_groups,
            keys(&["/subscriptions/s/resourcegroups/h"])
        );
        assert_eq!(found.resources, keys(&[registry]));
        assert!(found.subscriptions.is_empty() && !found.tenant);
        let found = readable(&keys(&["/", registry]), "/subscriptions/s");
        assert_eq!(found.subscriptions, keys(&["/subscriptions/s"]));
        assert!(found.resources.is_empty());
    }

    proptest! {
        #[test]
        fn any_filter_and_any_token_is_understood_or_refused(text in "\\PC{0,80}") {
            let _ = Wanted::of(&text);
            let _ = Wanted::of(&format!("eventTimestamp ge '{}'", text.replace('\'', "")));
            let _ = position(&text);
        }
    }
}

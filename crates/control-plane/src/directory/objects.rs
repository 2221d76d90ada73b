//! Objects of any type: what ids stand for, and who the caller is.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::directory::ObjectQuery;
use utoipa::ToSchema;
use uuid::Uuid;

use super::applications::{self, Application};
use super::body::{self, Others, refuse_others};
use super::errors::{bad_request, guid, not_found, shorten};
use super::groups::{self, Group};
use super::query;
use super::service_principals::{self, ServicePrincipal};
use super::users::{self, User};
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};
use crate::limits::MAXIMUM_OBJECT_IDS;

/// The options of a list in which types are mixed.
pub(super) const MIXED_LIST_OPTIONS: &[&str] = &["$select", "$top", "$skiptoken"];

/// Types of objects that a client may ask for. The directory has objects of the first four; asked for others, it truly finds none.
const TYPES: [&str; 7] = [
    "application",
    "servicePrincipal",
    "user",
    "group",
    "device",
    "directoryRole",
    "directoryObjectPartnerReference",
];

/// Stands for all types.
const ANY_TYPE: &str = "directoryObject";

pub(super) fn operations() -> Vec<Operation> {
    let read = Access::Directory(DirectoryRight::Read);
    vec![
        Operation::new(
            "DirectoryObjects_GetByIds",
            Method::POST,
            "/v1.0/directoryObjects/getByIds",
            read,
            "Shows the objects with these ids; ids of nothing are passed over.",
            get_by_ids,
        )
        .query(query::OBJECT_OPTIONS)
        .takes::<GetByIds>()
        .answers::<DirectoryObjectList>(200),
        Operation::new(
            "DirectoryObjects_Get",
            Method::GET,
            "/v1.0/directoryObjects/{objectId}",
            read,
            "Shows an object of whatever type.",
            get,
        )
        .query(query::OBJECT_OPTIONS)
        .answers::<DirectoryObject>(200),
        Operation::new(
            "Me_Get",
            Method::GET,
            "/v1.0/me",
            read,
            "Shows the caller: a user, or a service principal.",
            get_me,
        )
        .query(query::OBJECT_OPTIONS)
        .answers::<DirectoryObject>(200),
    ]
}

/// What is asked of `getByIds`.
#[derive(Debug, Deserialize, ToSchema)]
struct GetByIds {
    ids: Vec<String>,
    /// `application`, `servicePrincipal`, `user`, `group`, `directoryObject` for all; all, unless it is given.
    types: Option<Vec<String>>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// An object of whatever type: `@odata.type` says which.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; the members depend on the type"
)]
struct DirectoryObject {
    #[schema(rename = "@odata.type")]
    odata_type: String,
    id: Uuid,
}

/// The objects that were found.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; the members depend on the types"
)]
pub(super) struct DirectoryObjectList {
    #[schema(value_type = Vec<Object>)]
    value: Vec<Value>,
    /// Left out on the last page.
    #[schema(rename = "@odata.nextLink")]
    next_link: Option<String>,
}

/// An object with its type, which clients need where types are mixed.
#[derive(Serialize)]
struct Typed<T> {
    #[serde(rename = "@odata.type")]
    odata_type: &'static str,
    #[serde(flatten)]
    object: T,
}

/// The types of objects to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Types {
    applications: bool,
    service_principals: bool,
    users: bool,
    groups: bool,
}

impl Types {
    const ALL: Self = Self {
        applications: true,
        service_principals: true,
        users: true,
        groups: true,
    };

    fn parse(types: Option<&[String]>) -> Result<Self, ApiError> {
        let Some(types) = types.filter(|types| !types.is_empty()) else {
            return Ok(Self::ALL);
        };
        let is = |text: &str, name: &str| text.eq_ignore_ascii_case(name);
        if let Some(unknown) = types
            .iter()
            .find(|text| !is(text, ANY_TYPE) && !TYPES.iter().any(|name| is(text, name)))
        {
            return Err(bad_request(format!(
                "The type '{}' is unknown; known are: {ANY_TYPE}, {}.",
                shorten(unknown),
                TYPES.join(", ")
            ))
            .with_target("types"));
        }
        let wants = |name| {
            types
                .iter()
                .any(|text| is(text, ANY_TYPE) || is(text, name))
        };
        Ok(Self {
            applications: wants(TYPES[0]),
            service_principals: wants(TYPES[1]),
            users: wants(TYPES[2]),
            groups: wants(TYPES[3]),
        })
    }
}

async fn get_by_ids(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    query::refuse_other_options(&request, query::OBJECT_OPTIONS)?;
    let body: GetByIds = body::read(&request)?;
    refuse_others(&body.others, &[])?;
    let types = Types::parse(body.types.as_deref())?;
    let ids = read_ids(&body.ids, "ids")?;
    query::list(select(look_up(&app, ids, types).await?, &request)?, None)
}

/// Object ids, as many as may be asked for at once.
pub(super) fn read_ids(ids: &[String], name: &str) -> Result<Vec<Uuid>, ApiError> {
    if ids.len() > MAXIMUM_OBJECT_IDS {
        return Err(bad_request(format!(
            "There are {} ids in the request; at most {MAXIMUM_OBJECT_IDS} may be asked for at once.",
            ids.len()
        ))
        .with_target(name));
    }
    ids.iter().map(|id| guid(id, "object identifier")).collect()
}

/// What ids stand for, in their order, each with its type; ids of nothing are passed over.
async fn look_up(app: &App, ids: Vec<Uuid>, types: Types) -> Result<Vec<Value>, ApiError> {
    let query = ObjectQuery::these(ids.clone());
    let mut found: HashMap<Uuid, Value> = HashMap::new();
    let mut add = |id, odata_type, object: Result<Value, serde_json::Error>| {
        let object = object.map_err(ApiError::internal)?;
        let typed = serde_json::to_value(Typed { odata_type, object });
        found.insert(id, typed.map_err(ApiError::internal)?);
        Ok::<(), ApiError>(())
    };
    if types.service_principals {
        let principals = app.store.service_principal_list(&query).await;
        for principal in principals.map_err(store_error)? {
            let shown = ServicePrincipal::new(principal, app.installation.tenant_id);
            let id = shown.id;
            add(
                id,
                "#microsoft.graph.servicePrincipal",
                serde_json::to_value(shown),
            )?;
        }
    }
    if types.applications {
        for application in app
            .store
            .application_list(&query)
            .await
            .map_err(store_error)?
        {
            let shown = Application::from(application);
            add(
                shown.id,
                "#microsoft.graph.application",
                serde_json::to_value(&shown),
            )?;
        }
    }
    if types.users {
        for user in app.store.user_list(&query).await.map_err(store_error)? {
            let shown = User::from(user);
            add(
                shown.id,
                "#microsoft.graph.user",
                serde_json::to_value(&shown),
            )?;
        }
    }
    if types.groups {
        for group in app.store.group_list(&query).await.map_err(store_error)? {
            let shown = Group::from(group);
            add(
                shown.id,
                "#microsoft.graph.group",
                serde_json::to_value(&shown),
            )?;
        }
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// Leaves the properties that `$select` names, if it is there; one that no type has is refused.
fn select(mut objects: Vec<Value>, request: &Request) -> Result<Vec<Value>, ApiError> {
    let Some(selected) = request.query("$select") else {
        return Ok(objects);
    };
    let collections = [
        &applications::COLLECTION,
        &service_principals::COLLECTION,
        &users::COLLECTION,
        &groups::COLLECTION,
    ];
    let mut kept = Vec::new();
    for name in selected
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let known = collections
            .iter()
            .flat_map(|collection| collection.properties)
            .find(|known| known.eq_ignore_ascii_case(name));
        kept.push(known.ok_or_else(|| {
            bad_request(format!(
                "Could not find a property named '{}' of any directory object.",
                shorten(name)
            ))
        })?);
    }
    for members in objects.iter_mut().filter_map(Value::as_object_mut) {
        members.retain(|name, _| name.starts_with('@') || kept.iter().any(|known| *known == name));
    }
    Ok(objects)
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = super::object_id(&request)?;
    show(&app, &request, id).await
}

async fn get_me(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = request.caller().object_id;
    show(&app, &request, id).await
}

async fn show(app: &App, request: &Request, id: Uuid) -> Result<Answer, ApiError> {
    query::refuse_other_options(request, query::OBJECT_OPTIONS)?;
    let found = select(look_up(app, vec![id], Types::ALL).await?, request)?;
    let found = found.first().ok_or_else(|| not_found("object", id))?;
    Answer::ok(found)
}

/// What ids stand for, with the properties that `$select` names.
pub(super) async fn show_all(
    app: &App,
    request: &Request,
    ids: Vec<Uuid>,
) -> Result<Vec<Value>, ApiError> {
    select(look_up(app, ids, Types::ALL).await?, request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(types: &[&str]) -> Result<Types, ApiError> {
        let types: Vec<String> = types.iter().map(|text| (*text).to_owned()).collect();
        Types::parse(Some(&types))
    }

    #[test]
    fn types_choose_what_is_looked_for() {
        assert_eq!(Types::parse(None).expect("known"), Types::ALL);
        assert_eq!(parse(&[]).expect("known"), Types::ALL);
        assert_eq!(parse(&["directoryObject"]).expect("known"), Types::ALL);
        let none = Types {
            applications: false,
            service_principals: false,
            users: false,
            groups: false,
        };
        let asked = parse(&[
            "user",
            "group",
            "servicePrincipal",
            "directoryObjectPartnerReference",
        ]);
        assert_eq!(
            asked.expect("known"),
            Types {
                applications: false,
                ..Types::ALL
            }
        );
        assert_eq!(parse(&["device"]).expect("known"), none);
        let error = parse(&["user", "robot"]).expect_err("unknown");
        assert!(error.message.contains("'robot'"), "{}", error.message);
    }
}

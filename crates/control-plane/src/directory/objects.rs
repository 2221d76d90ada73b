//! Objects of any type: what ids stand for, lists in which types are mixed, and who is in which group.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::directory::{ObjectQuery, Reach};
use utoipa::ToSchema;
use uuid::Uuid;

use super::applications::{self, Application};
use super::body::{self, Others, refuse_others};
use super::errors::{bad_request, guid, not_found, not_found_named, shorten};
use super::groups::{self, Group};
use super::query::{self, Page};
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

/// What a list has: from the object that the path names, or from the caller.
#[derive(Clone, Copy)]
enum Relation {
    Members(Reach),
    GroupsOf(Reach),
    Owners,
    Owned,
}

/// Whose relation it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Caller,
    User,
    Group,
    ServicePrincipal,
    Application,
    /// A principal of any kind.
    Any,
}

const LISTS: [(&str, &str, Subject, Relation, &str); 16] = {
    use Reach::{Direct, Transitive};
    use Relation::{GroupsOf, Members, Owned, Owners};
    [
        (
            "Groups_ListMembers",
            "/v1.0/groups/{objectId}/members",
            Subject::Group,
            Members(Direct),
            "Lists the direct members of a group.",
        ),
        (
            "Groups_ListTransitiveMembers",
            "/v1.0/groups/{objectId}/transitiveMembers",
            Subject::Group,
            Members(Transitive),
            "Lists the members of a group, those of groups within it too.",
        ),
        (
            "Groups_ListOwners",
            "/v1.0/groups/{objectId}/owners",
            Subject::Group,
            Owners,
            "Lists the owners of a group.",
        ),
        (
            "Groups_ListMemberOf",
            "/v1.0/groups/{objectId}/memberOf",
            Subject::Group,
            GroupsOf(Direct),
            "Lists the groups that a group is a direct member of.",
        ),
        (
            "Groups_ListTransitiveMemberOf",
            "/v1.0/groups/{objectId}/transitiveMemberOf",
            Subject::Group,
            GroupsOf(Transitive),
            "Lists the groups that a group is a member of, also through others.",
        ),
        (
            "Applications_ListOwners",
            "/v1.0/applications/{objectId}/owners",
            Subject::Application,
            Owners,
            "Lists the owners of an application.",
        ),
        (
            "ServicePrincipals_ListOwners",
            "/v1.0/servicePrincipals/{objectId}/owners",
            Subject::ServicePrincipal,
            Owners,
            "Lists the owners of a service principal.",
        ),
        (
            "ServicePrincipals_ListMemberOf",
            "/v1.0/servicePrincipals/{objectId}/memberOf",
            Subject::ServicePrincipal,
            GroupsOf(Direct),
            "Lists the groups that a service principal is a direct member of.",
        ),
        (
            "ServicePrincipals_ListTransitiveMemberOf",
            "/v1.0/servicePrincipals/{objectId}/transitiveMemberOf",
            Subject::ServicePrincipal,
            GroupsOf(Transitive),
            "Lists the groups that a service principal is a member of, also through others.",
        ),
        (
            "ServicePrincipals_ListOwnedObjects",
            "/v1.0/servicePrincipals/{objectId}/ownedObjects",
            Subject::ServicePrincipal,
            Owned,
            "Lists what a service principal owns.",
        ),
        (
            "Users_ListMemberOf",
            "/v1.0/users/{objectId}/memberOf",
            Subject::User,
            GroupsOf(Direct),
            "Lists the groups that a user is a direct member of.",
        ),
        (
            "Users_ListTransitiveMemberOf",
            "/v1.0/users/{objectId}/transitiveMemberOf",
            Subject::User,
            GroupsOf(Transitive),
            "Lists the groups that a user is a member of, also through others.",
        ),
        (
            "Users_ListOwnedObjects",
            "/v1.0/users/{objectId}/ownedObjects",
            Subject::User,
            Owned,
            "Lists what a user owns.",
        ),
        (
            "Me_ListMemberOf",
            "/v1.0/me/memberOf",
            Subject::Caller,
            GroupsOf(Direct),
            "Lists the groups that the caller is a direct member of.",
        ),
        (
            "Me_ListTransitiveMemberOf",
            "/v1.0/me/transitiveMemberOf",
            Subject::Caller,
            GroupsOf(Transitive),
            "Lists the groups that the caller is a member of, also through others.",
        ),
        (
            "Me_ListOwnedObjects",
            "/v1.0/me/ownedObjects",
            Subject::Caller,
            Owned,
            "Lists what the caller owns.",
        ),
    ]
};

const MEMBER_GROUPS: [(&str, &str, Subject); 5] = [
    (
        "DirectoryObjects_GetMemberGroups",
        "/v1.0/directoryObjects/{objectId}/getMemberGroups",
        Subject::Any,
    ),
    (
        "Users_GetMemberGroups",
        "/v1.0/users/{objectId}/getMemberGroups",
        Subject::User,
    ),
    (
        "Groups_GetMemberGroups",
        "/v1.0/groups/{objectId}/getMemberGroups",
        Subject::Group,
    ),
    (
        "ServicePrincipals_GetMemberGroups",
        "/v1.0/servicePrincipals/{objectId}/getMemberGroups",
        Subject::ServicePrincipal,
    ),
    (
        "Me_GetMemberGroups",
        "/v1.0/me/getMemberGroups",
        Subject::Caller,
    ),
];

const CHECKS: [(&str, &str, Subject); 5] = [
    (
        "DirectoryObjects_CheckMemberGroups",
        "/v1.0/directoryObjects/{objectId}/checkMemberGroups",
        Subject::Any,
    ),
    (
        "Users_CheckMemberGroups",
        "/v1.0/users/{objectId}/checkMemberGroups",
        Subject::User,
    ),
    (
        "Groups_CheckMemberGroups",
        "/v1.0/groups/{objectId}/checkMemberGroups",
        Subject::Group,
    ),
    (
        "ServicePrincipals_CheckMemberGroups",
        "/v1.0/servicePrincipals/{objectId}/checkMemberGroups",
        Subject::ServicePrincipal,
    ),
    (
        "Me_CheckMemberGroups",
        "/v1.0/me/checkMemberGroups",
        Subject::Caller,
    ),
];

pub(super) fn operations() -> Vec<Operation> {
    let read = Access::Directory(DirectoryRight::Read);
    let mut operations = vec![
        Operation::new(
            "DirectoryObjects_GetByIds",
            Method::POST,
            "/v1.0/directoryObjects/getByIds",
            read,
            "Shows the objects with these ids; ids of nothing are passed over.",
            get_by_ids,
        )
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
    ];
    operations.extend(LISTS.map(|(id, path, subject, relation, summary)| {
        Operation::new(id, Method::GET, path, read, summary, move |app, request| {
            list(app, request, subject, relation)
        })
        .query(MIXED_LIST_OPTIONS)
        .answers::<DirectoryObjectList>(200)
    }));
    operations.extend(MEMBER_GROUPS.map(|(id, path, subject)| {
        let summary = "Says the ids of all groups that it is a member of, also through others.";
        Operation::new(
            id,
            Method::POST,
            path,
            read,
            summary,
            move |app, request| get_member_groups(app, request, subject),
        )
        .takes::<GetMemberGroups>()
        .answers::<Ids>(200)
    }));
    operations.extend(CHECKS.map(|(id, path, subject)| {
        let summary = "Says of which of these groups it is a member, also through others.";
        Operation::new(
            id,
            Method::POST,
            path,
            read,
            summary,
            move |app, request| check_member_groups(app, request, subject),
        )
        .takes::<CheckMemberGroups>()
        .answers::<Ids>(200)
    }));
    operations
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

/// What is asked of `getMemberGroups`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GetMemberGroups {
    /// Makes no difference: all groups here are security groups.
    #[serde(rename = "securityEnabledOnly")]
    _security_enabled_only: bool,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What is asked of `checkMemberGroups`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CheckMemberGroups {
    group_ids: Vec<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// Ids of groups.
#[derive(Serialize, ToSchema)]
struct Ids {
    value: Vec<Uuid>,
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
    let body: GetByIds = body::read(&request)?;
    refuse_others(&body.others, &[])?;
    let types = Types::parse(body.types.as_deref())?;
    let ids = read_ids(&body.ids, "ids")?;
    query::list(look_up(&app, ids, types).await?, None)
}

fn read_ids(ids: &[String], name: &str) -> Result<Vec<Uuid>, ApiError> {
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

/// The id of whom a request is about, once it is known to be there and of the kind that the path says.
async fn subject_id(app: &App, request: &Request, subject: Subject) -> Result<Uuid, ApiError> {
    let store = &app.store;
    let (id, found, what) = match subject {
        Subject::Caller => return Ok(request.caller().object_id),
        Subject::User => {
            let id = users::user_id(app, request).await?;
            let found = store.user_get(id).await.map_err(store_error)?.is_some();
            (id, found, "user")
        }
        Subject::Group => {
            let id = super::object_id(request)?;
            let found = store.group_get(id).await.map_err(store_error)?.is_some();
            (id, found, "group")
        }
        Subject::ServicePrincipal => {
            let id = super::object_id(request)?;
            let found = store.service_principal_get(id).await.map_err(store_error)?;
            (id, found.is_some(), "service principal")
        }
        Subject::Application => {
            let id = super::object_id(request)?;
            let found = store.application_get(id).await.map_err(store_error)?;
            (id, found.is_some(), "application")
        }
        Subject::Any => {
            let id = super::object_id(request)?;
            let found = store.principal_exists(id).await.map_err(store_error)?;
            (id, found, "user, group or service principal")
        }
    };
    if found {
        Ok(id)
    } else {
        Err(not_found_named(what, request.parameter("objectId")))
    }
}

async fn list(
    app: Arc<App>,
    request: Request,
    subject: Subject,
    relation: Relation,
) -> Result<Answer, ApiError> {
    let page = Page::parse(&request, MIXED_LIST_OPTIONS)?;
    let id = subject_id(&app, &request, subject).await?;
    let (after, limit) = (page.after, page.limit());
    let store = &app.store;
    let ids = match relation {
        Relation::Members(reach) => store.group_member_ids(id, reach, after, limit).await,
        Relation::GroupsOf(reach) => store.group_ids_of_member(id, reach, after, limit).await,
        Relation::Owners => store.owner_ids(id, after, limit).await,
        Relation::Owned => store.owned_ids(id, after, limit).await,
    };
    let url = &app.installation.public_url;
    let ids = ids.map_err(store_error)?;
    let (ids, next_link) = page.cut(ids, |id| *id, &request, url)?;
    query::list(show_all(&app, &request, ids).await?, next_link)
}

/// What ids stand for, with the properties that `$select` names.
pub(super) async fn show_all(
    app: &App,
    request: &Request,
    ids: Vec<Uuid>,
) -> Result<Vec<Value>, ApiError> {
    select(look_up(app, ids, Types::ALL).await?, request)
}

async fn get_member_groups(
    app: Arc<App>,
    request: Request,
    subject: Subject,
) -> Result<Answer, ApiError> {
    let body: GetMemberGroups = body::read(&request)?;
    refuse_others(&body.others, &[])?;
    let id = subject_id(&app, &request, subject).await?;
    let value = all_groups(&app, id).await?;
    Answer::ok(&Ids { value })
}

async fn check_member_groups(
    app: Arc<App>,
    request: Request,
    subject: Subject,
) -> Result<Answer, ApiError> {
    let body: CheckMemberGroups = body::read(&request)?;
    refuse_others(&body.others, &[])?;
    let asked = read_ids(&body.group_ids, "groupIds")?;
    let id = subject_id(&app, &request, subject).await?;
    let groups = all_groups(&app, id).await?;
    let value = asked.into_iter().filter(|id| groups.contains(id)).collect();
    Answer::ok(&Ids { value })
}

/// Every group that a principal is a member of.
async fn all_groups(app: &App, id: Uuid) -> Result<Vec<Uuid>, ApiError> {
    app.store
        .group_ids_of_member(id, Reach::Transitive, Uuid::nil(), i64::MAX)
        .await
        .map_err(store_error)
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

//! Who is in which group and who owns what, as lists of objects and as ids.

use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use serde::{Deserialize, Serialize};
use store::directory::Reach;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, refuse_others};
use super::errors::not_found_named;
use super::objects::{DirectoryObjectList, MIXED_LIST_OPTIONS, read_ids, show_all};
use super::query::{self, Page};
use super::users;
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};

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
    let mut operations = Vec::new();
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

async fn get_member_groups(
    app: Arc<App>,
    request: Request,
    subject: Subject,
) -> Result<Answer, ApiError> {
    query::refuse_other_options(&request, &[])?;
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
    query::refuse_other_options(&request, &[])?;
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

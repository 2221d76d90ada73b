//! References between objects, added and removed by `$ref`: members of groups, owners of objects.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::ApiError;
use serde::Deserialize;
use store::access::PrincipalKind;
use store::directory::{
    Addressed, MembershipAddition, MembershipRemoval, OwnedKind, OwnerAddition,
};
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, refuse_others};
use super::errors::{bad_request, id_in_path, last_owner, not_found, shorten};
use super::object_id;
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};
use crate::limits::{MAXIMUM_DIRECT_GROUPS, MAXIMUM_OWNERS};

/// Collections whose addresses name a principal, with the kind that each has.
const ADDRESSED: [(&str, Option<PrincipalKind>); 4] = [
    ("directoryObjects", None),
    ("users", Some(PrincipalKind::User)),
    ("groups", Some(PrincipalKind::Group)),
    ("servicePrincipals", Some(PrincipalKind::ServicePrincipal)),
];

const OWNERS: [(&str, &str, &str, OwnedKind); 3] = [
    (
        "Applications_AddOwner",
        "Applications_RemoveOwner",
        "/v1.0/applications/{objectId}/owners",
        OwnedKind::Application,
    ),
    (
        "ServicePrincipals_AddOwner",
        "ServicePrincipals_RemoveOwner",
        "/v1.0/servicePrincipals/{objectId}/owners",
        OwnedKind::ServicePrincipal,
    ),
    (
        "Groups_AddOwner",
        "Groups_RemoveOwner",
        "/v1.0/groups/{objectId}/owners",
        OwnedKind::Group,
    ),
];

pub(super) fn operations() -> Vec<Operation> {
    let own = Access::Directory(DirectoryRight::Own);
    let mut operations = vec![
        Operation::new(
            "Groups_AddMember",
            Method::POST,
            "/v1.0/groups/{objectId}/members/$ref",
            own,
            "Makes a user, service principal or group a member of a group; in force at every live node when this returns.",
            add_member,
        )
        .takes::<Reference>()
        .answers_empty(204),
        Operation::new(
            "Groups_RemoveMember",
            Method::DELETE,
            "/v1.0/groups/{objectId}/members/{memberId}/$ref",
            own,
            "Takes a member out of a group; in force at every live node when this returns.",
            remove_member,
        )
        .answers_empty(204),
    ];
    for (add_id, remove_id, path, kind) in OWNERS {
        operations.push(
            Operation::new(
                add_id,
                Method::POST,
                format!("{path}/$ref"),
                own,
                "Makes a user or service principal an owner.",
                move |app, request| add_owner(app, request, kind),
            )
            .takes::<Reference>()
            .answers_empty(204),
        );
        operations.push(
            Operation::new(
                remove_id,
                Method::DELETE,
                format!("{path}/{{ownerId}}/$ref"),
                own,
                "Takes an owner away.",
                move |app, request| remove_owner(app, request, kind),
            )
            .answers_empty(204),
        );
    }
    operations
}

/// Which object is meant.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Reference {
    /// The address of a directory object; its last segment is the object id. One of `users`, `groups` or `servicePrincipals` names such a one only.
    #[serde(rename = "@odata.id")]
    address: String,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// The principal that an address names, at whatever host that says it is.
pub(super) fn reference(address: &str) -> Result<Addressed, ApiError> {
    let mut segments = address.trim_end_matches('/').rsplit('/');
    let id = segments.next().and_then(|id| Uuid::try_parse(id).ok());
    let kind = segments.next().and_then(|name| {
        ADDRESSED
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
    });
    match (id, kind) {
        (Some(object_id), Some((_, kind))) => Ok(Addressed {
            object_id,
            kind: *kind,
        }),
        _ => Err(bad_request(format!(
            "Invalid value '{}' of '@odata.id': it must be the address of a user, group or service principal, such as https://…/v1.0/directoryObjects/00000000-0000-0000-0000-000000000000.",
            shorten(address)
        ))
        .with_target("@odata.id")),
    }
}

/// The principal that a request refers to.
pub(super) fn read(request: &Request) -> Result<Addressed, ApiError> {
    let body: Reference = body::read(request)?;
    refuse_others(&body.others, &[])?;
    reference(&body.address)
}

/// The kind that an address says, for an error.
pub(super) fn kind_or(kind: Option<PrincipalKind>, otherwise: &'static str) -> &'static str {
    match kind {
        Some(PrincipalKind::User) => "user",
        Some(PrincipalKind::Group) => "group",
        Some(PrincipalKind::ServicePrincipal) => "service principal",
        None => otherwise,
    }
}

/// Why an object cannot be what users and service principals only can be.
pub(super) async fn no_individual(
    app: &App,
    addressed: Addressed,
    only: &str,
) -> Result<ApiError, ApiError> {
    let id = addressed.object_id;
    let may_be_group = matches!(addressed.kind, None | Some(PrincipalKind::Group));
    if may_be_group
        && app
            .store
            .group_get(id)
            .await
            .map_err(store_error)?
            .is_some()
    {
        return Ok(bad_request(format!(
            "The object '{id}' is a group; {only} users and service principals only."
        )));
    }
    Ok(not_found(
        kind_or(addressed.kind, "user or service principal"),
        id,
    ))
}

/// The same for an owner.
pub(super) async fn no_owner(app: &App, addressed: Addressed) -> Result<ApiError, ApiError> {
    no_individual(app, addressed, "owners are").await
}

pub(super) fn in_too_many_groups(member_id: Uuid) -> ApiError {
    bad_request(format!(
        "The object '{member_id}' is a direct member of {MAXIMUM_DIRECT_GROUPS} groups, as many as it may be."
    ))
}

pub(super) fn exists_already(property: &str) -> ApiError {
    bad_request(format!(
        "One or more added object references already exist for the following modified properties: '{property}'."
    ))
}

async fn add_member(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let (group, member) = (object_id(&request)?, read(&request)?);
    if group == member.object_id {
        return Err(bad_request(format!(
            "The group '{group}' cannot be a member of itself."
        )));
    }
    let addition = app
        .store
        .group_member_add(group, member, MAXIMUM_DIRECT_GROUPS)
        .await
        .map_err(store_error)?;
    match addition {
        MembershipAddition::Added(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(Some(published)))
        }
        MembershipAddition::Exists => Err(exists_already("members")),
        MembershipAddition::GroupNotFound => Err(not_found("group", group)),
        MembershipAddition::MemberNotFound => Err(not_found(
            kind_or(member.kind, "user, group or service principal"),
            member.object_id,
        )),
        MembershipAddition::TooMany => Err(in_too_many_groups(member.object_id)),
    }
}

async fn remove_member(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let group = object_id(&request)?;
    let member = id_in_path(&request, "memberId")?;
    let removed = app
        .store
        .group_member_remove(group, member)
        .await
        .map_err(store_error)?;
    match removed {
        MembershipRemoval::Removed(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        MembershipRemoval::LastOwner => Err(last_owner("member")),
        MembershipRemoval::NotFound => Err(ApiError::not_found(
            "Request_ResourceNotFound",
            format!("The object '{member}' is no direct member of the group '{group}'."),
        )),
    }
}

async fn add_owner(app: Arc<App>, request: Request, kind: OwnedKind) -> Result<Answer, ApiError> {
    let (object, owner) = (object_id(&request)?, read(&request)?);
    let addition = app
        .store
        .owner_add(object, kind, owner, MAXIMUM_OWNERS)
        .await
        .map_err(store_error)?;
    match addition {
        OwnerAddition::Added => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        OwnerAddition::Exists => Err(exists_already("owners")),
        OwnerAddition::ObjectNotFound => Err(not_found(owned(kind), object)),
        OwnerAddition::OwnerNotFound => Err(no_owner(&app, owner).await?),
        OwnerAddition::TooMany => Err(bad_request(format!(
            "The object '{object}' has {MAXIMUM_OWNERS} owners, as many as it may."
        ))),
    }
}

fn owned(kind: OwnedKind) -> &'static str {
    match kind {
        OwnedKind::Application => "application",
        OwnedKind::ServicePrincipal => "service principal",
        OwnedKind::Group => "group",
    }
}

async fn remove_owner(
    app: Arc<App>,
    request: Request,
    kind: OwnedKind,
) -> Result<Answer, ApiError> {
    let object = object_id(&request)?;
    let owner = id_in_path(&request, "ownerId")?;
    if app
        .store
        .owner_remove(object, kind, owner)
        .await
        .map_err(store_error)?
    {
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    } else {
        Err(ApiError::not_found(
            "Request_ResourceNotFound",
            format!(
                "The object '{owner}' is no owner of the {} '{object}'.",
                owned(kind)
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_names_an_object_by_its_last_segment() {
        let id = Uuid::from_u128(7);
        for (good, kind) in [
            (
                format!("https://w.test:8443/v1.0/directoryObjects/{id}"),
                None,
            ),
            (
                format!("https://graph.example/v1.0/users/{id}/"),
                Some(PrincipalKind::User),
            ),
            (format!("DirectoryObjects/{id}"), None),
        ] {
            let wanted = Addressed {
                object_id: id,
                kind,
            };
            assert_eq!(reference(&good).expect(&good), wanted);
        }
        for bad in [
            String::new(),
            id.to_string(),
            format!("https://w.test/v1.0/{id}"),
            format!("https://w.test/v1.0/devices/{id}"),
            format!("https://w.test/v1.0/applications/{id}"),
            "https://w.test/v1.0/users/ann".to_owned(),
        ] {
            let error = reference(&bad).expect_err(&bad);
            assert_eq!(error.target.as_deref(), Some("@odata.id"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused(text in "\\PC{0,80}") {
            let _ = reference(&text);
        }
    }
}

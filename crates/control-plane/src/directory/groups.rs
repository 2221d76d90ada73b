//! Groups: security groups, whose members have what roles the group is assigned.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::ApiError;
use serde::{Deserialize, Serialize};
use store::directory::{Addressed, Deletion, GroupChange, GroupCreation, NewGroup};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, description, display_name, mail_nickname, present, refuse_others};
use super::errors::{bad_request, indispensable, not_found};
use super::query::{
    Collection, Comparison, LIST_OPTIONS, ListRequest, Names, OBJECT_OPTIONS, check_object_options,
    select,
};
use super::references::{in_too_many_groups, no_owner, reference};
use super::{caller_gone, object_id};
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};
use crate::limits::{MAXIMUM_DIRECT_GROUPS, MAXIMUM_FIRST_REFERENCES};

pub(super) const COLLECTION: Collection = Collection {
    name: "groups",
    properties: &[
        "id",
        "displayName",
        "description",
        "mailNickname",
        "mail",
        "mailEnabled",
        "securityEnabled",
        "groupTypes",
        "createdDateTime",
    ],
    filters: &[
        ("displayName", Comparison::DisplayName),
        ("mailNickname", Comparison::MailNickname),
        ("securityEnabled", Comparison::Always("true")),
        ("mailEnabled", Comparison::Always("false")),
        ("id", Comparison::ObjectId),
    ],
    names: Names::None("groupTypes"),
};

pub(super) fn operations() -> Vec<Operation> {
    let directory = Access::Directory;
    let path = "/v1.0/groups";
    let object_path = "/v1.0/groups/{objectId}";
    vec![
        Operation::new(
            "Groups_List",
            Method::GET,
            path,
            directory(DirectoryRight::Read),
            "Lists the groups of the directory.",
            list,
        )
        .query(LIST_OPTIONS)
        .answers::<GroupList>(200),
        Operation::new(
            "Groups_Create",
            Method::POST,
            path,
            directory(DirectoryRight::Administer),
            "Creates a group, which the caller then owns; known to every live node when this returns.",
            create,
        )
        .takes::<NewGroupBody>()
        .answers::<Group>(201),
        Operation::new(
            "Groups_Get",
            Method::GET,
            object_path,
            directory(DirectoryRight::Read),
            "Shows a group.",
            get,
        )
        .query(OBJECT_OPTIONS)
        .answers::<Group>(200),
        Operation::new(
            "Groups_Update",
            Method::PATCH,
            object_path,
            directory(DirectoryRight::Own),
            "Renames or describes a group.",
            update,
        )
        .takes::<GroupChangeBody>()
        .answers_empty(204),
        Operation::new(
            "Groups_Delete",
            Method::DELETE,
            object_path,
            directory(DirectoryRight::Own),
            "Deletes a group with its role assignments; its members have lost at every live node what they had by it when this returns.",
            delete,
        )
        .answers_empty(204),
    ]
}

/// A group.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Group {
    /// The object id: what roles are assigned to.
    pub(super) id: Uuid,
    display_name: String,
    description: Option<String>,
    mail_nickname: String,
    /// Always null.
    mail: Option<String>,
    /// Always false.
    mail_enabled: bool,
    /// Always true.
    security_enabled: bool,
    /// Always empty.
    group_types: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_date_time: OffsetDateTime,
}

impl From<store::directory::Group> for Group {
    fn from(group: store::directory::Group) -> Self {
        Self {
            id: group.object_id,
            display_name: group.display_name,
            description: group.description,
            mail_nickname: group.mail_nickname,
            mail: None,
            mail_enabled: false,
            security_enabled: true,
            group_types: Vec::new(),
            created_date_time: group.created_at,
        }
    }
}

/// A page of groups.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; `$select` may leave members out"
)]
struct GroupList {
    value: Vec<Group>,
    /// Left out on the last page.
    #[schema(rename = "@odata.nextLink")]
    next_link: Option<String>,
}

/// What a new group is to be like.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewGroupBody {
    display_name: String,
    mail_nickname: String,
    description: Option<String>,
    /// False, the one kind there is.
    mail_enabled: Option<bool>,
    /// True, the one kind there is.
    security_enabled: Option<bool>,
    /// Addresses of directory objects.
    #[serde(rename = "members@odata.bind", default)]
    members: Vec<String>,
    /// Addresses of directory objects, which own the group beside its creator.
    #[serde(rename = "owners@odata.bind", default)]
    owners: Vec<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What is to change.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GroupChangeBody {
    display_name: Option<String>,
    mail_nickname: Option<String>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    mail_enabled: Option<bool>,
    security_enabled: Option<bool>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// Refuses kinds of groups that are not built: they would promise mail.
fn check_kind(mail_enabled: Option<bool>, security_enabled: Option<bool>) -> Result<(), ApiError> {
    if mail_enabled == Some(true) {
        return Err(bad_request(
            "This directory has security groups only: mailEnabled must be false.",
        )
        .with_target("mailEnabled"));
    }
    if security_enabled == Some(false) {
        return Err(bad_request(
            "This directory has security groups only: securityEnabled must be true.",
        )
        .with_target("securityEnabled"));
    }
    Ok(())
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let wanted = ListRequest::parse(&request, &COLLECTION)?;
    let found = match &wanted.query {
        Some(query) => app.store.group_list(query).await.map_err(store_error)?,
        None => Vec::new(),
    };
    let found: Vec<Group> = found.into_iter().map(Into::into).collect();
    let url = &app.installation.public_url;
    wanted.answer(found, |group| group.id, &request, &COLLECTION, url)
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    check_object_options(&request, &COLLECTION)?;
    let id = object_id(&request)?;
    let found = app.store.group_get(id).await.map_err(store_error)?;
    let group: Group = found.ok_or_else(|| not_found("group", id))?.into();
    Answer::ok(&select(&group, &request, &COLLECTION)?)
}

async fn create(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let body: NewGroupBody = body::read(&request)?;
    refuse_others(&body.others, &[])?;
    check_kind(body.mail_enabled, body.security_enabled)?;
    let caller = request.caller().object_id;
    let mut owners = references(&body.owners, "owners@odata.bind")?;
    owners.push(Addressed::any(caller));
    let new = NewGroup {
        object_id: Uuid::new_v4(),
        display_name: display_name(&body.display_name)?,
        description: body.description.as_deref().map(description).transpose()?,
        mail_nickname: mail_nickname(&body.mail_nickname)?,
        created_at: request.now,
        owners,
        members: references(&body.members, "members@odata.bind")?,
    };
    let published = match app
        .store
        .group_create(&new, MAXIMUM_DIRECT_GROUPS)
        .await
        .map_err(store_error)?
    {
        GroupCreation::Created(published) => published,
        GroupCreation::MemberNotFound(id) => {
            return Err(not_found("user, group or service principal", id));
        }
        GroupCreation::TooMany(id) => return Err(in_too_many_groups(id)),
        GroupCreation::OwnerNotFound(id) if id == caller => {
            return Err(caller_gone(&app, &request).await);
        }
        GroupCreation::OwnerNotFound(id) => {
            let owner = new.owners.iter().find(|owner| owner.object_id == id);
            let owner = owner.copied().unwrap_or(Addressed::any(id));
            return Err(no_owner(&app, owner).await?);
        }
    };
    let created = store::directory::Group {
        object_id: new.object_id,
        display_name: new.display_name,
        description: new.description,
        mail_nickname: new.mail_nickname,
        created_at: new.created_at,
    };
    Ok(Answer::json(StatusCode::CREATED, &Group::from(created))?.published(Some(published)))
}

fn references(addresses: &[String], name: &str) -> Result<Vec<Addressed>, ApiError> {
    if addresses.len() > MAXIMUM_FIRST_REFERENCES {
        return Err(bad_request(format!(
            "There are {} references in '{name}'; at most {MAXIMUM_FIRST_REFERENCES} may be given at once. Add the others one by one.",
            addresses.len()
        ))
        .with_target(name));
    }
    addresses.iter().map(|text| reference(text)).collect()
}

async fn update(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = object_id(&request)?;
    let never_null = &[
        "displayName",
        "mailEnabled",
        "mailNickname",
        "securityEnabled",
    ];
    let body: GroupChangeBody = body::read_change(&request, never_null)?;
    refuse_others(&body.others, &[])?;
    check_kind(body.mail_enabled, body.security_enabled)?;
    let change = GroupChange {
        display_name: body.display_name.as_deref().map(display_name).transpose()?,
        description: match body.description {
            Some(text) => Some(text.as_deref().map(description).transpose()?),
            None => None,
        },
        mail_nickname: body
            .mail_nickname
            .as_deref()
            .map(mail_nickname)
            .transpose()?,
    };
    if app
        .store
        .group_update(id, &change)
        .await
        .map_err(store_error)?
    {
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    } else {
        Err(not_found("group", id))
    }
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = object_id(&request)?;
    match app.store.group_delete(id).await.map_err(store_error)? {
        Deletion::Deleted(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        Deletion::NotFound => Err(not_found("group", id)),
        Deletion::Indispensable(reason) => Err(indispensable("group", reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_can_be_selected_is_what_is_shown() {
        let group = Group::from(store::directory::Group {
            object_id: Uuid::from_u128(1),
            display_name: "devs".to_owned(),
            description: None,
            mail_nickname: "devs".to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        });
        let shown = serde_json::to_value(group).expect("it is JSON");
        let shown: Vec<&String> = shown.as_object().expect("an object").keys().collect();
        assert_eq!(shown, COLLECTION.properties);
    }

    #[test]
    fn a_description_is_kept_replaced_or_taken_away() {
        let read = |body: serde_json::Value| {
            serde_json::from_value::<GroupChangeBody>(body)
                .expect("it has the form")
                .description
        };
        assert_eq!(read(json!({})), None);
        assert_eq!(read(json!({ "description": null })), Some(None));
        assert_eq!(
            read(json!({ "description": "a" })),
            Some(Some("a".to_owned()))
        );
    }
}

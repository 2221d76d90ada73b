//! People: who they are, whether they may sign in, and their passwords, which nobody is shown.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, Kind};
use credentials::Secret;
use serde::{Deserialize, Serialize};
use store::directory::{Deletion, NewUser, Password, UserChange, UserCreation, UserUpdate};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, display_name, mail_nickname, refuse_others};
use super::errors::{bad_request, indispensable, not_found_named, shorten};
use super::hashing;
use super::query::{
    Collection, Comparison, LIST_OPTIONS, ListRequest, Names, OBJECT_OPTIONS, check_object_options,
    select,
};
use crate::App;
use crate::front_door::{
    Access, Answer, DirectoryRight, Operation, Request, hyphenated, store_error,
};
use crate::people;

pub(super) const COLLECTION: Collection = Collection {
    name: "users",
    properties: &[
        "id",
        "userPrincipalName",
        "displayName",
        "mailNickname",
        "mail",
        "givenName",
        "surname",
        "accountEnabled",
        "userType",
        "createdDateTime",
        "passwordProfile",
        "signInActivity",
    ],
    filters: &[
        ("userPrincipalName", Comparison::UserPrincipalName),
        ("displayName", Comparison::DisplayName),
        ("accountEnabled", Comparison::Enabled),
        ("userType", Comparison::Always(USER_TYPE)),
        ("id", Comparison::ObjectId),
    ],
    names: Names::Missing,
};

/// The one type there is.
const USER_TYPE: &str = "Member";

/// What may be sent because every user has it.
const OF_EVERY_USER: &[(&str, &str)] = &[("userType", USER_TYPE)];

/// What every user has.
const NEVER_NULL: &[&str] = &[
    "accountEnabled",
    "displayName",
    "mailNickname",
    "userPrincipalName",
];

pub(super) fn operations() -> Vec<Operation> {
    let read = Access::Directory(DirectoryRight::Read);
    let administer = Access::Directory(DirectoryRight::Administer);
    let path = "/v1.0/users";
    let object_path = "/v1.0/users/{objectId}";
    vec![
        Operation::new(
            "Users_List",
            Method::GET,
            path,
            read,
            "Lists the people of the directory.",
            list,
        )
        .query(LIST_OPTIONS)
        .answers::<UserList>(200),
        Operation::new(
            "Users_Create",
            Method::POST,
            path,
            administer,
            "Creates a user with a password; known to every live node when this returns.",
            create,
        )
        .takes::<NewUserBody>()
        .answers::<User>(201),
        Operation::new(
            "Users_Get",
            Method::GET,
            object_path,
            read,
            "Shows a user, by object id or userPrincipalName.",
            get,
        )
        .query(OBJECT_OPTIONS)
        .answers::<User>(200),
        Operation::new(
            "Users_Update",
            Method::PATCH,
            object_path,
            administer,
            "Renames, enables or disables a user, or resets the password, which ends every session; in force at every live node when this returns.",
            update,
        )
        .takes::<UserChangeBody>()
        .answers_empty(204),
        Operation::new(
            "Users_Delete",
            Method::DELETE,
            object_path,
            administer,
            "Deletes a user with all role assignments and memberships; refused at every live node when this returns.",
            delete,
        )
        .answers_empty(204),
        Operation::new(
            "Users_RevokeSignInSessions",
            Method::POST,
            "/v1.0/users/{objectId}/revokeSignInSessions",
            administer,
            "Ends every session of a user; the password stays. In force at every live node when this returns.",
            revoke_sessions,
        )
        .answers::<Done>(200),
    ]
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct User {
    /// The object id: what roles are assigned to.
    pub(super) id: Uuid,
    user_principal_name: String,
    display_name: String,
    mail_nickname: String,
    /// Always null.
    mail: Option<String>,
    /// Always null.
    given_name: Option<String>,
    /// Always null.
    surname: Option<String>,
    account_enabled: bool,
    user_type: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    created_date_time: OffsetDateTime,
    password_profile: ShownPasswordProfile,
    sign_in_activity: SignInActivity,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ShownPasswordProfile {
    force_change_password_next_sign_in: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SignInActivity {
    /// Null when never.
    #[serde(with = "time::serde::rfc3339::option")]
    last_sign_in_date_time: Option<OffsetDateTime>,
}

impl From<store::directory::User> for User {
    fn from(user: store::directory::User) -> Self {
        Self {
            id: user.object_id,
            user_principal_name: user.user_principal_name,
            display_name: user.display_name,
            mail_nickname: user.mail_nickname,
            mail: None,
            given_name: None,
            surname: None,
            account_enabled: user.enabled,
            user_type: USER_TYPE,
            created_date_time: user.created_at,
            password_profile: ShownPasswordProfile {
                force_change_password_next_sign_in: user.must_change_password,
            },
            sign_in_activity: SignInActivity {
                last_sign_in_date_time: user.last_signed_in_at,
            },
        }
    }
}

/// A page of users.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; `$select` may leave members out"
)]
struct UserList {
    value: Vec<User>,
    /// Left out on the last page.
    #[schema(rename = "@odata.nextLink")]
    next_link: Option<String>,
}

/// That an action was done.
#[derive(Serialize, ToSchema)]
struct Done {
    value: bool,
}

/// A password to be set.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PasswordProfile {
    password: Option<String>,
    force_change_password_next_sign_in: Option<bool>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What a new user is to be like.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewUserBody {
    user_principal_name: String,
    display_name: String,
    /// What stands before the `@`, unless it is given.
    mail_nickname: Option<String>,
    /// True, unless it is given.
    account_enabled: Option<bool>,
    password_profile: PasswordProfile,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What is to change.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UserChangeBody {
    user_principal_name: Option<String>,
    display_name: Option<String>,
    mail_nickname: Option<String>,
    account_enabled: Option<bool>,
    password_profile: Option<PasswordProfile>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// The object id of the user that the path names, by id or by userPrincipalName. An id may be nobody's.
pub(super) async fn user_id(app: &App, request: &Request) -> Result<Uuid, ApiError> {
    let text = request.parameter("objectId");
    if let Some(object_id) = hyphenated(text) {
        return Ok(object_id);
    }
    let found = app.store.user_find(text).await.map_err(store_error)?;
    let object_id = found.ok_or_else(|| not_found_named("user", text))?;
    // The name of the resource may be another's by the time the log is read.
    store::activity::detail("objectId", object_id.to_string());
    Ok(object_id)
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let wanted = ListRequest::parse(&request, &COLLECTION)?;
    let found = match &wanted.query {
        Some(query) => app.store.user_list(query).await.map_err(store_error)?,
        None => Vec::new(),
    };
    let found: Vec<User> = found.into_iter().map(Into::into).collect();
    let url = &app.installation.public_url;
    wanted.answer(found, |user| user.id, &request, &COLLECTION, url)
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    check_object_options(&request, &COLLECTION)?;
    let id = user_id(&app, &request).await?;
    let found = app.store.user_get(id).await.map_err(store_error)?;
    let user: User = found.ok_or_else(|| no_user(&request))?.into();
    Answer::ok(&select(&user, &request, &COLLECTION)?)
}

async fn create(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let body: NewUserBody = body::read(&request)?;
    refuse_others(&body.others, OF_EVERY_USER)?;
    refuse_others(&body.password_profile.others, &[])?;
    let name = user_principal_name(&body.user_principal_name)?;
    let nickname = match &body.mail_nickname {
        Some(nickname) => mail_nickname(nickname)?,
        None => people::local_part(&name).to_owned(),
    };
    let password = body.password_profile.password.ok_or_else(|| {
        bad_request("A new user needs a password: passwordProfile.password is missing.")
            .with_target("passwordProfile")
    })?;
    let display_name = display_name(&body.display_name)?;
    let new = NewUser {
        object_id: Uuid::new_v4(),
        password: hashed(&app, &request, password, &name).await?,
        user_principal_name: name,
        display_name,
        mail_nickname: nickname,
        enabled: body.account_enabled.unwrap_or(true),
        must_change_password: body
            .password_profile
            .force_change_password_next_sign_in
            .unwrap_or(false),
        directory_role: None,
        created_at: request.now,
    };
    let published = match app.store.user_create(&new).await.map_err(store_error)? {
        UserCreation::Created(published) => published,
        UserCreation::NameTaken => return Err(name_taken(&new.user_principal_name)),
    };
    let created = store::directory::User {
        object_id: new.object_id,
        user_principal_name: new.user_principal_name,
        display_name: new.display_name,
        mail_nickname: new.mail_nickname,
        enabled: new.enabled,
        created_at: new.created_at,
        must_change_password: new.must_change_password,
        last_signed_in_at: None,
    };
    Ok(Answer::json(StatusCode::CREATED, &User::from(created))?.published(Some(published)))
}

async fn update(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = user_id(&app, &request).await?;
    let body: UserChangeBody = body::read_change(&request, NEVER_NULL)?;
    refuse_others(&body.others, OF_EVERY_USER)?;
    let known = app.store.user_get(id).await.map_err(store_error)?;
    let known = known.ok_or_else(|| no_user(&request))?;
    let mut change = UserChange {
        user_principal_name: body
            .user_principal_name
            .as_deref()
            .map(user_principal_name)
            .transpose()?,
        display_name: body.display_name.as_deref().map(display_name).transpose()?,
        mail_nickname: body
            .mail_nickname
            .as_deref()
            .map(mail_nickname)
            .transpose()?,
        enabled: body.account_enabled,
        ..UserChange::default()
    };
    if let Some(profile) = body.password_profile {
        refuse_others(&profile.others, &[])?;
        change.must_change_password = profile.force_change_password_next_sign_in;
        if let Some(password) = profile.password {
            let name = change.user_principal_name.as_deref();
            let name = name.unwrap_or(&known.user_principal_name);
            change.password = Some(hashed(&app, &request, password, name).await?);
        }
    }
    match app
        .store
        .user_update(id, &change, Uuid::new_v4())
        .await
        .map_err(store_error)?
    {
        UserUpdate::Done(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        UserUpdate::NotFound => Err(no_user(&request)),
        UserUpdate::NameTaken => Err(name_taken(
            change.user_principal_name.as_deref().unwrap_or_default(),
        )),
        UserUpdate::Indispensable(reason) => Err(indispensable("user", reason)),
    }
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = user_id(&app, &request).await?;
    match app.store.user_delete(id).await.map_err(store_error)? {
        Deletion::Deleted(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        Deletion::NotFound => Err(no_user(&request)),
        Deletion::Indispensable(reason) => Err(indispensable("user", reason)),
    }
}

async fn revoke_sessions(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = user_id(&app, &request).await?;
    let revoked = app
        .store
        .user_revoke_sessions(id, Uuid::new_v4())
        .await
        .map_err(store_error)?;
    let published = revoked.ok_or_else(|| no_user(&request))?;
    Ok(Answer::ok(&Done { value: true })?.published(published))
}

fn no_user(request: &Request) -> ApiError {
    not_found_named("user", request.parameter("objectId"))
}

fn name_taken(name: &str) -> ApiError {
    ApiError::new(
        Kind::Conflict,
        "Request_MultipleObjectsWithSameKeyValue",
        format!(
            "Another object with the same value for property userPrincipalName already exists: '{}'.",
            shorten(name)
        ),
    )
    .with_target("userPrincipalName")
}

/// A password that is good enough, by its verifier. Its text goes no further.
async fn hashed(
    app: &App,
    request: &Request,
    password: String,
    name: &str,
) -> Result<Password, ApiError> {
    let password = Secret::new(password);
    check_password(password.expose(), name)?;
    Ok(Password {
        verifier: hashing::verifier_of(app, request, password).await?,
        credential_id: Uuid::new_v4(),
    })
}

pub(super) fn check_password(password: &str, user_principal_name: &str) -> Result<(), ApiError> {
    people::check_password(password, user_principal_name).map_err(|rule| {
        bad_request(format!(
            "The specified password does not comply with password complexity requirements: {rule}."
        ))
        .with_target("passwordProfile")
    })
}

fn user_principal_name(text: &str) -> Result<String, ApiError> {
    match people::check_user_principal_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(rule) => Err(bad_request(format!(
            "Invalid value specified for property 'userPrincipalName', '{}': {rule}.",
            shorten(text).replace(char::is_control, "\u{fffd}")
        ))
        .with_target("userPrincipalName")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_selected_is_what_is_shown() {
        let user = User::from(store::directory::User {
            object_id: Uuid::from_u128(1),
            user_principal_name: "ann@wharf.test".to_owned(),
            display_name: "Ann".to_owned(),
            mail_nickname: "ann".to_owned(),
            enabled: true,
            created_at: OffsetDateTime::UNIX_EPOCH,
            must_change_password: false,
            last_signed_in_at: None,
        });
        let shown = serde_json::to_value(user).expect("it is JSON");
        let shown: Vec<&String> = shown.as_object().expect("an object").keys().collect();
        assert_eq!(shown, COLLECTION.properties);
    }
}

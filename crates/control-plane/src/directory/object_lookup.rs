//! Look-ups of assignees: what object ids stand for, by which clients show names beside role assignments, and users by their name.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Filter, Term};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::directory::ObjectQuery;
use utoipa::ToSchema;
use uuid::Uuid;

use super::applications::Application;
use super::body::{self, Others, refuse_others};
use super::errors::{bad_request, guid, shorten, unknown_path};
use super::query::refuse_other_options;
use super::service_principals::ServicePrincipal;
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};
use crate::limits::MAXIMUM_OBJECT_IDS;

/// Types of objects that a client may ask for. The directory has objects of the first two; asked for others, it truly finds none.
const TYPES: [&str; 7] = [
    "application",
    "servicePrincipal",
    "user",
    "group",
    "device",
    "directoryRole",
    "directoryObjectPartnerReference",
];

/// The options of a look-up of a user.
const USER_OPTIONS: &[&str] = &["$filter"];

/// Stands for all types.
const ANY_TYPE: &str = "directoryObject";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "DirectoryObjects_GetByIds",
            Method::POST,
            "/v1.0/directoryObjects/getByIds",
            Access::Directory(DirectoryRight::Read),
            "Shows the objects with these ids; ids of nothing are passed over.",
            get_by_ids,
        )
        .takes::<GetByIds>()
        .answers::<DirectoryObjectList>(200),
        Operation::new(
            "Users_LookUp",
            Method::GET,
            "/v1.0/users",
            Access::Directory(DirectoryRight::Read),
            "Looks a user up by userPrincipalName, and finds none: the directory has no users, and other requests about them are refused.",
            look_up_user,
        )
        .query(USER_OPTIONS)
        .answers::<DirectoryObjectList>(200),
    ]
}

/// What is asked of `getByIds`.
#[derive(Debug, Deserialize, ToSchema)]
struct GetByIds {
    ids: Vec<String>,
    /// `application`, `servicePrincipal`, `directoryObject` for all; all, unless it is given.
    types: Option<Vec<String>>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// The objects that were found.
#[derive(Serialize, ToSchema)]
struct DirectoryObjectList {
    #[schema(value_type = Vec<Object>)]
    value: Vec<Value>,
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
#[derive(Debug, PartialEq, Eq)]
struct Types {
    applications: bool,
    service_principals: bool,
}

impl Types {
    fn parse(types: Option<&[String]>) -> Result<Self, ApiError> {
        let Some(types) = types.filter(|types| !types.is_empty()) else {
            return Ok(Self {
                applications: true,
                service_principals: true,
            });
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
        })
    }
}

async fn get_by_ids(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let body: GetByIds = body::read(&request)?;
    refuse_others(&body.others, &[])?;
    let types = Types::parse(body.types.as_deref())?;
    if body.ids.len() > MAXIMUM_OBJECT_IDS {
        return Err(bad_request(format!(
            "There are {} ids in the request; at most {MAXIMUM_OBJECT_IDS} may be asked for at once.",
            body.ids.len()
        ))
        .with_target("ids"));
    }
    let ids = body
        .ids
        .iter()
        .map(|id| guid(id, "object identifier"))
        .collect::<Result<Vec<Uuid>, ApiError>>()?;
    let query = ObjectQuery {
        limit: i64::try_from(ids.len()).map_err(ApiError::internal)?,
        object_ids: Some(ids),
        ..ObjectQuery::default()
    };
    let mut value = Vec::new();
    if types.service_principals {
        let found = app
            .store
            .service_principal_list(&query)
            .await
            .map_err(store_error)?;
        for principal in found {
            value.push(typed(
                "#microsoft.graph.servicePrincipal",
                ServicePrincipal::new(principal, app.installation.tenant_id),
            )?);
        }
    }
    if types.applications {
        let found = app
            .store
            .application_list(&query)
            .await
            .map_err(store_error)?;
        for application in found {
            value.push(typed(
                "#microsoft.graph.application",
                Application::from(application),
            )?);
        }
    }
    Answer::ok(&DirectoryObjectList { value })
}

/// Answers the one question about users that can be answered truly: nobody has that name. Clients then say so in words of their own,
/// where a refusal would make the Azure CLI print a trace of its stack.
async fn look_up_user(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    refuse_other_options(&request, USER_OPTIONS)?;
    if !request.query("$filter").is_some_and(is_user_name_filter) {
        return Err(unknown_path(&request.segments));
    }
    Answer::ok(&DirectoryObjectList { value: Vec::new() })
}

fn is_user_name_filter(text: &str) -> bool {
    Filter::parse(text).is_ok_and(|filter| {
        matches!(filter.0.as_slice(), [Term::Equals { property, .. }] if property == "userprincipalname")
    })
}

fn typed(odata_type: &'static str, object: impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(Typed { odata_type, object }).map_err(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(types: &[&str]) -> Result<Types, ApiError> {
        let types: Vec<String> = types.iter().map(|text| (*text).to_owned()).collect();
        Types::parse(Some(&types))
    }

    #[test]
    fn users_are_looked_up_by_name_only() {
        assert!(is_user_name_filter("userPrincipalName eq 'ann@wharf.test'"));
        for text in [
            "",
            "displayName eq 'ann'",
            "startswith(userPrincipalName,'ann')",
            "userPrincipalName eq 'ann' and accountEnabled eq true",
        ] {
            assert!(!is_user_name_filter(text), "{text}");
        }
    }

    #[test]
    fn types_choose_what_is_looked_for() {
        let both = Types {
            applications: true,
            service_principals: true,
        };
        assert_eq!(Types::parse(None).expect("known"), both);
        assert_eq!(parse(&[]).expect("known"), both);
        assert_eq!(parse(&["directoryObject"]).expect("known"), both);
        let sent_by_the_azure_cli = [
            "user",
            "group",
            "servicePrincipal",
            "directoryObjectPartnerReference",
        ];
        assert_eq!(
            parse(&sent_by_the_azure_cli).expect("known"),
            Types {
                applications: false,
                service_principals: true
            }
        );
        assert!(
            parse(&["printer"])
                .expect_err("unknown")
                .message
                .contains("printer")
        );
    }
}

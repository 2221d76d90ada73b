//! `/metadata/endpoints`: how `az cloud register` and SDKs learn where everything is.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, ApiVersion};
use serde::Serialize;
use store::installation::Installation;
use utoipa::ToSchema;

use crate::App;
use crate::front_door::{Access, Answer, Operation, Protocol, Request};

/// From this version on the answer is one object, in older ones a list of it. Newer versions that nobody has published yet get the object.
const FIRST_OBJECT_VERSION: &str = "2022-09-01";

/// A version of another product, whose document has other members.
const FOREIGN_VERSION: &str = "2015-01-01";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        // Its own protocol, because every well-formed API version is answered here.
        Operation::new(
            "Metadata_Endpoints",
            Method::GET,
            "/metadata/endpoints",
            Access::Public,
            "Says where everything is: one object from api-version 2022-09-01 on, a list of it in older ones.",
            endpoints,
        )
        .protocol(Protocol::Own)
        .query(&["api-version"])
        .answers::<CloudMetadata>(200),
    ]
}

/// Where everything is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CloudMetadata {
    name: &'static str,
    resource_manager: String,
    authentication: CloudAuthentication,
    microsoft_graph_resource_id: String,
    graph_audience: String,
    suffixes: CloudSuffixes,
}

/// Where to sign in, and for what.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CloudAuthentication {
    /// Ends with `/adfs`, at which clients do not ask the public cloud whether they may trust the host.
    login_endpoint: String,
    audiences: Vec<String>,
    tenant: String,
    identity_provider: &'static str,
}

/// What follows names in host names.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CloudSuffixes {
    acr_login_server: String,
}

impl CloudMetadata {
    fn new(installation: &Installation) -> Self {
        let url = &installation.public_url;
        Self {
            name: "Wharfinger",
            resource_manager: url.clone(),
            authentication: CloudAuthentication {
                login_endpoint: format!("{url}/adfs"),
                audiences: vec![url.clone()],
                tenant: installation.tenant_id.to_string(),
                identity_provider: "ADFS",
            },
            microsoft_graph_resource_id: url.clone(),
            graph_audience: url.clone(),
            suffixes: CloudSuffixes {
                acr_login_server: installation.login_server_suffix.clone(),
            },
        }
    }
}

/// What a version wants the metadata to be in.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    Object,
    List,
}

impl Shape {
    fn of(version: Option<&str>) -> Result<Self, ApiError> {
        let Some(text) = version.filter(|text| !text.is_empty()) else {
            return Err(ApiError::invalid(
                "MissingApiVersionParameter",
                format!(
                    "The api-version query parameter (?api-version=) is required for all requests; the newest is {FIRST_OBJECT_VERSION}."
                ),
            ));
        };
        let version = ApiVersion::parse(text)
            .map_err(|error| ApiError::invalid("InvalidApiVersionParameter", error.to_string()))?;
        if version.as_str().starts_with(FOREIGN_VERSION) {
            return Err(ApiError::invalid(
                "InvalidApiVersionParameter",
                format!(
                    "The api-version '{version}' is not supported here; use {FIRST_OBJECT_VERSION}, or an older one from 2019-05-01 on for a list."
                ),
            ));
        }
        // Dates in this form sort as text.
        if version.as_str() < FIRST_OBJECT_VERSION {
            Ok(Self::List)
        } else {
            Ok(Self::Object)
        }
    }
}

async fn endpoints(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let metadata = CloudMetadata::new(&app.installation);
    match Shape::of(request.query("api-version"))? {
        Shape::Object => Answer::ok(&metadata),
        Shape::List => Answer::ok(&[metadata]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn old_versions_get_a_list_and_new_ones_the_object() {
        for version in ["2018-05-01", "2019-05-01", "2020-06-01", "2022-08-31"] {
            assert_eq!(Shape::of(Some(version)).expect("known"), Shape::List);
        }
        for version in ["2022-09-01", "2022-09-01-preview", "2027-01-01"] {
            assert_eq!(Shape::of(Some(version)).expect("known"), Shape::Object);
        }
        let code = |version| Shape::of(version).expect_err("refused").code;
        assert_eq!(code(None), "MissingApiVersionParameter");
        assert_eq!(code(Some("")), "MissingApiVersionParameter");
        assert_eq!(code(Some("latest")), "InvalidApiVersionParameter");
        assert_eq!(code(Some("2015-01-01")), "InvalidApiVersionParameter");
    }

    proptest! {
        #[test]
        fn any_text_is_a_version_or_refused(text in "\\PC{0,30}") {
            let known = ApiVersion::parse(&text).is_ok() && !text.starts_with(FOREIGN_VERSION);
            prop_assert_eq!(Shape::of(Some(&text)).is_ok(), known);
        }
    }
}

//! What clients read before they sign in: where the endpoints are, and with which keys tokens are signed (OpenID Connect Discovery 1.0).

use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use credentials::PublicKey;
use serde::Serialize;
use utoipa::ToSchema;

use super::audience::{Audience, IDENTITY_SCOPES};
use super::refusal::NO_SIGN_IN_PAGES;
use super::tenant::TenantForm;
use super::token::Grant;
use crate::App;
use crate::front_door::{Access, Answer, Operation, Protocol, Request};

/// How long others may keep the keys; a new key is shown for longer before it signs.
const KEYS_MAXIMUM_AGE: &str = "public, max-age=300";

pub(super) fn operations() -> Vec<Operation> {
    let public = |id, path, summary| (id, path, Access::Public, summary);
    let discovery = [
        public(
            "SignIn_OpenIdConfiguration",
            "/{tenant}/v2.0/.well-known/openid-configuration",
            "Says where the endpoints of sign-in are.",
        ),
        public(
            "SignIn_OpenIdConfigurationVersion1",
            "/{tenant}/.well-known/openid-configuration",
            "Says where the endpoints of sign-in are.",
        ),
    ]
    .map(|(id, path, access, summary)| {
        Operation::new(id, Method::GET, path, access, summary, discover)
            .answers::<DiscoveryDocument>(200)
    });
    // The Azure CLI puts what stands after `--tenant` behind the login endpoint.
    let resolution = Operation::new(
        "SignIn_OpenIdConfigurationOfTenant",
        Method::GET,
        "/adfs/{tenant}/v2.0/.well-known/openid-configuration",
        Access::Public,
        "Says which tenant a name stands for, and where the endpoints of sign-in are.",
        resolve,
    )
    .answers::<DiscoveryDocument>(200);
    let keys = [
        public(
            "SignIn_Keys",
            "/{tenant}/discovery/v2.0/keys",
            "Shows the keys that access tokens are signed with.",
        ),
        public(
            "SignIn_KeysVersion1",
            "/{tenant}/discovery/keys",
            "Shows the keys that access tokens are signed with.",
        ),
    ]
    .map(|(id, path, access, summary)| {
        Operation::new(id, Method::GET, path, access, summary, keys).answers::<KeyDocument>(200)
    });
    let authorize = Operation::new(
        "SignIn_Authorize",
        Method::GET,
        "/{tenant}/oauth2/v2.0/authorize",
        Access::Public,
        "Refuses sign-in with a browser, which is not built: OpenID Connect requires the address.",
        authorize,
    );
    let authorize_device = Operation::new(
        "SignIn_AuthorizeDevice",
        Method::POST,
        "/{tenant}/oauth2/v2.0/devicecode",
        Access::Public,
        "Answers with a code that signs nobody in: sign-in with a code is not built, which the token endpoint says.",
        authorize_device,
    )
    .answers::<DeviceAuthorization>(200);
    discovery
        .into_iter()
        .chain([resolution])
        .chain(keys)
        .chain([authorize, authorize_device])
        .map(|operation| operation.protocol(Protocol::OAuth))
        .collect()
}

/// Where the endpoints are and what they can do.
#[derive(Serialize, ToSchema)]
struct DiscoveryDocument {
    issuer: String,
    /// Required by OpenID Connect and by clients that never use it; it refuses.
    authorization_endpoint: String,
    /// Leads to a refusal, too: the Azure CLI, which takes this way where there is no browser, shows the reason only when it finds it.
    device_authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    response_types_supported: [&'static str; 0],
    grant_types_supported: [&'static str; 3],
    subject_types_supported: [&'static str; 1],
    scopes_supported: Vec<String>,
    id_token_signing_alg_values_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: [&'static str; 3],
    token_endpoint_auth_signing_alg_values_supported: [&'static str; 3],
}

impl DiscoveryDocument {
    fn new(tenant: &TenantForm, app: &App) -> Self {
        let url = &app.installation.public_url;
        Self {
            issuer: tenant.issuer(url, app.installation.tenant_id),
            authorization_endpoint: tenant.authorization_endpoint(url),
            device_authorization_endpoint: tenant.device_authorization_endpoint(url),
            token_endpoint: tenant.token_endpoint(url),
            jwks_uri: tenant.keys_endpoint(url),
            response_types_supported: [],
            grant_types_supported: Grant::ALL.map(Grant::as_str),
            subject_types_supported: ["public"],
            scopes_supported: Audience::scopes(url)
                .into_iter()
                .chain(IDENTITY_SCOPES.map(str::to_owned))
                .collect(),
            id_token_signing_alg_values_supported: ["ES256"],
            token_endpoint_auth_methods_supported: [
                "client_secret_post",
                "client_secret_basic",
                "private_key_jwt",
            ],
            token_endpoint_auth_signing_alg_values_supported: ["RS256", "PS256", "ES256"],
        }
    }
}

/// A code for a person to show somewhere else (RFC 8628, 3.2). This one signs nobody in. It is no error, because the Azure CLI shows one of this
/// endpoint as its own failure, with a traceback, and one of the token endpoint, which it asks next, in the words that it is given.
#[derive(Serialize, ToSchema)]
struct DeviceAuthorization {
    device_code: &'static str,
    user_code: &'static str,
    /// Says how people sign in.
    verification_uri: String,
    /// Seconds.
    expires_in: u32,
    interval: u32,
    /// What the Azure CLI shows.
    message: &'static str,
}

impl DeviceAuthorization {
    fn new(verification_uri: String) -> Self {
        Self {
            device_code: "none",
            user_code: "none",
            verification_uri,
            expires_in: 60,
            interval: 5,
            message: "Nobody can sign in with a code here.",
        }
    }
}

/// A set of JSON Web Keys (RFC 7517).
#[derive(Serialize, ToSchema)]
struct KeyDocument {
    #[schema(value_type = Vec<Object>)]
    keys: Vec<PublicKey>,
}

async fn discover(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let tenant = TenantForm::of(&app, &request)?;
    Answer::ok(&DiscoveryDocument::new(&tenant, &app))
}

/// Clients take the tenant's id out of the issuer, whatever name of it they know.
async fn resolve(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    TenantForm::of(&app, &request)?;
    let tenant = TenantForm::of_id(app.installation.tenant_id);
    Answer::ok(&DiscoveryDocument::new(&tenant, &app))
}

async fn keys(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    TenantForm::of(&app, &request)?;
    let keys = app.sign_in.keys.current().public(request.now);
    Ok(Answer::ok(&KeyDocument { keys })?.header("cache-control", KEYS_MAXIMUM_AGE))
}

async fn authorize(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    TenantForm::of(&app, &request)?;
    Err(ApiError::invalid(
        "unsupported_response_type",
        format!("AADSTS70005: {NO_SIGN_IN_PAGES}"),
    ))
}

async fn authorize_device(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let tenant = TenantForm::of(&app, &request)?;
    Answer::ok(&DeviceAuthorization::new(
        tenant.authorization_endpoint(&app.installation.public_url),
    ))
}

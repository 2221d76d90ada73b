//! The admin account's passwords: `listCredentials` and `regenerateCredential`.

use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use config_documents::AdminPasswordSlot;
use credentials::Secret;
use serde::{Deserialize, Serialize};
use store::registries::{PasswordRenewal, Registry, SealedPassword};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::registries::{PATH, at_registry, new_password, registry_of};
use super::versions::VERSIONS;
use crate::App;
use crate::front_door::{Answer, Operation, Request, store_error};
use crate::sealing::of_password;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "Registries_ListCredentials",
            Method::POST,
            format!("{PATH}/listCredentials"),
            at_registry("Microsoft.ContainerRegistry/registries/listCredentials/action"),
            "Shows the admin account's user name and both passwords.",
            list,
        )
        .answers::<RegistryCredentials>(200)
        .repeats_no_change(),
        Operation::new(
            "Registries_RegenerateCredential",
            Method::POST,
            format!("{PATH}/regenerateCredential"),
            at_registry("Microsoft.ContainerRegistry/registries/regenerateCredential/action"),
            "Replaces one of the admin account's passwords; the old one is dead when this returns.",
            regenerate,
        )
        .takes::<RegenerateCredentialInput>()
        .answers::<RegistryCredentials>(200),
    ]
    .into_iter()
    .map(|operation| operation.versions("registries", VERSIONS))
    .collect()
}

#[derive(Serialize, ToSchema)]
struct RegistryCredentials {
    username: String,
    passwords: Vec<RegistryPassword>,
}

#[derive(Serialize, ToSchema)]
struct RegistryPassword {
    name: &'static str,
    value: String,
    /// To the hour; null when it was never used since it was made. Not a property of Azure's; clients pass over it.
    #[serde(rename = "lastUsedDateTime", with = "time::serde::rfc3339::option")]
    last_used_at: Option<OffsetDateTime>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegenerateCredentialInput {
    /// `password` or `password2`.
    name: String,
}

pub(super) fn seal(app: &App, registry: Uuid, slot: AdminPasswordSlot, secret: &Secret) -> Vec<u8> {
    app.key_ring.seal(
        secret.expose().as_bytes(),
        &of_password(registry, slot.as_str()),
    )
}

fn shown(
    app: &App,
    registry: &Registry,
    password: &SealedPassword,
) -> Result<RegistryPassword, ApiError> {
    let opened = app
        .key_ring
        .open(
            &password.sealed,
            &of_password(registry.uid, password.slot.as_str()),
        )
        .map_err(ApiError::internal)?;
    let value = String::from_utf8(opened.to_vec())
        .map_err(|_| ApiError::internal("a sealed password is not text"))?;
    Ok(RegistryPassword {
        name: password.slot.as_str(),
        value,
        last_used_at: password.last_used_at,
    })
}

fn answer(registry: &Registry, passwords: Vec<RegistryPassword>) -> Result<Answer, ApiError> {
    let credentials = RegistryCredentials {
        username: registry.name.clone(),
        passwords,
    };
    Ok(Answer::ok(&credentials)?.header("Cache-Control", "no-store"))
}

fn admin_user_disabled(registry: &Registry) -> ApiError {
    ApiError::invalid(
        "UnAuthorizedForCredentialOperations",
        format!(
            "Cannot perform credential operations for {} as admin user is disabled. Kindly enable admin user as per docs: https://docs.microsoft.com/en-us/azure/container-registry/container-registry-authentication#admin-account",
            registry.id()
        ),
    )
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let registry = registry_of(&request)?;
    let passwords = app
        .store
        .registry_passwords(registry.uid)
        .await
        .map_err(store_error)?;
    if passwords.is_empty() {
        return Err(admin_user_disabled(registry));
    }
    let passwords = passwords
        .iter()
        .map(|password| shown(&app, registry, password))
        .collect::<Result<_, _>>()?;
    answer(registry, passwords)
}

async fn regenerate(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let input: RegenerateCredentialInput = request.json()?;
    let slot = AdminPasswordSlot::parse(&input.name).ok_or_else(|| {
        ApiError::invalid(
            "InvalidPasswordName",
            format!(
                "The password name '{}' is invalid: allowed are 'password' and 'password2'.",
                input.name.chars().take(64).collect::<String>()
            ),
        )
        .with_target("name")
    })?;
    let registry = registry_of(&request)?;
    let password = new_password(&app, registry.uid, slot);
    match app
        .store
        .registry_password_renew(registry, &password)
        .await
        .map_err(store_error)?
    {
        PasswordRenewal::Renewed(passwords, published) => {
            // The change is committed: a client that got a failure would repeat it. A password that cannot be opened is left out.
            let passwords = passwords
                .iter()
                .filter_map(|password| {
                    shown(&app, registry, password)
                        .inspect_err(|error| {
                            tracing::error!(registry.id = %registry.id(), password.name = password.slot.as_str(),
                                error.cause = error.cause.as_ref().map(|cause| service::errors::chain(cause.as_ref())),
                                "a sealed password cannot be opened");
                        })
                        .ok()
                })
                .collect();
            Ok(answer(registry, passwords)?.published(Some(published)))
        }
        PasswordRenewal::AdminUserDisabled => Err(admin_user_disabled(registry)),
        PasswordRenewal::NotFound => Err(ApiError::not_found(
            "ResourceNotFound",
            format!("The registry '{}' was deleted meanwhile.", registry.name),
        )),
    }
}

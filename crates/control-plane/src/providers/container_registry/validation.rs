//! What a client wants of a registry, checked against the model: all faults are collected, none is stored and ignored.
//!
//! Static: it knows nothing of names taken or of regions.

use std::collections::BTreeMap;

use arm::{ApiError, ApiVersion, ErrorDetail, Tags};
use config_documents::RoleAssignmentMode;
use serde::Deserialize;
use serde_json::{Map, Value};
use store::registries::Registry;
use utoipa::ToSchema;

use super::model::{READ_ONLY, READ_ONLY_NESTED, properties};
use super::retention::{self, WantedRetention};
use super::versions::{has, project};

/// A registry as clients send it with PUT and PATCH. `id`, `name`, `type` and `systemData` may be sent back as read; they change nothing.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RegistryInput {
    pub(crate) location: Option<String>,
    pub(crate) tags: Option<BTreeMap<String, Option<String>>>,
    pub(crate) sku: Option<SkuInput>,
    #[schema(value_type = Option<Object>)]
    pub(crate) properties: Option<Map<String, Value>>,
    #[schema(value_type = Option<Object>)]
    identity: Option<Value>,
    #[serde(rename = "id")]
    _id: Option<Value>,
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "type")]
    _kind: Option<Value>,
    #[serde(rename = "systemData")]
    _system_data: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SkuInput {
    name: Option<String>,
    #[serde(rename = "tier")]
    _tier: Option<Value>,
}

/// What a client wants, as far as it said so.
pub(crate) struct Wanted {
    pub(crate) sku: Option<&'static str>,
    pub(crate) tags: Option<Tags>,
    pub(crate) admin_user_enabled: Option<bool>,
    pub(crate) role_assignment_mode: Option<RoleAssignmentMode>,
    pub(crate) anonymous_pull_enabled: Option<bool>,
    pub(crate) retention: Option<WantedRetention>,
}

/// The settings below `properties` that can be chosen.
#[derive(Default)]
struct WantedProperties {
    admin_user_enabled: Option<bool>,
    role_assignment_mode: Option<RoleAssignmentMode>,
    anonymous_pull_enabled: Option<bool>,
    retention: Option<WantedRetention>,
}

const SKUS: [&str; 3] = ["Basic", "Standard", "Premium"];

/// Checks an input. `shown` is what a GET shows now, or would show right after creation.
///
/// # Errors
/// Every fault, each with the member that it is about.
pub(crate) fn check(
    input: &RegistryInput,
    shown: &Registry,
    version: &ApiVersion,
) -> Result<Wanted, ApiError> {
    let mut faults = Vec::new();
    let sku = input
        .sku
        .as_ref()
        .and_then(|sku| check_sku(sku, &mut faults));
    let tags = input.tags.clone().and_then(|tags| {
        Tags::parse(tags)
            .map_err(|invalid| faults.extend(invalid.0))
            .ok()
    });
    if let Some(identity) = &input.identity
        && !identity.is_null()
        && !identity["type"]
            .as_str()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("None"))
    {
        faults.push(unsupported("identity", identity, "{\"type\": \"None\"}"));
    }
    let properties = match &input.properties {
        Some(given) => check_properties(given, shown, version, &mut faults),
        None => WantedProperties::default(),
    };
    if faults.is_empty() {
        Ok(Wanted {
            sku,
            tags,
            admin_user_enabled: properties.admin_user_enabled,
            role_assignment_mode: properties.role_assignment_mode,
            anonymous_pull_enabled: properties.anonymous_pull_enabled,
            retention: properties.retention,
        })
    } else {
        Err(ApiError::from_faults(faults))
    }
}

fn check_sku(sku: &SkuInput, faults: &mut Vec<ErrorDetail>) -> Option<&'static str> {
    let name = sku.name.as_deref().unwrap_or_default();
    let known = SKUS
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(name));
    if known.is_none() {
        faults.push(ErrorDetail::new(
            "InvalidSku",
            format!(
                "The SKU '{name}' is invalid. Allowed are: {}.",
                SKUS.join(", ")
            ),
            "sku.name",
        ));
    }
    known
}

fn check_properties(
    given: &Map<String, Value>,
    shown: &Registry,
    version: &ApiVersion,
    faults: &mut Vec<ErrorDetail>,
) -> WantedProperties {
    // Validated as Premium, so that networkRuleSet may be sent with its default for every SKU.
    let mut model = properties(&Registry {
        sku: "Premium".to_owned(),
        ..shown.clone()
    });
    project(&mut model, version);
    let mut wanted = WantedProperties::default();
    for (name, value) in given {
        let target = format!("properties.{name}");
        match name.as_str() {
            _ if value.is_null() => {}
            "adminUserEnabled" => {
                wanted.admin_user_enabled = check_bool(name, value, target, faults)
            }
            "anonymousPullEnabled" if has(version, name) => {
                wanted.anonymous_pull_enabled = check_bool(name, value, target, faults);
            }
            "policies" => wanted.retention = check_policies(value, &model[name], &target, faults),
            "roleAssignmentMode" if has(version, name) => match role_assignment_mode(value) {
                Some(mode) => wanted.role_assignment_mode = Some(mode),
                None => faults.push(ErrorDetail::new(
                    "InvalidProperty",
                    format!(
                        "The value {} of 'roleAssignmentMode' is invalid: it must be {}.",
                        shorten(value),
                        MODES.map(|(name, _)| format!("\"{name}\"")).join(" or ")
                    ),
                    target,
                )),
            },
            "provisioningState" if *value != model[name] => faults.push(ErrorDetail::new(
                "BadRequest",
                format!(
                    "The 'provisioningState' {value} differs from the resource's, {}.",
                    model[name]
                ),
                target,
            )),
            read_only if READ_ONLY.contains(&read_only) || read_only == "provisioningState" => {}
            _ => match model.get(name) {
                Some(default) => compare(&target, value, default, faults),
                None => {
                    let owner = format!("a registry's properties in api-version {version}");
                    faults.push(unknown_member(name, &owner, target));
                }
            },
        }
    }
    wanted
}

fn check_bool(
    name: &str,
    value: &Value,
    target: String,
    faults: &mut Vec<ErrorDetail>,
) -> Option<bool> {
    let wanted = value.as_bool();
    if wanted.is_none() {
        faults.push(ErrorDetail::new(
            "InvalidProperty",
            format!(
                "The value {} of '{name}' is invalid: it must be true or false.",
                shorten(value)
            ),
            target,
        ));
    }
    wanted
}

/// Of the policies that of retention can be chosen.
fn check_policies(
    value: &Value,
    shown: &Value,
    target: &str,
    faults: &mut Vec<ErrorDetail>,
) -> Option<WantedRetention> {
    let mut others = value.clone();
    let retention = match &mut others {
        Value::Object(members) => members.shift_remove("retentionPolicy"),
        _ => None,
    };
    compare(target, &others, shown, faults);
    let target = format!("{target}.retentionPolicy");
    retention
        .filter(|value| !value.is_null())
        .and_then(|value| retention::check(&value, &target, faults))
}

/// Which settings that are on the SKU of a registry does not have.
pub(crate) fn check_sku_has(registry: &Registry) -> Result<(), ApiError> {
    let settings = [
        (
            "anonymousPullEnabled",
            registry.anonymous_pull_enabled,
            "properties.anonymousPullEnabled",
            &SKUS[1..],
        ),
        (
            "policies.retentionPolicy",
            registry.retention.is_enabled,
            "properties.policies.retentionPolicy.status",
            &SKUS[2..],
        ),
    ];
    let faults: Vec<ErrorDetail> = settings
        .into_iter()
        .filter(|(_, is_on, _, skus)| *is_on && !skus.contains(&registry.sku.as_str()))
        .map(|(name, _, target, skus)| {
            ErrorDetail::new(
                "SkuNotSupported",
                format!(
                    "'{name}' is not available in the SKU '{}': it takes {}. Choose another SKU, or switch it off.",
                    registry.sku,
                    skus.join(" or ")
                ),
                target,
            )
        })
        .collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(ApiError::from_faults(faults))
    }
}

/// A member that there is not.
pub(super) fn unknown_member(name: &str, owner: &str, target: String) -> ErrorDetail {
    ErrorDetail::new(
        "InvalidRequestContent",
        format!("Could not find member '{name}' on {owner}."),
        target,
    )
}

const MODES: [(&str, RoleAssignmentMode); 2] = [
    (
        "LegacyRegistryPermissions",
        RoleAssignmentMode::LegacyRegistryPermissions,
    ),
    (
        "AbacRepositoryPermissions",
        RoleAssignmentMode::AbacRepositoryPermissions,
    ),
];

fn role_assignment_mode(value: &Value) -> Option<RoleAssignmentMode> {
    let text = value.as_str()?;
    MODES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, mode)| *mode)
}

pub(super) fn shorten(value: &Value) -> String {
    value.to_string().chars().take(200).collect()
}

/// A member whose feature is not built may be sent with its default, whatever the case of words.
fn compare(target: &str, value: &Value, default: &Value, faults: &mut Vec<ErrorDetail>) {
    match (value, default) {
        (Value::Null, _) => {}
        (Value::Object(value), Value::Object(default)) => {
            for (name, value) in value {
                let target = format!("{target}.{name}");
                match default.get(name) {
                    _ if READ_ONLY_NESTED.contains(&name.as_str()) => {}
                    Some(default) => compare(&target, value, default, faults),
                    None if value.is_null() => {}
                    None => faults.push(unsupported(&target, value, "absent")),
                }
            }
        }
        (Value::String(value), Value::String(default)) if value.eq_ignore_ascii_case(default) => {}
        (value, default) if value == default => {}
        (value, default) => faults.push(unsupported(target, value, &default.to_string())),
    }
}

fn unsupported(target: &str, value: &Value, default: &str) -> ErrorDetail {
    let value = shorten(value);
    ErrorDetail::new(
        "FeatureNotSupported",
        format!(
            "The value {value} of '{target}' is not supported: this feature is not available, and its only value is {default}."
        ),
        target,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arm::{CreatedByType, SystemData};
    use proptest::prelude::*;
    use serde_json::json;
    use time::OffsetDateTime;

    fn registry() -> Registry {
        let at = OffsetDateTime::UNIX_EPOCH;
        Registry {
            uid: uuid::Uuid::nil(),
            subscription_id: uuid::Uuid::nil(),
            resource_group_name: "g".into(),
            name: "contoso".into(),
            login_server: "contoso.example".into(),
            location: "westus".into(),
            sku: "Basic".into(),
            tags: Tags::default(),
            admin_user_enabled: false,
            role_assignment_mode: RoleAssignmentMode::LegacyRegistryPermissions,
            anonymous_pull_enabled: false,
            retention: store::registries::RetentionPolicy::default(),
            system_data: SystemData {
                created_by: "a".into(),
                created_by_type: CreatedByType::Application,
                created_at: at,
                last_modified_by: "a".into(),
                last_modified_by_type: CreatedByType::Application,
                last_modified_at: at,
            },
            generation: 1,
        }
    }

    fn faults(body: Value, version: &str) -> Vec<String> {
        let input: RegistryInput = serde_json::from_value(body).unwrap();
        match check(&input, &registry(), &ApiVersion::parse(version).unwrap()) {
            Ok(_) => Vec::new(),
            Err(error) if error.details.is_empty() => vec![error.target.unwrap_or_default()],
            Err(error) => error
                .details
                .into_iter()
                .filter_map(|detail| detail.target)
                .collect(),
        }
    }

    #[test]
    fn what_a_get_shows_may_be_sent_back() {
        for version in super::super::VERSIONS {
            let mut shown = properties(&registry());
            project(&mut shown, &ApiVersion::parse(version).unwrap());
            assert_eq!(
                faults(json!({ "properties": shown }), version),
                Vec::<String>::new(),
                "{version}"
            );
        }
    }

    #[test]
    fn every_fault_is_named() {
        let body = json!({
            "sku": { "name": "Classic" },
            "tags": { "a/b": "c" },
            "identity": { "type": "SystemAssigned" },
            "properties": {
                "adminUserEnabled": "yes", "publicNetworkAccess": "Disabled", "zonredundancy": "x",
                "anonymousPullEnabled": 1,
                "policies": { "retentionPolicy": { "status": "on", "days": 400 }, "trustPolicy": { "status": "enabled" } },
                "provisioningState": "Failed"
            }
        });
        assert_eq!(
            faults(body, "2025-11-01"),
            [
                "sku.name",
                "tags",
                "identity",
                "properties.adminUserEnabled",
                "properties.publicNetworkAccess",
                "properties.zonredundancy",
                "properties.anonymousPullEnabled",
                "properties.policies.trustPolicy.status",
                "properties.policies.retentionPolicy.status",
                "properties.policies.retentionPolicy.days",
                "properties.provisioningState"
            ]
        );
    }

    #[test]
    fn a_member_of_a_later_version_is_unknown_to_an_earlier_one() {
        let body = json!({ "properties": { "anonymousPullEnabled": false } });
        assert_eq!(
            faults(body.clone(), "2023-07-01"),
            ["properties.anonymousPullEnabled"]
        );
        assert!(faults(body, "2025-11-01").is_empty());
    }

    #[test]
    fn each_setting_that_the_sku_does_not_have_is_named() {
        let named = |sku: &str| {
            let mut registry = registry();
            registry.sku = sku.into();
            registry.anonymous_pull_enabled = true;
            registry.retention.is_enabled = true;
            match check_sku_has(&registry) {
                Ok(()) => 0,
                Err(error) => error.details.len().max(1),
            }
        };
        assert_eq!(["Basic", "Standard", "Premium"].map(named), [2, 1, 0]);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
            let _ = serde_json::from_str::<RegistryInput>(&text);
        }
    }
}

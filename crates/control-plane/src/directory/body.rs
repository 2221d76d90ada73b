//! What requests carry: models, and the rule that nothing is taken and ignored.

use arm::ApiError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::errors::{bad_request, shorten};
use crate::front_door::Request;
use crate::limits::{
    MAXIMUM_DESCRIPTION_CHARACTERS, MAXIMUM_DISPLAY_NAME_CHARACTERS,
    MAXIMUM_MAIL_NICKNAME_CHARACTERS,
};

/// Members of a body that its model does not have.
pub(super) type Others = Map<String, Value>;

/// The JSON body.
pub(super) fn read<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    request.json().map_err(|error| bad_request(error.message))
}

/// The JSON body of a change, in which these properties may be left out and are never null: null would be taken and change nothing.
pub(super) fn read_change<T: DeserializeOwned>(
    request: &Request,
    never_null: &[&str],
) -> Result<T, ApiError> {
    // Most bodies have none, and are read once. A model made of a map would be, too, but a map keeps the last of members of the same name
    // and does not know where a fault stands.
    if request.body.windows(4).any(|text| text == b"null") {
        let members: Map<String, Value> = read(request)?;
        let is_null = |name: &&&str| members.get(**name).is_some_and(Value::is_null);
        if let Some(name) = never_null.iter().find(is_null) {
            return Err(bad_request(format!(
                "Invalid value specified for property '{name}': it cannot be null."
            ))
            .with_target(*name));
        }
    }
    read(request)
}

/// Refuses members that are not built, but for those that ask for nothing: null, empty, or the value that every object has.
pub(super) fn refuse_others(
    others: &Others,
    of_every_object: &[(&str, &str)],
) -> Result<(), ApiError> {
    for (name, value) in others {
        let asks_for_nothing = match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            Value::String(text) => of_every_object
                .iter()
                .any(|(known, default)| known == name && default == text),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !asks_for_nothing {
            return Err(unsupported(name));
        }
    }
    Ok(())
}

fn unsupported(name: &str) -> ApiError {
    let hint = match name {
        "passwordCredentials" => " Use addPassword and removePassword.",
        _ => "",
    };
    bad_request(format!(
        "The property '{}' cannot be set: it is read-only, unknown or not supported by this directory.{hint}",
        shorten(name)
    ))
    .with_target(shorten(name))
}

/// Tells null from what is not there.
pub(super) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A display name as the directory takes it.
pub(super) fn display_name(text: &str) -> Result<String, ApiError> {
    let length = text.chars().count();
    let rule = if text.trim().is_empty() {
        "it is empty"
    } else if length > MAXIMUM_DISPLAY_NAME_CHARACTERS {
        "it is too long"
    } else if text.chars().any(char::is_control) {
        "it has control characters"
    } else {
        return Ok(text.to_owned());
    };
    Err(bad_request(format!(
        "Invalid value specified for property 'displayName', '{}': {rule}. A name has 1 to {MAXIMUM_DISPLAY_NAME_CHARACTERS} characters, none of them control characters.",
        shorten(text).replace(char::is_control, "\u{fffd}")
    ))
    .with_target("displayName"))
}

/// The name of a credential, which unlike an object need not have one.
pub(super) fn optional_display_name(name: Option<String>) -> Result<Option<String>, ApiError> {
    name.filter(|name| !name.is_empty())
        .map(|name| display_name(&name))
        .transpose()
}

/// A description as the directory takes it.
pub(super) fn description(text: &str) -> Result<String, ApiError> {
    if text.chars().count() <= MAXIMUM_DESCRIPTION_CHARACTERS {
        return Ok(text.to_owned());
    }
    Err(bad_request(format!(
        "The description is longer than {MAXIMUM_DESCRIPTION_CHARACTERS} characters."
    ))
    .with_target("description"))
}

/// A mail nickname: a name of a person or a group without blanks.
pub(super) fn mail_nickname(text: &str) -> Result<String, ApiError> {
    let length = text.chars().count();
    let well_formed = (1..=MAXIMUM_MAIL_NICKNAME_CHARACTERS).contains(&length)
        && text.chars().all(|character| {
            character.is_ascii_graphic() && !r#"@()\/[]";:<>,"#.contains(character)
        });
    if well_formed {
        return Ok(text.to_owned());
    }
    Err(bad_request(format!(
        "Invalid value specified for property 'mailNickname', '{}': it must have 1 to {MAXIMUM_MAIL_NICKNAME_CHARACTERS} ASCII characters, no blank and none of @()\\/[]\";:<>,.",
        shorten(text).replace(char::is_control, "\u{fffd}")
    ))
    .with_target("mailNickname"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(others: Value) -> Result<(), ApiError> {
        let others = others.as_object().expect("an object").clone();
        refuse_others(&others, &[("signInAudience", "AzureADMyOrg")])
    }

    #[test]
    fn only_what_asks_for_nothing_is_taken() {
        assert!(check(json!({ "appRoles": [], "info": {}, "notes": null })).is_ok());
        assert!(check(json!({ "signInAudience": "AzureADMyOrg" })).is_ok());
        for refused in [
            json!({ "signInAudience": "AzureADMultipleOrgs" }),
            json!({ "appRoles": [{}] }),
            json!({ "notes": "AzureADMyOrg" }),
            json!({ "isFallbackPublicClient": false }),
        ] {
            let name = refused
                .as_object()
                .and_then(|members| members.keys().next())
                .expect("one")
                .clone();
            let error = check(refused).expect_err("refused");
            assert_eq!(error.target, Some(name));
        }
    }

    proptest! {
        #[test]
        fn names_are_bounded(name in "\\PC{0,300}") {
            let good = !name.trim().is_empty() && name.chars().count() <= MAXIMUM_DISPLAY_NAME_CHARACTERS;
            match display_name(&name) {
                Ok(kept) => {
                    prop_assert!(good);
                    prop_assert_eq!(kept, name);
                }
                Err(error) => {
                    prop_assert!(!good);
                    prop_assert!(error.message.chars().count() < 500);
                }
            }
        }
    }

    #[test]
    fn a_name_with_control_characters_is_refused() {
        assert!(display_name("a\nb").is_err());
    }
}

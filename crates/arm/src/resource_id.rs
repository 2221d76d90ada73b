use std::fmt;

/// The one function that makes a key from a name or id: names compare case-insensitively and keep the casing they were created with.
///
/// Unicode's own lower-casing, which depends on no locale.
pub fn canonical_key(text: &str) -> String {
    text.to_lowercase()
}

/// The segments of a path, without the empty ones that double and trailing slashes leave.
pub fn split_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The id of a subscription, resource group or resource: the URL path without host and API version (R8).
///
/// Keeps the casing it was parsed with; equality is by [`ResourceId::key`].
#[derive(Debug, Clone)]
pub struct ResourceId {
    text: String,
    key: String,
}

/// Text that is not a resource id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{id}' is not a resource id: {reason}")]
pub struct InvalidResourceId {
    pub id: String,
    pub reason: &'static str,
}

impl ResourceId {
    /// Parses `/subscriptions/{id}[/resourceGroups/{name}[/providers/{namespace}/{type}/{name}[/{type}/{name}]…]]`.
    ///
    /// Fixed segments are given the casing that ARM documents, whatever was typed.
    pub fn parse(id: &str) -> Result<Self, InvalidResourceId> {
        let refuse = |reason| InvalidResourceId {
            id: id.chars().take(200).collect(),
            reason,
        };
        if !id.starts_with('/') {
            return Err(refuse("it must start with '/'"));
        }
        let mut segments: Vec<&str> = split_path(id).collect();
        if segments
            .iter()
            .any(|segment| segment.chars().any(char::is_control))
        {
            return Err(refuse("it contains a control character"));
        }
        let expect = |at: usize, word: &str| {
            segments
                .get(at)
                .is_none_or(|segment| segment.eq_ignore_ascii_case(word))
        };
        if segments.is_empty() || !expect(0, "subscriptions") {
            return Err(refuse("it must start with /subscriptions/{subscriptionId}"));
        }
        if !expect(2, "resourceGroups") || !expect(4, "providers") {
            return Err(refuse(
                "after the subscription come /resourceGroups/{name} and /providers/{namespace}/{type}/{name}",
            ));
        }
        let complete = match segments.len() {
            2 | 4 => true,
            length => length >= 8 && length.is_multiple_of(2),
        };
        if !complete {
            return Err(refuse("a name is missing at its end"));
        }
        for (at, word) in [
            (0, "subscriptions"),
            (2, "resourceGroups"),
            (4, "providers"),
        ] {
            if let Some(segment) = segments.get_mut(at) {
                *segment = word;
            }
        }
        let text = format!("/{}", segments.join("/"));
        Ok(Self {
            key: canonical_key(&text),
            text,
        })
    }

    pub fn subscription(subscription_id: uuid::Uuid) -> Self {
        Self::of(format!("/subscriptions/{subscription_id}"))
    }

    pub fn resource_group(subscription_id: uuid::Uuid, name: &str) -> Self {
        Self::of(format!(
            "/subscriptions/{subscription_id}/resourceGroups/{name}"
        ))
    }

    /// A resource of a provider, `resource_type` being the full one (`Microsoft.ContainerRegistry/registries`).
    pub fn resource(
        subscription_id: uuid::Uuid,
        group: &str,
        resource_type: &str,
        name: &str,
    ) -> Self {
        Self::of(format!(
            "/subscriptions/{subscription_id}/resourceGroups/{group}/providers/{resource_type}/{name}"
        ))
    }

    fn of(text: String) -> Self {
        Self {
            key: canonical_key(&text),
            text,
        }
    }

    /// The canonical key: what stored `*_key` columns hold and what is compared.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The last segment.
    pub fn name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }
}

impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for ResourceId {}

impl fmt::Display for ResourceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// The name of a resource group: 1 to 90 letters, digits and `- _ ( ) .`, not ending in a full stop (R3, R52).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceGroupName(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "The provided resource group name '{0}' is invalid. It must have 1 to 90 characters, only letters, digits, '-', '_', '(', ')' and '.', and must not end with '.'."
)]
pub struct InvalidResourceGroupName(pub String);

impl ResourceGroupName {
    pub fn parse(name: &str) -> Result<Self, InvalidResourceGroupName> {
        let valid = (1..=90).contains(&name.chars().count())
            && name
                .chars()
                .all(|character| character.is_alphanumeric() || "-_().".contains(character))
            && !name.ends_with('.');
        if valid {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidResourceGroupName(name.chars().take(100).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn key(&self) -> String {
        canonical_key(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REGISTRY: &str =
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/r";

    #[test]
    fn ids_compare_whatever_their_case_and_slashes() {
        let id = ResourceId::parse(REGISTRY);
        let typed = ResourceId::parse(
            "/SUBSCRIPTIONS/S//resourcegroups/G/providers/microsoft.containerregistry//registries/R/",
        );
        assert!(id.is_ok());
        assert_eq!(id, typed);
    }

    #[test]
    fn incomplete_ids_are_refused() {
        for text in [
            "",
            "/",
            "subscriptions/s",
            "/subscriptions",
            "/subscriptions/s/resourceGroups",
            "/a/b",
            "/subscriptions/s/resourceGroups/g/providers/p",
            "/subscriptions/s/resourceGroups/g/providers/p/t",
            "/subscriptions/s/providers/p/t/n",
        ] {
            assert!(ResourceId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn group_names_follow_the_rule() {
        for name in ["g", "my-group_(1).x", "Grüße"] {
            assert!(ResourceGroupName::parse(name).is_ok(), "{name}");
        }
        for name in ["", "a.", "a b", "a/b", &"x".repeat(91)] {
            assert!(ResourceGroupName::parse(name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,120}") {
            if let Ok(id) = ResourceId::parse(&text) {
                prop_assert_eq!(ResourceId::parse(id.as_str()), Ok(id.clone()));
                prop_assert_eq!(id.key(), canonical_key(id.as_str()));
            }
        }
    }
}

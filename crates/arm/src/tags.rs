use std::collections::BTreeMap;

use crate::ErrorDetail;

/// A resource's tags: at most 50, names without `< > % & \ ? /` and control characters, unique whatever their case (R24, R52a).
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Tags(BTreeMap<String, String>);

/// Every fault of a set of tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTags(pub Vec<ErrorDetail>);

const MAXIMUM_TAGS: usize = 50;
const MAXIMUM_NAME_CHARACTERS: usize = 512;
const MAXIMUM_VALUE_CHARACTERS: usize = 256;

impl Tags {
    /// Checks what a caller sent; `null` values count as empty text, as ARM takes them.
    pub fn parse(tags: BTreeMap<String, Option<String>>) -> Result<Self, InvalidTags> {
        let mut faults = Vec::new();
        let mut fault =
            |message: String| faults.push(ErrorDetail::new("InvalidTags", message, "tags"));
        if tags.len() > MAXIMUM_TAGS {
            fault(format!(
                "The resource has {} tags; at most {MAXIMUM_TAGS} are allowed.",
                tags.len()
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        for (name, value) in &tags {
            if name.trim().is_empty() || name.chars().count() > MAXIMUM_NAME_CHARACTERS {
                fault(format!(
                    "A tag name must have 1 to {MAXIMUM_NAME_CHARACTERS} characters."
                ));
            } else if let Some(character) = name
                .chars()
                .find(|character| "<>%&\\?/".contains(*character) || character.is_control())
            {
                fault(format!(
                    "The tag name '{name}' contains {character:?}, which tag names may not contain."
                ));
            }
            if value
                .as_ref()
                .is_some_and(|value| value.chars().count() > MAXIMUM_VALUE_CHARACTERS)
            {
                fault(format!(
                    "The value of tag '{name}' is longer than {MAXIMUM_VALUE_CHARACTERS} characters."
                ));
            }
            if !seen.insert(crate::canonical_key(name)) {
                fault(format!(
                    "The tag name '{name}' is given twice in different case."
                ));
            }
        }
        if faults.is_empty() {
            Ok(Self(
                tags.into_iter()
                    .map(|(name, value)| (name, value.unwrap_or_default()))
                    .collect(),
            ))
        } else {
            Err(InvalidTags(faults))
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

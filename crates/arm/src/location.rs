use std::fmt;

/// The name of a region, in the canonical form: lower case without blanks ("West US" is `westus`, R21).
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Location(String);

impl Location {
    /// Normalises what a caller typed. Whether such a region exists is for the service to know.
    pub fn normalise(text: &str) -> Self {
        Self(
            text.chars()
                .filter(|character| !character.is_whitespace())
                .collect::<String>()
                .to_lowercase(),
        )
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

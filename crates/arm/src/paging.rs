use serde::Serialize;

/// One page of a list: `nextLink` is left out on the last one, never empty (R33).
#[derive(Debug, Clone, Serialize)]
pub struct Page<T> {
    pub value: Vec<T>,
    #[serde(rename = "nextLink", skip_serializing_if = "Option::is_none")]
    pub next_link: Option<String>,
}

impl<T> Page<T> {
    /// A list that fits one page.
    pub fn single(value: Vec<T>) -> Self {
        Self {
            value,
            next_link: None,
        }
    }
}

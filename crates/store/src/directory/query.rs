//! Which objects of the directory a list is asked for.

use uuid::Uuid;

/// The conditions of a list: it has the objects that meet every one. A list of one kind of object passes over conditions on properties that
/// its kind does not have; whoever asks does not set them.
#[derive(Debug, Clone, Default)]
pub struct ObjectQuery {
    /// One of these.
    pub object_ids: Option<Vec<Uuid>>,
    /// Of applications and service principals.
    pub app_id: Option<Uuid>,
    /// Of people. Compares case-insensitively, as all names do.
    pub user_principal_name: Option<String>,
    pub user_principal_name_starts_with: Option<String>,
    /// Of people and groups.
    pub mail_nickname: Option<String>,
    pub display_name: Option<String>,
    pub display_name_starts_with: Option<String>,
    /// Of people and service principals.
    pub enabled: Option<bool>,
    /// Only objects with a greater object id: where the page before ended.
    pub after: Uuid,
    pub limit: i64,
}

impl ObjectQuery {
    /// The object with that id.
    pub fn one(object_id: Uuid) -> Self {
        Self {
            object_ids: Some(vec![object_id]),
            limit: 1,
            ..Self::default()
        }
    }

    /// The objects with these ids.
    pub fn these(object_ids: Vec<Uuid>) -> Self {
        Self {
            limit: i64::try_from(object_ids.len()).unwrap_or(i64::MAX),
            object_ids: Some(object_ids),
            ..Self::default()
        }
    }

    pub(super) fn name_key(&self) -> Option<String> {
        self.display_name.as_deref().map(arm::canonical_key)
    }

    pub(super) fn name_pattern(&self) -> Option<String> {
        self.display_name_starts_with.as_deref().map(pattern)
    }

    pub(super) fn user_principal_name_key(&self) -> Option<String> {
        self.user_principal_name.as_deref().map(arm::canonical_key)
    }

    pub(super) fn user_principal_name_pattern(&self) -> Option<String> {
        self.user_principal_name_starts_with.as_deref().map(pattern)
    }

    pub(super) fn mail_nickname_key(&self) -> Option<String> {
        self.mail_nickname.as_deref().map(arm::canonical_key)
    }
}

/// A pattern that matches the keys of names beginning with `prefix`.
fn pattern(prefix: &str) -> String {
    starting_with(&arm::canonical_key(prefix))
}

/// A pattern that matches keys beginning with `prefix`.
fn starting_with(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for character in prefix.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_matched_literally() {
        assert_eq!(starting_with("ci_50%\\"), "ci\\_50\\%\\\\%");
        assert_eq!(starting_with(""), "%");
    }
}

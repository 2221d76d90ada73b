//! What lists share: they leave out what the caller may not read, and come in pages.

use arm::{ApiError, Page};
use rbac::{Action, RoleDefinition, Scope};
use serde_json::Value;

use crate::App;
use crate::front_door::{Request, Rights, store_error};
use crate::limits::PAGE_SIZE;

/// Everything that the caller of a list may see.
pub(crate) struct Visibility(Rights);

impl Visibility {
    pub(crate) async fn load(app: &App, request: &Request) -> Result<Self, ApiError> {
        let principal_id = request.caller().object_id;
        let held = app
            .store
            .roles_held(principal_id)
            .await
            .map_err(store_error)?;
        Ok(Self(Rights::of(principal_id, held)))
    }

    /// Whether the caller may do the action at the scope.
    pub(crate) fn allows(&self, scope: &str, action: &'static str) -> bool {
        Scope::parse(scope).is_ok_and(|scope| self.0.allow(&scope, &Action::named(action)))
    }

    /// The keys of the scopes at which a role allows the caller the action; it may do it below them too.
    pub(crate) fn scopes_allowing(&self, action: &'static str) -> Vec<String> {
        self.0
            .scope_keys()
            .filter(|key| self.allows(key, action))
            .map(str::to_owned)
            .collect()
    }

    /// The roles that count at a scope, one for each assignment.
    pub(crate) fn roles_at(&self, scope: &Scope) -> Vec<&RoleDefinition> {
        self.0.roles_at(scope).collect()
    }

    /// Whether the caller has any role at the scope, above it or below it.
    pub(crate) fn touches(&self, scope: &str) -> bool {
        Scope::parse(scope).is_ok_and(|scope| self.0.touch(&scope))
    }
}

/// How many rows a page is made of: `$top`, as far as one page goes.
///
/// # Errors
/// A `$top` that is no number above 0.
pub(crate) fn page_size(request: &Request) -> Result<i64, ApiError> {
    let Some(text) = request.query("$top") else {
        return Ok(PAGE_SIZE);
    };
    match text.parse::<u64>() {
        Ok(top) if top > 0 => Ok(i64::try_from(top).map_or(PAGE_SIZE, |top| top.min(PAGE_SIZE))),
        _ => Err(ApiError::invalid(
            "InvalidTopParameter",
            format!("The $top '{text}' is invalid: it must be a whole number, 1 or more."),
        )
        .with_target("$top")),
    }
}

/// Whether the store gave as many rows as were asked for, so that there may be more.
pub(crate) fn is_full(rows: usize, limit: i64) -> bool {
    usize::try_from(limit).is_ok_and(|limit| rows >= limit)
}

/// A page of a list. `token` names the row that the next page starts after, unless this one is the last.
pub(crate) fn page(
    app: &App,
    request: &Request,
    token: Option<String>,
    value: Vec<Value>,
) -> Page<Value> {
    let next_link = token.map(|token| {
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let mut query: Vec<String> = request
            .query
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("$skiptoken"))
            .map(|(name, value)| {
                format!(
                    "{}={}",
                    encode(name).replace("%24", "$").replace("%2D", "-"),
                    encode(value)
                )
            })
            .collect();
        query.push(format!("$skiptoken={}", encode(&token)));
        let path: String = request
            .segments
            .iter()
            .map(|segment| format!("/{}", encode(segment).replace("%2D", "-")))
            .collect();
        format!("{}{path}?{}", app.installation.public_url, query.join("&"))
    });
    Page { value, next_link }
}

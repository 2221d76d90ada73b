//! What lists share: they leave out what the caller may not read, and come in pages.

use arm::{ApiError, Page};
use rbac::{Action, Scope};
use serde_json::Value;
use store::access::AssignedRole;
use uuid::Uuid;

use crate::App;
use crate::front_door::{Request, permitted, store_error};
use crate::limits::PAGE_SIZE;

/// Everything that the caller of a list may see.
pub(crate) struct Visibility {
    principal_id: Uuid,
    assignments: Vec<AssignedRole>,
}

impl Visibility {
    pub(crate) async fn load(app: &App, request: &Request) -> Result<Self, ApiError> {
        let principal_id = request.caller().object_id;
        let assignments = app
            .store
            .access_assignments(principal_id)
            .await
            .map_err(store_error)?;
        Ok(Self {
            principal_id,
            assignments,
        })
    }

    /// Whether the caller may do the action at the scope.
    pub(crate) fn allows(&self, scope: &str, action: &'static str) -> bool {
        Scope::parse(scope).is_ok_and(|scope| {
            permitted(
                &self.assignments,
                self.principal_id,
                &scope,
                &Action::named(action),
            )
        })
    }

    /// Whether the caller has any role at the scope, above it or below it.
    pub(crate) fn touches(&self, scope_key: &str) -> bool {
        let below = format!("{scope_key}/");
        self.assignments.iter().any(|assigned| {
            assigned.scope_key == scope_key
                || assigned.scope_key.starts_with(&below)
                || assigned.scope_key == "/"
                || scope_key.starts_with(&format!("{}/", assigned.scope_key))
        })
    }
}

/// A page of a list. `rows` is what the store gave for one page, before anything was left out; `token` names the row that the next page
/// starts after.
pub(crate) fn page(
    app: &App,
    request: &Request,
    rows: usize,
    token: Option<String>,
    value: Vec<Value>,
) -> Page<Value> {
    let next_link = token
        .filter(|_| rows == usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX))
        .map(|token| {
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

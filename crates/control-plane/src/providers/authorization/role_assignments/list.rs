//! Lists of role assignments: those at a scope, above it and below it, of anybody or of one principal.

use std::sync::Arc;

use arm::{ApiError, Filter, Term};
use rbac::Scope;
use store::access::PrincipalKind;
use store::role_assignments::RoleAssignmentFilter;
use uuid::Uuid;

use super::super::shorten;
use super::{body, scope_of};
use crate::App;
use crate::front_door::{Answer, Request, store_error};
use crate::providers::{is_full, page, page_size};

/// What a filter asks for; a principal's groups are not looked up yet.
struct Asked {
    filter: RoleAssignmentFilter,
    principal: Option<Uuid>,
    /// By `assignedTo`, which assignments of the principal's groups meet too.
    is_assigned_to: bool,
    /// By `principalId`, which the principal's own meet only.
    is_direct: bool,
}

fn invalid_filter(message: String) -> ApiError {
    ApiError::invalid("BadRequestFormat", message).with_target("$filter")
}

fn filter_of(request: &Request, scope: &Scope) -> Result<Asked, ApiError> {
    let mut asked = Asked {
        filter: RoleAssignmentFilter {
            chain: scope.ancestors_and_self().map(str::to_owned).collect(),
            below: Some(scope.key().to_owned()),
            principal_ids: None,
        },
        principal: None,
        is_assigned_to: false,
        is_direct: false,
    };
    let invalid = invalid_filter;
    let Some(text) = request
        .query("$filter")
        .filter(|text| !text.trim().is_empty())
    else {
        return Ok(asked);
    };
    for term in Filter::parse(text)
        .map_err(|error| invalid(error.to_string()))?
        .0
    {
        let principal = match term {
            Term::Call {
                function,
                argument: None,
            } if function == "atscope" => {
                asked.filter.below = None;
                continue;
            }
            Term::Call {
                function,
                argument: Some(principal),
            } if function == "assignedto" => {
                asked.is_assigned_to = true;
                principal
            }
            Term::Equals { property, value } if property == "principalid" => {
                asked.is_direct = true;
                value
            }
            _ => {
                return Err(invalid(
                    "Role assignments are filtered by atScope(), assignedTo('…') and principalId eq '…' only.".to_owned(),
                ));
            }
        };
        let principal = Uuid::try_parse(&principal).map_err(|_| {
            invalid(format!(
                "The principal '{}' of the filter is not a GUID.",
                shorten(&principal)
            ))
        })?;
        if asked.principal.is_some_and(|known| known != principal) {
            return Err(invalid(
                "The filter asks for two principals; an assignment has one.".to_owned(),
            ));
        }
        asked.principal = Some(principal);
    }
    Ok(asked)
}

/// The filter with the principals whose assignments are asked for.
async fn with_principals(app: &App, asked: Asked) -> Result<RoleAssignmentFilter, ApiError> {
    let mut filter = asked.filter;
    let Some(principal) = asked.principal else {
        return Ok(filter);
    };
    let mut ids = vec![principal];
    if asked.is_assigned_to {
        match app
            .store
            .principal_with_groups(principal)
            .await
            .map_err(store_error)?
        {
            Some((PrincipalKind::Group, _)) => {
                return Err(invalid_filter(format!(
                    "assignedTo() takes a user or a service principal, and '{principal}' is a group. Use principalId eq '{principal}'."
                )));
            }
            Some((_, groups)) if !asked.is_direct => ids.extend(groups),
            _ => {}
        }
    }
    filter.principal_ids = Some(ids);
    Ok(filter)
}

pub(super) async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let (scope, _) = scope_of(&request)?;
    let filter = with_principals(&app, filter_of(&request, &scope)?).await?;
    let limit = page_size(&request)?;
    let after = match request.query("$skiptoken") {
        None => Uuid::nil(),
        Some(token) => Uuid::try_parse(token).map_err(|_| {
            ApiError::invalid(
                "InvalidSkipToken",
                format!(
                    "The $skiptoken '{}' is not one that this service gave.",
                    shorten(token)
                ),
            )
            .with_target("$skiptoken")
        })?,
    };
    let assignments = app
        .store
        .role_assignment_list(&filter, after, limit)
        .await
        .map_err(store_error)?;
    let token = assignments
        .last()
        .map(|assignment| assignment.name.to_string());
    let value = assignments
        .iter()
        .map(|assignment| serde_json::to_value(body(&request, assignment)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(ApiError::internal)?;
    let is_full = is_full(assignments.len(), limit);
    Answer::ok(&page(&app, &request, token.filter(|_| is_full), value))
}

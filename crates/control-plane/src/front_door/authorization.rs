//! Decides about access from an operation's declaration and the facts of the store, by the same call as nodes do.

use arm::{ApiError, Kind};
use rbac::{Action, Scope};
use store::access::{AccessFacts, Credential, ScopeKeys};
use time::OffsetDateTime;
use uuid::Uuid;

use super::authentication::revoked;
use super::{Access, Caller, DirectoryRight, PathScope, Protocol, Request, Rights, store_error};
use crate::App;

/// What the path of a request says about the scope.
pub(crate) struct Target {
    pub(crate) scope: Scope,
    pub(crate) keys: ScopeKeys,
}

/// The scope that a path's first segments name.
///
/// # Errors
/// A subscription id that is not a GUID, or a name that cannot be one.
pub(crate) fn target(path_scope: PathScope, segments: &[String]) -> Result<Target, ApiError> {
    let own = &segments[..path_scope.segments().min(segments.len())];
    let scope = Scope::parse(&format!("/{}", own.join("/")))
        .map_err(|error| ApiError::invalid("InvalidScope", error.to_string()))?;
    let subscription_id = own.get(1).map(|text| subscription_id(text)).transpose()?;
    let keys = ScopeKeys {
        chain: scope.ancestors_and_self().map(str::to_owned).collect(),
        subscription_id,
        resource_group: own.get(3).map(|name| arm::canonical_key(name)),
        registry: own.get(7).map(|name| arm::canonical_key(name)),
    };
    Ok(Target { scope, keys })
}

/// A GUID in its one canonical form, in any case: scopes, and what the activity log names, are compared as text, so the other forms (braced,
/// without dashes) would name the same thing by another key.
pub(crate) fn hyphenated(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text)
        .ok()
        .filter(|id| id.to_string().eq_ignore_ascii_case(text))
}

/// A subscription's id in a path.
pub(crate) fn subscription_id(text: &str) -> Result<Uuid, ApiError> {
    hyphenated(text).ok_or_else(|| {
        ApiError::invalid(
            "InvalidSubscriptionId",
            format!("The provided subscription identifier '{text}' is malformed or invalid: it must be a GUID."),
        )
        .with_target("subscriptionId")
    })
}

/// The caller, once it may do what the operation declares, and the facts that were loaded to decide.
pub(crate) struct Decided {
    pub(crate) caller: Caller,
    pub(crate) facts: AccessFacts,
}

/// Who asks, for what.
pub(crate) struct Question<'a> {
    pub(crate) access: Access,
    pub(crate) protocol: Protocol,
    pub(crate) segments: &'a [String],
    /// The path's `{objectId}`, for rights of ownership.
    pub(crate) object_id: Option<&'a str>,
    pub(crate) object_id_of_caller: Uuid,
    pub(crate) key_id: Uuid,
    pub(crate) now: OffsetDateTime,
}

/// Loads the facts and decides. Public operations and those of nodes do not come here.
pub(crate) async fn decide(app: &App, question: &Question<'_>) -> Result<Decided, ApiError> {
    if let [first, id, ..] = question.segments
        && first.eq_ignore_ascii_case("subscriptions")
    {
        subscription_id(id)?;
    }
    let target = match question.access {
        Access::Action { scope, .. } => Some(target(scope, question.segments)?),
        // A list at a subscription or group still wants to know whether they exist.
        Access::FilteredList(_) => Some(target(list_scope(question.segments), question.segments)?),
        _ => None,
    };
    let none = ScopeKeys::default();
    let keys = target.as_ref().map_or(&none, |target| &target.keys);
    let credential = Credential {
        object_id: question.object_id_of_caller,
        key_id: question.key_id,
    };
    let mut facts = app
        .store
        .access_facts(credential, keys, question.now)
        .await
        .map_err(store_error)?;
    let Some(known) = facts.caller.take().filter(|_| facts.credential_is_good) else {
        return Err(revoked());
    };
    let has = |role: &str| facts.directory_roles.iter().any(|known| known == role);
    let caller = Caller {
        object_id: question.object_id_of_caller,
        kind: known.kind,
        name: known.name,
        key_id: question.key_id,
        is_directory_administrator: has("administrator"),
        is_application_administrator: has("application-administrator"),
    };
    match question.access {
        Access::Public | Access::Node | Access::AnyPrincipal | Access::FilteredList(_) => {}
        Access::Directory(right) => directory(app, question, &caller, right).await?,
        Access::Action { action, .. } => {
            let scope = target.map_or_else(Scope::root, |target| target.scope);
            let rights = Rights::of(caller.object_id, std::mem::take(&mut facts.held));
            if !rights.allow(&scope, &Action::named(action)) {
                return Err(forbidden(&caller, action, scope.as_str()));
            }
        }
    }
    Ok(Decided { caller, facts })
}

/// Decides once more about a request that did slow work after it was let in: whoever lost the right meanwhile changes nothing with it.
///
/// # Errors
/// As the first time.
pub(crate) async fn decide_again(app: &App, request: &Request) -> Result<(), ApiError> {
    let caller = request.caller();
    let object_id = request
        .parameters
        .iter()
        .find(|(name, _)| name == "objectId");
    let question = Question {
        access: request.access,
        protocol: request.protocol,
        segments: &request.segments,
        object_id: object_id.map(|(_, value)| value.as_str()),
        object_id_of_caller: caller.object_id,
        key_id: caller.key_id,
        now: (app.clock)(),
    };
    decide(app, &question).await.map(|_| ())
}

/// The part of a list's path that can be a scope.
fn list_scope(segments: &[String]) -> PathScope {
    let word = |at: usize, word: &str| {
        segments
            .get(at)
            .is_some_and(|segment| segment.eq_ignore_ascii_case(word))
    };
    if word(0, "subscriptions") && word(2, "resourceGroups") && segments.len() >= 4 {
        PathScope::ResourceGroup
    } else if word(0, "subscriptions") && segments.len() >= 2 {
        PathScope::Subscription
    } else {
        PathScope::Root
    }
}

/// ARM's answer to a caller without the right, whether the resource exists or not.
pub(crate) fn forbidden(caller: &Caller, action: &str, scope: &str) -> ApiError {
    ApiError::new(
        Kind::Forbidden,
        "AuthorizationFailed",
        format!(
            "The client '{}' with object id '{}' does not have authorization to perform action '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
            caller.name, caller.object_id
        ),
    )
}

async fn directory(
    app: &App,
    question: &Question<'_>,
    caller: &Caller,
    right: DirectoryRight,
) -> Result<(), ApiError> {
    let allowed = match right {
        DirectoryRight::Read | DirectoryRight::OwnAccount => true,
        _ if caller.is_directory_administrator => true,
        DirectoryRight::CreateApplication => {
            caller.is_application_administrator || app.settings.self_service_applications
        }
        DirectoryRight::Administer => false,
        DirectoryRight::Own => match question.object_id.and_then(hyphenated) {
            Some(object_id) => app
                .store
                .directory_manages(object_id, caller.object_id)
                .await
                .map_err(store_error)?,
            None => false,
        },
    };
    if allowed {
        return Ok(());
    }
    let code = match question.protocol {
        Protocol::Graph => "Authorization_RequestDenied",
        _ => "AuthorizationFailed",
    };
    let needed = match right {
        DirectoryRight::Own => {
            "Only owners of the object, directory administrators and, where it is an application or its service principal, application administrators may do this."
        }
        _ => "Only directory administrators may do this.",
    };
    Err(ApiError::new(
        Kind::Forbidden,
        code,
        format!("Insufficient privileges to complete the operation. {needed}"),
    ))
}

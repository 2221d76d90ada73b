//! An operation as data: its path, versions, access and schemas. Routes, the OpenAPI document and the access walk are made from the same
//! table, so no handler can be reached unchecked and none is missing from the document.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use utoipa::openapi::{RefOr, Schema};

use super::{Answer, Request};
use crate::App;

pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Answer, ApiError>>>>;
pub(crate) type Handler = Box<dyn Fn(Arc<App>, Request) -> HandlerFuture + Send + Sync>;

/// The schema of a body with its name, then, with theirs, the schemas that it refers to.
pub type NamedSchemas = fn() -> Vec<(String, RefOr<Schema>)>;

fn named_schemas<T: utoipa::ToSchema>() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    schemas
}

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody is asked who they are.
    Public,
    /// Whoever has a valid token; the operation shows nothing that rights decide.
    AnyPrincipal,
    /// A list that leaves out what the caller may not read by this action; never 403.
    FilteredList(&'static str),
    /// A right in the directory, which RBAC has no scope for.
    Directory(DirectoryRight),
    /// An ARM action at the scope that the path's first segments name.
    Action {
        action: &'static str,
        scope: PathScope,
    },
    /// A node with its own credential, or with a join token.
    Node,
}

/// A right in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryRight {
    /// Every principal of the tenant.
    Read,
    /// Every principal while the setting "teams help themselves" is on, otherwise directory administrators.
    CreateApplication,
    /// The owners of the object that the path's `{objectId}` names, and directory administrators.
    Own,
    /// Every principal, of itself only.
    OwnAccount,
    Administer,
}

/// How much of the path is the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathScope {
    /// The tenant's root, `/`.
    Root,
    /// `/subscriptions/{id}`
    Subscription,
    /// `/subscriptions/{id}/resourceGroups/{name}`
    ResourceGroup,
    /// `/subscriptions/{id}/resourceGroups/{name}/providers/{namespace}/{type}/{name}`
    Resource,
}

impl PathScope {
    /// How many leading segments of the path make the scope.
    pub fn segments(self) -> usize {
        match self {
            Self::Root => 0,
            Self::Subscription => 2,
            Self::ResourceGroup => 4,
            Self::Resource => 8,
        }
    }
}

/// Whose error shape and conventions an operation follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Azure Resource Manager: api-version required, ARM's error body.
    Arm,
    /// Microsoft Graph: no api-version, Graph's error body.
    Graph,
    /// OAuth 2: RFC 6749's error body.
    OAuth,
    /// Our own: no api-version, ARM's error body.
    Own,
}

pub struct Operation {
    pub id: &'static str,
    pub method: Method,
    /// `/subscriptions/{subscriptionId}/…`; literal segments match whatever their case.
    pub path: String,
    pub protocol: Protocol,
    /// The API versions that are answered, newest first; empty for protocols without.
    pub versions: &'static [&'static str],
    /// The resource type, for the error that lists supported versions (`registries`).
    pub resource_type: &'static str,
    pub access: Access,
    pub summary: &'static str,
    /// Query parameters beyond `api-version`.
    pub query: &'static [&'static str],
    pub request_schema: Option<NamedSchemas>,
    /// Success statuses with what they carry.
    pub answers: Vec<(u16, Option<NamedSchemas>)>,
    /// Whether, where it publishes nothing, it may repeat a call that did and whose answer was lost: then it waits for what was published
    /// before it.
    pub(crate) may_repeat_a_change: bool,
    /// Whether its handler logs what came of it, so that the line that every request has is for debugging only.
    pub(crate) has_own_log: bool,
    pub(crate) handler: Handler,
}

impl Operation {
    pub(crate) fn new<F, R>(
        id: &'static str,
        method: Method,
        path: impl Into<String>,
        access: Access,
        summary: &'static str,
        handler: F,
    ) -> Self
    where
        F: Fn(Arc<App>, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Answer, ApiError>> + 'static,
    {
        Self {
            id,
            method,
            path: path.into(),
            protocol: Protocol::Arm,
            versions: &[],
            resource_type: "",
            access,
            summary,
            query: &[],
            request_schema: None,
            answers: Vec::new(),
            may_repeat_a_change: true,
            has_own_log: false,
            handler: Box::new(move |app, request| Box::pin(handler(app, request))),
        }
    }

    /// The type of resource in errors about versions, and the versions that are answered, newest first.
    pub(crate) fn versions(
        mut self,
        resource_type: &'static str,
        versions: &'static [&'static str],
    ) -> Self {
        self.resource_type = resource_type;
        self.versions = versions;
        self
    }

    /// It is of nodes, or changes nothing that they know.
    pub(crate) fn repeats_no_change(mut self) -> Self {
        self.may_repeat_a_change = false;
        self
    }

    pub(crate) fn has_own_log(mut self) -> Self {
        self.has_own_log = true;
        self
    }

    pub(crate) fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    pub(crate) fn query(mut self, names: &'static [&'static str]) -> Self {
        self.query = names;
        self
    }

    /// The schema of the request's JSON body.
    pub(crate) fn takes<T: utoipa::ToSchema>(mut self) -> Self {
        self.request_schema = Some(named_schemas::<T>);
        self
    }

    /// A success status with a JSON body.
    pub(crate) fn answers<T: utoipa::ToSchema>(mut self, status: u16) -> Self {
        self.answers.push((status, Some(named_schemas::<T>)));
        self
    }

    /// A success status without a body.
    pub(crate) fn answers_empty(mut self, status: u16) -> Self {
        self.answers.push((status, None));
        self
    }
}

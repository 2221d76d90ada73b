//! The directory: the part of Microsoft Graph v1.0 behind `az ad`, and the look-up of assignees.
//!
//! Objects are applications, service principals, people and groups. What is not built is refused, never answered with nothing. Rights in the
//! directory are declared on the operations; only what depends on a body is checked in a handler.

mod applications;
mod body;
mod errors;
mod federated_credentials;
mod groups;
mod hashing;
mod key_credentials;
mod objects;
mod organization;
mod own_password;
mod passwords;
mod query;
mod references;
mod relations;
mod roles;
mod service_principals;
mod times;
mod users;

pub(crate) use errors::unknown_path;

use uuid::Uuid;

use crate::App;
use crate::front_door::{Operation, Request, decide_again};
use arm::ApiError;

pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = applications::operations();
    operations.extend(service_principals::operations());
    operations.extend(passwords::operations());
    operations.extend(users::operations());
    operations.extend(own_password::operations());
    operations.extend(groups::operations());
    operations.extend(references::operations());
    operations.extend(objects::operations());
    operations.extend(relations::operations());
    operations.extend(federated_credentials::operations());
    operations.extend(roles::operations());
    operations.extend(organization::operations());
    operations
        .into_iter()
        .map(|operation| operation.protocol(crate::front_door::Protocol::Graph))
        .collect()
}

/// Why a caller that was deleted while it made something gets nothing: what it made would be nobody's.
async fn caller_gone(app: &App, request: &Request) -> ApiError {
    let decided = decide_again(app, request).await;
    decided.err().unwrap_or_else(|| {
        errors::not_found("user or service principal", request.caller().object_id)
    })
}

/// The object that the path names.
fn object_id(request: &Request) -> Result<Uuid, ApiError> {
    errors::id_in_path(request, "objectId")
}

//! The directory: the part of Microsoft Graph v1.0 behind `az ad app`, `az ad sp` and the look-up of assignees.
//!
//! Objects are applications and service principals. People, groups and certificates are not built: what asks for them is refused, never
//! answered with nothing, but for a look-up by a user's full name, which truly finds nobody. Rights in the directory are declared on the operations; only what depends on a body is checked in a handler.

mod applications;
mod body;
mod errors;
mod object_lookup;
mod passwords;
mod query;
mod service_principals;

pub(crate) use errors::unknown_path;

use uuid::Uuid;

use crate::front_door::{Operation, Request};
use arm::ApiError;

pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = applications::operations();
    operations.extend(service_principals::operations());
    operations.extend(passwords::operations());
    operations.extend(object_lookup::operations());
    operations
        .into_iter()
        .map(|operation| operation.protocol(crate::front_door::Protocol::Graph))
        .collect()
}

/// The object that the path names.
fn object_id(request: &Request) -> Result<Uuid, ApiError> {
    errors::guid(request.parameter("objectId"), "object identifier")
}

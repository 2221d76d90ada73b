//! `Microsoft.ContainerRegistry`: registries, their admin account's credentials, what they store, and the check of a name.

mod credentials;
mod model;
mod name_availability;
mod registries;
mod retention;
mod usages;
mod validation;
mod versions;

use crate::front_door::Operation;

pub(crate) use versions::VERSIONS;

/// The action that reading a registry needs; lists leave out registries without it.
pub(crate) const READ: &str = "Microsoft.ContainerRegistry/registries/read";

pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = registries::operations();
    operations.extend(credentials::operations());
    operations.extend(usages::operations());
    operations.extend(name_availability::operations());
    operations
}

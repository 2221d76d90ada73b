//! The resource providers, one module a namespace, one file a resource type.

pub(crate) mod authorization;
pub(crate) mod container_registry;
pub(crate) mod insights;
pub(crate) mod resources;
mod visibility;

use crate::front_door::Operation;

/// The operations of every provider.
pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = resources::operations();
    operations.extend(container_registry::operations());
    operations.extend(authorization::operations());
    operations.extend(insights::operations());
    operations
}

pub(crate) use visibility::{Visibility, is_full, page, page_size};

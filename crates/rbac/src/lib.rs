//! Who may do what at which scope: one evaluation of access for both planes.
//!
//! Pure: scopes, action patterns, role definitions, role assignments, their conditions and the decision over them.
//! The control plane loads candidates from its database, a node takes them from its index; both
//! decide by [`decide`] (or [`decide_data`]), so that they can never disagree. Where the facts come
//! from does not belong here.

mod action;
mod built_in;
mod condition;
mod decision;
pub mod limits;
pub mod registry;
mod role;
mod scope;

pub use action::{Action, ActionPattern, InvalidAction, InvalidActionPattern};
pub use built_in::built_in_roles;
pub use condition::{Condition, InvalidCondition};
pub use decision::{Candidate, Closure, closure, decide, decide_data, permits, permits_data};
pub use role::{Permission, RoleAssignment, RoleDefinition, RoleKind};
pub use scope::{InvalidScope, Scope};

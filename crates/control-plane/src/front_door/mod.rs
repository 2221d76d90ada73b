//! Everything that every request shares: ids, routing, API versions, authentication, access, errors.
//!
//! A request passes the steps of [`dispatch`] in their order there. What is of one resource type only does not belong here.

mod activity;
mod authentication;
mod authorization;
mod body;
mod cors;
mod dispatch;
mod errors;
mod lookup;
mod openapi;
mod operation;
mod request;
mod rights;
mod router;

pub(crate) use authorization::{decide_again, hyphenated, subscription_id};
pub(crate) use dispatch::dispatch;
pub(crate) use errors::store_error;
pub use openapi::document;
pub use operation::{Access, DirectoryRight, NamedSchemas, Operation, PathScope, Protocol};
pub(crate) use request::{Answer, Caller, Request};
pub(crate) use rights::{Rights, built_in_role};
pub use router::Router;

use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;

use crate::App;

/// What the front door itself serves.
pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "OpenApi_Get",
            Method::GET,
            "/openapi.json",
            Access::Public,
            "Shows this document.",
            openapi_document,
        )
        .protocol(Protocol::Own)
        .answers_empty(200),
    ]
}

async fn openapi_document(app: Arc<App>, _request: Request) -> Result<Answer, ApiError> {
    Answer::ok(&document(&app.router))
}

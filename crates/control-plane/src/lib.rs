//! The control plane: ARM-compatible resource providers, the directory, sign-in, and the feed of configuration to nodes.
//!
//! [`operations`] is its table of contents: each room gives its operations as data, and routes, the OpenAPI document and the access walk
//! are made from them.

mod activity;
mod app;
mod config_feed;
mod directory;
pub mod front_door;
mod limits;
mod metrics;
pub mod people;
mod providers;
pub mod sealing;
mod server;
pub mod sign_in;
mod slow_work;

pub use app::{App, Parts, Settings, StartError};
pub use server::{Arguments, RunError, done, run, serve};

use front_door::Operation;

/// Every operation of the control plane, but for the nodes' stream, which is a WebSocket.
pub fn operations() -> Vec<Operation> {
    let mut operations = providers::operations();
    operations.extend(directory::operations());
    operations.extend(sign_in::operations());
    operations.extend(config_feed::operations());
    operations.extend(front_door::operations());
    operations
}

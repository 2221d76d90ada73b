//! The data plane of Wharfinger: a registry node.

pub mod config;
pub mod content;
pub mod gate;
pub mod limits;
pub mod metrics;
pub mod names;
pub mod oci;
mod run;

pub use run::{Arguments, StartError, run};

//! The data plane of Wharfinger: a registry node.
//!
//! A request's path: `gate` (which registry, who, may it now) decides by `config`'s index; `oci`
//! or `acr` understands and answers it; `content` keeps what it is about. [`run`] puts them together. A node
//! never needs the control plane to serve: what it knows is on its own disk.

pub mod acr;
pub mod collecting;
pub mod config;
pub mod content;
mod content_arguments;
pub mod gate;
pub mod limits;
pub mod metrics;
pub mod names;
pub mod oci;
mod open_files;
mod run;
pub mod status;
mod watching;
mod while_taken;

pub use content_arguments::{Addressing, BucketArguments, ContentArguments, ContentArgumentsError};
pub use run::{Arguments, StartError, run};

//! A world of a few repositories, blobs, manifests and tags; several clients on several nodes, and collectors, whose calls to the stores
//! a seed puts in order; a clock that is moved; and a model of what may be seen afterwards.

mod histories;
mod model;
mod random;
mod scheduler;
mod stores;
mod world;

pub(crate) use scheduler::finish;
pub(crate) use stores::{Broken, World};

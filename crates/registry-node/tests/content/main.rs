//! The content of registries and the OCI Distribution API on it, over real HTTP and a real directory, over S3 and Azurite,
//! and over stores in memory that fail where a test wants them to.

mod acr_routes;
mod buckets;
mod collection;
mod collection_crashes;
mod conformance;
mod crashes;
mod faulty_stores;
mod harness;
mod inventory;
mod local_directory;
mod locks;
#[path = "../support/lossy_proxy.rs"]
mod lossy_proxy;
mod names;
mod races;
mod record_stores;
mod repository_deletion;
mod routes;
mod simulation;
mod stored_bytes;
#[path = "../support/stores.rs"]
mod stores;
mod uploads;

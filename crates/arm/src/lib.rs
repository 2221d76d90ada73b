//! The vocabulary of the Azure Resource Manager protocol: ids, versions, locations, tags, errors, paging, filters.
//!
//! Pure: no I/O, no web framework, no knowledge of any resource provider. Rules are cited by their number in the ARM resource-provider
//! contract ("RPC") where they come from there.

mod api_version;
mod error;
mod etag;
mod filter;
mod location;
mod paging;
mod resource_id;
mod system_data;
mod tags;

pub use api_version::{ApiVersion, InvalidApiVersion};
pub use error::{ApiError, ErrorDetail, Kind};
pub use etag::{ETag, Precondition, PreconditionFailed};
pub use filter::{Bound, Filter, InvalidFilter, Term};
pub use location::Location;
pub use paging::Page;
pub use resource_id::{
    InvalidResourceGroupName, InvalidResourceId, ResourceGroupName, ResourceId, canonical_key,
    split_path,
};
pub use system_data::{CreatedByType, SystemData, format_time};
pub use tags::{InvalidTags, Tags};

/// The state of a resource towards ARM clients. Every operation here is synchronous, so a visible resource has always succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ProvisioningState {
    Succeeded,
}

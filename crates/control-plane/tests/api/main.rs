//! The control plane over HTTP, on a real Postgres. Each test has a database of its own (`DATABASE_URL` names the server).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test begins here, with the machine's clock"
)]

mod access_walk;
mod activity_log;
mod activity_log_details;
mod activity_log_rows;
mod assertions;
mod bad_input;
mod cluster;
mod config_feed;
mod config_feed_history;
mod contract;
mod custom_roles;
mod directory;
mod directory_credentials;
mod directory_limits;
mod directory_lists;
mod directory_people;
mod directory_rights;
mod held_roles;
mod key_rotation;
mod node_renewal;
mod people_sign_in;
mod registries;
mod registry_policies;
mod remembered_callers;
mod restores;
mod role_assignments;
mod sign_in;
mod sign_in_discovery;
mod stale_tokens;
mod strangers;
mod support;
mod test_node;
mod used_credentials;

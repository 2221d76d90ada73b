//! What every server process of the project shares: TLS with reload, the metrics port with health and readiness,
//! logs, the clock, shutdown, the tie to a parent process, and secrets in files.
//!
//! No domain lives here: nothing in this crate knows what a registry, a node or a principal is.

pub mod clock;
pub mod configuration;
pub mod errors;
#[cfg(feature = "faults-on-purpose")]
pub mod faults_on_purpose;
pub mod in_flight;
pub mod logs;
pub mod metrics;
pub mod observe;
pub mod parent;
pub mod readiness;
pub mod shutdown;
pub mod tls;

/// Makes aws-lc-rs the one cryptography provider of the process.
///
/// Call it first thing in `main`: a process with two providers linked in and none chosen panics at its first
/// handshake. Calling it again changes nothing.
pub fn install_crypto_provider() {
    // The error only says that a provider was installed before, and ours is the only one this project installs.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

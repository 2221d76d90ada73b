//! The gate over real HTTP and TLS: who is let in, as whom, and for how long.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod anonymous;
mod attributes;
mod chosen_secrets;
mod content_changes;
mod exchange;
mod forwarded_logins;
mod forwarding;
mod http2;
mod log;
mod logins;
mod node;
mod parsers;
mod quota;
mod refusing;
mod repositories;
mod rounds;
mod sites;
mod tokens;
mod under_load;

//! `wharfinger admin` and `wharfinger migrate`: what an operator does to an installation, by way of its database.

mod epoch;
mod init;
mod node;
mod region;

use std::path::PathBuf;

use clap::Subcommand;
use service::configuration::{ConfigurationError, DatabaseUrlArguments};
use store::{Store, StoreError};

/// Operates an installation, by way of its database
#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    #[command(subcommand)]
    Epoch(epoch::EpochCommand),
    Init(init::Arguments),
    #[command(subcommand)]
    Node(node::NodeCommand),
    #[command(subcommand)]
    Region(region::RegionCommand),
}

/// Brings the database's schema to this build's version
#[derive(clap::Args)]
pub(crate) struct MigrateArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
}

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    #[error("--key-encryption-key-file {} is no key ring", path.display())]
    KeyRing {
        path: PathBuf,
        #[source]
        source: credentials::KeyRingError,
    },
    #[error("sign-in keys cannot be made")]
    SignIn(#[from] control_plane::sign_in::SignInError),
    #[error("--{argument} '{value}' is invalid: {rule}")]
    Argument {
        argument: &'static str,
        value: String,
        rule: &'static str,
    },
    #[error(
        "the installation is initialised already, with {what} '{existing}' instead of '{given}'"
    )]
    AlreadyInitialised {
        what: &'static str,
        existing: String,
        given: String,
    },
    #[error(
        "the application with which the installation began was deleted; its secret cannot be made anew"
    )]
    BootstrapDeleted,
    #[error(
        "the bootstrap application has as many secrets as an application may; remove one first"
    )]
    TooManySecrets,
    #[error("there is no region '{0}'; `wharfinger admin region create` makes one")]
    NoSuchRegion(String),
    #[error("there is no node '{0}'; `wharfinger admin node list` shows those there are")]
    NoSuchNode(uuid::Uuid),
    /// It has been said which nodes lack it; scripts tell it from a failure by [`AdminError::exit_code`].
    #[error("the change is made, and not known to be in force everywhere")]
    NotInForce,
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

impl AdminError {
    /// What the process ends with: 3 when all that was asked for is done and some nodes may not know it yet.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotInForce => 3,
            _ => 1,
        }
    }
}

/// Runs an `admin` subcommand.
pub(crate) fn run(command: AdminCommand) -> Result<(), AdminError> {
    block_on(async {
        match command {
            AdminCommand::Epoch(command) => epoch::run(&command).await,
            AdminCommand::Init(arguments) => init::run(&arguments).await,
            AdminCommand::Node(command) => node::run(&command).await,
            AdminCommand::Region(command) => region::run(&command).await,
        }
    })
}

/// Runs `migrate`.
pub(crate) fn migrate(arguments: &MigrateArguments) -> Result<(), AdminError> {
    block_on(async { Ok(open(&arguments.database)?.migrate().await?) })
}

fn open(database: &DatabaseUrlArguments) -> Result<Store, AdminError> {
    Ok(Store::open(&database.resolve()?)?)
}

fn block_on<T>(work: impl Future<Output = Result<T, AdminError>>) -> Result<T, AdminError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AdminError::Runtime)?
        .block_on(work)
}

/// A line for whoever typed the command.
fn say(line: &str) -> Result<(), AdminError> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").map_err(AdminError::Output)
}

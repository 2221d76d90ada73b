//! `wharfinger admin` and `wharfinger migrate`: what an operator does to an installation, by way of its database.

mod administrator;
mod epoch;
mod init;
mod key_encryption;
mod keys;
mod node;
mod recording;
mod region;
mod storage_limit;
mod subscription;
mod tenant;

use clap::Subcommand;
use control_plane::people::BrokenRule;
use recording::recorded;
use service::configuration::{ConfigurationError, DatabaseUrlArguments};
use store::directory::FoundPrincipal;
use store::{Store, StoreError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Operates an installation, by way of its database
#[derive(Subcommand)]
pub(crate) enum AdminCommand {
    #[command(subcommand)]
    Administrator(administrator::AdministratorCommand),
    #[command(subcommand)]
    Epoch(epoch::EpochCommand),
    Init(init::Arguments),
    #[command(subcommand)]
    KeyEncryptionKey(key_encryption::KeyEncryptionKeyCommand),
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    #[command(subcommand)]
    Node(node::NodeCommand),
    #[command(subcommand)]
    Region(region::RegionCommand),
    #[command(subcommand)]
    StorageLimit(storage_limit::StorageLimitCommand),
    #[command(subcommand)]
    Subscription(subscription::SubscriptionCommand),
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
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
    #[error(transparent)]
    KeyFile(#[from] control_plane::sealing::KeyFileError),
    #[error("not everything could be sealed anew")]
    Reseal(#[from] control_plane::sealing::ResealError),
    #[error("the file lacks key {0}, which seals at present; put the new key in front of it")]
    KeyNotInFile(String),
    #[error(
        "these control planes do not have key {fingerprint}: {control_planes}; put it into their files, which they read every 2 seconds"
    )]
    KeyNotEverywhere {
        fingerprint: String,
        control_planes: String,
    },
    #[error("not every control plane seals with key {0} yet; type the command again")]
    NotSealingYet(String),
    #[error("there is no subscription '{0}'")]
    NoSuchSubscription(uuid::Uuid),
    #[error("the directory has no user or service principal '{0}'")]
    NoSuchPrincipal(String),
    #[error("somebody has the user principal name '{0}' already")]
    NameTaken(String),
    #[error("nobody who can administer the directory would be left")]
    LastAdministrator,
    #[error("the keys that sign access tokens cannot be made")]
    SignIn(#[from] control_plane::sign_in::SignInError),
    #[error("--{argument} '{value}' is invalid: {rule}")]
    Argument {
        argument: &'static str,
        value: String,
        rule: &'static str,
    },
    #[error("--user-principal-name '{name}' is invalid")]
    UserPrincipalName {
        name: String,
        #[source]
        rule: BrokenRule,
    },
    #[error("the password in '{file}' cannot be used")]
    Password {
        file: String,
        #[source]
        rule: BrokenRule,
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
    let clock = &service::clock::of_the_system();
    block_on(async {
        match command {
            AdminCommand::Administrator(command) => administrator::run(&command, clock).await,
            AdminCommand::Epoch(command) => epoch::run(&command, clock).await,
            AdminCommand::Init(arguments) => init::run(&arguments, clock).await,
            AdminCommand::KeyEncryptionKey(command) => key_encryption::run(&command, clock).await,
            AdminCommand::Keys(command) => keys::run(&command, clock).await,
            AdminCommand::Node(command) => node::run(&command, clock).await,
            AdminCommand::Region(command) => region::run(&command, clock).await,
            AdminCommand::StorageLimit(command) => storage_limit::run(&command, clock).await,
            AdminCommand::Subscription(command) => subscription::run(&command, clock).await,
            AdminCommand::Tenant(command) => tenant::run(&command, clock).await,
        }
    })
}

/// Runs `migrate`.
pub(crate) fn migrate(arguments: &MigrateArguments) -> Result<(), AdminError> {
    block_on(async { Ok(open(&arguments.database).await?.migrate().await?) })
}

/// The database, which answers.
async fn open(database: &DatabaseUrlArguments) -> Result<Store, AdminError> {
    let store = Store::open(&database.resolve()?)?;
    store.reach().await?;
    Ok(store)
}

/// The user or service principal that an operator means: by object id, application id or user principal name.
async fn principal(store: &Store, text: &str) -> Result<FoundPrincipal, AdminError> {
    store
        .principal_find(text)
        .await?
        .ok_or_else(|| AdminError::NoSuchPrincipal(text.to_owned()))
}

/// A name as people read it.
fn display_name<'a>(argument: &'static str, name: &'a str) -> Result<&'a str, AdminError> {
    let is_readable =
        (1..=100).contains(&name.trim().chars().count()) && !name.chars().any(char::is_control);
    if is_readable {
        return Ok(name);
    }
    Err(AdminError::Argument {
        argument,
        value: name.escape_debug().to_string(),
        rule: "a name has 1 to 100 characters, none of them control characters",
    })
}

fn block_on<T>(work: impl Future<Output = Result<T, AdminError>>) -> Result<T, AdminError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AdminError::Runtime)?
        .block_on(work)
}

/// A time as people read it, to the second.
fn time_text(time: OffsetDateTime) -> String {
    let seconds = time.replace_nanosecond(0).unwrap_or(time);
    seconds
        .format(&Rfc3339)
        .unwrap_or_else(|_| time.to_string())
}

/// A line for whoever typed the command.
fn say(line: &str) -> Result<(), AdminError> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").map_err(AdminError::Output)
}

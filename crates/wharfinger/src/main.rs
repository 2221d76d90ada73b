//! Wharfinger: one program for every role.

mod admin;
mod content;
mod dev;
mod node;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A self-hosted container-registry service with an Azure-compatible control plane
#[derive(Parser)]
#[command(name = "wharfinger", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a control plane: the API, the directory and sign-in
    ControlPlane(control_plane::Arguments),
    /// Runs a registry node: what docker login, push and pull speak to
    RegistryNode(Box<registry_node::Arguments>),
    #[command(subcommand)]
    Node(node::NodeCommand),
    #[command(subcommand)]
    Content(content::ContentCommand),
    #[command(subcommand)]
    Admin(admin::AdminCommand),
    Migrate(admin::MigrateArguments),
    Dev(dev::Arguments),
    /// Print the OpenAPI document of the control plane
    Openapi,
    /// The private Postgres of `wharfinger dev`
    #[command(hide = true)]
    DevPostgres(dev::postgres_supervisor::Arguments),
}

fn main() -> ExitCode {
    service::install_crypto_provider();
    let command = CommandLine::parse().command;
    match service::parent::end_with_parent() {
        Ok(()) => run(command),
        Err(error) => fail(error),
    }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::ControlPlane(arguments) => report(control_plane::run(arguments)),
        Command::RegistryNode(arguments) => report(registry_node::run(*arguments)),
        Command::Node(command) => node::run(&command),
        Command::Content(command) => content::run(command),
        Command::Admin(command) => match admin::run(command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let code = error.exit_code();
                fail(error);
                ExitCode::from(code)
            }
        },
        Command::Migrate(arguments) => report(admin::migrate(&arguments)),
        Command::Dev(arguments) => report(dev::run(arguments)),
        Command::Openapi => report(openapi()),
        Command::DevPostgres(arguments) => report(dev::postgres_supervisor::run(&arguments)),
    }
}

fn openapi() -> std::io::Result<()> {
    let document = control_plane::front_door::document(&control_plane::front_door::Router::new(
        control_plane::operations(),
    ));
    let text = document.to_pretty_json().map_err(std::io::Error::other)?;
    writeln!(std::io::stdout(), "{text}")
}

fn report(outcome: Result<(), impl Error + 'static>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// One line on standard error.
fn fail(error: impl Error + 'static) -> ExitCode {
    let line = service::errors::chain(&error);
    // Nothing is left to tell it to when standard error is closed.
    let _closed = writeln!(std::io::stderr(), "error: {line}");
    ExitCode::FAILURE
}

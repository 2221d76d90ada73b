//! Wharfinger: one program for every role.

mod dev;

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
    Dev(dev::Arguments),
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
        Command::Dev(arguments) => report(dev::run(arguments)),
        Command::DevPostgres(arguments) => report(dev::postgres_supervisor::run(&arguments)),
    }
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

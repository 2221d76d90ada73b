//! Load on a registry, of this project or another: images pushed and pulled, blobs uploaded, and many tags and repositories to list, all
//! by the requests that docker makes. Prints one JSON object. Any answer that is not the expected one ends it with an error.
//!
//! `cargo run --release -p registry-node --example registry_load -- --help`

mod client;
mod image;
mod load;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};

use client::{Problem, Target};

/// Threads of the client, which shares the machine with what it measures.
const THREADS: usize = 2;

#[derive(Parser)]
struct Arguments {
    /// Address of the registry
    #[arg(long)]
    address: SocketAddr,
    /// Its name: of the certificate, and in the Host header
    #[arg(long)]
    host: String,
    /// Certificates of the authorities that vouch for it, PEM
    #[arg(long)]
    ca: PathBuf,
    /// Value of the Authorization header; by the environment, because command lines can be read by everybody
    #[arg(long, env = "BENCH_AUTHORIZATION", hide_env_values = true)]
    authorization: Option<String>,
    /// Repository; for many of them the beginning of their names
    #[arg(long, default_value = "bench/app")]
    repository: String,
    /// Clients at once, each with a connection of its own
    #[arg(long, default_value_t = 1)]
    clients: usize,
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Pushes images whose blobs nobody has, one after the other in each client
    Push {
        /// Blobs of an image, the configuration included
        #[arg(long)]
        blobs: usize,
        /// Bytes of each
        #[arg(long)]
        blob_bytes: usize,
        /// How long; without it each client pushes one image
        #[arg(long)]
        seconds: Option<u64>,
        /// Tag of the images
        #[arg(long, default_value = "latest")]
        tag: String,
    },
    /// All clients at once connect and pull one image, and do so again when all have it
    Pull {
        /// How often
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// Tag of the image
        #[arg(long, default_value = "latest")]
        tag: String,
    },
    /// Uploads blobs, one after the other
    Upload {
        /// Bytes of each
        #[arg(long)]
        bytes: u64,
        /// How many
        #[arg(long, default_value_t = 1)]
        count: usize,
    },
    /// Reads one path again and again, and says how long each answer took
    Read {
        /// Path and query
        #[arg(long)]
        path: String,
        /// How often
        #[arg(long)]
        count: usize,
        /// Goes on where `Link` points to, to the last page
        #[arg(long)]
        follow: bool,
    },
    /// Makes so many tags of one manifest
    Tags {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Makes so many repositories, each with one manifest
    Repositories {
        /// How many
        #[arg(long)]
        count: usize,
    },
}

fn main() -> ExitCode {
    service::install_crypto_provider();
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build();
    let result = runtime
        .map_err(Problem::from)
        .and_then(|runtime| runtime.block_on(run(arguments)))
        .and_then(|result| Ok(writeln!(std::io::stdout(), "{result}")?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<serde_json::Value, Problem> {
    let target = Arc::new(Target::new(
        arguments.address,
        &arguments.host,
        &arguments.ca,
        arguments.authorization.as_deref(),
    )?);
    let load = load::Load {
        target,
        repository: arguments.repository,
        clients: arguments.clients,
    };
    match arguments.work {
        Work::Push {
            blobs,
            blob_bytes,
            seconds,
            tag,
        } => {
            load.push(blobs, blob_bytes, seconds.map(Duration::from_secs), &tag)
                .await
        }
        Work::Pull { rounds, tag } => load.pull(rounds, &tag).await,
        Work::Upload { bytes, count } => load.upload(bytes, count).await,
        Work::Read {
            path,
            count,
            follow,
        } => load.read(&path, count, follow).await,
        Work::Tags { count } => load.tags(count).await,
        Work::Repositories { count } => load.repositories(count).await,
    }
}

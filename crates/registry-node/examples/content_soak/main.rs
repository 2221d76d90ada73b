//! Two nodes on one store, many clients that push, pull and delete through either of them, and collection by both without a pause, in a time
//! that runs so fast that nothing stays young for long. Whatever was acknowledged and not deleted has to be there, whole, each time that
//! somebody looks and at the end. Prints one JSON object; what was missed is printed as it happens, and ends the run with an error.
//!
//! `scripts/soak`, or `cargo run -p registry-node --example content_soak -- --help`

mod client;
mod store;
mod world;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use registry_node::content::CollectOptions;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use client::Client;
use world::{GRACE, World};

/// What ends the run at once.
pub(crate) type Problem = Box<dyn std::error::Error + Send + Sync>;

const REST_OF_COLLECTION: Duration = Duration::from_millis(50);

#[derive(Parser)]
struct Arguments {
    /// How long clients work
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Clients at once
    #[arg(long, default_value_t = 8)]
    clients: u64,
    /// Decides what each client does; how they interleave is the machine's
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for the content, which is made and removed
    #[arg(long)]
    directory: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = run(&arguments).await;
    let _ = std::fs::remove_dir_all(&arguments.directory);
    match result {
        Ok(result) => {
            let _ = writeln!(std::io::stdout(), "{result}");
            match result["violations"] == 0 {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Value, Problem> {
    let world = Arc::new(World::open(&arguments.directory).await?);
    let ends_at = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut collecting = JoinSet::new();
    for node in 0..world.nodes.len() {
        collecting.spawn(collect(Arc::clone(&world), node));
    }
    let mut working = JoinSet::new();
    for number in 0..arguments.clients {
        let mut client = Client::new(Arc::clone(&world), number, arguments.seed);
        working.spawn(async move {
            while Instant::now() < ends_at {
                client.step().await?;
            }
            Ok::<_, Problem>(client)
        });
    }
    let mut clients = Vec::new();
    while let Some(client) = working.join_next().await {
        clients.push(client??);
    }
    world.is_ending.store(true, Ordering::Relaxed);
    while let Some(ended) = collecting.join_next().await {
        ended??;
    }
    at_the_end(&world, clients).await
}

/// Nobody works any more: all is looked at, then what nobody refers to has become old, goes, and all is looked at again.
async fn at_the_end(world: &World, mut clients: Vec<Client>) -> Result<Value, Problem> {
    for client in &mut clients {
        client.check_everything().await?;
    }
    sleep(GRACE).await;
    for registry in world.registries {
        let options = world.collect_options();
        world.collected(world.nodes[0].collect(registry, &options).await?);
    }
    let mut kept = 0;
    for client in &mut clients {
        kept += client.check_everything().await?;
    }
    let bytes = world.bytes_of_data()?;
    let expected = clients.iter().flat_map(Client::contents).collect();
    let needed = world.bytes_of(&expected);
    if bytes != needed {
        world.violation(&format!(
            "{bytes} bytes are kept, and what is there needs {needed}"
        ));
    }
    let mut result = world.counts.to_json();
    result["images_at_the_end"] = json!(kept);
    result["violations"] = json!(world.violations.load(Ordering::Relaxed));
    Ok(result)
}

async fn collect(world: Arc<World>, node: usize) -> Result<(), Problem> {
    let options: CollectOptions = world.collect_options();
    while !world.is_ending.load(Ordering::Relaxed) {
        for registry in world.registries {
            world.collected(world.nodes[node].collect(registry, &options).await?);
        }
        sleep(REST_OF_COLLECTION).await;
    }
    Ok(())
}

//! `wharfinger dev`: all that a newcomer needs, from one terminal.
//!
//! It has nothing of its own that a real installation would not have: it writes files, runs the subcommands that an
//! operator runs, with the flags that an operator uses, and keeps the servers alive. What it adds is a private Postgres
//! and a certificate authority for this machine.

mod certificates;
mod children;
mod error;
mod guide;
mod installation;
mod leftovers;
mod nodes;
mod ports;
mod postgres;
pub(crate) mod postgres_supervisor;
mod probe;
mod said;
mod state;
mod steps;
mod terminal;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use service::clock::{self, Clock};
use service::configuration::write_secret_file;
use service::shutdown::Shutdown;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

use certificates::Change;
use children::Event;
use installation::Installation;
use state::StateDirectory;
use terminal::say;

pub(crate) use error::DevError;

const DEFAULT_PORT: u16 = 8443;
const DEFAULT_REGISTRY_PORT: u16 = 5443;
const DEFAULT_REGION: &str = "westus";
/// More than anybody tries on one machine; each is a process with a port.
const NODES_PER_REGION_MAXIMUM: i64 = 16;
/// How often a long run looks whether certificates must be renewed.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(6 * 60 * 60);
const EARLIER_RUN_ENDS: Duration = Duration::from_secs(40);

/// Runs a whole installation on this machine: Postgres, control plane and registry nodes
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where everything is kept [default: /var/lib/wharfinger-dev for root, else wharfinger-dev in the user's state
    /// directory]
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// Port of the control plane; fixed by the first run [default: 8443]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Port of the login servers, on which the first region's first node listens; fixed by the first run [default: 5443]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    registry_port: Option<u16>,
    /// Regions, separated by commas, each with registry nodes of its own; the first is fixed by the first run, later runs
    /// may add more [default: westus]
    #[arg(long, value_name = "REGION,…", value_parser = parse_regions)]
    regions: Option<Regions>,
    /// Registry nodes of each region; they share the region's content. Later runs may have more [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=NODES_PER_REGION_MAXIMUM))]
    nodes_per_region: Option<u16>,
    /// Content in a bucket instead of the state directory: each region's below its name. To be given at every run
    #[command(flatten)]
    bucket: registry_node::BucketArguments,
    /// File that holds, once all is serving and again after each restart, one JSON object for scripts
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Leave a process that dies dead (for tests)
    #[arg(long)]
    no_restart: bool,
}

/// What the ready file holds.
#[derive(Clone, Debug, Serialize)]
struct Serving {
    control_plane: String,
    ca_file: PathBuf,
    tenant_id: String,
    subscription_id: String,
    client_id: String,
    client_secret: String,
    /// With a leading dot and the port.
    login_server_suffix: String,
    /// Region → addresses of its nodes; the first region and node are those of the login servers' port.
    #[serde(serialize_with = "in_order")]
    regions: Vec<(String, Vec<String>)>,
    database_url: String,
    /// Role → process id.
    pids: BTreeMap<String, u32>,
    /// Role → URL.
    metrics: BTreeMap<String, String>,
}

/// Regions as they are typed: at least one, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Regions(Vec<String>);

fn parse_regions(text: &str) -> Result<Regions, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut regions: Vec<String> = Vec::new();
    for region in text.split(',') {
        if !(2..=32).contains(&region.len()) || !region.bytes().all(good) {
            return Err("a region is 2 to 32 lower-case letters and digits".to_owned());
        }
        if regions.iter().any(|known| known == region) {
            return Err(format!("the region {region} is named twice"));
        }
        regions.push(region.to_owned());
    }
    Ok(Regions(regions))
}

fn in_order<S: Serializer>(
    regions: &[(String, Vec<String>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(regions.iter().map(|(region, nodes)| (region, nodes)))
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// When something could not be started; what was started has ended then.
pub(crate) fn run(arguments: Arguments) -> Result<(), DevError> {
    // One thread: children are tied to the thread that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DevError::Process)?;
    match runtime.block_on(serve(arguments)) {
        Err(DevError::Interrupted) => Ok(()),
        outcome => outcome,
    }
}

async fn serve(arguments: Arguments) -> Result<(), DevError> {
    let began = Instant::now();
    let shutdown = end_requests()?;
    let state_dir = match &arguments.state_dir {
        Some(path) => path.clone(),
        None => default_state_dir()?,
    };
    let mut state = StateDirectory::open(&state_dir)?;
    if let Some(path) = &arguments.ready_file {
        remove_ready_file(path)?;
    }
    say(format!("State directory: {}", state.path().display()));
    wait_for_earlier_run(state.path(), &shutdown).await?;
    let (sender, events) = unbounded_channel();
    let clock = clock::of_the_system();
    let mut installation =
        Installation::new(&arguments, sender, shutdown.clone(), Arc::clone(&clock))?;
    let outcome = match installation.bring_up(&mut state).await {
        Ok(serving) => {
            watch(
                &arguments, &state, serving, events, &shutdown, began, &clock,
            )
            .await
        }
        Err(error) => Err(error),
    };
    installation.stop().await;
    if let Some(path) = &arguments.ready_file {
        remove_ready_file(path)?;
    }
    outcome
}

/// Says that all is serving, then looks after it until the end is asked for.
async fn watch(
    arguments: &Arguments,
    state: &StateDirectory,
    mut serving: Serving,
    mut events: UnboundedReceiver<Event>,
    shutdown: &Shutdown,
    began: Instant,
    clock: &Clock,
) -> Result<(), DevError> {
    write_ready_file(arguments.ready_file.as_deref(), &serving)?;
    let seconds = began.elapsed().as_secs_f32();
    say("");
    say(guide::text(&serving, state.path(), seconds));
    say("");
    let mut dead = 0_usize;
    let mut certificate_check = tokio::time::interval(CERTIFICATE_CHECK);
    loop {
        tokio::select! {
            () = shutdown.wait() => {
                say("");
                return Ok(());
            }
            _ = certificate_check.tick() => renew_certificates(state, clock),
            event = events.recv() => match event {
                Some(Event::Ended { role, how }) => {
                    dead += 1;
                    let next = if arguments.no_restart { "it stays dead" } else { "starting it again" };
                    say(format!("{role} ended ({how}); {next}"));
                }
                Some(Event::Restarted { role, process_id }) => {
                    dead -= 1;
                    say(format!("{role} serves again"));
                    serving.pids.insert(role, process_id);
                    if dead == 0 {
                        write_ready_file(arguments.ready_file.as_deref(), &serving)?;
                    }
                }
                Some(Event::RestartFailed(error)) => say(service::errors::chain(&error)),
                // The installation holds a sender as long as it runs.
                None => return Ok(()),
            },
        }
    }
}

/// The servers take a new certificate up by themselves. A failure is told and tried again at the next look.
fn renew_certificates(state: &StateDirectory, clock: &Clock) {
    match certificates::ensure(state, clock()) {
        Ok(Change::None) => {}
        Ok(Change::Certificate) => say("the certificate of the servers was renewed"),
        Ok(Change::Authority) => {
            say("the certificate authority was renewed; clients must take up ca.pem again")
        }
        Err(error) => say(service::errors::chain(&error)),
    }
}

/// Ctrl-C, SIGTERM, and SIGHUP when the terminal closes.
fn end_requests() -> Result<Shutdown, DevError> {
    let shutdown = Shutdown::on_signals().map_err(DevError::Process)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DevError::Process)?;
    let requester = shutdown.clone();
    tokio::spawn(async move {
        hangup.recv().await;
        requester.request();
    });
    Ok(shutdown)
}

fn default_state_dir() -> Result<PathBuf, DevError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/wharfinger-dev"));
    }
    let variable = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .map(|directory| directory.join("wharfinger-dev"))
        .ok_or(DevError::NoStateDirectory)
}

/// Children of a run that was killed get SIGTERM from the kernel and need a moment to end.
async fn wait_for_earlier_run(state_dir: &Path, shutdown: &Shutdown) -> Result<(), DevError> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let processes = leftovers::processes("wharfinger", state_dir);
        if processes.is_empty() {
            return Ok(());
        }
        if began.elapsed() > EARLIER_RUN_ENDS {
            return Err(DevError::Leftovers {
                state_dir: state_dir.to_owned(),
                process_ids: processes
                    .into_iter()
                    .map(|process| process.as_raw_nonzero().get())
                    .collect(),
            });
        }
        if !std::mem::replace(&mut told, true) {
            say("Waiting for the processes of an earlier run to end");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
            () = shutdown.wait() => return Err(DevError::Interrupted),
        }
    }
}

fn write_ready_file(path: Option<&Path>, serving: &Serving) -> Result<(), DevError> {
    let Some(path) = path else {
        return Ok(());
    };
    let mut text = serde_json::to_string_pretty(serving).expect("texts and numbers are JSON");
    text.push('\n');
    write_secret_file(path, text.as_bytes())?;
    Ok(())
}

fn remove_ready_file(path: &Path) -> Result<(), DevError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DevError::file("delete", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_names_each_of_them_once() {
        let parsed = |text| parse_regions(text).map(|regions| regions.0.join(" "));
        assert_eq!(parsed("westus"), Ok("westus".to_owned()));
        assert_eq!(
            parsed("westus,northeurope,eastus2"),
            Ok("westus northeurope eastus2".to_owned())
        );
        for text in [
            "",
            "x",
            "West US",
            "westus,",
            ",westus",
            "westus, eastus",
            "west-us",
            "../x",
            "westus,eastus,westus",
        ] {
            assert!(parse_regions(text).is_err(), "{text}");
        }
    }
}

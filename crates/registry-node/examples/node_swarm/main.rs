//! Many registry nodes in one process, for measurements: each is enrolled, keeps the real stream and
//! applies what it is sent, as a node does, but keeps its copy in memory and opens no data port.
//!
//! Prints one JSON object a line: `current` once all nodes have what the control plane had, then an
//! answer to each line of its input: `positions`, `wait REVISION UNIX-SECONDS` (until every node is
//! connected, has that revision, and was vouched for after that time) and `stop`. It ends with its input.
//!
//! `cargo run --release -p registry-node --example node_swarm -- --help`

mod light;

use std::{error::Error, io::Write, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use config_documents::{Region, Revision};
use credentials::{Secret, SigningKey, SystemRandomness};
use futures_util::future::join_all;
use light::Light;
use registry_node::config::{
    Applier, Configuration, Connection, ControlPlane, Follower, Identities, LocalCopy, Progress,
    enrolment,
};
use reqwest::Url;
use serde_json::{Value, json};
use service::{clock, logs::LogFormat, shutdown::Shutdown};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};
use uuid::Uuid;

/// Pieces under way in one direction of a delayed connection; more than a stream ever has.
const PIECES_UNDER_WAY: usize = 1024;
/// Threads that nodes share, beside two for connections.
const THREADS: usize = 2;
const PIECE_BYTES: usize = 16 * 1024;

/// Runs many simulated registry nodes
#[derive(Parser)]
struct Arguments {
    /// URL of the control plane
    #[arg(long, value_name = "URL")]
    control_plane: String,
    /// Certificates of the authorities that vouch for the control plane, PEM
    #[arg(long, value_name = "FILE")]
    control_plane_ca: PathBuf,
    /// Region of all nodes
    #[arg(long)]
    region: String,
    /// Where each node keeps its credential, so that only its first start needs a token
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: PathBuf,
    /// File with one join token a line, for the nodes that have not joined before
    #[arg(long, value_name = "FILE")]
    join_tokens: Option<PathBuf>,
    /// How many nodes
    #[arg(long)]
    nodes: usize,
    /// How many of them are far away
    #[arg(long, default_value_t = 0)]
    delayed: usize,
    /// How long a message to a far-away node and its answer take together, on the way alone
    #[arg(long, default_value_t = 80)]
    round_trip_milliseconds: u64,
    /// Nodes check and answer everything, and index nothing
    #[arg(long, conflicts_with = "delayed")]
    light: bool,
}

type Failure = Box<dyn Error + Send + Sync>;

/// A simulated node that follows.
struct Simulated {
    node_id: Uuid,
    state: State,
}

/// Where one tells how far it is.
enum State {
    Indexing(Arc<Configuration>),
    Light(watch::Receiver<Position>),
}

/// How far a node is.
#[derive(Clone, Copy, Default)]
struct Position {
    is_connected: bool,
    /// The newest revision that it has, and the control plane's time at which that was so.
    state: Option<(Revision, OffsetDateTime)>,
}

fn main() -> Result<(), Failure> {
    service::install_crypto_provider();
    service::logs::initialise(LogFormat::Text);
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let near = ControlPlane::new(&arguments.control_plane, Some(&arguments.control_plane_ca))?;
    let far = far_away(arguments).await?;
    let region = Region(arguments.region.clone());
    let enrolled = enrol_all(arguments, &near, &region).await?;
    let began = Instant::now();
    let shutdown = Shutdown::new();
    let mut nodes = Vec::new();
    let mut followers: [Vec<Follower>; THREADS] = std::array::from_fn(|_| Vec::new());
    let mut lights: [Vec<Light>; THREADS] = std::array::from_fn(|_| Vec::new());
    for (number, identities) in enrolled.into_iter().enumerate() {
        if arguments.light {
            let (node, light) = simulate_lightly(&near, identities, address(number));
            nodes.push(node);
            lights[number % THREADS].push(light);
            continue;
        }
        let is_delayed = number < arguments.delayed;
        let control_plane = if is_delayed { &far } else { &near };
        let address = address(number);
        let (node, follower) = simulate(control_plane, identities, address, &shutdown)?;
        nodes.push(node);
        followers[number % THREADS].push(follower);
    }
    for (followers, lights) in followers.into_iter().zip(lights) {
        follow(followers, lights);
    }
    for node in &nodes {
        node.wait_current().await;
    }
    let milliseconds = began.elapsed().as_millis();
    say(&json!({"event": "current", "nodes": nodes.len(), "milliseconds": milliseconds as u64}))?;
    obey(&nodes).await?;
    shutdown.request();
    Ok(())
}

/// Does what is asked, line by line, until told to stop or nobody can ask any more.
async fn obey(nodes: &[Simulated]) -> Result<(), Failure> {
    let mut lines = input();
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["stop"] => break,
            ["positions"] => say(&positions(nodes))?,
            ["wait", revision, since] => {
                let revision = Revision(revision.parse()?);
                let since: f64 = since.parse()?;
                for node in nodes {
                    node.wait_for(revision, since).await;
                }
                let now = unix_seconds((clock::of_the_system())());
                say(&json!({"event": "waited", "revision": revision, "unix_seconds": now}))?;
            }
            _ => return Err(format!("'{line}' is no command").into()),
        }
    }
    Ok(())
}

/// The lines of the input, until it ends.
fn input() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn positions(nodes: &[Simulated]) -> Value {
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|node| {
            let (position, rejected) = node.position();
            json!({
                "node_id": node.node_id,
                "revision": position.state.map(|(revision, _)| revision),
                "is_connected": position.is_connected,
                "rejected": rejected,
            })
        })
        .collect();
    json!({"event": "positions", "nodes": nodes})
}

impl Position {
    fn is_current(self, revision: Revision, since: f64) -> bool {
        self.is_connected
            && self
                .state
                .is_some_and(|(own, as_of)| own >= revision && unix_seconds(as_of) >= since)
    }

    fn of(progress: &Progress) -> Self {
        Self {
            is_connected: progress.connection == Connection::Connected,
            state: progress.state.map(|state| (state.revision, state.as_of)),
        }
    }
}

impl Simulated {
    /// With how many documents it does not understand; a light node understands nothing, and rejects nothing.
    fn position(&self) -> (Position, usize) {
        match &self.state {
            State::Indexing(configuration) => {
                let progress = configuration.progress();
                (Position::of(&progress), progress.rejected_count)
            }
            State::Light(position) => (*position.borrow(), 0),
        }
    }

    /// Until it has what the control plane had when it connected.
    async fn wait_current(&self) {
        match &self.state {
            State::Indexing(configuration) => {
                wait(configuration.subscribe(), |progress| progress.is_confirmed).await;
            }
            State::Light(position) => {
                wait(position.clone(), |position| position.state.is_some()).await;
            }
        }
    }

    async fn wait_for(&self, revision: Revision, since: f64) {
        match &self.state {
            State::Indexing(configuration) => {
                wait(configuration.subscribe(), |progress| {
                    Position::of(progress).is_current(revision, since)
                })
                .await;
            }
            State::Light(position) => {
                wait(position.clone(), |position| {
                    position.is_current(revision, since)
                })
                .await;
            }
        }
    }
}

async fn wait<T>(mut told: watch::Receiver<T>, is_so: impl FnMut(&T) -> bool) {
    told.wait_for(is_so)
        .await
        .expect("whoever tells it outlives this wait");
}

/// Those that joined before go on; the others use up a token each.
async fn enrol_all(
    arguments: &Arguments,
    control_plane: &ControlPlane,
    region: &Region,
) -> Result<Vec<Identities>, Failure> {
    let tokens = match &arguments.join_tokens {
        Some(file) => std::fs::read_to_string(file)?,
        None => String::new(),
    };
    let mut tokens = tokens.lines();
    let mut enrolled = Vec::new();
    for number in 0..arguments.nodes {
        let directory = arguments.state_dir.join(number.to_string());
        std::fs::create_dir_all(&directory)?;
        let identities = match enrolment::load(&directory, region)? {
            Some(identities) => identities,
            None => {
                let token = tokens.next().ok_or("there are too few join tokens")?;
                let token = Secret::new(token.to_owned());
                let key = SigningKey::generate(&Uuid::new_v4().to_string());
                let address = address(number);
                enrolment::join(control_plane, &token, region, &address, key, &directory).await?
            }
        };
        enrolled.push(identities);
    }
    Ok(enrolled)
}

/// A name that nobody has: nothing can be asked of a simulated node.
fn address(number: usize) -> String {
    format!("simulated-{number}.invalid:443")
}

/// Follows with all of these on one thread. On the runtime's own threads each message would cost a change of threads: a follower tells
/// the runtime that it is about to wait for a disk, which there is none of here.
fn follow(followers: Vec<Follower>, lights: Vec<Light>) {
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let followers = join_all(followers.into_iter().map(Follower::run));
        let lights = join_all(lights.into_iter().map(Light::run));
        runtime.block_on(async { tokio::join!(followers, lights) });
    });
}

fn simulate_lightly(
    control_plane: &ControlPlane,
    identities: Identities,
    address: String,
) -> (Simulated, Light) {
    let (position, told) = watch::channel(Position::default());
    let simulated = Simulated {
        node_id: identities.node_id(),
        state: State::Light(told),
    };
    let light = Light {
        control_plane: control_plane.clone(),
        identities,
        address,
        position,
    };
    (simulated, light)
}

fn simulate(
    control_plane: &ControlPlane,
    identities: Identities,
    address: String,
    shutdown: &Shutdown,
) -> Result<(Simulated, Follower), Failure> {
    let configuration = Arc::new(Configuration::default());
    let (node_id, region) = (identities.node_id(), identities.region().clone());
    let copy = LocalCopy::in_memory()?;
    let follower = Follower {
        control_plane: control_plane.clone(),
        identities: Arc::new(identities),
        address,
        configuration: Arc::clone(&configuration),
        applier: Applier::new(Arc::clone(&configuration), copy, region),
        clock: clock::of_the_system(),
        randomness: Arc::new(SystemRandomness),
        shutdown: shutdown.clone(),
    };
    let simulated = Simulated {
        node_id,
        state: State::Indexing(configuration),
    };
    Ok((simulated, follower))
}

/// The same control plane, half a round trip away in each direction.
async fn far_away(arguments: &Arguments) -> Result<ControlPlane, Failure> {
    let url = Url::parse(&arguments.control_plane)?;
    let host = url
        .host_str()
        .ok_or("the control plane's URL has no host")?;
    let target = (host.to_owned(), url.port_or_known_default().unwrap_or(443));
    let delay = Duration::from_millis(arguments.round_trip_milliseconds) / 2;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(relay(listener, target, delay));
    let mut delayed = url.clone();
    delayed
        .set_port(Some(port))
        .map_err(|()| "the control plane's URL takes no port")?;
    let ca = Some(arguments.control_plane_ca.as_path());
    Ok(ControlPlane::new(delayed.as_str(), ca)?)
}

async fn relay(listener: TcpListener, target: (String, u16), delay: Duration) {
    while let Ok((near, _)) = listener.accept().await {
        let target = target.clone();
        tokio::spawn(async move {
            // A control plane that is down ends the connection, as it would without us.
            let Ok(far) = TcpStream::connect(target).await else {
                return;
            };
            for side in [&near, &far] {
                side.set_nodelay(true).expect("an open connection takes it");
            }
            let (from_near, to_near) = near.into_split();
            let (from_far, to_far) = far.into_split();
            tokio::join!(
                carry(from_near, to_far, delay),
                carry(from_far, to_near, delay)
            );
        });
    }
}

/// Carries one direction, each piece so much later than it came, until either end breaks.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut under_way) = mpsc::channel(PIECES_UNDER_WAY);
    let taking = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let piece = (Instant::now() + delay, buffer[..length].to_vec());
            if sender.send(piece).await.is_err() {
                break;
            }
        }
    };
    let giving = async move {
        while let Some((due_at, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(due_at).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    // The giving half ends the connection when it is dropped.
    tokio::join!(taking, giving);
}

fn unix_seconds(at: OffsetDateTime) -> f64 {
    at.unix_timestamp_nanos() as f64 / 1e9
}

fn say(value: &Value) -> Result<(), Failure> {
    let mut output = std::io::stdout();
    writeln!(output, "{value}")?;
    Ok(output.flush()?)
}

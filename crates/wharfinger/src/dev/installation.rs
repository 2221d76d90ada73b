//! The parts of the installation, brought up in order and ended in the opposite one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use credentials::{KeyRing, Randomness, SystemRandomness};
use registry_node::BucketArguments;
use serde::Deserialize;
use service::clock::Clock;
use service::configuration::write_secret_file;
use service::shutdown::Shutdown;
use tokio::sync::mpsc::UnboundedSender;

use super::certificates::{self, CertificateFiles, Change};
use super::children::{Event, Kept, Program, keep};
use super::error::DevError;
use super::nodes::{self, Node};
use super::postgres::Postgres;
use super::probe::Probe;
use super::state::{Installed, StateDirectory};
use super::terminal::say;
use super::{Arguments, DEFAULT_PORT, DEFAULT_REGION, DEFAULT_REGISTRY_PORT, Regions, Serving};
use super::{ports, steps};

const CONTROL_PLANE: &str = "control-plane";
const POSTGRES: &str = "postgres";

/// What runs, and what it needs to run.
pub(super) struct Installation {
    pub(super) executable: PathBuf,
    restart: bool,
    port: Option<u16>,
    registry_port: Option<u16>,
    regions: Option<Regions>,
    nodes_per_region: Option<u16>,
    pub(super) bucket: BucketArguments,
    events: UnboundedSender<Event>,
    pub(super) shutdown: Shutdown,
    clock: Clock,
    /// In the order in which they were started.
    kept: Vec<(String, Kept)>,
    process_ids: BTreeMap<String, u32>,
}

/// What `admin init` writes.
#[derive(Deserialize)]
struct Bootstrap {
    tenant_id: String,
    subscription_id: String,
    client_id: String,
    client_secret: String,
}

/// Where things are, for the commands to be run.
pub(super) struct Plan {
    addresses: Vec<IpAddr>,
    installed: Installed,
    nodes: Vec<Node>,
    pub(super) certificates: CertificateFiles,
    key_encryption_key_file: PathBuf,
    pub(super) database_url_file: PathBuf,
    database_url: String,
    metrics: BTreeMap<String, SocketAddr>,
    logs: PathBuf,
}

impl Plan {
    pub(super) fn control_plane_url(&self) -> String {
        format!("https://localhost:{}", self.installed.port)
    }

    fn login_server_suffix(&self) -> String {
        format!(".registry.localhost:{}", self.installed.registry_port)
    }

    /// Region → addresses of its nodes.
    fn regions(&self) -> Vec<(String, Vec<String>)> {
        let addresses = |region: &str| {
            let nodes = self.nodes.iter().filter(|node| node.region == region);
            nodes.map(Node::address).collect()
        };
        self.installed
            .regions()
            .map(|region| (region.to_owned(), addresses(region)))
            .collect()
    }
}

impl Installation {
    pub(super) fn new(
        arguments: &Arguments,
        events: UnboundedSender<Event>,
        shutdown: Shutdown,
        clock: Clock,
    ) -> Result<Self, DevError> {
        Ok(Self {
            executable: std::env::current_exe().map_err(DevError::Process)?,
            restart: !arguments.no_restart,
            port: arguments.port,
            registry_port: arguments.registry_port,
            regions: arguments.regions.clone(),
            nodes_per_region: arguments.nodes_per_region,
            bucket: arguments.bucket.clone(),
            events,
            shutdown,
            clock,
            kept: Vec::new(),
            process_ids: BTreeMap::new(),
        })
    }

    /// Starts everything; returns when all of it serves.
    pub(super) async fn bring_up(
        &mut self,
        state: &mut StateDirectory,
    ) -> Result<Serving, DevError> {
        let installed = self.chosen(state)?;
        if installed.port == installed.registry_port {
            return Err(DevError::OnePort {
                port: installed.port,
            });
        }
        let addresses = ports::loopback_addresses();
        ports::check(&addresses, installed.port, "--port")?;
        ports::check(&addresses, installed.registry_port, "--registry-port")?;
        if certificates::ensure(state, (self.clock)())? == Change::Authority {
            say("Certificates: a new development authority (ca.pem)");
        }
        let logs = state.private_directory("logs")?;
        let nodes = nodes::choose(state, &installed)?;
        let metrics = choose_metrics_ports(state, &installed, &nodes)?;
        let key_encryption_key_file = ensure_key_encryption_key(state)?;
        let database_url = self.start_database(state, &logs).await?;
        let database_url_file = state.join("database-url");
        write_secret_file(&database_url_file, format!("{database_url}\n").as_bytes())?;
        let plan = Plan {
            addresses,
            installed,
            nodes,
            certificates: CertificateFiles::of(state),
            key_encryption_key_file,
            database_url_file,
            database_url,
            metrics,
            logs,
        };
        let bootstrap = self.initialise(state, &plan).await?;
        self.start_control_plane(state, &plan).await?;
        for node in &plan.nodes {
            self.start_node(state, &plan, node).await?;
        }
        Ok(self.serving(plan, bootstrap))
    }

    /// Ends everything, last started first.
    pub(super) async fn stop(self) {
        for (role, kept) in self.kept.into_iter().rev() {
            say(format!("Ending {role}"));
            kept.stop().await;
        }
    }

    /// What the installation was made with, which can only grow; before that what is asked for, else the defaults.
    fn chosen(&self, state: &StateDirectory) -> Result<Installed, DevError> {
        let asked = self.regions.as_ref().map(|regions| regions.0.as_slice());
        let Some(before) = state.remembered().installed.clone() else {
            let (region, further) = match asked {
                Some([region, further @ ..]) => (region.clone(), further.to_vec()),
                _ => (DEFAULT_REGION.to_owned(), Vec::new()),
            };
            return Ok(Installed {
                port: self.port.unwrap_or(DEFAULT_PORT),
                registry_port: self.registry_port.unwrap_or(DEFAULT_REGISTRY_PORT),
                region,
                further_regions: further,
                nodes_per_region: self.nodes_per_region.unwrap_or(1),
            });
        };
        let fixed = |flag, existing: String| {
            Err(DevError::Fixed {
                state_dir: state.path().to_owned(),
                flag,
                existing,
            })
        };
        if self.port.is_some_and(|port| port != before.port) {
            return fixed("--port", before.port.to_string());
        }
        if self
            .registry_port
            .is_some_and(|port| port != before.registry_port)
        {
            return fixed("--registry-port", before.registry_port.to_string());
        }
        let mut installed = before.clone();
        if let Some(asked) = asked {
            let is_kept = |region: &str| asked.iter().any(|asked| asked == region);
            if asked.first() != Some(&before.region) || !before.regions().all(is_kept) {
                let existing: Vec<&str> = before.regions().collect();
                return fixed("--regions", existing.join(","));
            }
            let new = asked
                .iter()
                .filter(|asked| !before.regions().any(|known| known == asked.as_str()));
            installed.further_regions.extend(new.cloned());
        }
        if let Some(number) = self.nodes_per_region {
            if number < before.nodes_per_region {
                return fixed("--nodes-per-region", before.nodes_per_region.to_string());
            }
            installed.nodes_per_region = number;
        }
        Ok(installed)
    }

    async fn start_database(
        &mut self,
        state: &mut StateDirectory,
        logs: &Path,
    ) -> Result<String, DevError> {
        if let Ok(url) = std::env::var("DATABASE_URL")
            && !url.is_empty()
        {
            say("Postgres: the one named by DATABASE_URL");
            return Ok(url);
        }
        let postgres = Postgres::open_or_create(state, new_password, |text| {
            say(format!("Postgres: {text}"));
        })?;
        let before = state.remembered().postgres_port;
        let mut taken = state.remembered().ports();
        taken.retain(|port| Some(*port) != before);
        let port = ports::remembered_or_free(before, &taken, random_u16())?;
        state.remember(|remembered| remembered.postgres_port = Some(port))?;
        let version = postgres.version();
        say(format!("Postgres {version}: starting on 127.0.0.1:{port}"));
        let mut arguments: Vec<OsString> = vec!["dev-postgres".into(), "--program".into()];
        arguments.push(postgres.server_program().into());
        arguments.extend(["--data".into(), postgres.data.clone().into()]);
        arguments.extend(["--port".into(), port.to_string().into()]);
        if let Some(owner) = postgres.owner {
            arguments.extend(["--user-id".into(), owner.user_id.to_string().into()]);
            arguments.extend(["--group-id".into(), owner.group_id.to_string().into()]);
        }
        let program = Program {
            role: POSTGRES.to_owned(),
            executable: self.executable.clone(),
            arguments,
            directory: state.path().to_owned(),
            log: logs.join("postgres.log"),
            probe: Probe::Postgres {
                data: postgres.data.clone(),
            },
        };
        self.keep(program).await?;
        Ok(postgres.url(port))
    }

    /// Migrations and `admin init`; both change nothing in an installation that is up to date.
    async fn initialise(
        &self,
        state: &mut StateDirectory,
        plan: &Plan,
    ) -> Result<Bootstrap, DevError> {
        say("Database: migrations, admin init");
        let database = plan.database_url_file.as_os_str();
        let migrate = ["migrate".as_ref(), "--database-url-file".as_ref(), database];
        steps::run(
            &self.executable,
            "wharfinger migrate",
            &migrate,
            &self.shutdown,
        )
        .await?;
        let file = state.join("bootstrap.json");
        let url = plan.control_plane_url();
        let suffix = plan.login_server_suffix();
        let mut init: Vec<&OsStr> = vec![
            "admin".as_ref(),
            "init".as_ref(),
            "--database-url-file".as_ref(),
            database,
            "--key-encryption-key-file".as_ref(),
            plan.key_encryption_key_file.as_os_str(),
            "--public-url".as_ref(),
            url.as_ref(),
            "--login-server-suffix".as_ref(),
            suffix.as_ref(),
            "--bootstrap-file".as_ref(),
            file.as_os_str(),
        ];
        for region in plan.installed.regions() {
            init.extend([OsStr::new("--region"), region.as_ref()]);
        }
        steps::run(
            &self.executable,
            "wharfinger admin init",
            &init,
            &self.shutdown,
        )
        .await?;
        let installed = plan.installed.clone();
        if state.remembered().installed.as_ref() != Some(&installed) {
            state.remember(|remembered| remembered.installed = Some(installed))?;
        }
        let text = fs::read_to_string(&file).map_err(DevError::file("read", &file))?;
        serde_json::from_str(&text).map_err(|error| {
            state.damaged(format!(
                "bootstrap.json cannot be read ({error}); when that file is deleted, a new secret is made"
            ))
        })
    }

    async fn start_control_plane(
        &mut self,
        state: &StateDirectory,
        plan: &Plan,
    ) -> Result<(), DevError> {
        say(format!(
            "Control plane: starting on {}",
            plan.control_plane_url()
        ));
        // Who tries federated tokens has the issuer on the same machine.
        let mut arguments: Vec<OsString> =
            vec![CONTROL_PLANE.into(), "--issuer-allow-private".into()];
        arguments.extend([
            "--database-url-file".into(),
            plan.database_url_file.clone().into(),
        ]);
        arguments.extend([
            "--key-encryption-key-file".into(),
            plan.key_encryption_key_file.clone().into(),
        ]);
        let port = plan.installed.port;
        self.keep_server(state, plan, CONTROL_PLANE.to_owned(), port, arguments)
            .await
    }

    /// Adds the flags that all servers have, starts the child and waits until it serves.
    pub(super) async fn keep_server(
        &mut self,
        state: &StateDirectory,
        plan: &Plan,
        role: String,
        port: u16,
        mut arguments: Vec<OsString>,
    ) -> Result<(), DevError> {
        for ip in &plan.addresses {
            let address = SocketAddr::new(*ip, port).to_string();
            arguments.extend(["--listen".into(), address.into()]);
        }
        let metrics = plan.metrics[&role];
        arguments.extend([
            "--tls-certificate".into(),
            plan.certificates.certificate.clone().into(),
        ]);
        arguments.extend(["--tls-key".into(), plan.certificates.key.clone().into()]);
        arguments.extend(["--metrics-listen".into(), metrics.to_string().into()]);
        let program = Program {
            executable: self.executable.clone(),
            arguments,
            directory: state.path().to_owned(),
            log: plan.logs.join(format!("{role}.log")),
            probe: Probe::Http(metrics),
            role,
        };
        self.keep(program).await
    }

    async fn keep(&mut self, program: Program) -> Result<(), DevError> {
        let role = program.role.clone();
        let events = self.events.clone();
        let (process_id, kept) = keep(program, self.restart, &self.shutdown, events).await?;
        self.process_ids.insert(role.clone(), process_id);
        self.kept.push((role, kept));
        Ok(())
    }

    fn serving(&self, plan: Plan, bootstrap: Bootstrap) -> Serving {
        let metrics = plan
            .metrics
            .iter()
            .map(|(role, address)| (role.clone(), format!("http://{address}/metrics")))
            .collect();
        Serving {
            control_plane: plan.control_plane_url(),
            login_server_suffix: plan.login_server_suffix(),
            regions: plan.regions(),
            ca_file: plan.certificates.authority,
            tenant_id: bootstrap.tenant_id,
            subscription_id: bootstrap.subscription_id,
            client_id: bootstrap.client_id,
            client_secret: bootstrap.client_secret,
            database_url: plan.database_url,
            pids: self.process_ids.clone(),
            metrics,
        }
    }
}

/// Ports that are found once and remembered, because scrapers have them in their configuration.
fn choose_metrics_ports(
    state: &mut StateDirectory,
    installed: &Installed,
    nodes: &[Node],
) -> Result<BTreeMap<String, SocketAddr>, DevError> {
    let mut taken = state.remembered().ports();
    taken.extend([installed.port, installed.registry_port]);
    let mut chosen = BTreeMap::new();
    let roles = nodes.iter().map(Node::role);
    for role in std::iter::once(CONTROL_PLANE.to_owned()).chain(roles) {
        let before = state.remembered().metrics_ports.get(&role).copied();
        taken.retain(|port| Some(*port) != before);
        let port = ports::remembered_or_free(before, &taken, random_u16())?;
        taken.push(port);
        chosen.insert(role, port);
    }
    let changed = chosen.clone();
    state.remember(|remembered| remembered.metrics_ports.extend(changed))?;
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(chosen
        .into_iter()
        .map(|(role, port)| (role, address(port)))
        .collect())
}

/// Makes the key that seals secrets in the database, unless it is there. It is never made again for a database that is
/// there: what was sealed with the old one could not be opened.
fn ensure_key_encryption_key(state: &StateDirectory) -> Result<PathBuf, DevError> {
    let path = state.join("key-encryption-key");
    match fs::read_to_string(&path) {
        Ok(text) => match KeyRing::parse(&text) {
            Ok(_) => Ok(path),
            Err(error) => Err(state.damaged(format!(
                "key-encryption-key: {}",
                service::errors::chain(&error)
            ))),
        },
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(state.damaged(format!("key-encryption-key: {error}")))
        }
        Err(_) if state.remembered().installed.is_some() => {
            Err(state.damaged("key-encryption-key is missing"))
        }
        Err(_) => {
            let mut key = [0_u8; 32];
            SystemRandomness.fill(&mut key);
            write_secret_file(&path, format!("{}\n", STANDARD.encode(key)).as_bytes())?;
            Ok(path)
        }
    }
}

/// For Postgres: letters and digits only, so that it can stand in a URL as it is.
fn new_password() -> String {
    let mut bytes = [0_u8; 24];
    SystemRandomness.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn random_u16() -> u16 {
    let mut bytes = [0_u8; 2];
    SystemRandomness.fill(&mut bytes);
    u16::from_le_bytes(bytes)
}

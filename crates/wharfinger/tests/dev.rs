//! `wharfinger dev` as it is typed: what is refused, each in one line, and a whole run on this machine.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use credentials::{Randomness, SystemRandomness};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);

/// A place for one installation, with ports that were free a moment ago.
struct Place {
    _directory: tempfile::TempDir,
    state_dir: PathBuf,
    ready_file: PathBuf,
    port: u16,
    registry_port: u16,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // The private Postgres runs as another user when this runs as root.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("permissions");
        let port = free_port(&[]);
        Self {
            state_dir: directory.path().join("state"),
            ready_file: directory.path().join("ready.json"),
            _directory: directory,
            port,
            registry_port: free_port(&[port]),
        }
    }

    /// One that a run has begun with, holding this file.
    fn with(name: &str, content: &str) -> Self {
        let place = Self::new();
        let file = place.state_dir.join(name);
        fs::create_dir_all(file.parent().expect("it has one")).expect("a directory");
        fs::write(place.state_dir.join("state.json"), r#"{"layout": 1}"#).expect("write");
        fs::write(file, content).expect("write");
        place
    }

    /// An installation was made here.
    fn installed(self) -> Self {
        let installed = format!(
            r#"{{"layout": 1, "installed": {{"port": {}, "registry_port": {}, "region": "westus"}}}}"#,
            self.port, self.registry_port
        );
        fs::write(self.state_dir.join("state.json"), installed).expect("write");
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharfinger"));
        command
            .arg("dev")
            .arg("--state-dir")
            .arg(&self.state_dir)
            .arg("--ready-file")
            .arg(&self.ready_file)
            .args(["--port", &self.port.to_string()])
            .args(["--registry-port", &self.registry_port.to_string()])
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null());
        command
    }

    /// The one line that a start must be refused with.
    fn refused(&self) -> String {
        one_line(&self.command().output().expect("it runs"))
    }
}

/// A random port that nobody listens on and that is not `taken`. One that the system chose would be given to others between two starts.
fn free_port(taken: &[u16]) -> u16 {
    loop {
        let mut random = [0; 2];
        SystemRandomness.fill(&mut random);
        // Below those that systems give to connections, and that the servers of other tests look for.
        let port = 10_000 + u16::from_ne_bytes(random) % 10_000;
        if !taken.contains(&port) && is_free(port) {
            return port;
        }
    }
}

fn is_free(port: u16) -> bool {
    [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ]
    .into_iter()
    .all(|ip| match TcpListener::bind((ip, port)) {
        Ok(_) => true,
        // There may be no ::1.
        Err(error) => error.kind() != ErrorKind::AddrInUse,
    })
}

fn one_line(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    errors.trim_end().to_owned()
}

#[test]
fn a_port_in_use_is_refused_and_the_ready_file_of_an_earlier_run_removed() {
    let place = Place::new();
    let _listener = TcpListener::bind(("127.0.0.1", place.port)).expect("a free port");
    fs::write(&place.ready_file, "{}").expect("write");
    let port = place.port;
    assert_eq!(
        place.refused(),
        format!(
            "error: port {port} is in use by another program (127.0.0.1:{port}); choose another with --port"
        )
    );
    assert!(!place.ready_file.exists());
}

#[test]
fn one_port_for_both_planes_is_refused_before_it_is_fixed() {
    let mut place = Place::new();
    place.registry_port = place.port;
    let port = place.port;
    assert_eq!(
        place.refused(),
        format!(
            "error: port {port} cannot be that of the control plane and that of the login servers; choose another with --port or --registry-port"
        )
    );
    let state = fs::read_to_string(place.state_dir.join("state.json")).expect("it was begun");
    assert!(!state.contains(&port.to_string()), "{state}");
}

#[test]
fn a_second_run_on_a_state_directory_is_refused_and_the_first_ones_ready_file_kept() {
    let place = Place::with("x", "");
    let directory = File::open(&place.state_dir).expect("open");
    directory.lock().expect("nobody else has it");
    fs::write(&place.ready_file, "{}").expect("write");
    let line = place.refused();
    assert!(
        line.starts_with("error: another `wharfinger dev` uses the state directory /"),
        "{line}"
    );
    assert!(place.ready_file.exists());
}

#[test]
fn a_damaged_state_directory_is_told_by_what_is_wrong_with_it() {
    for (file, content, fault) in [
        ("state.json", "{", "is damaged: state.json cannot be read"),
        (
            "state.json",
            r#"{"layout": 9}"#,
            "is damaged: state.json has the layout 9",
        ),
        (
            "ca.pem",
            "garbled",
            "is damaged: ca.pem is there but ca-key.pem is missing",
        ),
        (
            "key-encryption-key",
            "garbled",
            "is damaged: key-encryption-key: ",
        ),
        (
            "postgres/data/PG_VERSION",
            "garbled",
            "is damaged: postgres/data/PG_VERSION is garbled",
        ),
        (
            "postgres/data/x",
            "",
            "is damaged: postgres/data/PG_VERSION: No such file",
        ),
        (
            "postgres/data/PG_VERSION",
            "7\n",
            "was made by Postgres 7, but installed is only ",
        ),
    ] {
        let line = Place::with(file, content).refused();
        assert!(line.contains(fault), "{file} {content:?}: {line}");
    }
}

#[test]
fn a_database_that_is_gone_is_not_made_again() {
    let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let place = Place::with("key-encryption-key", key).installed();
    let line = place.refused();
    assert!(
        line.contains("is damaged: postgres/data is missing"),
        "{line}"
    );
    assert!(!place.state_dir.join("postgres/data").exists());
}

#[test]
fn a_node_that_was_removed_is_named_with_what_to_do() {
    let place = Place::with("node-westus/removed.json", "{}").installed();
    let line = place.refused();
    assert!(
        line.contains("/node-westus was removed with `wharfinger admin node remove`; delete that"),
        "{line}"
    );
}

#[test]
fn what_the_first_run_fixed_cannot_be_changed_later() {
    let installed =
        r#"{"layout": 1, "installed": {"port": 1, "registry_port": 2, "region": "eastus"}}"#;
    let line = Place::with("state.json", installed).refused();
    assert!(
        line.contains("was made with --port 1; leave --port out, or choose another"),
        "{line}"
    );
}

#[test]
fn regions_and_nodes_can_be_added_and_not_taken_away() {
    let installed = r#"{"layout": 1, "installed": {"port": 1, "registry_port": 2, "region": "eastus",
        "further_regions": ["asia"], "nodes_per_region": 2}}"#;
    for (flag, given, existing) in [
        ("--regions", "asia,eastus", "eastus,asia"),
        ("--regions", "eastus", "eastus,asia"),
        ("--regions", "eastus,westus", "eastus,asia"),
        ("--nodes-per-region", "1", "2"),
    ] {
        let mut place = Place::with("state.json", installed);
        (place.port, place.registry_port) = (1, 2);
        let output = place.command().args([flag, given]).output();
        let line = one_line(&output.expect("it runs"));
        let expected = format!("was made with {flag} {existing}; leave {flag} out");
        assert!(line.contains(&expected), "{line}");
    }
}

#[test]
fn what_is_no_list_of_regions_or_no_number_of_nodes_is_refused() {
    for (flag, given, fault) in [
        ("--regions", "westus,westus", "named twice"),
        ("--regions", "West!", "a region is 2 to 32"),
        ("--nodes-per-region", "0", "1..=16"),
    ] {
        let place = Place::new();
        let output = place.command().args([flag, given]).output();
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        let errors = String::from_utf8_lossy(&output.stderr);
        let first = errors.lines().next().unwrap_or_default();
        assert!(first.contains(given) && first.contains(fault), "{errors}");
        assert!(!place.state_dir.exists());
    }
}

/// A started `wharfinger dev`. It is ended when the test fails.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(place: &Place) -> Self {
        Self::start_with(place, &[])
    }

    fn start_with(place: &Place, options: &[&str]) -> Self {
        let log = place.state_dir.with_extension("log");
        let output = File::create(&log).expect("create");
        let errors = output.try_clone().expect("a second handle");
        let mut command = place.command();
        command.args(options).stdout(output).stderr(errors);
        let child = command.spawn();
        Self {
            child: child.expect("it runs"),
            log,
        }
    }

    /// What the ready file says once it is there and `accepted`.
    fn ready(&mut self, place: &Place, accepted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(&place.ready_file).unwrap_or_default();
            if let Ok(ready) = serde_json::from_str(&text)
                && accepted(&ready)
            {
                return ready;
            }
            let ended = self.child.try_wait().expect("our child");
            let late = began.elapsed() > PATIENCE;
            assert!(
                ended.is_none() && !late,
                "not ready ({ended:?}):\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    fn end(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.child.wait().expect("our child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn pids(ready: &Value) -> BTreeMap<String, Pid> {
    let pids = ready["pids"].as_object().expect("an object");
    pids.iter()
        .map(|(role, id)| {
            let id = id.as_i64().and_then(|id| i32::try_from(id).ok());
            (
                role.clone(),
                id.and_then(Pid::from_raw).expect("a process id"),
            )
        })
        .collect()
}

/// Processes that are not our children and thus are gone for good when they end.
fn wait_until_gone(processes: &BTreeMap<String, Pid>) {
    let began = Instant::now();
    for (role, process) in processes {
        while test_kill_process(*process).is_ok() && !is_zombie(*process) {
            assert!(began.elapsed() < PATIENCE, "{role} is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_zombie(process: Pid) -> bool {
    let stat = Path::new("/proc")
        .join(process.as_raw_nonzero().to_string())
        .join("stat");
    fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_whole_installation_starts_survives_kills_and_is_the_same_at_the_next_start() {
    let place = Place::new();
    let mut run = Running::start(&place);
    let first = run.ready(&place, |_| true);
    let keys: Vec<&str> = first
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "control_plane",
            "ca_file",
            "tenant_id",
            "subscription_id",
            "client_id",
            "client_secret",
            "login_server_suffix",
            "regions",
            "database_url",
            "pids",
            "metrics",
        ]
    );
    let mode = fs::metadata(&place.ready_file)
        .expect("metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        first["login_server_suffix"],
        format!(".registry.localhost:{}", place.registry_port)
    );

    // A killed server, and a killed Postgres with its shared memory and its file left behind, come back.
    for role in ["control-plane", "registry-node-westus", "postgres"] {
        let before = pids(&run.ready(&place, |_| true));
        kill_process(before[role], Signal::KILL).expect("it runs");
        run.ready(&place, |ready| pids(ready)[role] != before[role]);
    }

    // Ctrl-C ends all of it, and the next start has everything again.
    let processes = pids(&run.ready(&place, |_| true));
    assert!(run.end().success(), "{}", run.said());
    wait_until_gone(&processes);
    assert!(!place.ready_file.exists());
    let mut run = Running::start(&place);
    let second = run.ready(&place, |_| true);
    for key in keys.iter().filter(|key| **key != "pids") {
        assert_eq!(first[key], second[key], "{key}");
    }

    // Killed itself it leaves nobody behind, and a start right after that succeeds; it may bring a region and nodes.
    let processes = pids(&second);
    run.signal(Signal::KILL);
    run.child.wait().expect("our child");
    let more = ["--regions", "westus,northeurope", "--nodes-per-region", "2"];
    let mut run = Running::start_with(&place, &more);
    wait_until_gone(&processes);
    let third = run.ready(&place, |ready| pids(ready) != processes);
    assert_eq!(third["client_secret"], first["client_secret"]);
    let nodes = |ready: &Value, region: &str| ready["regions"][region].as_array().cloned();
    let (before, after) = (nodes(&first, "westus"), nodes(&third, "westus"));
    assert_eq!(before.as_deref(), after.as_deref().map(|nodes| &nodes[..1]));
    assert_eq!(
        nodes(&third, "northeurope").map(|nodes| nodes.len()),
        Some(2)
    );
    assert!(run.end().success(), "{}", run.said());

    // They are there without being asked for again.
    let mut run = Running::start(&place);
    let fourth = run.ready(&place, |_| true);
    assert_eq!(fourth["regions"], third["regions"]);
    assert_eq!(fourth["metrics"], third["metrics"]);
    assert!(run.end().success(), "{}", run.said());
}

//! A Postgres of a test's own, to be restarted, dumped, restored and promoted.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The database that control planes use; `postgres` is there to work from.
pub(crate) const DATABASE: &str = "wharfinger";

/// Reached by a socket in a directory, so it needs no port and no password.
pub(crate) struct Cluster {
    directory: TempDir,
}

impl Cluster {
    /// An empty one, running.
    pub(crate) fn start() -> Self {
        let cluster = Self::place();
        let data = cluster.data();
        run(
            "initdb",
            [
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-sync",
                "-D",
                &data,
            ],
        );
        cluster.resume();
        cluster.run_sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        cluster
    }

    /// A replica that follows another one.
    pub(crate) fn replica(primary: &Self) -> Self {
        let cluster = Self::place();
        let data = cluster.data();
        run(
            "pg_basebackup",
            [
                "-h",
                primary.socket(),
                "-U",
                "postgres",
                "-D",
                &data,
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "--no-sync",
            ],
        );
        cluster.resume();
        cluster
    }

    fn place() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("wharfinger-test-postgres.")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        if let Some(owner) = owner() {
            chown(directory.path(), Some(owner), None).unwrap();
        }
        Self { directory }
    }

    /// The directory of its socket.
    pub(crate) fn socket(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    fn data(&self) -> String {
        format!("{}/data", self.socket())
    }

    /// How to reach it, or whatever has its socket behind a link.
    pub(crate) fn url(socket: &str) -> String {
        format!("postgres://postgres@localhost/{DATABASE}?host={socket}")
    }

    pub(crate) fn resume(&self) {
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c max_connections=100",
            self.socket()
        );
        let log = format!("{}/log", self.data());
        run(
            "pg_ctl",
            [
                "start",
                "--wait",
                "--silent",
                "-D",
                &self.data(),
                "-l",
                &log,
                "-o",
                &options,
            ],
        );
    }

    /// `fast` ends connections, `immediate` is a crash.
    pub(crate) fn stop(&self, mode: &str) {
        run(
            "pg_ctl",
            ["stop", "--wait", "--silent", "-D", &self.data(), "-m", mode],
        );
    }

    pub(crate) fn promote(&self) {
        run(
            "pg_ctl",
            ["promote", "--wait", "--silent", "-D", &self.data()],
        );
    }

    pub(crate) fn run_sql(&self, database: &str, sql: &str) -> String {
        run(
            "psql",
            [
                "-h",
                self.socket(),
                "-U",
                "postgres",
                "-d",
                database,
                "-v",
                "ON_ERROR_STOP=1",
                "--no-psqlrc",
                "-Atqc",
                sql,
            ],
        )
    }

    /// Returns when a replica has all that its primary has.
    pub(crate) fn caught_up(&self, primary: &Self) {
        let written = primary.run_sql("postgres", "SELECT pg_current_wal_flush_lsn()");
        let ask = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", written.trim());
        while self.run_sql("postgres", &ask).trim() != "t" {
            std::thread::yield_now();
        }
    }

    pub(crate) fn dump(&self) -> PathBuf {
        let path = self.directory.path().join("dump");
        run(
            "pg_dump",
            [
                "-h",
                self.socket(),
                "-U",
                "postgres",
                "-d",
                DATABASE,
                "-Fc",
                "-f",
                path.to_str().unwrap(),
            ],
        );
        path
    }

    pub(crate) fn restore<const N: usize>(&self, dump: &Path, database: &str, options: [&str; N]) {
        let mut arguments = vec!["-h", self.socket(), "-U", "postgres", "-d", database];
        arguments.extend(options);
        arguments.push(dump.to_str().unwrap());
        run("pg_restore", arguments);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may be stopped already.
        let _ = command(
            "pg_ctl",
            ["stop", "--silent", "-D", &self.data(), "-m", "immediate"],
        )
        .output();
    }
}

/// A name that stands for one socket directory, then for another: what an address that fails over is.
pub(crate) struct Address(TempDir);

impl Address {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let this = Self(TempDir::new().unwrap());
        this.move_to(cluster);
        this
    }

    pub(crate) fn socket(&self) -> String {
        self.0.path().join("current").to_str().unwrap().to_owned()
    }

    pub(crate) fn move_to(&self, cluster: &Cluster) {
        let next = self.0.path().join("next");
        symlink(cluster.socket(), &next).unwrap();
        std::fs::rename(next, self.socket()).unwrap();
    }
}

/// The user that runs Postgres when we are root, which it refuses.
fn owner() -> Option<u32> {
    (std::fs::metadata("/proc/self").unwrap().uid() == 0).then(|| {
        let id = Command::new("id")
            .args(["-u", "postgres"])
            .output()
            .unwrap();
        String::from_utf8(id.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    })
}

/// The directory of the newest installed server programs, unless they are in the path.
fn programs() -> PathBuf {
    let mut versions: Vec<u32> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    match versions.last() {
        Some(version) => format!("/usr/lib/postgresql/{version}/bin").into(),
        None => PathBuf::new(),
    }
}

fn command<I, S>(program: &str, arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let path = programs().join(program);
    let mut command = match owner() {
        Some(_) => {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(path);
            command
        }
        None => Command::new(path),
    };
    command
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Runs a program to its end; the server that `pg_ctl` starts keeps none of our pipes.
fn run<I, S>(program: &str, arguments: I) -> String
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = command(program, arguments);
    if program == "pg_ctl" {
        let status = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{command:?}: {status}");
        return String::new();
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

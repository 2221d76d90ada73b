//! The hidden subcommand that runs the private Postgres: it ends it when its own parent ends, which Postgres would
//! not do by itself, and clears up after one that was killed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use service::shutdown::Shutdown;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::leftovers;
use super::postgres::postmaster;

/// How long Postgres may take to write what it has in memory.
const FAST_STOP: Duration = Duration::from_secs(20);
/// How long processes of a killed postmaster may take to notice.
const ORPHANS_NOTICE: Duration = Duration::from_secs(1);
const LEFTOVERS_END: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs Postgres in the foreground and prints the postmaster's process id.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The program `postgres`
    #[arg(long)]
    program: PathBuf,
    /// The database's directory
    #[arg(long)]
    data: PathBuf,
    /// The port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// Whom to run it as
    #[arg(long, requires = "group_id")]
    user_id: Option<u32>,
    #[arg(long)]
    group_id: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    #[error("cannot set up the process")]
    Process(#[source] io::Error),
    #[error("cannot run {}", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("processes of an earlier Postgres still use {} after {} s", data.display(), LEFTOVERS_END.as_secs())]
    Leftovers { data: PathBuf },
    #[error("Postgres ended by itself ({0})")]
    Ended(ExitStatus),
}

/// Returns when Postgres ended: without an error when it was asked to.
pub(crate) fn run(arguments: &Arguments) -> Result<(), SupervisorError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SupervisorError::Process)?
        .block_on(supervise(arguments))
}

async fn supervise(arguments: &Arguments) -> Result<(), SupervisorError> {
    let shutdown = Shutdown::on_signals().map_err(SupervisorError::Process)?;
    end_leftovers(&arguments.data).await?;
    if shutdown.is_requested() {
        return Ok(());
    }
    let mut child = start(arguments)?;
    tokio::select! {
        ended = child.wait() => match ended {
            Ok(status) => Err(SupervisorError::Ended(status)),
            Err(error) => Err(SupervisorError::Process(error)),
        },
        () = shutdown.wait() => stop(child).await,
    }
}

fn start(arguments: &Arguments) -> Result<Child, SupervisorError> {
    let mut command = Command::new(&arguments.program);
    command
        .arg("-D")
        .arg(&arguments.data)
        .args(["-p", &arguments.port.to_string()])
        .args(["-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "unix_socket_directories="])
        .current_dir(&arguments.data)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null())
        // What Postgres says goes to the log; standard output is for the process id.
        .stdout(std::process::Stdio::null())
        // Ctrl-C at the terminal is for `wharfinger dev`, which ends its children in order.
        .process_group(0);
    if let (Some(user_id), Some(group_id)) = (arguments.user_id, arguments.group_id) {
        command.uid(user_id).gid(group_id);
    }
    let child = command.spawn().map_err(|source| SupervisorError::Spawn {
        program: arguments.program.clone(),
        source,
    })?;
    let process_id = child.id().expect("it was not waited for yet");
    let mut output = io::stdout().lock();
    // Nobody to read it means that the parent is gone, and then the signal of its end is on the way.
    let _gone = writeln!(output, "{process_id}").and_then(|()| output.flush());
    Ok(child)
}

/// SIGINT is Postgres's fast shutdown: it ends sessions, writes everything and goes.
async fn stop(mut child: Child) -> Result<(), SupervisorError> {
    send(&child, Signal::INT);
    match timeout(FAST_STOP, child.wait()).await {
        Ok(ended) => ended.map(drop).map_err(SupervisorError::Process),
        Err(_too_long) => {
            // The immediate shutdown: nothing committed is lost, the next start recovers.
            send(&child, Signal::QUIT);
            child
                .wait()
                .await
                .map(drop)
                .map_err(SupervisorError::Process)
        }
    }
}

fn send(child: &Child, signal: Signal) {
    let process = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(process) = process {
        // It may end at this very moment.
        let _ended = kill_process(process, signal);
    }
}

/// Ends what an earlier run left behind, so that the database can be started: a postmaster whose supervisor was killed,
/// or the sessions of a postmaster that was killed, which hold its shared memory until they notice.
async fn end_leftovers(data: &Path) -> Result<(), SupervisorError> {
    let began = Instant::now();
    let mut asked = false;
    loop {
        let processes = leftovers::processes("postgres", data);
        if processes.is_empty() {
            return forget_postmaster(data);
        }
        if began.elapsed() > LEFTOVERS_END {
            return Err(SupervisorError::Leftovers {
                data: data.to_owned(),
            });
        }
        let leader = postmaster(data).and_then(|(process_id, _)| Pid::from_raw(process_id));
        match leader.filter(|leader| processes.contains(leader)) {
            Some(leader) if !asked => {
                let _ended = kill_process(leader, Signal::INT);
                asked = true;
            }
            None if began.elapsed() > ORPHANS_NOTICE => {
                for process in processes {
                    let _ended = kill_process(process, Signal::QUIT);
                }
            }
            _ => {}
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Removes the file of a postmaster that was killed. Postgres overwrites it by itself, except when its process id
/// belongs to some other program by now; nobody works in the database, so it can go in any case.
fn forget_postmaster(data: &Path) -> Result<(), SupervisorError> {
    // Without /proc it is not known who works in the database, and Postgres has to judge by itself.
    if !Path::new("/proc/self/cwd").exists() {
        return Ok(());
    }
    match fs::remove_file(data.join("postmaster.pid")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SupervisorError::Process(error))
        }
        _ => Ok(()),
    }
}

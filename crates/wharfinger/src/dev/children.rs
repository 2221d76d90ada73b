//! The child processes: starting one and waiting until it serves, keeping it alive, ending it.
//!
//! All of it runs on the main thread, because the kernel ties a child to the thread that started it
//! ([`service::parent`]).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use service::parent;
use service::shutdown::Shutdown;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::error::DevError;
use super::probe::Probe;
use super::said::reason;

const READY_WAIT: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long a child may take to end when asked: longer than any of them takes for what it has begun.
const STOP_WAIT: Duration = Duration::from_secs(30);
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
/// A child that served this long did not end because of how it was started.
const PROVEN: Duration = Duration::from_secs(10);
/// A larger log is put aside at the next start.
const LARGE_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// How to run one child.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// What it is called in messages and in the ready file.
    pub(crate) role: String,
    /// This same program, with these arguments.
    pub(crate) executable: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) directory: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) probe: Probe,
}

/// A child that serves.
struct Running {
    child: Child,
    /// The process that does the work: for Postgres it is a child of our child.
    process_id: u32,
}

/// What happened to a child.
#[derive(Debug)]
pub(crate) enum Event {
    Ended {
        role: String,
        how: String,
    },
    /// It serves again.
    Restarted {
        role: String,
        process_id: u32,
    },
    /// It could not be started again; the next attempt follows.
    RestartFailed(DevError),
}

/// A child that is kept alive until [`Kept::stop`].
pub(crate) struct Kept {
    stop: Shutdown,
    task: JoinHandle<()>,
}

impl Kept {
    /// Asks the child to end and waits until it has.
    pub(crate) async fn stop(self) {
        self.stop.request();
        // The task only ends; a panic in it has been reported by the runtime.
        let _panicked = self.task.await;
    }
}

/// Starts a child and returns, once it serves, its process id and what keeps it alive.
pub(crate) async fn keep(
    program: Program,
    restart: bool,
    shutdown: &Shutdown,
    events: UnboundedSender<Event>,
) -> Result<(u32, Kept), DevError> {
    set_large_log_aside(&program.log)?;
    let running = start(&program, shutdown).await?;
    let process_id = running.process_id;
    let stop = Shutdown::new();
    let task = tokio::spawn(keep_alive(program, running, restart, stop.clone(), events));
    Ok((process_id, Kept { stop, task }))
}

async fn keep_alive(
    program: Program,
    mut running: Running,
    restart: bool,
    stop: Shutdown,
    events: UnboundedSender<Event>,
) {
    let mut back_off = FIRST_BACK_OFF;
    loop {
        let served_since = Instant::now();
        let how = tokio::select! {
            ended = running.child.wait() => describe(ended),
            () = stop.wait() => return end(running.child).await,
        };
        let role = program.role.clone();
        // Nobody listens any more when all of it is ending.
        let _ending = events.send(Event::Ended { role, how });
        if !restart {
            return stop.wait().await;
        }
        if served_since.elapsed() >= PROVEN {
            back_off = FIRST_BACK_OFF;
        }
        running = loop {
            tokio::select! {
                () = sleep(back_off) => {}
                () = stop.wait() => return,
            }
            back_off = (back_off * 2).min(LONGEST_BACK_OFF);
            match start(&program, &stop).await {
                Ok(running) => break running,
                Err(DevError::Interrupted) => return,
                Err(error) => {
                    let _ending = events.send(Event::RestartFailed(error));
                }
            }
        };
        let _ending = events.send(Event::Restarted {
            role: program.role.clone(),
            process_id: running.process_id,
        });
    }
}

/// Starts a child and waits until it serves; one that does not is ended.
async fn start(program: &Program, shutdown: &Shutdown) -> Result<Running, DevError> {
    let mut log = open_log(&program.log)?;
    let log_begins = log
        .seek(SeekFrom::End(0))
        .map_err(DevError::file("read", &program.log))?;
    let mut child = spawn(program, log)?;
    let outcome = tokio::select! {
        outcome = wait_until_ready(program, &mut child, log_begins) => outcome,
        () = shutdown.wait() => Err(DevError::Interrupted),
    };
    match outcome {
        Ok(process_id) => Ok(Running { child, process_id }),
        Err(error) => {
            end(child).await;
            Err(error)
        }
    }
}

fn spawn(program: &Program, log: File) -> Result<Child, DevError> {
    let fault = |source| DevError::Spawn {
        role: program.role.clone(),
        source,
    };
    let errors = log.try_clone().map_err(fault)?;
    let output = match program.probe {
        Probe::Http(_) => Stdio::from(log),
        // It prints the process id of the postmaster.
        Probe::Postgres { .. } => Stdio::piped(),
    };
    Command::new(&program.executable)
        .args(&program.arguments)
        .current_dir(&program.directory)
        // The database is named by a file; this variable may name another one.
        .env_remove("DATABASE_URL")
        .env(parent::PARENT_VARIABLE, parent::own_process_id())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // Ctrl-C at the terminal is for us; children are ended in order.
        .process_group(0)
        .spawn()
        .map_err(fault)
}

/// Returns the id of the process that does the work.
async fn wait_until_ready(
    program: &Program,
    child: &mut Child,
    log_begins: u64,
) -> Result<u32, DevError> {
    let mut waits_for = "it does not answer".to_owned();
    let ready = async {
        let process_id = process_id(child).await;
        while let Err(reason) = program.probe.ask(process_id).await {
            waits_for = reason;
            sleep(ASK_AGAIN).await;
            if let Some(status) = child.try_wait().ok().flatten() {
                return Err(DevError::ChildEnded {
                    role: program.role.clone(),
                    how: describe(Ok(status)),
                    detail: what_it_said(&program.log, log_begins),
                    log: program.log.clone(),
                });
            }
        }
        Ok(process_id)
    };
    match timeout(READY_WAIT, ready).await {
        Ok(outcome) => outcome,
        Err(_too_long) => Err(DevError::ChildNotReady {
            role: program.role.clone(),
            seconds: READY_WAIT.as_secs(),
            detail: waits_for,
            log: program.log.clone(),
        }),
    }
}

/// The child's own id, or the one that it prints on a piped output. 0, which no process has, when it ended instead.
async fn process_id(child: &mut Child) -> u32 {
    let Some(output) = child.stdout.take() else {
        return child.id().unwrap_or(0);
    };
    let mut line = String::new();
    match BufReader::new(output).read_line(&mut line).await {
        Ok(_) => line.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// Asks a child to end and waits; one that does not within [`STOP_WAIT`] is killed.
async fn end(mut child: Child) {
    let process = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(process) = process {
        // It may have ended at this very moment.
        let _ended = kill_process(process, Signal::TERM);
    }
    if timeout(STOP_WAIT, child.wait()).await.is_err() {
        // It fails only for a child that was waited for, and this one was not.
        let _ended = child.kill().await;
    }
}

fn describe(ended: std::io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

fn open_log(path: &Path) -> Result<File, DevError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)
        .map_err(DevError::file("open", path))
}

fn set_large_log_aside(path: &Path) -> Result<(), DevError> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LARGE_LOG_BYTES) {
        std::fs::rename(path, path.with_extension("log.old"))
            .map_err(DevError::file("rename", path))?;
    }
    Ok(())
}

/// The line of the log that tells best why a child ended.
fn what_it_said(log: &Path, begins: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(begins))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => reason(&text),
        Err(error) => error.to_string(),
    }
}

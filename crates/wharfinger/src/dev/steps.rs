//! Subcommands of this program that are run to their end: migrations, `admin init`, `admin node create`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use service::parent;
use service::shutdown::Shutdown;
use tokio::process::Command;

use super::error::DevError;
use super::said::reason;

/// Runs the program with these arguments and waits; `step` is what a message calls it.
pub(crate) async fn run<A: AsRef<OsStr>>(
    executable: &Path,
    step: &str,
    arguments: &[A],
    shutdown: &Shutdown,
) -> Result<(), DevError> {
    let child = Command::new(executable)
        .args(arguments)
        .env_remove("DATABASE_URL")
        .env(parent::PARENT_VARIABLE, parent::own_process_id())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| DevError::Spawn {
            role: step.to_owned(),
            source,
        })?;
    let output = tokio::select! {
        output = child.wait_with_output() => output.map_err(DevError::Process)?,
        () = shutdown.wait() => return Err(DevError::Interrupted),
    };
    if output.status.success() {
        return Ok(());
    }
    Err(DevError::Step {
        step: step.to_owned(),
        detail: reason(&String::from_utf8_lossy(&output.stderr)),
    })
}

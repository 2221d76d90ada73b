//! The tie between a child process and the process that started it: the child ends when its parent does,
//! also when the parent was killed.
//!
//! A parent that wants this sets [`PARENT_VARIABLE`] to its own process id in the child's environment, and starts the
//! child from a thread that lives as long as the process (Linux sends the signal when the *thread* that started
//! the child ends).

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// The environment variable in which a parent names its process id to a child that shall end with it.
pub const PARENT_VARIABLE: &str = "WHARFINGER_PARENT_PROCESS_ID";

/// Why a process could not be tied to its parent.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// The variable holds something that is not a process id.
    #[error("{PARENT_VARIABLE} must be a process id, not {value:?}")]
    NotAProcessId {
        /// What the variable holds.
        value: String,
    },
    /// The kernel refused.
    #[error("cannot ask the kernel to end this process with its parent")]
    Refused(#[source] std::io::Error),
    /// The parent ended before the tie was made, so no signal will ever come.
    #[error("the process {parent} that started this one is gone")]
    ParentGone {
        /// The process id that the variable named.
        parent: i32,
    },
}

/// The value of [`PARENT_VARIABLE`] for children of this process.
pub fn own_process_id() -> String {
    getpid().as_raw_nonzero().to_string()
}

/// Ties this process to its parent if the environment asks for it; otherwise does nothing.
///
/// When the parent ends this process gets SIGTERM. Call it early in `main`, on the main thread.
///
/// # Errors
/// When the variable is garbled, the kernel refuses, or the parent is already gone: the caller should then end.
pub fn end_with_parent() -> Result<(), ParentError> {
    let Some(value) = std::env::var_os(PARENT_VARIABLE) else {
        return Ok(());
    };
    let value = value.to_string_lossy().into_owned();
    let Some(parent) = value.parse::<i32>().ok().and_then(Pid::from_raw) else {
        return Err(ParentError::NotAProcessId { value });
    };
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|errno| ParentError::Refused(errno.into()))?;
    // A parent that ended before the line above was never going to send the signal.
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err(ParentError::ParentGone {
            parent: parent.as_raw_nonzero().get(),
        })
    }
}

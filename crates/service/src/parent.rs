//! The tie between a child process and the process that started it: the child ends when its parent does,
//! also when the parent was killed.
//!
//! A parent that wants this sets [`PARENT_VARIABLE`] to its own process id in the child's environment, and starts the
//! child from a thread that lives as long as the process (Linux sends the signal when the *thread* that started
//! the child ends).

use rustix::process::{
    Pid, Signal, getpid, getppid, set_parent_process_death_signal, test_kill_process,
};

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
    // A parent that ended before the line above was never going to send the signal. Where it is alive and merely not
    // our parent, somebody started this process again with the environment it had, and that is as good a parent.
    if getppid() == Some(parent) || is_alive(parent) {
        Ok(())
    } else {
        Err(ParentError::ParentGone {
            parent: parent.as_raw_nonzero().get(),
        })
    }
}

/// Whether the process runs; one that ended and was not yet waited for does not.
fn is_alive(process: Pid) -> bool {
    let exists = match test_kill_process(process) {
        Ok(()) => true,
        Err(errno) => errno == rustix::io::Errno::PERM,
    };
    let ended = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()))
        .is_ok_and(|stat| has_ended(&stat));
    exists && !ended
}

/// The state is the first field after the name, which stands in parentheses and may hold anything.
fn has_ended(stat: &str) -> bool {
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends_even_when_nobody_waited_for_it() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat runs");
        let process = Pid::from_child(&child);
        assert!(is_alive(process));
        drop(child.stdin.take());
        let output = child.stdout.take().expect("piped");
        // The end of its output comes while it ends; the kernel marks it a little later.
        std::io::copy(&mut std::io::BufReader::new(output), &mut std::io::sink()).expect("reads");
        while is_alive(process) {
            std::thread::yield_now();
        }
        child.wait().expect("cat ended");
        assert!(!is_alive(process));
    }

    #[test]
    fn the_state_is_found_behind_any_name() {
        assert!(has_ended("12 (a) S) Z 1 1"));
        assert!(!has_ended("12 (Z) Z) S 1 1"));
        assert!(!has_ended(""));
    }
}

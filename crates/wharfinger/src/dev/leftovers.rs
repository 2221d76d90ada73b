//! Processes of an earlier run that was killed: they end by themselves, but not at once.
//!
//! They are told by their working directory, which is the state directory or the database's, so no list of process
//! ids has to be kept, and a process id that was given to another program is never mistaken for ours.

use std::fs;
use std::path::Path;

use rustix::process::Pid;

/// The processes of this program's name that work in the directory or below, except this one.
///
/// Empty where there is no `/proc`; then a port in use is what tells of them.
pub(crate) fn processes(name: &str, directory: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = rustix::process::getpid();
    entries
        .filter_map(|entry| process_id(&entry.ok()?.file_name().to_string_lossy()))
        .filter(|process| *process != own && works_in(*process, name, directory))
        .collect()
}

fn process_id(text: &str) -> Option<Pid> {
    Pid::from_raw(text.parse().ok()?)
}

fn works_in(process: Pid, name: &str, directory: &Path) -> bool {
    let proc = Path::new("/proc").join(process.as_raw_nonzero().to_string());
    fs::read_to_string(proc.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        && fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_process_is_found_by_name_and_directory_until_it_ends() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let inside = directory.path().join("inside");
        fs::create_dir(&inside).expect("a directory");
        let mut child = Command::new("cat")
            .current_dir(&inside)
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat runs");
        // The new program's name shows a moment after it has begun.
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut found = processes("cat", directory.path());
        while found.is_empty() && Instant::now() < deadline {
            thread::yield_now();
            found = processes("cat", directory.path());
        }
        assert_eq!(found.len(), 1);
        assert_eq!(
            u32::try_from(found[0].as_raw_nonzero().get()).expect("positive"),
            child.id()
        );
        assert!(processes("dog", directory.path()).is_empty());
        drop(child.stdin.take());
        child.wait().expect("cat ends");
        assert!(processes("cat", directory.path()).is_empty());
    }
}

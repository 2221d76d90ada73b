//! What is logged while a test runs.

use std::{io, sync::Mutex};

/// Of all tests of this process: a server's threads know only the one subscriber of their process.
static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.lock().expect("no test panics here").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what is logged from now on, as a node logs by default.
pub(crate) fn keep() {
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(|| Writer);
    // The only error is that another test keeps it already.
    let _ = subscriber.try_init();
}

/// The lines that contain a text.
pub(crate) fn lines_with(text: &str) -> Vec<String> {
    let logged = LOGGED.lock().expect("no test panics here");
    let logged = String::from_utf8_lossy(&logged);
    let lines = logged.lines().filter(|line| line.contains(text));
    lines.map(str::to_owned).collect()
}

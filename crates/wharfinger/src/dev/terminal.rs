//! Lines for the person at the terminal.

use std::io::Write;

/// Prints one line on standard output. A closed terminal is no reason to stop serving.
pub(crate) fn say(line: impl AsRef<str>) {
    let mut output = std::io::stdout().lock();
    let _closed = writeln!(output, "{}", line.as_ref()).and_then(|()| output.flush());
}

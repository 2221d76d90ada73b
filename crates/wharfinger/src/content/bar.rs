//! A line at the bottom of the terminal that says how far the work is. Where there is no terminal, one line a registry.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use registry_node::content::Progress;
use tokio::task::JoinHandle;
use uuid::Uuid;

const DRAWN_EVERY: Duration = Duration::from_millis(100);
const WIDTH: usize = 24;

/// Shows progress on standard error until it is dropped.
pub(super) struct Bar {
    done: Arc<AtomicUsize>,
    drawing: Option<JoinHandle<()>>,
}

impl Bar {
    pub(super) fn start(progress: Progress, registries: usize) -> Self {
        let done = Arc::new(AtomicUsize::new(0));
        let drawing = std::io::stderr().is_terminal().then(|| {
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                let mut tick = tokio::time::interval(DRAWN_EVERY);
                loop {
                    tick.tick().await;
                    draw(&line(&progress, done.load(Ordering::Relaxed), registries));
                }
            })
        });
        Self { done, drawing }
    }

    /// One more registry is done.
    pub(super) fn done_with(&self, registry: Uuid, result: &str) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.say(&format!("registry {registry}: {result}"));
    }

    /// A line that stays. A closed terminal is no reason to stop.
    pub(super) fn say(&self, line: &str) {
        let start = if self.drawing.is_some() { CLEAR } else { "" };
        let _closed = writeln!(std::io::stderr(), "{start}{line}");
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(drawing) = self.drawing.take() {
            drawing.abort();
            draw("");
        }
    }
}

/// To the start of the line, and nothing left on it.
const CLEAR: &str = "\r\x1b[2K";

fn draw(line: &str) {
    let mut output = std::io::stderr().lock();
    let _closed = write!(output, "{CLEAR}{line}").and_then(|()| output.flush());
}

fn line(progress: &Progress, done: usize, registries: usize) -> String {
    let (doing, looked_at) = progress.now();
    let filled = (done * WIDTH).checked_div(registries).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH)
        .map(|at| if at < filled { '#' } else { '.' })
        .collect();
    let of = match doing.registry {
        Some(registry) => format!(" of {registry}"),
        None => String::new(),
    };
    format!(
        "[{bar}] {done}/{registries} registries; {}{of}: {looked_at}",
        doing.stage
    )
}

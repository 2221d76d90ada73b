//! `wharfinger content`: an operator's tools on a content directory. They read and change it as nodes do, beside nodes that serve it.

mod bar;
mod collect;
mod usage;
mod verify;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;
use registry_node::content::{Content, ContentError, ExclusiveError, Progress, Sources};
use registry_node::{ContentArguments, ContentArgumentsError};
use serde::Serialize;
use uuid::Uuid;

use crate::node::Output;
use bar::Bar;

/// The content of a region's registries: what it comes to, whether it is whole, and what of it nobody needs
#[derive(Subcommand)]
pub(crate) enum ContentCommand {
    /// Count what registries and repositories come to, and when they were last pulled
    Usage(usage::Arguments),
    /// Check that everything that tags and manifests promise is there; exits with 0 when it is, 1 when it is not, 2 when it cannot be read
    Verify(verify::Arguments),
    /// Remove what nothing refers to, as nodes do by themselves
    Collect(collect::Arguments),
}

/// Where the content is, and of which registries.
#[derive(clap::Args)]
struct Root {
    #[command(flatten)]
    content: ContentArguments,
    /// Only this registry; may be given several times (default: all with content)
    #[arg(long, value_name = "UID")]
    registry: Vec<Uuid>,
    /// How the result is written
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Why a tool ended early.
#[derive(Debug, thiserror::Error)]
enum ContentCommandError {
    #[error(transparent)]
    Open(#[from] ContentArgumentsError),
    #[error(
        "the content store does not delete at a version, so that nothing can be removed beside pushes: collect with --exclusive"
    )]
    NotOnline,
    #[error("{} cannot be worked through", registry.map_or_else(|| "the content".to_owned(), |uid| format!("registry {uid}")))]
    Content {
        registry: Option<Uuid>,
        #[source]
        source: ContentError,
    },
    #[error("nobody can collect alone now")]
    Exclusive(#[from] ExclusiveError),
    #[error("--grace-period {0} is too short: it is at least {minimum} seconds", minimum = registry_node::limits::GRACE_PERIOD_MINIMUM.as_secs())]
    GracePeriod(u64),
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

/// The exit codes beside 0.
const FAULTY: u8 = 1;
const FAILED: u8 = 2;

pub(crate) fn run(command: ContentCommand) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = runtime
        .map_err(ContentCommandError::Runtime)
        .and_then(|runtime| match command {
            ContentCommand::Usage(arguments) => runtime.block_on(usage::run(&arguments)),
            ContentCommand::Verify(arguments) => runtime.block_on(verify::run(&arguments)),
            ContentCommand::Collect(arguments) => runtime.block_on(collect::run(&arguments)),
        });
    match done {
        Ok(code) => code,
        Err(error) => {
            let _one = crate::fail(error);
            ExitCode::from(FAILED)
        }
    }
}

/// The content that was opened, with the registries that are asked for.
struct Opened {
    content: Content,
    registries: Vec<Uuid>,
    progress: Progress,
    bar: Bar,
}

impl Root {
    async fn open(&self) -> Result<Opened, ContentCommandError> {
        let sources = Sources::of_the_system();
        let content = self.content.open_existing(sources).await?;
        let mut registries = self.registry.clone();
        if registries.is_empty() {
            let mut after = None;
            while let Some(registry) = content.next_registry(after).await.map_err(of_all)? {
                registries.push(registry);
                after = Some(registry);
            }
        }
        let progress = Progress::default();
        let bar = Bar::start(progress.clone(), registries.len());
        Ok(Opened {
            content,
            registries,
            progress,
            bar,
        })
    }
}

fn of_all(source: ContentError) -> ContentCommandError {
    ContentCommandError::Content {
        registry: None,
        source,
    }
}

/// Says which registry an error is about.
fn of(registry: Uuid) -> impl FnOnce(ContentError) -> ContentCommandError {
    move |source| ContentCommandError::Content {
        registry: Some(registry),
        source,
    }
}

fn print(text: &str) -> Result<(), ContentCommandError> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(ContentCommandError::Output)
}

fn print_json(value: &impl Serialize) -> Result<(), ContentCommandError> {
    let mut text = serde_json::to_string_pretty(value).expect("results have string keys only");
    text.push('\n');
    print(&text)
}

/// Columns of text, each as wide as its widest cell; the first is flush left, the others are right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        let cells = rows.iter().filter_map(move |row| row.get(column));
        cells
            .map(|cell: &String| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let written = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
            written.expect("a string takes all text");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes for people.
fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if amount < 1024.0 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    format!("{amount:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_the_largest_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (5 * 1024 * 1024 * 1024, "5.0 GiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), "100".to_owned()],
        ];
        assert_eq!(table(&rows), "a       1\nlong  100\n");
    }
}

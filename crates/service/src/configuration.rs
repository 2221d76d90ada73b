//! Secrets on the command line, in the environment and in files.
//!
//! A secret is best given as a file: command lines and environments are visible to others.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a secret could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// Neither the flag nor its `-file` form was given.
    #[error("--{name}-file (or --{name}, or its environment variable) is required")]
    Missing {
        /// The flag, without dashes and without `-file`.
        name: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read --{name}-file {}", path.display())]
    Read {
        /// The flag, without dashes and without `-file`.
        name: &'static str,
        /// The file named.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file holds nothing.
    #[error("--{name}-file {} is empty", path.display())]
    Empty {
        /// The flag, without dashes and without `-file`.
        name: &'static str,
        /// The file named.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file to be written.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Where the database is, for every subcommand that speaks to it.
#[derive(Clone, clap::Args)]
pub struct DatabaseUrlArguments {
    /// File that holds the URL of the Postgres database (it contains a password, so a file is the safe form)
    #[arg(long, value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,
    /// URL of the Postgres database, postgres://user:password@host:port/name
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

impl DatabaseUrlArguments {
    /// The URL: from the file when one is named, else from the flag or `DATABASE_URL`.
    ///
    /// # Errors
    /// When none is given or the file cannot be read.
    pub fn resolve(&self) -> Result<String, ConfigurationError> {
        require_secret(
            "database-url",
            self.database_url.as_deref(),
            self.database_url_file.as_deref(),
        )
    }
}

/// Reads a secret given as `--name VALUE` (or its environment variable) or `--name-file FILE`.
///
/// The file wins: a file is always named on purpose, while a variable may be in the environment by accident. One line
/// end at the end of the file is not part of the secret. `None` when neither was given.
///
/// # Errors
/// When the file cannot be read or is empty.
pub fn read_secret(
    name: &'static str,
    value: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<String>, ConfigurationError> {
    let Some(path) = file else {
        return Ok(value.filter(|text| !text.is_empty()).map(str::to_owned));
    };
    let text = fs::read_to_string(path).map_err(|source| ConfigurationError::Read {
        name,
        path: path.to_owned(),
        source,
    })?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err(ConfigurationError::Empty {
            name,
            path: path.to_owned(),
        });
    }
    Ok(Some(secret.to_owned()))
}

/// As [`read_secret`], for a secret that must be given.
///
/// # Errors
/// When it is not given, the file cannot be read, or it is empty.
pub fn require_secret(
    name: &'static str,
    value: Option<&str>,
    file: Option<&Path>,
) -> Result<String, ConfigurationError> {
    read_secret(name, value, file)?.ok_or(ConfigurationError::Missing { name })
}

/// Writes a file that only its owner can read (0600), replacing one that is there.
///
/// Readers see the old file or the whole new one, also after a crash: the bytes go to a file beside it, are synced, and
/// take the name then.
///
/// # Errors
/// When the directory does not exist or cannot be written.
pub fn write_secret_file(path: &Path, bytes: &[u8]) -> Result<(), ConfigurationError> {
    replace_file(path, bytes).map_err(|source| ConfigurationError::Write {
        path: path.to_owned(),
        source,
    })
}

fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}.new", std::process::id()));
    let temporary = directory.join(temporary_name);
    // A leftover of a crashed process with the same id may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_and_rename(&temporary, path, bytes);
    if written.is_err() {
        // The first error is the one to tell; a leftover that cannot be removed harms nobody.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_line_end_is_not_part_of_the_secret() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("secret");
        for (content, secret) in [
            ("a b\n", "a b"),
            ("a\n\n", "a\n"),
            ("a\r\n", "a"),
            ("a", "a"),
        ] {
            fs::write(&path, content).expect("write");
            let read = require_secret("key", None, Some(&path)).expect("read");
            assert_eq!(read, secret);
        }
    }

    #[test]
    fn the_file_wins_over_the_environment() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("secret");
        write_secret_file(&path, b"from the file\n").expect("write");
        let read = read_secret("key", Some("from the environment"), Some(&path)).expect("read");
        assert_eq!(read.as_deref(), Some("from the file"));
    }

    #[test]
    fn faults_name_the_flag_and_the_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("secret");
        let missing = require_secret("key", None, None).expect_err("nothing given");
        assert_eq!(
            missing.to_string(),
            "--key-file (or --key, or its environment variable) is required"
        );
        let unreadable = require_secret("key", None, Some(&path)).expect_err("no such file");
        let line = crate::errors::chain(&unreadable);
        assert!(line.starts_with("cannot read --key-file /"), "{line}");
        assert!(
            line.contains("/secret: No such file or directory"),
            "{line}"
        );
        fs::write(&path, "\n").expect("write");
        let empty = require_secret("key", None, Some(&path)).expect_err("an empty file");
        assert!(empty.to_string().ends_with("/secret is empty"), "{empty}");
    }

    #[test]
    fn a_secret_file_is_for_its_owner_only_and_leaves_no_other_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("secret");
        fs::write(&path, "open to all").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("permissions");
        write_secret_file(&path, b"new").expect("write");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1);
    }
}

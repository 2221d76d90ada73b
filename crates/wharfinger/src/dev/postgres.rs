//! The private Postgres: finding the programs, making the database once, and how to reach it.
//!
//! It listens on 127.0.0.1 only and everybody needs the generated password, which lies in the state directory.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use service::configuration::write_secret_file;

use super::error::DevError;
use super::said::reason;
use super::state::StateDirectory;

const USER: &str = "wharfinger";
const DATABASE: &str = "postgres";
/// Where packages put Postgres, after the directories of `PATH`; `*` stands for any version, the newest is tried first.
const USUAL_PLACES: [&str; 5] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/local/pgsql/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
];

/// Installed server programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Programs {
    directory: PathBuf,
    /// As in the file `PG_VERSION` of a database ("15").
    major_version: String,
}

/// The user that runs Postgres when we are root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) user_id: u32,
    pub(crate) group_id: u32,
}

/// A database that is there and can be started.
#[derive(Clone, Debug)]
pub(crate) struct Postgres {
    programs: Programs,
    pub(crate) data: PathBuf,
    pub(crate) owner: Option<Owner>,
    password: String,
}

impl Postgres {
    /// Finds the programs and the database, which is made when there is none; `progress` is told before that.
    pub(crate) fn open_or_create(
        state: &StateDirectory,
        new_password: impl FnOnce() -> String,
        progress: impl Fn(&str),
    ) -> Result<Self, DevError> {
        let owner = owner()?;
        let directory = state.private_directory("postgres")?;
        let data = directory.join("data");
        let password_file = state.join("postgres-password");
        let made_by = made_by(state, &data)?;
        // An empty one in its place would look as if everything had been deleted.
        if made_by.is_none() && state.remembered().installed.is_some() {
            return Err(
                state.damaged("postgres/data is missing, and DATABASE_URL names no other database")
            );
        }
        let programs = choose(&data, made_by.as_deref())?;
        if let Some(owner) = owner {
            check_reachable(&directory, owner)?;
            give(&directory, owner)?;
        }
        if made_by.is_some() {
            let password = fs::read_to_string(&password_file)
                .map_err(|error| state.damaged(format!("postgres-password: {error}")))?;
            let password = password.trim_end().to_owned();
            if password.is_empty() || !password.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(state.damaged("postgres-password is garbled"));
            }
            return Ok(Self {
                programs,
                data,
                owner,
                password,
            });
        }
        let version = &programs.major_version;
        progress(&format!("making a database with Postgres {version}"));
        let password = new_password();
        write_secret_file(&password_file, format!("{password}\n").as_bytes())?;
        let postgres = Self {
            programs,
            data,
            owner,
            password,
        };
        postgres.create(&directory)?;
        Ok(postgres)
    }

    pub(crate) fn url(&self, port: u16) -> String {
        let password = &self.password;
        format!("postgres://{USER}:{password}@127.0.0.1:{port}/{DATABASE}")
    }

    pub(crate) fn server_program(&self) -> PathBuf {
        self.programs.directory.join("postgres")
    }

    pub(crate) fn version(&self) -> &str {
        &self.programs.major_version
    }

    /// Makes the database beside its place and moves it there, so that a database is there whole or not at all.
    fn create(&self, directory: &Path) -> Result<(), DevError> {
        let unfinished = directory.join("data.new");
        let password_file = directory.join("initial-password");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DevError::file("delete", &unfinished)(error));
            }
            _ => {}
        }
        write_secret_file(&password_file, self.password.as_bytes())?;
        if let Some(owner) = self.owner {
            give(&password_file, owner)?;
        }
        let made = self.run_initdb(directory, &unfinished, &password_file);
        fs::remove_file(&password_file).map_err(DevError::file("delete", &password_file))?;
        made?;
        fs::rename(&unfinished, &self.data).map_err(DevError::file("rename", &unfinished))
    }

    fn run_initdb(
        &self,
        directory: &Path,
        data: &Path,
        password_file: &Path,
    ) -> Result<(), DevError> {
        let program = self.programs.directory.join("initdb");
        let mut command = Command::new(&program);
        command
            .arg("--pgdata")
            .arg(data)
            .arg("--pwfile")
            .arg(password_file)
            .args(["--username", USER, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--locale", "C"])
            .current_dir(directory)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            // Ctrl-C at the terminal is for us: what is begun is finished, and then it all ends.
            .process_group(0);
        if let Some(owner) = self.owner {
            command.uid(owner.user_id).gid(owner.group_id);
        }
        let output = command
            .output()
            .map_err(|error| DevError::PostgresProgram {
                program: program.clone(),
                detail: error.to_string(),
            })?;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(DevError::Step {
            step: program.display().to_string(),
            detail: reason(&errors),
        })
    }
}

/// The process id of the postmaster and whether it takes connections, from its own file in the database.
pub(crate) fn postmaster(data: &Path) -> Option<(i32, bool)> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let process_id = lines.next()?.trim().parse().ok()?;
    // The eighth line is the state.
    let ready = lines.nth(6).is_some_and(|state| state.trim() == "ready");
    Some((process_id, ready))
}

/// Which Postgres made the database: `None` when there is none.
fn made_by(state: &StateDirectory, data: &Path) -> Result<Option<String>, DevError> {
    if !data.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(data.join("PG_VERSION"))
        .map_err(|error| state.damaged(format!("postgres/data/PG_VERSION: {error}")))?;
    let version = text.trim();
    if version.is_empty()
        || !version
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err(state.damaged("postgres/data/PG_VERSION is garbled"));
    }
    Ok(Some(version.to_owned()))
}

/// The first installed programs, or the ones that made the database.
fn choose(data: &Path, made_by: Option<&str>) -> Result<Programs, DevError> {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    for directory in candidates(&search_path, Path::new("/")) {
        let programs = Programs {
            major_version: major_version(&directory.join("postgres"))?,
            directory,
        };
        if made_by.is_none_or(|version| version == programs.major_version) {
            return Ok(programs);
        }
        found.push(format!(
            "{} ({})",
            programs.major_version,
            programs.directory.display()
        ));
    }
    match made_by {
        Some(version) if !found.is_empty() => Err(DevError::ForeignPostgres {
            data: data.to_owned(),
            made_by: version.to_owned(),
            found,
        }),
        _ => Err(DevError::NoPostgres {
            looked_in: std::iter::once("PATH".to_owned())
                .chain(USUAL_PLACES.map(str::to_owned))
                .collect(),
        }),
    }
}

/// Directories that hold both programs that we need, in the order of preference. `root` is `/`.
fn candidates(search_path: &OsStr, root: &Path) -> Vec<PathBuf> {
    let usual = USUAL_PLACES
        .iter()
        .flat_map(|place| expand(root, place.trim_start_matches('/')));
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in std::env::split_paths(search_path).chain(usual) {
        let complete = ["postgres", "initdb"]
            .iter()
            .all(|program| is_executable(&directory.join(program)));
        if complete && directory.is_absolute() && !found.contains(&directory) {
            found.push(directory);
        }
    }
    found
}

/// The directories that a place with at most one `*` stands for, newest version first.
fn expand(root: &Path, place: &str) -> Vec<PathBuf> {
    let parts: Vec<&str> = place.split('/').collect();
    let Some(star) = parts.iter().position(|part| part.contains('*')) else {
        return vec![root.join(place)];
    };
    let (prefix, suffix) = parts[star].split_once('*').unwrap_or((parts[star], ""));
    let parent = root.join(parts[..star].join("/"));
    let rest = parts[star + 1..].join("/");
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut matching: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
            Some((numbers(version), entry.path().join(&rest)))
        })
        .collect();
    matching.sort();
    matching.reverse();
    matching.into_iter().map(|(_, path)| path).collect()
}

/// "9.6" is older than "15".
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

fn major_version(program: &Path) -> Result<String, DevError> {
    let fault = |detail: String| DevError::PostgresProgram {
        program: program.to_owned(),
        detail,
    };
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| fault(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
    let version = text
        .split_whitespace()
        .find(|word| word.starts_with(|character: char| character.is_ascii_digit()))
        .and_then(|word| numbers(word).first().copied());
    version
        .map(|number| number.to_string())
        .ok_or_else(|| fault(format!("its version is not understood: {}", text.trim())))
}

/// The user postgres when we are root, because Postgres refuses to run as root; otherwise `None`: it runs as we do.
fn owner() -> Result<Option<Owner>, DevError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    find_user(&users).map(Some).ok_or(DevError::NoPostgresUser)
}

fn find_user(users: &str) -> Option<Owner> {
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some(Owner {
        user_id: fields.next()?.parse().ok()?,
        group_id: fields.next()?.parse().ok()?,
    })
}

/// Refuses a place that the owner cannot walk to.
fn check_reachable(directory: &Path, owner: Owner) -> Result<(), DevError> {
    for ancestor in directory.ancestors().skip(1) {
        let metadata = fs::metadata(ancestor).map_err(DevError::file("look at", ancestor))?;
        let execute = if metadata.uid() == owner.user_id {
            0o100
        } else if metadata.gid() == owner.group_id {
            0o010
        } else {
            0o001
        };
        if metadata.mode() & execute == 0 {
            return Err(DevError::Unreachable {
                data: directory.to_owned(),
                closed: ancestor.to_owned(),
            });
        }
    }
    Ok(())
}

fn give(path: &Path, owner: Owner) -> Result<(), DevError> {
    chown(path, Some(owner.user_id), Some(owner.group_id))
        .map_err(DevError::file("give the user postgres", path))?;
    if path.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(DevError::file("set the permissions of", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(root: &Path, directory: &str, programs: &[&str]) -> PathBuf {
        let directory = root.join(directory);
        fs::create_dir_all(&directory).expect("a directory");
        for program in programs {
            let path = directory.join(program);
            fs::write(&path, "#!/bin/sh\n").expect("write");
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("permissions");
        }
        directory
    }

    #[test]
    fn programs_are_found_on_the_path_first_and_then_newest_first() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let root = root.path();
        let both = ["postgres", "initdb"];
        let old = install(root, "usr/lib/postgresql/9.6/bin", &both);
        let new = install(root, "usr/lib/postgresql/15/bin", &both);
        let middle = install(root, "usr/lib/postgresql/13/bin", &both);
        let red_hat = install(root, "usr/pgsql-16/bin", &both);
        let brew = install(root, "opt/homebrew/opt/postgresql@14/bin", &both);
        let on_path = install(root, "home/me/bin", &both);
        // A client-only installation is no candidate.
        let client = install(root, "usr/bin", &["psql", "initdb"]);
        let search_path = std::env::join_paths([&client, &on_path, &new]).expect("no colons");
        assert_eq!(
            candidates(&search_path, root),
            [on_path, new, middle, old, red_hat, brew]
        );
        assert!(candidates(OsStr::new(""), &root.join("nowhere")).is_empty());
    }

    #[test]
    fn the_user_postgres_is_found_among_users() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104:PostgreSQL,,,:/var/lib:/bin/sh\n";
        let owner = find_user(users).expect("it is there");
        assert_eq!((owner.user_id, owner.group_id), (101, 104));
        assert!(find_user("postgresql:x:1:1::/:\n").is_none());
        assert!(find_user("postgres:x:\n").is_none());
    }

    #[test]
    fn the_state_of_the_postmaster_is_read_from_its_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(postmaster(directory.path()), None);
        let file = directory.path().join("postmaster.pid");
        let starting = "123\n/data\n1700000000\n5432\n\n127.0.0.1\n 1 2\nstarting\n";
        fs::write(&file, starting).expect("write");
        assert_eq!(postmaster(directory.path()), Some((123, false)));
        fs::write(&file, starting.replace("starting", "ready   ")).expect("write");
        assert_eq!(postmaster(directory.path()), Some((123, true)));
        fs::write(&file, "garbled").expect("write");
        assert_eq!(postmaster(directory.path()), None);
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let closed = directory.path().join("closed");
        fs::create_dir_all(closed.join("inside")).expect("a directory");
        fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("permissions");
        let stranger = Owner {
            user_id: 4_000_000,
            group_id: 4_000_000,
        };
        let error = check_reachable(&closed.join("inside"), stranger).expect_err("closed");
        assert!(
            error.to_string().contains("/closed is closed to it"),
            "{error}"
        );
    }
}

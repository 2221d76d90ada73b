//! `wharfinger admin` as it is typed, on a database of each test's own (`DATABASE_URL` names the server).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// A directory with the files that commands read and write, and the database.
struct Place {
    directory: tempfile::TempDir,
    database_url: String,
}

impl Place {
    fn new(database: &PgConnectOptions) -> Self {
        let this = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            database_url: database.to_url_lossy().to_string(),
        };
        for (name, byte) in [
            ("key", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
            ("other-key", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDI="),
        ] {
            fs::write(this.path(name), byte).expect("written");
            fs::set_permissions(this.path(name), Permissions::from_mode(0o600))
                .expect("permissions");
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn admin(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_wharfinger"))
            .arg("admin")
            .args(arguments)
            .env_remove("DATABASE_URL")
            .args(["--database-url", &self.database_url])
            .output()
            .expect("the program runs")
    }

    fn init(&self, key: &str) -> Output {
        let (key, bootstrap) = (self.path(key), self.path("bootstrap.json"));
        self.admin(&[
            "init",
            "--public-url",
            "https://localhost:8443",
            "--login-server-suffix",
            ".registry.localhost:5443",
            "--region",
            "westus",
            "--key-encryption-key-file",
            key.to_str().expect("text"),
            "--bootstrap-file",
            bootstrap.to_str().expect("text"),
        ])
    }
}

fn assert_refused(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(words), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

fn assert_done(output: &Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[sqlx::test(migrations = false)]
async fn an_empty_database_is_named_as_such(_pool: PgPoolOptions, database: PgConnectOptions) {
    let place = Place::new(&database);
    assert_refused(
        &place.admin(&["region", "create", "westus"]),
        "wharfinger admin init",
    );
    assert_refused(
        &place.admin(&["node", "create", "--region", "westus"]),
        "wharfinger admin init",
    );
}

#[sqlx::test(migrations = false)]
async fn an_installation_is_initialised_again_with_its_own_key_only(
    _pool: PgPoolOptions,
    database: PgConnectOptions,
) {
    let place = Place::new(&database);
    assert_done(&place.init("key"));
    assert_refused(&place.init("other-key"), "key-encryption key");
    assert_done(&place.init("key"));
}

#[sqlx::test(migrations = false)]
async fn a_region_keeps_the_display_name_that_it_was_given(
    pool: PgPoolOptions,
    database: PgConnectOptions,
) {
    let place = Place::new(&database);
    assert_done(&place.init("key"));
    assert_refused(
        &place.admin(&["region", "create", "westus", "--display-name", "West\nUS"]),
        "display-name",
    );
    assert_done(&place.admin(&["region", "create", "westus", "--display-name", "West US"]));
    assert_done(&place.init("key"));
    let pool = pool
        .connect_with(database)
        .await
        .expect("the database is there");
    let regions = store::Store::over(pool)
        .region_list()
        .await
        .expect("regions");
    let names: Vec<&str> = regions
        .iter()
        .map(|region| region.display_name.as_str())
        .collect();
    assert_eq!(names, ["West US"]);
}

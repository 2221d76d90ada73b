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

#[test]
fn a_database_that_cannot_be_used_is_named_with_the_reason() {
    for (url, line) in [
        (
            "postgres://nobody:secret@127.0.0.1:1/none",
            "error: the database cannot be used: cannot connect to Postgres at 127.0.0.1:1: ",
        ),
        (
            "127.0.0.1:5432",
            "error: the database cannot be used: the database URL is not of the form postgres://user:password@host:port/name: ",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_wharfinger"))
            .args(["migrate", "--database-url", url])
            .output()
            .expect("the program runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.starts_with(line), "{said}");
        assert!(
            said.lines().count() == 1 && !said.contains("secret"),
            "{said}"
        );
    }
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

fn bootstrap(place: &Place) -> serde_json::Value {
    let text = fs::read_to_string(place.path("bootstrap.json")).expect("the file is there");
    serde_json::from_str(&text).expect("it is JSON")
}

#[sqlx::test(migrations = false)]
async fn what_operators_do_is_recorded(pool: PgPoolOptions, database: PgConnectOptions) {
    let place = Place::new(&database);
    assert_done(&place.init("key"));
    let owner = bootstrap(&place)["client_id"]
        .as_str()
        .expect("text")
        .to_owned();
    assert_done(&place.admin(&["tenant", "rename", "Harbour"]));
    assert_done(&place.admin(&["region", "create", "eastus"]));
    assert_done(&place.admin(&["storage-limit", "set", "10GiB", "--sku", "basic"]));
    assert_refused(&place.admin(&["storage-limit", "set", "10GB"]), "10GB");
    let listed = place.admin(&["storage-limit", "list"]);
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout),
        "Basic: each registry may store 10737418240 bytes\nStandard: no limit\nPremium: no limit\n"
    );
    assert_done(&place.admin(&["subscription", "create", "Second", "--owner", &owner]));
    assert_refused(
        &place.admin(&[
            "subscription",
            "create",
            "Third",
            "--owner",
            "nobody@example.com",
        ]),
        "nobody@example.com",
    );
    assert_refused(
        &place.admin(&["administrator", "remove", &owner]),
        "nobody who can administer",
    );
    let missing = "11111111-2222-4333-8444-555555555555";
    assert_refused(&place.admin(&["node", "remove", missing]), missing);
    let pool = pool
        .connect_with(database)
        .await
        .expect("the database is there");
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT operation_name, status FROM activity_log
         WHERE caller_name LIKE 'wharfinger admin (%' AND caller_id IS NULL ORDER BY occurred_at",
    )
    .fetch_all(&pool)
    .await
    .expect("rows");
    let rows: Vec<(&str, &str)> = rows
        .iter()
        .map(|(operation, status)| (operation.as_str(), status.as_str()))
        .collect();
    assert_eq!(
        rows,
        [
            ("Wharfinger/installation/write", "Succeeded"),
            ("Wharfinger/tenant/write", "Succeeded"),
            ("Wharfinger/regions/write", "Succeeded"),
            ("Wharfinger/storageLimits/write", "Succeeded"),
            ("Microsoft.Resources/subscriptions/write", "Succeeded"),
            (
                "Microsoft.Directory/directoryRoles/removeMember/action",
                "Failed"
            ),
            ("Wharfinger/nodes/delete", "Failed"),
        ]
    );
    let name: Option<String> = sqlx::query_scalar(
        "SELECT properties ->> 'displayName' FROM activity_log WHERE operation_name = 'Wharfinger/tenant/write'",
    )
    .fetch_one(&pool)
    .await
    .expect("a row");
    assert_eq!(name.as_deref(), Some("Harbour"));
    let subscriptions = store::Store::over(pool)
        .subscription_list()
        .await
        .expect("subscriptions");
    let mut names: Vec<&str> = subscriptions
        .iter()
        .map(|subscription| subscription.display_name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["Default", "Second"]);
}

#[sqlx::test(migrations = false)]
async fn a_person_is_made_administrator_and_the_last_one_stays(
    pool: PgPoolOptions,
    database: PgConnectOptions,
) {
    let place = Place::new(&database);
    assert_done(&place.init("key"));
    let owner = bootstrap(&place)["client_id"]
        .as_str()
        .expect("text")
        .to_owned();
    let password = place.path("password");
    let create = |name: &str, text: &str| {
        fs::write(&password, text).expect("written");
        fs::set_permissions(&password, Permissions::from_mode(0o600)).expect("permissions");
        place.admin(&[
            "administrator",
            "create",
            "--user-principal-name",
            name,
            "--password-file",
            password.to_str().expect("text"),
        ])
    };
    assert_refused(&create("alice@example.com", "short"), "12 characters");
    // What sign-in never looks at, and what the directory refuses.
    let long = "long enough, surely".repeat(80);
    assert_refused(&create("alice@example.com", &long), "256 characters");
    assert_refused(
        &create("alice@example.com", "Alice in Chains"),
        "contains the user's name",
    );
    for bad in ["alice", "fred@-..", "..@example.com"] {
        assert_refused(&create(bad, "long enough, surely"), "name@domain");
    }
    // The person and the role are one change: what fails leaves nobody behind with the name.
    let pool = pool
        .connect_with(database)
        .await
        .expect("the database is there");
    sqlx::query(
        "ALTER TABLE directory_role_members ADD CONSTRAINT no_role CHECK (false) NOT VALID",
    )
    .execute(&pool)
    .await
    .expect("the role cannot be given");
    assert_refused(&create("o#x@example.com", "long enough, surely"), "no_role");
    sqlx::query("ALTER TABLE directory_role_members DROP CONSTRAINT no_role")
        .execute(&pool)
        .await
        .expect("the role can be given");
    assert_done(&create("o#x@example.com", "long enough, surely"));
    assert_done(&place.admin(&["administrator", "remove", "o#x@example.com"]));
    assert_done(&create("alice@example.com", "long enough, surely"));
    assert_refused(
        &create("Alice@example.com", "long enough, surely"),
        "already",
    );
    assert_done(&place.admin(&["administrator", "remove", &owner]));
    assert_refused(
        &place.admin(&["administrator", "remove", "ALICE@example.com"]),
        "nobody who can administer",
    );
    let listed = place.admin(&["administrator", "list"]);
    assert_done(&listed);
    let listed = String::from_utf8_lossy(&listed.stdout);
    let fields: Vec<&str> = listed.trim_end().split('\t').collect();
    assert_eq!(fields[1..], ["User", "alice@example.com"], "{listed}");
}

#[sqlx::test(migrations = false)]
async fn everything_is_sealed_anew_with_another_key(
    _pool: PgPoolOptions,
    database: PgConnectOptions,
) {
    let place = Place::new(&database);
    assert_done(&place.init("key"));
    let rotate = |name: &str| {
        let file = place.path(name);
        place.admin(&[
            "key-encryption-key",
            "rotate",
            "--key-encryption-key-file",
            file.to_str().expect("text"),
        ])
    };
    assert_refused(&rotate("other-key"), "lacks key");
    let both = format!(
        "{}\n{}\n",
        fs::read_to_string(place.path("other-key")).expect("a key"),
        fs::read_to_string(place.path("key")).expect("a key")
    );
    fs::write(place.path("both-keys"), both).expect("written");
    fs::set_permissions(place.path("both-keys"), Permissions::from_mode(0o600))
        .expect("permissions");
    let rotated = rotate("both-keys");
    assert_done(&rotated);
    let said = String::from_utf8_lossy(&rotated.stdout);
    assert!(said.contains("sealed anew: 1"), "{said}");
    let again = rotate("both-keys");
    assert_done(&again);
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("sealed anew: 0"), "{said}");
    assert_refused(&place.init("key"), "key-encryption key");
    assert_done(&place.init("other-key"));
}

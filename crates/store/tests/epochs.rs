//! Epochs, forms and tombstones, on a real Postgres.

mod support;

use std::time::Duration;

use config_documents::{
    Document, Epoch, Group, Kind, Principal, Region, Revision, SignInCredential, SignInKey,
    SigningKey,
};
use rbac::{Condition, RoleAssignment, Scope};
use sqlx::PgPool;
use store::Store;
use store::config::{self, Cause, Change, Position, Published, Reading, TOMBSTONE_AGE};
use store::nodes;
use uuid::Uuid;

use support::with_head;

const FIRST: Epoch = Epoch(Uuid::from_u128(1));

async fn initialised(pool: PgPool) -> Store {
    let store = with_head(Store::over(pool), FIRST).await;
    execute(&store, "INSERT INTO regions (name, display_name) VALUES ('westus', 'West US'), ('northeurope', 'North Europe')").await;
    store
}

async fn execute(store: &Store, sql: &'static str) {
    sqlx::raw_sql(sql)
        .execute(store.pool())
        .await
        .expect("executed");
}

/// As a restored database is: the same rows in another place.
async fn restore(store: &Store) {
    execute(store, "UPDATE config_head SET begun_on = 'elsewhere'").await;
}

async fn publish(store: &Store, changes: &[Change]) -> Published {
    let mut transaction = store.begin().await.expect("a transaction");
    let published = config::publish(&mut transaction, changes)
        .await
        .expect("published");
    transaction.commit().await.expect("committed");
    published
}

fn group(key: u128) -> Document {
    Document::Group(Group {
        object_id: Uuid::from_u128(key),
        groups: Vec::new(),
    })
}

fn upsert(key: u128) -> Change {
    Change::Upsert {
        region: Region("westus".into()),
        document: group(key),
    }
}

fn delete(key: u128) -> Change {
    Change::Delete {
        region: Region("westus".into()),
        kind: Kind::Group,
        key: Uuid::from_u128(key).to_string(),
    }
}

async fn position(store: &Store) -> Position {
    config::head(store).await.expect("a head").position
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_publication_begins_the_epoch_of_another_database(pool: PgPool) {
    let store = initialised(pool).await;
    let before = publish(&store, &[upsert(1)]).await;
    assert_eq!(before.epoch, FIRST);
    restore(&store).await;
    let after = publish(&store, &[upsert(2)]).await;
    assert_ne!(after.epoch, FIRST);
    assert_eq!(after.revision, Revision(2), "revisions go on");
    let again = publish(&store, &[upsert(3)]).await;
    assert_eq!(again.epoch, after.epoch, "once");
    let (lineage, _) = nodes::survey(&store).await.expect("a survey");
    assert!(lineage.holds(&before) && lineage.holds(&after));
    let mut lost = before.clone();
    lost.revision = Revision(2);
    assert!(
        !lineage.holds(&lost),
        "the same number is not the same change"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn whatever_reads_first_begins_the_epoch_of_another_database(pool: PgPool) {
    let store = initialised(pool).await;
    let published = publish(&store, &[upsert(1)]).await;
    let mut epoch = published.epoch;
    let westus = Region("westus".into());
    for reader in ["head", "read", "reading"] {
        let copy = Position {
            epoch,
            revision: published.revision,
        };
        restore(&store).await;
        let found = match reader {
            "head" => position(&store).await,
            "read" => {
                let batch = config::read(&store, copy, 10).await.expect("a batch");
                assert!(batch.documents.is_none(), "it takes a snapshot");
                batch.head.position
            }
            _ => {
                let reading = Reading::begin(&store, &westus, Some(copy))
                    .await
                    .expect("a reading");
                assert!(reading.is_snapshot());
                reading.head().position
            }
        };
        assert_ne!(found.epoch, epoch, "{reader}");
        assert_eq!(found.revision, published.revision);
        assert_eq!(position(&store).await, found, "once");
        epoch = found.epoch;
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn of_many_who_find_another_database_one_begins_the_epoch(pool: PgPool) {
    let store = initialised(pool).await;
    publish(&store, &[upsert(1)]).await;
    restore(&store).await;
    let mut finders = Vec::new();
    for finder in 0..12 {
        let store = store.clone();
        finders.push(tokio::spawn(async move {
            if finder % 3 == 0 {
                publish(&store, &[upsert(finder)]).await.epoch
            } else {
                position(&store).await.epoch
            }
        }));
    }
    let mut epochs = Vec::new();
    for finder in finders {
        epochs.push(finder.await.expect("no panic"));
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "{epochs:?}");
    assert_ne!(epochs[0], FIRST);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_position_above_the_head_begins_an_epoch_of_which_nothing_earlier_is_known(pool: PgPool) {
    let store = initialised(pool).await;
    let published = publish(&store, &[upsert(1)]).await;
    let mut copy = Position {
        epoch: FIRST,
        revision: Revision(5),
    };
    let head = config::head_for(&store, Some(copy)).await.expect("a head");
    assert_ne!(head.position.epoch, FIRST);
    let (lineage, _) = nodes::survey(&store).await.expect("a survey");
    assert!(!lineage.holds(&published));
    copy.epoch = head.position.epoch;
    let batch = config::read(&store, copy, 10).await.expect("a batch");
    assert_ne!(batch.head.position.epoch, copy.epoch, "the reader itself");
    assert!(batch.documents.is_none());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_operator_begins_an_epoch_that_holds_the_last_one(pool: PgPool) {
    let store = initialised(pool).await;
    let published = publish(&store, &[upsert(1)]).await;
    let begun = config::epoch_begin(&store, FIRST, Cause::Operator).await;
    let begun = begun.expect("asked").expect("begun");
    let again = config::epoch_begin(&store, FIRST, Cause::Operator).await;
    assert_eq!(again.expect("asked"), None, "it is superseded already");
    let (lineage, _) = nodes::survey(&store).await.expect("a survey");
    assert_eq!(lineage.epoch, begun);
    assert!(lineage.holds(&published));
    config::epoch_begin(&store, begun, Cause::Operator)
        .await
        .expect("asked")
        .expect("begun");
    let (lineage, _) = nodes::survey(&store).await.expect("a survey");
    assert!(!lineage.holds(&published), "two back nobody knows");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn no_epoch_begins_while_the_database_is_being_restored(pool: PgPool) {
    let store = initialised(pool).await;
    publish(&store, &[upsert(1)]).await;
    restore(&store).await;
    // pg_restore makes primary keys after it has brought the rows.
    execute(
        &store,
        "ALTER TABLE config_regions DROP CONSTRAINT config_regions_pkey",
    )
    .await;
    let refused = config::head(&store).await;
    assert!(
        matches!(refused, Err(store::StoreError::BeingRestored)),
        "{refused:?}"
    );
    execute(
        &store,
        "ALTER TABLE config_regions ADD PRIMARY KEY (region)",
    )
    .await;
    assert_ne!(position(&store).await.epoch, FIRST);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn no_list_of_nodes_counts_while_the_database_is_being_restored(pool: PgPool) {
    let store = initialised(pool).await;
    announce(&store, 1, "{}").await;
    let kept = publish(&store, &[upsert(1)]).await;
    let lost = publish(&store, &[upsert(2)]).await;
    let (lineage, nodes) = nodes::survey(&store).await.expect("a survey");
    assert!(lineage.holds(&lost));
    assert_eq!(nodes.len(), 1);
    // The head is back, from before the last change; the nodes are not, and have no primary key.
    execute(
        &store,
        "UPDATE config_head SET begun_on = 'elsewhere', revision = 1",
    )
    .await;
    execute(
        &store,
        "CREATE TABLE kept AS SELECT * FROM nodes; DELETE FROM nodes; ALTER TABLE nodes DROP CONSTRAINT nodes_pkey CASCADE",
    )
    .await;
    let refused = nodes::survey(&store).await;
    assert!(
        matches!(refused, Err(store::StoreError::BeingRestored)),
        "{refused:?}"
    );
    execute(
        &store,
        "INSERT INTO nodes SELECT * FROM kept; ALTER TABLE nodes ADD PRIMARY KEY (node_id)",
    )
    .await;
    let (lineage, nodes) = nodes::survey(&store).await.expect("a survey");
    assert_ne!(lineage.epoch, FIRST);
    assert_eq!(nodes.len(), 1);
    assert!(lineage.holds(&kept) && !lineage.holds(&lost));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_epoch_holds_nothing_above_its_head(pool: PgPool) {
    let store = initialised(pool).await;
    let kept = publish(&store, &[upsert(1)]).await;
    let lost = publish(&store, &[upsert(2)]).await;
    // Files put back as they were: nothing tells it from the database before.
    execute(&store, "UPDATE config_head SET revision = 1").await;
    let (lineage, _) = nodes::survey(&store).await.expect("a survey");
    assert_eq!(lineage.epoch, FIRST);
    assert!(lineage.holds(&kept) && !lineage.holds(&lost));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_table_in_another_file_is_another_database(pool: PgPool) {
    let store = initialised(pool).await;
    publish(&store, &[upsert(1)]).await;
    let before = position(&store).await;
    assert_eq!(before.epoch, FIRST);
    execute(&store, "VACUUM FULL config_head").await;
    assert_ne!(position(&store).await.epoch, FIRST);
}

fn signing_key(kid: &str, region: &str) -> Change {
    let region = Region(region.into());
    Change::Upsert {
        region: region.clone(),
        document: Document::SigningKey(SigningKey {
            node_id: Uuid::from_u128(7),
            public_key: credentials::SigningKey::generate(kid).public(),
            region: Some(region),
        }),
    }
}

/// Region and form of each signing key that is live.
async fn signing_keys(store: &Store) -> Vec<(String, i32)> {
    sqlx::query_as(
        "SELECT region, (body::jsonb ->> 'form')::int FROM config_documents WHERE kind = 'signing-key' AND NOT deleted ORDER BY key",
    )
    .fetch_all(store.pool())
    .await
    .expect("read")
}

async fn announce(store: &Store, id: u128, forms: &'static str) {
    sqlx::query(
        "INSERT INTO nodes (node_id, region, address, verifier, kid, forms, created_at) VALUES ($1, 'westus', 'a:1', '', $2, $3::jsonb, now())
         ON CONFLICT (node_id) DO UPDATE SET forms = EXCLUDED.forms",
    )
    .bind(Uuid::from_u128(id))
    .bind(id.to_string())
    .bind(forms)
    .execute(store.pool())
    .await
    .expect("announced");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_form_is_raised_once_every_node_understands_it(pool: PgPool) {
    let store = initialised(pool).await;
    publish(&store, &[signing_key("a", "westus")]).await;
    assert_eq!(
        signing_keys(&store).await,
        [("*".into(), 2)],
        "a new installation begins with the newest"
    );
    // As an earlier build left it.
    execute(&store, "UPDATE config_head SET forms = '{}'").await;
    announce(&store, 1, r#"{"signing-key": 2}"#).await;
    announce(&store, 2, "{}").await;
    publish(
        &store,
        &[signing_key("b", "westus"), signing_key("c", "northeurope")],
    )
    .await;
    let by_region = [
        ("*".to_owned(), 2),
        ("westus".to_owned(), 1),
        ("northeurope".to_owned(), 1),
    ];
    assert_eq!(signing_keys(&store).await, by_region);
    let waits = config::forms_raise(&store).await.expect("asked");
    assert_eq!(waits, None, "one node does not understand it");
    announce(&store, 2, r#"{"signing-key": 3}"#).await;
    let raised = config::forms_raise(&store).await.expect("asked");
    let raised = raised.expect("raised");
    assert_eq!(raised.forms["signing-key"], 2);
    assert!(raised.published.is_some());
    let everywhere = vec![("*".to_owned(), 2); 3];
    assert_eq!(signing_keys(&store).await, everywhere);
    assert_eq!(config::forms_raise(&store).await.expect("asked"), None);
    // What an older control plane still writes is put right.
    execute(
        &store,
        "DELETE FROM config_documents WHERE deleted AND key = 'b'",
    )
    .await;
    execute(
        &store,
        "UPDATE config_documents SET region = 'westus' WHERE kind = 'signing-key' AND key = 'b' AND region = '*'",
    )
    .await;
    config::forms_raise(&store)
        .await
        .expect("asked")
        .expect("published anew");
    assert_eq!(signing_keys(&store).await, everywhere);
    let deletion = Change::Delete {
        region: Region("westus".into()),
        kind: Kind::SigningKey,
        key: "b".into(),
    };
    publish(&store, &[deletion]).await;
    assert_eq!(signing_keys(&store).await.len(), 2, "wherever it is");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_form_in_use_is_never_lowered_nor_written_newer_than_this_build_knows(pool: PgPool) {
    let store = initialised(pool).await;
    execute(
        &store,
        r#"UPDATE config_head SET forms = '{"group": 9, "signing-key": 9}'"#,
    )
    .await;
    announce(&store, 1, "{}").await;
    assert_eq!(config::forms_raise(&store).await.expect("asked"), None);
    publish(&store, &[upsert(1)]).await;
    let body: String = sqlx::query_scalar("SELECT body FROM config_documents WHERE kind = 'group'")
        .fetch_one(store.pool())
        .await
        .expect("read");
    assert_eq!(body, group(1).body());
}

/// Kind, form and text of what nodes know of one document.
async fn published_as(store: &Store, key: &str) -> Option<(String, i32, String)> {
    sqlx::query_as(
        "SELECT kind, (body::jsonb ->> 'form')::int, body FROM config_documents WHERE key = $1 AND NOT deleted",
    )
    .bind(key)
    .fetch_optional(store.pool())
    .await
    .expect("read")
}

async fn withheld_count(store: &Store) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM withheld_documents")
        .fetch_one(store.pool())
        .await
        .expect("counted")
}

fn for_all(document: Document) -> Change {
    Change::Upsert {
        region: Region::all(),
        document,
    }
}

fn assignment(id: u128, is_restricted: bool) -> Change {
    let condition = "!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/content/read'}) OR \
        @Request[Microsoft.ContainerRegistry/registries/repositories:name] StringEqualsIgnoreCase 'app'";
    for_all(Document::RoleAssignment(RoleAssignment {
        id: Uuid::from_u128(id),
        scope: Scope::root(),
        principal_id: Uuid::from_u128(50),
        role_definition_id: Uuid::from_u128(51),
        condition: is_restricted.then(|| Condition::parse(condition).expect("a condition")),
    }))
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_assignment_with_a_condition_waits_for_nodes_that_understand_it(pool: PgPool) {
    let store = initialised(pool).await;
    execute(&store, "UPDATE config_head SET forms = '{}'").await;
    announce(&store, 1, r#"{"role-assignment": 1}"#).await;
    let [first, second, third] = [1, 2, 3].map(|id| Uuid::from_u128(id).to_string());
    publish(&store, &[assignment(1, false), assignment(2, true)]).await;
    let (_, form, _) = published_as(&store, &first).await.expect("it has none");
    assert_eq!(form, 1);
    assert_eq!(
        published_as(&store, &second).await,
        None,
        "it would grant more"
    );
    publish(&store, &[assignment(1, true), assignment(3, true)]).await;
    assert_eq!(
        published_as(&store, &first).await,
        None,
        "what it said before is over"
    );
    assert_eq!(withheld_count(&store).await, 3);
    publish(
        &store,
        &[
            assignment(2, false),
            Change::Delete {
                region: Region::all(),
                kind: Kind::RoleAssignment,
                key: third.clone(),
            },
        ],
    )
    .await;
    assert!(published_as(&store, &second).await.is_some());
    assert_eq!(config::forms_raise(&store).await.expect("asked"), None);
    announce(&store, 1, r#"{"role-assignment": 2}"#).await;
    let raised = config::forms_raise(&store).await.expect("asked");
    assert!(raised.expect("raised").published.is_some());
    let (_, form, body) = published_as(&store, &first).await.expect("understood");
    assert_eq!(form, 2);
    assert!(body.contains("StringEqualsIgnoreCase"), "{body}");
    assert_eq!(published_as(&store, &third).await, None, "it was deleted");
    assert_eq!(withheld_count(&store).await, 0);
    assert_eq!(config::forms_raise(&store).await.expect("asked"), None);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_a_form_leaves_out_is_written_when_it_is_raised(pool: PgPool) {
    let store = initialised(pool).await;
    execute(
        &store,
        r#"UPDATE config_head SET forms = '{"principal": 1}'"#,
    )
    .await;
    announce(&store, 1, r#"{"principal": 1}"#).await;
    let credential = Uuid::from_u128(77);
    let principal = for_all(Document::Principal(Principal {
        object_id: Uuid::from_u128(5),
        app_id: None,
        enabled: true,
        secrets: Vec::new(),
        chosen_secrets: Vec::new(),
        sign_in_credentials: vec![SignInCredential {
            key_id: credential,
            expires_at: None,
        }],
        groups: Vec::new(),
    }));
    publish(&store, &[principal]).await;
    let key = Uuid::from_u128(5).to_string();
    let (_, form, body) = published_as(&store, &key).await.expect("with less");
    assert!(
        form == 1 && !body.contains(&credential.to_string()),
        "{body}"
    );
    announce(&store, 1, r#"{"principal": 2}"#).await;
    let raised = config::forms_raise(&store).await.expect("asked");
    assert_eq!(raised.expect("raised").forms["principal"], 2);
    let (_, form, body) = published_as(&store, &key).await.expect("whole");
    assert!(
        form == 2 && body.contains(&credential.to_string()),
        "{body}"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_kind_that_a_node_does_not_name_is_not_published(pool: PgPool) {
    let store = initialised(pool).await;
    execute(&store, "UPDATE config_head SET forms = '{}'").await;
    announce(&store, 1, r#"{"sign-in-key": 1}"#).await;
    announce(&store, 2, r#"{"group": 1}"#).await;
    publish(
        &store,
        &[for_all(Document::SignInKey(SignInKey {
            public_key: credentials::SigningKey::generate("s").public(),
            tenant_id: Uuid::from_u128(9),
            issuers: Vec::new(),
            audiences: Vec::new(),
            ends_at: None,
        }))],
    )
    .await;
    assert_eq!(published_as(&store, "s").await, None);
    assert_eq!(config::forms_raise(&store).await.expect("asked"), None);
    execute(&store, "DELETE FROM nodes WHERE forms ? 'group'").await;
    config::forms_raise(&store)
        .await
        .expect("asked")
        .expect("raised");
    assert!(published_as(&store, "s").await.is_some());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn old_tombstones_are_purged_and_who_has_less_needs_a_snapshot(pool: PgPool) {
    let store = initialised(pool).await;
    let westus = Region("westus".into());
    let before = publish(&store, &[upsert(1), upsert(2), upsert(3)]).await;
    publish(&store, &[delete(1)]).await;
    let second = publish(&store, &[delete(2)]).await;
    execute(
        &store,
        "UPDATE config_documents SET deleted_at = deleted_at - interval '15 days' WHERE deleted",
    )
    .await;
    publish(&store, &[delete(3)]).await;
    let first = config::tombstones_purge(&store, TOMBSTONE_AGE, 1).await;
    assert_eq!(first.expect("purged").tombstones, 1, "at most the limit");
    let purged = config::tombstones_purge(&store, TOMBSTONE_AGE, 10).await;
    let purged = purged.expect("purged");
    assert_eq!(
        (purged.tombstones, purged.purged_through),
        (1, second.revision)
    );
    let nothing = config::tombstones_purge(&store, TOMBSTONE_AGE, 10).await;
    assert_eq!(nothing.expect("purged").tombstones, 0, "the third is young");
    let zero = config::tombstones_purge(&store, Duration::from_secs(3600), 10).await;
    assert_eq!(zero.expect("purged").tombstones, 0);
    for (revision, is_snapshot) in [(before.revision, true), (second.revision, false)] {
        let copy = Position {
            epoch: FIRST,
            revision,
        };
        let reading = Reading::begin(&store, &westus, Some(copy)).await;
        assert_eq!(reading.expect("a reading").is_snapshot(), is_snapshot);
        let batch = config::read(&store, copy, 100).await.expect("a batch");
        assert_eq!(batch.documents.is_none(), is_snapshot);
    }
}

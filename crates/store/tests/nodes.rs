//! Joining and credentials of nodes, on a real Postgres.

mod support;

use std::collections::BTreeMap;

use config_documents::{Document, Epoch, Region, Revision, forms};
use credentials::{
    PublicKey, Secret, SecretKind, SigningKey, SystemRandomness, Verifier, generate,
};
use sqlx::PgPool;
use store::Store;
use store::config::{self, Position};
use store::nodes::{self, Enrolment, JoinToken, NewNode, NewStream};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use support::with_head;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const EPOCH: Epoch = Epoch(Uuid::from_u128(1));

async fn initialised(pool: PgPool) -> Store {
    let store = with_head(Store::over(pool), EPOCH).await;
    for region in ["westus", "northeurope"] {
        sqlx::query("INSERT INTO regions (name, display_name) VALUES ($1, $1)")
            .bind(region)
            .execute(store.pool())
            .await
            .expect("a region");
    }
    store
}

fn westus() -> Region {
    Region("westus".into())
}

async fn token(store: &Store, id: u128) -> JoinToken {
    nodes::join_token_create(
        store,
        Uuid::from_u128(id),
        &westus(),
        &SystemRandomness,
        NOW,
    )
    .await
    .expect("made")
    .expect("the region is known")
}

/// A node that wants to join, with the credential it gets.
fn new_node(id: u128, public_key: PublicKey) -> (NewNode, Secret) {
    let credential = generate(SecretKind::NodeCredential, &SystemRandomness);
    let new = NewNode {
        node_id: Uuid::from_u128(id),
        region: westus(),
        address: "localhost:5443".into(),
        verifier: Verifier::of(&credential, &SystemRandomness),
        public_key,
        forms: forms(),
    };
    (new, credential)
}

fn key(kid: &str) -> PublicKey {
    SigningKey::generate(kid).public()
}

async fn enrolled(store: &Store, id: u128) -> Secret {
    let token = token(store, id + 1000).await;
    let (new, credential) = new_node(id, key(&format!("key-{id}")));
    let enrolment = nodes::enrol(store, token.secret.expose(), &new, NOW).await;
    assert!(
        matches!(enrolment, Ok(Enrolment::Enrolled { .. })),
        "{enrolment:?}"
    );
    credential
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_joins_once_and_is_published_with_its_key(pool: PgPool) {
    let store = initialised(pool).await;
    let token = token(&store, 1).await;
    let public_key = key("a");
    let (new, credential) = new_node(10, public_key.clone());
    let enrolment = nodes::enrol(&store, token.secret.expose(), &new, NOW).await;
    let Ok(Enrolment::Enrolled {
        node_id,
        published: Some(published),
    }) = enrolment
    else {
        panic!("{enrolment:?}");
    };
    assert_eq!(node_id, new.node_id);
    assert!(published.regions.contains(&Region::all()) && published.regions.contains(&westus()));
    let from = Position {
        epoch: EPOCH,
        revision: Revision(0),
    };
    let batch = config::read(&store, from, 10).await.expect("read");
    let mut kinds = BTreeMap::new();
    for stored in batch.documents.expect("few") {
        let body = stored.body.expect("live");
        let document = Document::parse(&stored.kind, &stored.key, &body).expect("readable");
        kinds.insert(stored.kind, (stored.region, document));
    }
    let (region, Document::Node(node)) = &kinds["node"] else {
        panic!("a node")
    };
    assert!(region.is_all());
    assert_eq!(
        (node.node_id, node.address.as_str()),
        (node_id, "localhost:5443")
    );
    let (region, Document::SigningKey(signing_key)) = &kinds["signing-key"] else {
        panic!("a key")
    };
    assert!(region.is_all());
    assert_eq!(signing_key.region, Some(westus()));
    assert_eq!(signing_key.public_key, public_key);
    let known = nodes::by_credential(&store, credential.expose())
        .await
        .expect("read");
    assert_eq!(known.map(|known| known.node_id), Some(node_id));
    let other = generate(SecretKind::NodeCredential, &SystemRandomness);
    assert_eq!(
        nodes::by_credential(&store, other.expose())
            .await
            .expect("read"),
        None
    );

    let (second, _) = new_node(11, key("b"));
    let used = nodes::enrol(&store, token.secret.expose(), &second, NOW).await;
    assert!(
        matches!(used, Ok(Enrolment::TokenUsed { used_at }) if used_at == NOW),
        "{used:?}"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn of_many_nodes_with_one_token_a_single_one_joins(pool: PgPool) {
    let store = initialised(pool).await;
    let token = token(&store, 1).await;
    let mut tries = Vec::new();
    for id in 0..8 {
        let (store, secret) = (store.clone(), token.secret.clone());
        tries.push(tokio::spawn(async move {
            let (new, _) = new_node(id, key(&format!("key-{id}")));
            nodes::enrol(&store, secret.expose(), &new, NOW).await
        }));
    }
    let mut joined = 0;
    for one in tries {
        match one.await.expect("no panic").expect("no failure") {
            Enrolment::Enrolled { .. } => joined += 1,
            Enrolment::TokenUsed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(joined, 1);
    assert_eq!(nodes::list(&store).await.expect("listed").len(), 1);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn wrong_expired_and_foreign_tokens_are_told_apart_and_leave_nothing(pool: PgPool) {
    let store = initialised(pool).await;
    let token = token(&store, 1).await;
    assert_eq!(token.expires_at, NOW + Duration::hours(24));
    let (mut new, _) = new_node(10, key("a"));
    let unknown = generate(SecretKind::JoinToken, &SystemRandomness);
    let refused = nodes::enrol(&store, unknown.expose(), &new, NOW).await;
    assert!(
        matches!(refused, Ok(Enrolment::UnknownToken)),
        "{refused:?}"
    );
    let refused = nodes::enrol(&store, token.secret.expose(), &new, token.expires_at).await;
    assert!(
        matches!(refused, Ok(Enrolment::TokenExpired { .. })),
        "{refused:?}"
    );
    new.region = Region("northeurope".into());
    let refused = nodes::enrol(&store, token.secret.expose(), &new, NOW).await;
    assert!(
        matches!(refused, Ok(Enrolment::OtherRegion { .. })),
        "{refused:?}"
    );
    assert!(nodes::list(&store).await.expect("listed").is_empty());
    assert_eq!(
        config::head(&store).await.expect("read").position.revision,
        Revision(0)
    );
    let nowhere = Region("atlantis".into());
    let none =
        nodes::join_token_create(&store, Uuid::from_u128(2), &nowhere, &SystemRandomness, NOW)
            .await;
    assert!(none.expect("asked").is_none());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn no_node_takes_the_key_name_of_another(pool: PgPool) {
    let store = initialised(pool).await;
    enrolled(&store, 10).await;
    let token = token(&store, 1).await;
    let (new, _) = new_node(11, key("key-10"));
    let refused = nodes::enrol(&store, token.secret.expose(), &new, NOW).await;
    assert!(matches!(refused, Ok(Enrolment::KeyInUse)), "{refused:?}");
    // The token is not used up.
    let (new, _) = new_node(11, key("key-11"));
    let joined = nodes::enrol(&store, token.secret.expose(), &new, NOW).await;
    assert!(
        matches!(joined, Ok(Enrolment::Enrolled { .. })),
        "{joined:?}"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_that_lost_the_answer_joins_again_until_it_has_connected(pool: PgPool) {
    let store = initialised(pool).await;
    let token = token(&store, 1).await;
    let public_key = key("a");
    let (new, lost) = new_node(10, public_key.clone());
    nodes::enrol(&store, token.secret.expose(), &new, NOW)
        .await
        .expect("joined");
    let (again, credential) = new_node(11, public_key.clone());
    let enrolment = nodes::enrol(&store, token.secret.expose(), &again, NOW).await;
    let Ok(Enrolment::Enrolled {
        node_id,
        published: None,
    }) = enrolment
    else {
        panic!("{enrolment:?}");
    };
    assert_eq!(node_id, new.node_id);
    let known = nodes::by_credential(&store, credential.expose())
        .await
        .expect("read");
    assert_eq!(known.map(|known| known.node_id), Some(node_id));
    assert_eq!(
        nodes::by_credential(&store, lost.expose())
            .await
            .expect("read"),
        None
    );
    // Meanwhile a newer form came into use, which an older build does not understand.
    let (mut older, _) = new_node(14, public_key.clone());
    older.forms = BTreeMap::new();
    let refused = nodes::enrol(&store, token.secret.expose(), &older, NOW).await;
    assert!(
        matches!(refused, Ok(Enrolment::FormsBeyond { .. })),
        "{refused:?}"
    );
    let (mut newer, _) = new_node(15, public_key.clone());
    newer.forms.insert("registry".into(), 99);
    nodes::enrol(&store, token.secret.expose(), &newer, NOW)
        .await
        .expect("joined again");
    let known = nodes::list(&store).await.expect("a list");
    assert_eq!(known[0].forms, newer.forms, "those of its last try");
    // Another key under the same name is not the same node.
    let (thief, _) = new_node(12, key("a"));
    let refused = nodes::enrol(&store, token.secret.expose(), &thief, NOW).await;
    assert!(
        matches!(refused, Ok(Enrolment::TokenUsed { .. })),
        "{refused:?}"
    );

    let stream = NewStream {
        stream_id: Uuid::from_u128(1),
        node_id,
        epoch: EPOCH,
        revision: Revision(0),
        forms: forms(),
        staleness_bound_seconds: None,
    };
    let begun = nodes::stream_begin(&store, &stream).await.expect("begun");
    assert!(begun);
    let (late, _) = new_node(13, public_key);
    let refused = nodes::enrol(&store, token.secret.expose(), &late, NOW).await;
    assert!(
        matches!(refused, Ok(Enrolment::TokenUsed { .. })),
        "{refused:?}"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_new_address_is_published_once(pool: PgPool) {
    let store = initialised(pool).await;
    enrolled(&store, 1).await;
    let id = Uuid::from_u128(1);
    let published = nodes::address_update(&store, id, "other:1")
        .await
        .expect("updated");
    assert!(published.is_some());
    let again = nodes::address_update(&store, id, "other:1")
        .await
        .expect("updated");
    assert_eq!(again, None);
    let stranger = nodes::address_update(&store, Uuid::from_u128(2), "other:1").await;
    assert_eq!(stranger.expect("asked"), None);
}

//! A registry that is known in several regions, on a real Postgres.

use arm::{CreatedByType, SystemData, Tags};
use config_documents::{AdminPasswordSlot, Document, Epoch, Region};
use credentials::{SecretKind, SystemRandomness, Verifier, generate};
use sqlx::PgPool;
use store::Store;
use store::config;
use store::registries::{
    PasswordRenewal, Registry, RegistryCreate, RegistryPresence, RegistryUpdate, SealedPassword,
};
use store::resource_groups::ResourceGroup;
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const SUBSCRIPTION: Uuid = Uuid::from_u128(5);
const HOME: &str = "westus";

fn region(name: &str) -> Region {
    Region(name.into())
}

/// Two regions beside the home, and a registry there.
async fn scene(pool: PgPool) -> (Store, Registry, ResourceGroup) {
    let store = Store::over(pool);
    let mut transaction = store.begin().await.expect("a transaction");
    config::initialise(&mut transaction, Epoch(Uuid::from_u128(1)))
        .await
        .expect("a head");
    for name in [HOME, "northeurope", "eastasia"] {
        sqlx::query("INSERT INTO regions (name, display_name) VALUES ($1, $1)")
            .bind(name)
            .execute(&mut *transaction)
            .await
            .expect("a region");
    }
    sqlx::query("INSERT INTO subscriptions VALUES ($1, $1, 'S', $2)")
        .bind(SUBSCRIPTION)
        .bind(NOW)
        .execute(&mut *transaction)
        .await
        .expect("a subscription");
    transaction.commit().await.expect("committed");
    let group = ResourceGroup {
        uid: Uuid::from_u128(6),
        subscription_id: SUBSCRIPTION,
        name: "Team".into(),
        location: HOME.into(),
        tags: Tags::default(),
        created_at: NOW,
    };
    store.resource_group_put(&group).await.expect("a group");
    let system_data = SystemData {
        created_by: "me".into(),
        created_by_type: CreatedByType::Application,
        created_at: NOW,
        last_modified_by: "me".into(),
        last_modified_by_type: CreatedByType::Application,
        last_modified_at: NOW,
    };
    let registry = Registry {
        uid: Uuid::from_u128(7),
        subscription_id: SUBSCRIPTION,
        resource_group_name: "Team".into(),
        name: "Contoso".into(),
        login_server: "contoso.registry.example".into(),
        location: HOME.into(),
        sku: "Basic".into(),
        tags: Tags::default(),
        admin_user_enabled: true,
        role_assignment_mode: config_documents::RoleAssignmentMode::LegacyRegistryPermissions,
        anonymous_pull_enabled: false,
        retention: store::registries::RetentionPolicy::default(),
        system_data,
        generation: 1,
    };
    let created = store
        .registry_create(&registry, group.uid, &passwords())
        .await;
    assert!(matches!(created, Ok(RegistryCreate::Created(_))));
    (store, registry, group)
}

fn passwords() -> [SealedPassword; 2] {
    AdminPasswordSlot::ALL.map(|slot| {
        let secret = generate(SecretKind::AdminPassword, &SystemRandomness);
        SealedPassword {
            slot,
            sealed: vec![1],
            verifier: Verifier::of(&secret, &SystemRandomness),
            last_used_at: None,
        }
    })
}

/// The live registry documents with their regions; all of them say the same.
async fn known_in(store: &Store) -> (Vec<String>, Option<config_documents::Registry>) {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT region, key, body FROM config_documents WHERE kind = 'registry' AND NOT deleted ORDER BY region",
    )
    .fetch_all(store.pool())
    .await
    .expect("rows");
    let mut found = None;
    let mut regions = Vec::new();
    for (region, key, body) in rows {
        let Ok(Document::Registry(registry)) = Document::parse("registry", &key, &body) else {
            panic!("{body}");
        };
        assert!(found.is_none() || found.as_ref() == Some(&registry));
        found = Some(registry);
        regions.push(region);
    }
    (regions, found)
}

async fn named_regions(store: &Store) -> Option<Vec<Region>> {
    let row: Option<(String, String)> = sqlx::query_as(
        "SELECT key, body FROM config_documents WHERE kind = 'registry-name' AND NOT deleted",
    )
    .fetch_optional(store.pool())
    .await
    .expect("rows");
    row.map(
        |(key, body)| match Document::parse("registry-name", &key, &body) {
            Ok(Document::RegistryName(name)) => name.regions,
            other => panic!("{other:?}"),
        },
    )
}

async fn publish_in(store: &Store, regions: &[&str]) -> RegistryPresence {
    let regions: Vec<Region> = regions.iter().map(|name| region(name)).collect();
    store
        .registry_publish_in_regions(Uuid::from_u128(7), &regions)
        .await
        .expect("an answer")
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_registry_comes_to_regions_and_leaves_them(pool: PgPool) {
    let (store, _, _) = scene(pool).await;
    assert_eq!(known_in(&store).await.0, [HOME]);
    let RegistryPresence::Published(published) = publish_in(&store, &["northeurope", HOME]).await
    else {
        panic!("it was not there");
    };
    // All nodes hear of the name, and those of both regions of the registry.
    assert!(published.regions.contains(&Region::all()));
    assert!(published.regions.contains(&region("northeurope")));
    let (regions, document) = known_in(&store).await;
    assert_eq!(regions, ["northeurope", HOME]);
    let document = document.expect("one");
    assert_eq!(document.home_region, region(HOME));
    assert_eq!(document.admin_user.expect("on").passwords.len(), 2);
    assert_eq!(
        named_regions(&store).await,
        Some(vec![region(HOME), region("northeurope")])
    );

    let again = publish_in(&store, &["northeurope", "northeurope"]).await;
    assert!(matches!(again, RegistryPresence::Unchanged));
    let unknown = publish_in(&store, &["atlantis"]).await;
    assert!(
        matches!(unknown, RegistryPresence::RegionUnknown(unknown) if unknown == region("atlantis"))
    );

    let RegistryPresence::Published(published) = publish_in(&store, &["eastasia"]).await else {
        panic!("it was elsewhere");
    };
    assert!(published.regions.contains(&region("northeurope")));
    assert_eq!(known_in(&store).await.0, ["eastasia", HOME]);
    publish_in(&store, &[]).await;
    assert_eq!(known_in(&store).await.0, [HOME]);
    assert_eq!(named_regions(&store).await, Some(vec![region(HOME)]));
    let nobody = store
        .registry_publish_in_regions(Uuid::from_u128(99), &[])
        .await;
    assert!(matches!(nobody, Ok(RegistryPresence::NotFound)));
}

#[sqlx::test(migrations = "../../migrations")]
async fn every_change_reaches_all_regions_though_its_caller_read_before_they_came(pool: PgPool) {
    let (store, mut registry, _) = scene(pool).await;
    publish_in(&store, &["northeurope"]).await;
    let generations = |document: Option<config_documents::Registry>| -> Vec<u64> {
        let admin_user = document.and_then(|document| document.admin_user);
        let passwords = admin_user.expect("on").passwords.into_iter();
        passwords.map(|password| password.generation).collect()
    };
    let before = generations(known_in(&store).await.1);

    let [password, _] = passwords();
    let renewed = store.registry_password_renew(&registry, &password).await;
    let Ok(PasswordRenewal::Renewed(_, published)) = renewed else {
        panic!("it is there");
    };
    assert_eq!(published.regions, [region("northeurope"), region(HOME)]);
    let (regions, document) = known_in(&store).await;
    assert_eq!(regions.len(), 2);
    let after = generations(document);
    let renewed = before.iter().zip(&after).filter(|(old, new)| old != new);
    assert_eq!((renewed.count(), after.len()), (1, 2));

    let before_change = registry.clone();
    registry.admin_user_enabled = false;
    registry.generation += 1;
    let updated = store.registry_update(&registry, &before_change).await;
    let Ok(RegistryUpdate::Updated(Some(published))) = updated else {
        panic!("nodes must know");
    };
    assert_eq!(published.regions.len(), 2);
    let (regions, document) = known_in(&store).await;
    assert_eq!(regions.len(), 2);
    assert_eq!(document.expect("one").admin_user, None);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_deleted_registry_is_gone_from_all_regions(pool: PgPool) {
    let (store, registry, group) = scene(pool).await;
    publish_in(&store, &["northeurope", "eastasia"]).await;
    let deleted = store.registry_delete(&registry, false).await;
    let published = deleted.expect("an answer").expect("it was there");
    assert_eq!(published.regions.len(), 4);
    assert_eq!(known_in(&store).await.0, Vec::<String>::new());
    assert_eq!(named_regions(&store).await, None);

    let created = store
        .registry_create(&registry, group.uid, &passwords())
        .await;
    assert!(matches!(created, Ok(RegistryCreate::Created(_))));
    assert_eq!(known_in(&store).await.0, [HOME]);
    publish_in(&store, &["eastasia"]).await;
    let published = store.resource_group_delete(&group).await;
    let published = published.expect("an answer").expect("it was there");
    assert_eq!(published.expect("nodes must know").regions.len(), 3);
    assert_eq!(known_in(&store).await.0, Vec::<String>::new());
}

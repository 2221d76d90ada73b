//! The configuration of a node: batches, snapshots, the copy on disk, and what requests then see.

#[path = "../support/mod.rs"]
mod support;

mod decisions;
mod mutations;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use config_documents::{
    Checksum, ControlPlaneMessage, Document, Epoch, NodeMessage, Region, Revision, StoredDocument,
};
use credentials::{SecretKind, SigningKey};
use proptest::prelude::*;
use rbac::registry::{RepositoryPermission, RepositoryPermissions};
use registry_node::config::{
    ApplyError, BootClock, BootTime, Configuration, CopyState, Index, LocalCopy, Standing, Written,
};
use service::clock;
use support::*;
use tempfile::TempDir;
use uuid::Uuid;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn rights(configuration: &Configuration, uid: u128, object: Uuid) -> RepositoryPermissions {
    let index = configuration.index();
    let entry = index.registry(Uuid::from_u128(uid)).expect("a registry");
    index.access(entry, object).rights("app")
}

fn pull_only() -> RepositoryPermissions {
    RepositoryPermissions::from_iter([RepositoryPermission::Pull])
}

fn base() -> Vec<Document> {
    let mut documents = roles();
    documents.push(Document::Registry(registry(1, "Contoso", 5443, &[])));
    let secret = secret(SecretKind::ServicePrincipalSecret);
    documents.push(Document::Principal(principal(1, &secret, &[])));
    documents
}

#[test]
fn nothing_is_visible_before_the_mark() {
    let directory = directory();
    let mut feed = Feed::new(directory.path());
    feed.receive(ControlPlaneMessage::SnapshotBegin { epoch: feed.epoch });
    feed.send(base());
    feed.receive(ControlPlaneMessage::SnapshotEnd);
    assert!(
        feed.configuration
            .index()
            .registry(Uuid::from_u128(1))
            .is_none()
    );
    assert!(feed.configuration.progress().state.is_none());
    assert_applied(feed.mark());
    assert!(
        feed.configuration
            .index()
            .registry(Uuid::from_u128(1))
            .is_some()
    );
    let progress = feed.configuration.progress();
    assert_eq!(
        progress.state.map(|state| state.revision),
        Some(Revision(1))
    );
    assert!(progress.is_confirmed);
}

#[test]
fn answers_count_up_and_name_the_revision() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    for expected in 2..5 {
        let answer = feed.mark();
        let Some(NodeMessage::Applied {
            sequence,
            epoch,
            revision,
            rejected,
        }) = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!(sequence, expected);
        assert!(epoch.is_some());
        assert_eq!(revision, Revision(feed.revision));
        assert!(rejected.is_empty());
    }
    feed.applier.begin_stream();
    assert!(matches!(
        feed.mark(),
        Some(NodeMessage::Applied { sequence: 1, .. })
    ));
}

#[test]
fn a_role_at_each_scope_counts_and_its_removal_counts_at_once() {
    for scope in [
        "/".to_owned(),
        SUBSCRIPTION
            .to_uppercase()
            .replace("/SUBSCRIPTIONS/", "/subscriptions/"),
        format!("{SUBSCRIPTION}/RESOURCEGROUPS/team"),
        resource_id("CONTOSO"),
    ] {
        let directory = directory();
        let mut feed = Feed::with(directory.path(), base());
        let assigned = assignment(1, &scope, object_id(1), "AcrPull");
        assert!(rights(&feed.configuration, 1, object_id(1)).is_empty());
        feed.publish(vec![assigned.clone()]);
        assert_eq!(
            rights(&feed.configuration, 1, object_id(1)),
            pull_only(),
            "{scope}"
        );
        feed.delete(&assigned);
        assert!(
            rights(&feed.configuration, 1, object_id(1)).is_empty(),
            "{scope}"
        );
    }
}

#[test]
fn roles_of_groups_count_through_cycles() {
    let directory = directory();
    let (inner, outer) = (Uuid::from_u128(501), Uuid::from_u128(502));
    let secret = secret(SecretKind::ServicePrincipalSecret);
    let mut feed = Feed::with(directory.path(), base());
    feed.publish(vec![
        Document::Principal(principal(1, &secret, &[inner])),
        group(inner, &[outer]),
        group(outer, &[inner]),
        assignment(1, SUBSCRIPTION, outer, "AcrPull"),
    ]);
    assert_eq!(rights(&feed.configuration, 1, object_id(1)), pull_only());
    feed.publish(vec![group(inner, &[])]);
    assert!(rights(&feed.configuration, 1, object_id(1)).is_empty());
}

#[test]
fn a_role_elsewhere_or_of_somebody_else_does_not_count() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    feed.publish(vec![
        assignment(1, &resource_id("contoso2"), object_id(1), "Owner"),
        assignment(
            2,
            &format!("{SUBSCRIPTION}/resourceGroups/Tea"),
            object_id(1),
            "Owner",
        ),
        assignment(3, SUBSCRIPTION, object_id(2), "Owner"),
    ]);
    assert!(rights(&feed.configuration, 1, object_id(1)).is_empty());
}

#[test]
fn a_wrong_checksum_keeps_the_old_state_and_asks_for_a_snapshot() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    let before = feed.configuration.progress().state;
    feed.send(vec![assignment(1, "/", object_id(1), "Owner")]);
    let answer = feed.mark_with(Checksum(1));
    assert!(
        matches!(answer, Some(NodeMessage::SnapshotWanted { .. })),
        "{answer:?}"
    );
    assert!(rights(&feed.configuration, 1, object_id(1)).is_empty());
    assert_eq!(feed.configuration.progress().state, before);
    // Until it comes nothing counts, and the node does not ask again and again.
    feed.send(vec![assignment(2, "/", object_id(1), "Owner")]);
    assert!(feed.mark().is_none());
    feed.receive(ControlPlaneMessage::SnapshotBegin { epoch: feed.epoch });
    feed.send(base());
    feed.receive(ControlPlaneMessage::SnapshotEnd);
    let all = feed.checksum();
    assert!(matches!(
        feed.mark_with(all),
        Some(NodeMessage::SnapshotWanted { .. })
    ));
}

#[test]
fn a_wrong_checksum_without_changes_is_noticed_too() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    assert!(matches!(
        feed.mark_with(Checksum(1)),
        Some(NodeMessage::SnapshotWanted { .. })
    ));
}

#[test]
fn a_snapshot_replaces_and_never_merges() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    feed.publish(vec![assignment(1, "/", object_id(1), "Owner")]);
    let mut other = Feed::new(tempfile::tempdir().expect("a directory").path());
    other.send(base());
    let (checksum, epoch) = (other.checksum(), Epoch(Uuid::from_u128(8)));
    feed.receive(ControlPlaneMessage::SnapshotBegin { epoch });
    let documents: Vec<StoredDocument> = base()
        .iter()
        .map(|document| feed.stored(document))
        .collect();
    let sum = documents.iter().fold(Checksum::default(), |sum, document| {
        let body = document.body.as_deref().expect("live");
        sum + Checksum::of(
            document.region.as_str(),
            &document.kind,
            &document.key,
            body,
        )
    });
    assert_ne!(sum, checksum, "salts differ, so these are other documents");
    feed.receive(ControlPlaneMessage::Documents { documents });
    feed.receive(ControlPlaneMessage::SnapshotEnd);
    // A lower revision: revisions of different epochs do not compare.
    let answer = feed.receive(ControlPlaneMessage::Mark {
        epoch,
        revision: Revision(1),
        time: now(),
        checksum: sum,
        heard: 0,
    });
    assert_applied(answer);
    assert!(rights(&feed.configuration, 1, object_id(1)).is_empty());
    assert_eq!(
        feed.configuration.progress().state.map(|state| state.epoch),
        Some(epoch)
    );
}

#[test]
fn a_snapshot_does_not_go_back_within_an_epoch() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    let role = assignment(1, "/", object_id(1), "Owner");
    feed.publish(vec![role.clone()]);
    feed.delete(&role);
    let (checksum, revision) = (feed.checksum(), Revision(feed.revision - 1));
    let documents: Vec<StoredDocument> = feed.live().cloned().collect();
    let epoch = feed.epoch;
    feed.receive(ControlPlaneMessage::SnapshotBegin { epoch });
    feed.receive(ControlPlaneMessage::Documents { documents });
    feed.receive(ControlPlaneMessage::SnapshotEnd);
    let mark = ControlPlaneMessage::Mark {
        epoch,
        revision,
        time: now(),
        checksum,
        heard: 0,
    };
    let end = feed.applier.receive(mark, now());
    assert!(matches!(end, Err(ApplyError::OutOfOrder(_))), "{end:?}");
    assert_eq!(
        feed.configuration
            .progress()
            .state
            .map(|state| state.revision),
        Some(Revision(feed.revision))
    );
}

#[test]
fn of_two_states_of_a_document_before_one_mark_the_last_counts() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    let role = assignment(1, "/", object_id(1), "Owner");
    feed.send(vec![role.clone()]);
    let tombstone = StoredDocument {
        body: None,
        ..feed.stored(&role)
    };
    feed.send_stored(vec![tombstone]);
    assert_applied(feed.mark());
    assert!(rights(&feed.configuration, 1, object_id(1)).is_empty());
}

#[test]
fn the_deletion_of_a_registry_is_told_and_its_absence_from_a_snapshot_is_not() {
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    feed.applier = feed.applier.telling_of_deleted_registries(sender);
    let second = Document::Registry(registry(2, "Fabrikam", 5443, &[]));
    let third = Document::Registry(registry(3, "Northwind", 5443, &[]));
    feed.publish(vec![second.clone(), third.clone()]);
    feed.delete(&second);
    assert_eq!(told.try_recv(), Ok(Uuid::from_u128(2)));

    feed.forget(&third);
    let documents: Vec<StoredDocument> = feed.live().cloned().collect();
    let epoch = feed.epoch;
    feed.receive(ControlPlaneMessage::SnapshotBegin { epoch });
    feed.receive(ControlPlaneMessage::Documents { documents });
    feed.receive(ControlPlaneMessage::SnapshotEnd);
    assert_applied(feed.mark());
    assert!(
        feed.configuration
            .index()
            .registry(Uuid::from_u128(3))
            .is_none()
    );
    assert!(told.try_recv().is_err());
}

#[test]
fn a_registry_that_leaves_the_region_is_not_one_that_is_deleted() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    let registry = registry(77, "leaving", 443, &[]);
    let name = registry_name(&registry, "northeurope");
    let document = Document::Registry(registry);
    let is_named = |feed: &Feed| {
        let index = feed.configuration.index();
        index.is_registry_named(Uuid::from_u128(77))
    };
    feed.publish(vec![document.clone(), name.clone()]);
    feed.delete(&document);
    assert!(is_named(&feed));
    feed.delete(&name);
    assert!(!is_named(&feed));
}

#[test]
fn a_mark_of_another_epoch_without_snapshot_asks_for_one() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    feed.epoch = Epoch(Uuid::from_u128(8));
    assert!(matches!(
        feed.mark(),
        Some(NodeMessage::SnapshotWanted { .. })
    ));
}

#[test]
fn what_is_out_of_order_ends_the_stream_and_changes_nothing() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    let foreign = StoredDocument {
        region: Region("eastus".to_owned()),
        ..feed.stored(&assignment(1, "/", object_id(1), "Owner"))
    };
    let end = feed.applier.receive(
        ControlPlaneMessage::Documents {
            documents: vec![foreign],
        },
        now(),
    );
    assert!(matches!(end, Err(ApplyError::OutOfOrder(_))));
    let end = feed
        .applier
        .receive(ControlPlaneMessage::SnapshotEnd, now());
    assert!(matches!(end, Err(ApplyError::OutOfOrder(_))));
    feed.applier.begin_stream();
    let back = ControlPlaneMessage::Mark {
        epoch: feed.epoch,
        revision: Revision(0),
        time: now(),
        checksum: feed.checksum(),
        heard: 0,
    };
    let end = feed.applier.receive(back, now());
    assert!(matches!(end, Err(ApplyError::OutOfOrder(_))));
    assert!(rights(&feed.configuration, 1, object_id(1)).is_empty());
}

#[test]
fn a_document_that_is_not_understood_denies_what_it_governs_and_nothing_else() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    feed.publish(vec![
        Document::Registry(registry(2, "Fabrikam", 5443, &[])),
        assignment(1, &resource_id("Contoso"), object_id(1), "AcrPull"),
        assignment(2, &resource_id("Fabrikam"), object_id(1), "AcrPull"),
    ]);
    feed.revision += 1;
    let mut newer = feed.stored(&assignment(
        1,
        &resource_id("Contoso"),
        object_id(1),
        "AcrPull",
    ));
    newer.body = newer
        .body
        .map(|body| body.replace("\"form\":2", "\"form\":3"));
    let unknown = StoredDocument {
        kind: "quota".to_owned(),
        key: "x".to_owned(),
        ..newer.clone()
    };
    feed.send_stored(vec![newer, unknown]);
    let answer = feed.mark();
    let Some(NodeMessage::Applied { rejected, .. }) = answer else {
        panic!("{answer:?}");
    };
    let kinds: Vec<&str> = rejected
        .iter()
        .map(|rejected| rejected.kind.as_str())
        .collect();
    assert_eq!(kinds, ["quota", "role-assignment"]);
    assert!(rights(&feed.configuration, 1, object_id(1)).is_empty());
    assert_eq!(rights(&feed.configuration, 2, object_id(1)), pull_only());
    // The next version is understood again.
    feed.publish(vec![assignment(
        1,
        &resource_id("Contoso"),
        object_id(1),
        "AcrPull",
    )]);
    assert_eq!(rights(&feed.configuration, 1, object_id(1)), pull_only());
    assert_eq!(feed.configuration.progress().rejected_count, 1);
}

#[test]
fn a_name_taken_over_in_one_batch_belongs_to_its_new_registry() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    let old = Document::Registry(registry(1, "Contoso", 5443, &[]));
    let new = Document::Registry(registry(3, "contoso", 5443, &[]));
    feed.revision += 1;
    let tombstone = StoredDocument {
        body: None,
        ..feed.stored(&old)
    };
    let live = feed.stored(&new);
    feed.send_stored(vec![live, tombstone]);
    assert_applied(feed.mark());
    let index = feed.configuration.index();
    let entry = index
        .registry_by_host("contoso.registry.localhost")
        .expect("the new one");
    assert_eq!(entry.registry.uid, Uuid::from_u128(3));
}

#[test]
fn the_copy_holds_what_was_applied_also_in_another_process() {
    let directory = directory();
    let key = SigningKey::generate("k");
    let mut feed = Feed::with(directory.path(), base());
    feed.publish(vec![
        signing_key(key.public()),
        assignment(1, "/", object_id(1), "AcrPull"),
    ]);
    let state = feed.configuration.progress().state;
    drop(feed);
    let mut again = Feed::new(directory.path());
    let progress = again.configuration.progress();
    assert_eq!(
        progress.state.map(|state| state.revision),
        state.map(|state| state.revision)
    );
    assert!(
        !progress.is_confirmed,
        "no control plane has vouched for it yet"
    );
    assert_eq!(rights(&again.configuration, 1, object_id(1)), pull_only());
    assert!(again.configuration.index().signing_key("k").is_some());
    assert_eq!(
        again.applier.begin_stream().map(|state| state.revision),
        Some(Revision(2))
    );
}

#[test]
fn the_copy_is_for_its_owner_only() {
    let directory = directory();
    drop(Feed::new(directory.path()));
    let file = directory.path().join("configuration.redb");
    let mode = fs::metadata(file).expect("the copy").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn two_processes_do_not_share_a_copy() {
    let directory = directory();
    let _feed = Feed::with(directory.path(), base());
    let error = LocalCopy::open(directory.path(), now())
        .err()
        .expect("in use");
    assert!(
        error.to_string().contains("in use by another process"),
        "{error}"
    );
}

#[test]
fn a_change_refused_for_its_checksum_leaves_the_copy_as_it_was() {
    let directory = directory();
    let mut copy = LocalCopy::open(directory.path(), now())
        .expect("a fresh copy")
        .copy;
    let state = CopyState {
        epoch: Epoch(Uuid::from_u128(7)),
        revision: Revision(1),
        checksum: Checksum(5),
        as_of: now(),
    };
    let document = StoredDocument {
        region: region(),
        kind: "group".to_owned(),
        key: "k".to_owned(),
        body: Some("{}".to_owned()),
        revision: Revision(1),
    };
    let written = copy
        .apply(std::slice::from_ref(&document), state)
        .expect("a working disk");
    assert!(matches!(written, Written::ChecksumDiffers { .. }));
    assert!(copy.state().is_none());
    drop(copy);
    let opened = LocalCopy::open(directory.path(), now()).expect("the same copy");
    assert_eq!(opened.document_count, 0);
    assert!(opened.set_aside.is_none());
}

/// What can happen to a file, with the part of it that is hit.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Truncate,
    Overwrite,
    Garbage,
}

fn damage(path: &std::path::Path, damage: Damage) {
    let mut bytes = fs::read(path).expect("the copy");
    match damage {
        Damage::Truncate => bytes.truncate(bytes.len() / 3),
        Damage::Overwrite => {
            // Wherever documents are: a digit of each body's form.
            let needle = b"\"roleDefinitionId\"";
            let positions: Vec<usize> = bytes
                .windows(needle.len())
                .enumerate()
                .filter(|(_, window)| window == needle)
                .map(|(at, _)| at)
                .collect();
            assert!(!positions.is_empty(), "the document is in the file");
            for at in positions {
                bytes[at + 1] = b'R';
            }
        }
        Damage::Garbage => bytes = vec![0x5a; bytes.len()],
    }
    fs::write(path, bytes).expect("write");
}

#[test]
fn a_damaged_copy_is_set_aside_and_never_served_from() {
    for kind in [Damage::Truncate, Damage::Overwrite, Damage::Garbage] {
        let directory = directory();
        let mut feed = Feed::with(directory.path(), base());
        feed.publish(vec![assignment(1, "/", object_id(1), "Owner")]);
        drop(feed);
        damage(&directory.path().join("configuration.redb"), kind);
        let opened = LocalCopy::open(directory.path(), now()).expect("a new copy");
        let (aside, reason) = opened
            .set_aside
            .unwrap_or_else(|| panic!("{kind:?} was not noticed"));
        assert!(aside.exists() && !reason.is_empty());
        assert_eq!(opened.document_count, 0);
        assert!(opened.copy.state().is_none());
        drop(opened.copy);
        // The node goes on from a snapshot.
        let feed = Feed::with(directory.path(), base());
        assert!(
            feed.configuration
                .index()
                .registry(Uuid::from_u128(1))
                .is_some()
        );
    }
}

/// A change of a small world, so that changes meet each other often.
#[derive(Clone, Debug)]
enum Change {
    Assign(u128, u128, u128, &'static str),
    Unassign(u128),
    Register(u128, &'static str),
    Unregister(u128),
    Join(u128, Vec<u128>),
    Enable(u128, bool),
    Garble(u128),
}

fn changes() -> impl Strategy<Value = Change> {
    let role = prop::sample::select(vec!["Owner", "AcrPull", "AcrPush", "Reader"]);
    let name = prop::sample::select(vec!["Contoso", "Fabrikam"]);
    prop_oneof![
        4 => (0_u128..6, 0_u128..4, 0_u128..4, role).prop_map(|(id, scope, who, role)| Change::Assign(id, scope, who, role)),
        2 => (0_u128..6).prop_map(Change::Unassign),
        2 => (1_u128..4, name).prop_map(|(uid, name)| Change::Register(uid, name)),
        1 => (1_u128..4).prop_map(Change::Unregister),
        2 => (0_u128..4, prop::collection::vec(0_u128..4, 0..3)).prop_map(|(who, groups)| Change::Join(who, groups)),
        1 => (0_u128..4, any::<bool>()).prop_map(|(who, enabled)| Change::Enable(who, enabled)),
        1 => (0_u128..6).prop_map(Change::Garble),
    ]
}

fn scope_text(number: u128) -> String {
    match number {
        0 => "/".to_owned(),
        1 => SUBSCRIPTION.to_owned(),
        2 => resource_id("Contoso"),
        _ => resource_id("Fabrikam"),
    }
}

fn stored_of(change: &Change, revision: u64) -> StoredDocument {
    let live = |document: Document| StoredDocument {
        region: region(),
        kind: document.kind().as_str().to_owned(),
        key: document.key(),
        body: Some(document.body()),
        revision: Revision(revision),
    };
    let anyone = |number: u128| principal(number, &credentials::Secret::new("x".to_owned()), &[]);
    match change {
        Change::Assign(id, scope, who, role) => {
            live(assignment(*id, &scope_text(*scope), object_id(*who), role))
        }
        Change::Unassign(id) => StoredDocument {
            body: None,
            ..live(assignment(*id, "/", object_id(0), "Owner"))
        },
        Change::Register(uid, name) => live(Document::Registry(registry(*uid, name, 5443, &[]))),
        Change::Unregister(uid) => StoredDocument {
            body: None,
            ..live(Document::Registry(registry(*uid, "x", 5443, &[])))
        },
        Change::Join(who, groups) => {
            let groups = groups.iter().map(|group| object_id(*group)).collect();
            live(Document::Principal(config_documents::Principal {
                groups,
                ..anyone(*who)
            }))
        }
        Change::Enable(who, enabled) => live(Document::Principal(config_documents::Principal {
            enabled: *enabled,
            ..anyone(*who)
        })),
        Change::Garble(id) => StoredDocument {
            body: Some("{\"form\":1}".to_owned()),
            ..live(assignment(*id, "/", object_id(0), "Owner"))
        },
    }
}

/// Everything that requests could learn from an index.
fn view(index: &Index) -> String {
    let mut lines = Vec::new();
    for uid in 1..4 {
        if let Some(entry) = index.registry(Uuid::from_u128(uid)) {
            for who in 0..4 {
                lines.push(format!(
                    "{uid} {who} {:?}",
                    index.access(entry, object_id(who)).rights("app")
                ));
            }
        }
    }
    for who in 0..4 {
        let enabled = index
            .principal_by_app_id(app_id(who))
            .map(|found| found.enabled);
        lines.push(format!("{who} {enabled:?}"));
    }
    let rejected: Vec<String> = index
        .rejected()
        .map(|rejected| rejected.key.clone())
        .collect();
    lines.push(format!("{rejected:?}"));
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changes_one_by_one_lead_where_a_snapshot_leads(changes in prop::collection::vec(changes(), 0..40)) {
        let mut index = Index::default();
        for role in roles() {
            let document = StoredDocument {
                region: region(),
                kind: role.kind().as_str().to_owned(),
                key: role.key(),
                body: Some(role.body()),
                revision: Revision(0),
            };
            index.apply(&document);
        }
        let mut latest: BTreeMap<(String, String), StoredDocument> = BTreeMap::new();
        for (number, change) in changes.iter().enumerate() {
            let stored = stored_of(change, number as u64);
            // Two registries with one name at a time cannot be: the control plane forbids it.
            index.apply(&stored);
            latest.insert((stored.kind.clone(), stored.key.clone()), stored);
        }
        let mut fresh = Index::default();
        for role in roles() {
            let document = StoredDocument {
                region: region(),
                kind: role.kind().as_str().to_owned(),
                key: role.key(),
                body: Some(role.body()),
                revision: Revision(0),
            };
            fresh.apply(&document);
        }
        for stored in latest.values() {
            fresh.apply(stored);
        }
        prop_assert_eq!(view(&index), view(&fresh));
    }
}

fn bad_snapshot(feed: &mut Feed) -> Option<NodeMessage> {
    feed.receive(ControlPlaneMessage::SnapshotBegin { epoch: feed.epoch });
    feed.send(base());
    feed.receive(ControlPlaneMessage::SnapshotEnd);
    feed.mark_with(Checksum(1))
}

#[test]
fn snapshots_that_never_add_up_are_asked_for_less_and_less_often_and_are_shown() {
    let directory = directory();
    let seconds = Arc::new(AtomicU64::new(1_000));
    let clock = {
        let seconds = Arc::clone(&seconds);
        move || BootTime(Duration::from_secs(seconds.load(Ordering::Relaxed)))
    };
    let (clock, wall_clock) = (BootClock::new("boot", clock), clock::of_the_system());
    let standing = Standing::open(directory.path(), clock, wall_clock, None);
    let mut feed = Feed::with_standing(directory.path(), standing.expect("a directory"));
    let wants =
        |answer: Option<NodeMessage>| matches!(answer, Some(NodeMessage::SnapshotWanted { .. }));
    let failed = |feed: &Feed| {
        let divergence = feed.configuration.progress().divergence;
        divergence.map(|divergence| divergence.failed_snapshots)
    };
    assert!(wants(bad_snapshot(&mut feed)));
    assert_eq!(failed(&feed), Some(1));
    for (round, wait) in [5, 10, 20, 40, 60, 60].into_iter().enumerate() {
        assert!(bad_snapshot(&mut feed).is_none());
        assert_eq!(failed(&feed), Some(round as u32 + 2));
        seconds.fetch_add(wait - 1, Ordering::Relaxed);
        assert!(feed.mark().is_none(), "not yet, in round {round}");
        seconds.fetch_add(1, Ordering::Relaxed);
        assert!(wants(feed.mark()), "in round {round}");
        assert!(feed.mark().is_none(), "it is asked for");
    }
    let shown = feed.configuration.progress().describe(now());
    assert!(
        shown.contains("until a snapshot adds up (7 did not)"),
        "{shown}"
    );
    let mut good = Feed::new(tempfile::tempdir().expect("a directory").path());
    good.send(base());
    feed.receive(ControlPlaneMessage::SnapshotBegin { epoch: feed.epoch });
    feed.receive(ControlPlaneMessage::Documents {
        documents: good.live().cloned().collect(),
    });
    feed.receive(ControlPlaneMessage::SnapshotEnd);
    assert_applied(feed.mark_with(good.checksum()));
    assert_eq!(failed(&feed), None);
}

#[test]
fn a_deletion_whose_content_is_not_marked_is_not_forgotten_when_the_node_dies() {
    let directory = directory();
    let mut feed = Feed::with(directory.path(), base());
    feed.delete(&Document::Registry(registry(1, "Contoso", 5443, &[])));
    drop(feed);
    for expected in [vec![Uuid::from_u128(1)], Vec::new()] {
        let opened = LocalCopy::open(directory.path(), now()).expect("readable");
        let deletions = opened.copy.deleted_registries();
        assert_eq!(deletions.list().expect("readable"), expected);
        deletions.marked(Uuid::from_u128(1)).expect("writable");
    }
}

//! A hundred thousand damaged documents: a node takes each of them, denies what it governs and nothing else, and keeps up with all others.

use std::collections::{BTreeMap, BTreeSet};

use config_documents::{
    ControlPlaneMessage, Document, Epoch, Kind, Node as NodeDocument, NodeMessage, Region,
    Rejected, Retention, Revision, RoleAssignmentMode, SignInKey, StoredDocument,
};
use credentials::{SecretKind, SigningKey};
use rbac::registry::RepositoryPermissions;
use registry_node::config::{Index, LocalCopy};
use serde_json::Value;
use uuid::Uuid;

use crate::support::*;

const MUTATIONS: usize = 100_000;
const BATCH: usize = 500;
const REGISTRIES: u128 = 12;
const PRINCIPALS: u128 = 24;
const GROUPS: u128 = 6;

/// Random numbers that are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

fn group_id(number: u128) -> Uuid {
    Uuid::from_u128(0x6000 + number)
}

/// What an installation has, small but of every kind.
fn documents() -> Vec<Document> {
    let mut documents = roles();
    for number in 1..=REGISTRIES {
        let password = secret(SecretKind::AdminPassword);
        let mut registry = registry(number, &format!("Contoso{number}"), 5443, &[(&password, 1)]);
        if number % 4 == 0 {
            registry.role_assignment_mode = RoleAssignmentMode::AbacRepositoryPermissions;
        }
        if number % 3 == 0 {
            registry.anonymous_pull_enabled = true;
            registry.quota_bytes = Some(1 << 30);
            registry.retention = Some(Retention {
                days_since_push: Some(7),
                days_since_pull: Some(0),
                keep_newest: Some(3),
            });
        }
        documents.push(registry_name(&registry, REGION));
        documents.push(Document::Registry(registry));
    }
    for number in 1..=GROUPS {
        let next = group_id(number % GROUPS + 1);
        documents.push(group(group_id(number), &[next]));
    }
    for number in 1..=PRINCIPALS {
        let secret = secret(SecretKind::ServicePrincipalSecret);
        let groups = if number % 3 == 0 {
            vec![group_id(number % GROUPS + 1)]
        } else {
            Vec::new()
        };
        documents.push(Document::Principal(principal(number, &secret, &groups)));
        let registry = resource_id(&format!("Contoso{}", number % REGISTRIES + 1));
        let role = ["AcrPull", "AcrPush", "Owner"][(number % 3) as usize];
        documents.push(assignment(number, &registry, object_id(number), role));
        let writer = "Container Registry Repository Writer";
        let by_repository = assignment(200 + number, &registry, object_id(number), writer);
        let comparison = [
            "StringEqualsIgnoreCase 'other'",
            "StringStartsWithIgnoreCase 'ap'",
        ];
        documents.push(restricted(
            by_repository,
            &["content/read", "metadata/*"],
            &[comparison[(number % 2) as usize]],
        ));
    }
    documents.push(assignment(100, SUBSCRIPTION, group_id(1), "AcrPull"));
    for number in 0..3_u128 {
        let key = SigningKey::generate(&format!("node-{number}"));
        documents.push(signing_key(key.public()));
        documents.push(Document::SignInKey(SignInKey {
            public_key: SigningKey::generate(&format!("sign-in-{number}")).public(),
            tenant_id: Uuid::from_u128(number),
            issuers: vec!["https://sign-in.example/v2.0".to_owned()],
            audiences: vec!["https://sign-in.example".to_owned()],
            ends_at: None,
        }));
        documents.push(Document::Node(NodeDocument {
            node_id: Uuid::from_u128(0xde00 + number),
            region: region(),
            address: format!("node-{number}:5443"),
        }));
    }
    documents
}

type Id = (String, String);

fn id_of(document: &StoredDocument) -> Id {
    (document.kind.clone(), document.key.clone())
}

/// One document as it must not be.
fn mutated(
    original: &StoredDocument,
    others: &[StoredDocument],
    random: &mut Random,
) -> StoredDocument {
    let mut document = original.clone();
    let text = document.body.clone().expect("live");
    let mut value: Value = serde_json::from_str(&text).expect("a body is JSON");
    match random.below(11) {
        0 => document.body = Some(flip_bytes(&text, random)),
        1 => document.body = Some(text[..random.below(text.len())].to_owned()),
        2 => {
            remove_member(&mut value, random);
            document.body = Some(value.to_string());
        }
        3 => {
            retype_member(&mut value, random);
            document.body = Some(value.to_string());
        }
        4 => {
            value["form"] = [
                7.into(),
                0.into(),
                (-1).into(),
                u64::MAX.into(),
                "1".into(),
                Value::Null,
            ][random.below(6)]
            .clone();
            document.body = Some(value.to_string());
        }
        // Another document's body, or its key.
        5 => document.body = random.of(others).body.clone(),
        6 => document.key = random.of(others).key.clone(),
        7 => {
            let depth = 200 + random.below(2_000);
            let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            document.body = Some(text.replacen('{', &format!("{{\"x\":{nested},"), 1));
        }
        8 => {
            document.kind =
                ["", "unknown", "registry ", "REGISTRY", "a\u{0}b"][random.below(5)].to_owned()
        }
        9 => {
            document.key = [
                "",
                "x",
                "../..",
                "\u{0}",
                "00000000-0000-0000-0000-000000000000",
            ][random.below(5)]
            .to_owned()
        }
        _ => {
            document.body = Some(
                ["", "null", "[]", "{}", "\"\"", "1e999", "\u{feff}{}"][random.below(7)].to_owned(),
            )
        }
    }
    document
}

/// Characters instead of bytes: what is not UTF-8 is no JSON text, and never gets here.
fn flip_bytes(text: &str, random: &mut Random) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(4) {
        let place = random.below(characters.len());
        let with = *random.of(&['0', '"', '{', '}', ',', '\\', 'z', '\u{0}', '\u{fffd}', '-']);
        characters[place] = with;
    }
    characters.into_iter().collect()
}

fn remove_member(value: &mut Value, random: &mut Random) {
    if let Some(members) = value.as_object_mut() {
        let names: Vec<String> = members.keys().cloned().collect();
        members.remove(random.of(&names));
    }
}

fn retype_member(value: &mut Value, random: &mut Random) {
    if let Some(members) = value.as_object_mut() {
        let names: Vec<String> = members.keys().cloned().collect();
        let to = [
            Value::Null,
            true.into(),
            (-1).into(),
            "".into(),
            "/".into(),
            Value::Array(vec![Value::Null]),
            serde_json::json!({"x": {"x": []}}),
        ];
        members.insert(random.of(&names).clone(), random.of(&to).clone());
    }
}

fn understood(document: &StoredDocument) -> bool {
    let body = document.body.as_deref().expect("live");
    match Document::parse(&document.kind, &document.key, body) {
        Ok(Document::Registry(registry)) => rbac::Scope::parse(&registry.resource_id).is_ok(),
        Ok(_) => true,
        Err(_) => false,
    }
}

type Decisions = BTreeMap<(u128, u128), RepositoryPermissions>;

/// What everybody may do everywhere; nothing where the registry is not known.
fn decisions(index: &Index) -> Decisions {
    let mut all = BTreeMap::new();
    for uid in 1..=REGISTRIES {
        for number in 1..=PRINCIPALS {
            let rights = index
                .registry(Uuid::from_u128(uid))
                .map_or(RepositoryPermissions::NONE, |entry| {
                    index.access(entry, object_id(number)).rights("app")
                });
            all.insert((uid, number), rights);
        }
    }
    all
}

fn index_of<'a>(documents: impl Iterator<Item = &'a StoredDocument>) -> Index {
    let mut index = Index::default();
    documents.for_each(|document| index.apply(document));
    index
}

/// Everything that an index can be asked, but for times.
fn assert_alike(found: &Index, expected: &Index) {
    assert_eq!(decisions(found), decisions(expected));
    for number in 1..=REGISTRIES {
        let host = format!("contoso{number}.registry.localhost");
        let at = |index: &Index| {
            index
                .registry_by_host(&host)
                .map(|entry| entry.registry.clone())
        };
        assert_eq!(at(found), at(expected), "{host}");
        assert_eq!(found.name_by_host(&host), expected.name_by_host(&host));
    }
    for number in 1..=PRINCIPALS {
        let id = object_id(number);
        assert_eq!(found.principal(id), expected.principal(id));
        let id = app_id(number);
        assert_eq!(
            found.principal_by_app_id(id),
            expected.principal_by_app_id(id)
        );
    }
    for number in 0..3 {
        let kid = format!("node-{number}");
        assert_eq!(
            found.signing_key(&kid).is_some(),
            expected.signing_key(&kid).is_some()
        );
    }
    let mut uids = [found, expected].map(|index| index.registry_uids().collect::<Vec<_>>());
    uids.iter_mut().for_each(|uids| uids.sort());
    assert_eq!(uids[0], uids[1]);
    assert_eq!(found.nodes().len(), expected.nodes().len());
}

/// What each registry and principal is governed by, beside the roles that all share.
fn governed_by(uid: u128, number: u128, touched: &BTreeSet<Id>) -> bool {
    let mut governing = vec![
        (Kind::Registry, Uuid::from_u128(uid)),
        (Kind::Principal, object_id(number)),
        (Kind::RoleAssignment, Uuid::from_u128(0xa551_6000 + number)),
        (Kind::RoleAssignment, Uuid::from_u128(0xa551_6000 + 100)),
        (
            Kind::RoleAssignment,
            Uuid::from_u128(0xa551_6000 + 200 + number),
        ),
    ];
    governing.extend((1..=GROUPS).map(|number| (Kind::Group, group_id(number))));
    let roles = [
        "AcrPull",
        "AcrPush",
        "Owner",
        "Container Registry Repository Writer",
    ];
    governing.extend(roles.map(|name| (Kind::RoleDefinition, role_id(name))));
    governing
        .iter()
        .any(|(kind, id)| touched.contains(&(kind.as_str().to_owned(), id.to_string())))
}

struct Run {
    feed: Feed,
    base: BTreeMap<Id, StoredDocument>,
    originals: Vec<StoredDocument>,
    /// What stands now where something was changed.
    changed: BTreeMap<Id, StoredDocument>,
    random: Random,
}

impl Run {
    /// Puts everything back that the last batch changed, and changes something else.
    fn batch(&mut self) {
        self.feed.revision += 1;
        let revision = Revision(self.feed.revision);
        let mut sent = Vec::new();
        for (id, document) in std::mem::take(&mut self.changed) {
            let body = self
                .base
                .get(&id)
                .and_then(|original| original.body.clone());
            sent.push(StoredDocument {
                body,
                revision,
                ..document
            });
        }
        for _ in 0..BATCH {
            let original = self.random.of(&self.originals).clone();
            let mut document = mutated(&original, &self.originals, &mut self.random);
            document.revision = revision;
            self.changed.insert(id_of(&document), document.clone());
            sent.push(document);
        }
        self.feed.send_stored(sent);
        let answer = self.feed.mark();
        let Some(NodeMessage::Applied { rejected, .. }) = answer else {
            panic!("{answer:?}");
        };
        self.check(&rejected);
    }

    fn check(&self, rejected: &[Rejected]) {
        let not_understood: BTreeSet<Id> = self
            .feed
            .live()
            .filter(|document| !understood(document))
            .map(id_of)
            .collect();
        let said = rejected
            .iter()
            .map(|one| (one.kind.clone(), one.key.clone()));
        assert_eq!(said.collect::<BTreeSet<_>>(), not_understood);
        let found = self.feed.configuration.index();
        let expected = index_of(self.feed.live().filter(|document| understood(document)));
        assert_alike(&found, &expected);
        // What no damaged document governs is as it was; one that is still understood may have given somebody more.
        let touched: BTreeSet<Id> = self.changed.keys().cloned().collect();
        let base = decisions(&index_of(self.base.values()));
        for ((uid, number), rights) in decisions(&found) {
            if !governed_by(uid, number, &touched) {
                let before = base[&(uid, number)];
                assert_eq!(rights.intersection(before), before, "{uid} {number}");
            }
        }
    }
}

#[test]
fn a_hundred_thousand_damaged_documents_deny_what_they_govern_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let feed = Feed::with(directory.path(), documents());
    let base: BTreeMap<Id, StoredDocument> = feed
        .live()
        .map(|document| (id_of(document), document.clone()))
        .collect();
    let mut run = Run {
        originals: base.values().cloned().collect(),
        base,
        feed,
        changed: BTreeMap::new(),
        random: Random(4),
    };
    for _ in 0..MUTATIONS / BATCH {
        run.batch();
    }
    // The copy on disk holds the same, damaged documents and all.
    let live: Vec<StoredDocument> = run.feed.live().cloned().collect();
    let found = index_of(live.iter());
    drop(run);
    let opened = LocalCopy::open(directory.path(), now()).expect("readable");
    assert!(opened.set_aside.is_none(), "{:?}", opened.set_aside);
    assert_eq!(opened.document_count, live.len());
    assert_alike(&opened.index, &found);
}

#[test]
fn a_few_damaged_documents_leave_everybody_else_as_they_were() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut feed = Feed::with(directory.path(), documents());
    let base: Vec<StoredDocument> = feed.live().cloned().collect();
    let before = decisions(&feed.configuration.index());
    assert!(before.values().any(|rights| !rights.is_empty()));
    let mut random = Random(5);
    for _ in 0..60 {
        let original = random.of(&base).clone();
        let mut damaged = original.clone();
        damaged.body = Some("{\"form\":1}".to_owned());
        feed.revision += 1;
        feed.send_stored(vec![damaged]);
        assert_applied(feed.mark());
        let touched = BTreeSet::from([id_of(&original)]);
        for ((uid, number), rights) in decisions(&feed.configuration.index()) {
            let is_governed = governed_by(uid, number, &touched);
            let expected = before[&(uid, number)];
            assert!(
                rights == expected || (is_governed && rights.intersection(expected) == rights),
                "{uid} {number} after {touched:?}"
            );
        }
        feed.revision += 1;
        feed.send_stored(vec![original]);
        assert_applied(feed.mark());
        assert_eq!(decisions(&feed.configuration.index()), before);
    }
}

#[test]
fn a_document_for_another_region_ends_the_stream_and_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut feed = Feed::with(directory.path(), documents());
    let mut document = feed.live().next().expect("there are some").clone();
    document.region = Region("elsewhere".to_owned());
    let message = ControlPlaneMessage::Documents {
        documents: vec![document],
    };
    assert!(feed.applier.receive(message, now()).is_err());
    let other = Epoch(Uuid::from_u128(8));
    assert_ne!(
        feed.configuration.progress().state.map(|state| state.epoch),
        Some(other)
    );
}

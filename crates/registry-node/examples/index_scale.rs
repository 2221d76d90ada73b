//! Measures the index at scale: how long a decision takes, and how long one change takes while
//! decisions go on. Prints one JSON object.
//!
//! `cargo run --release -p registry-node --example index_scale`

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use config_documents::{
    Document, Group, Principal, Region, Registry, Revision, RoleAssignmentMode, StoredDocument,
};
use parking_lot::RwLock;
use rbac::{RoleAssignment, Scope, built_in_roles, registry::RepositoryPermission};
use registry_node::config::Index;
use uuid::Uuid;

const REGISTRIES: u128 = 100_000;
const PRINCIPALS: u128 = 100_000;
const ASSIGNMENTS: u128 = 200_000;
const GROUPS: u128 = 1_000;
const SUBSCRIPTIONS: u128 = 100;
const DECISIONS: usize = 1_000_000;
const CHANGES: usize = 10_000;
/// Decisions are timed in runs of this length: reading the clock takes a good part of one.
const RUN: usize = 100;

fn main() -> std::io::Result<()> {
    let started_at = Instant::now();
    let before_bytes = resident_bytes();
    let mut additions = Vec::new();
    let mut index = build(&mut additions);
    let build_seconds = started_at.elapsed().as_secs_f64();
    let index_bytes = resident_bytes().saturating_sub(before_bytes);
    let decisions = time_decisions(&index);
    let by_groups = [1, 100, 1_000].map(|groups| time_caller(&mut index, groups, 1));
    let by_assignments =
        [1, 100, 10_000].map(|assignments| time_caller(&mut index, 1, assignments));
    let index = Arc::new(RwLock::new(index));
    let changes = time_changes(&index);
    let result = serde_json::json!({
        "registries": REGISTRIES,
        "principals": PRINCIPALS,
        "role_assignments": ASSIGNMENTS,
        "build_seconds": build_seconds,
        "index_bytes": index_bytes,
        "addition_nanoseconds": quantiles(additions),
        "decision_nanoseconds": quantiles(decisions),
        "decision_nanoseconds_in_1_100_1000_groups": by_groups,
        "decision_nanoseconds_with_1_100_10000_assignments_elsewhere": by_assignments,
        "change_nanoseconds": quantiles(changes),
    });
    writeln!(std::io::stdout(), "{result:#}")
}

/// Numbers that look random and are the same in each run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, bound: u128) -> u128 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u128::from(self.0) % bound
    }
}

fn subscription(number: u128) -> String {
    format!("/subscriptions/{}", Uuid::from_u128(number % SUBSCRIPTIONS))
}

fn resource_id(number: u128) -> String {
    let group = number / 10;
    format!(
        "{}/resourceGroups/team-{group}/providers/Microsoft.ContainerRegistry/registries/registry{number}",
        subscription(group)
    )
}

fn registry_uid(number: u128) -> Uuid {
    Uuid::from_u128(0x1_0000_0000 + number)
}

fn object_id(number: u128) -> Uuid {
    Uuid::from_u128(0x2_0000_0000 + number)
}

fn group_id(number: u128) -> Uuid {
    Uuid::from_u128(0x3_0000_0000 + number)
}

fn stored(document: &Document) -> StoredDocument {
    StoredDocument {
        region: Region("westus".to_owned()),
        kind: document.kind().as_str().to_owned(),
        key: document.key(),
        body: Some(document.body()),
        revision: Revision(1),
    }
}

fn registry(number: u128) -> Document {
    Document::Registry(Registry {
        uid: registry_uid(number),
        name: format!("registry{number}"),
        resource_id: resource_id(number),
        login_server: format!("registry{number}.registry.example:443"),
        home_region: Region("westus".to_owned()),
        role_assignment_mode: RoleAssignmentMode::LegacyRegistryPermissions,
        admin_user: None,
        anonymous_pull_enabled: false,
        retention: None,
        quota_bytes: None,
    })
}

fn principal(number: u128) -> Document {
    Document::Principal(Principal {
        object_id: object_id(number),
        app_id: Some(Uuid::from_u128(0x4_0000_0000 + number)),
        enabled: true,
        secrets: Vec::new(),
        chosen_secrets: Vec::new(),
        sign_in_credentials: Vec::new(),
        groups: vec![group_id(number % GROUPS), group_id(number * 7 % GROUPS)],
    })
}

/// Most on a registry, some on resource groups and subscriptions; a tenth held by groups.
fn assignment(number: u128, sequence: &mut Sequence) -> Document {
    let registry = sequence.below(REGISTRIES);
    let id = resource_id(registry);
    let scope = match sequence.below(20) {
        0 => subscription(registry / 10),
        1..=3 => id.split("/providers").next().unwrap_or(&id).to_owned(),
        _ => id,
    };
    let principal_id = match sequence.below(10) {
        0 => group_id(sequence.below(GROUPS)),
        _ => object_id(sequence.below(PRINCIPALS)),
    };
    let role = sequence.below(built_in_roles().len() as u128);
    Document::RoleAssignment(RoleAssignment {
        id: Uuid::from_u128(0x5_0000_0000 + number),
        scope: Scope::parse(&scope).expect("made as a scope"),
        principal_id,
        role_definition_id: built_in_roles()[role as usize].id,
        condition: None,
    })
}

/// The index, and the nanoseconds that each document took: the largest are those at which something grew.
fn build(additions: &mut Vec<u64>) -> Index {
    let mut index = Index::default();
    let mut add = |index: &mut Index, document: &Document| {
        let document = stored(document);
        let started_at = Instant::now();
        index.apply(&document);
        additions.push(nanoseconds(started_at.elapsed()));
    };
    let mut sequence = Sequence(0x9e37_79b9_7f4a_7c15);
    for role in built_in_roles() {
        add(&mut index, &Document::RoleDefinition(role.clone()));
    }
    for number in 0..REGISTRIES {
        add(&mut index, &registry(number));
    }
    for number in 0..PRINCIPALS {
        add(&mut index, &principal(number));
    }
    for number in 0..ASSIGNMENTS {
        add(&mut index, &assignment(number, &mut sequence));
    }
    assert_eq!(index.rejected().len(), 0, "every document is understood");
    index
}

fn decide(index: &Index, sequence: &mut Sequence) -> bool {
    let registry = index
        .registry(registry_uid(sequence.below(REGISTRIES)))
        .expect("a registry of the index");
    let caller = object_id(sequence.below(PRINCIPALS));
    index
        .access(registry, caller)
        .permits(RepositoryPermission::Push, Some("app"))
}

/// The median of a decision about somebody who is in so many groups, holds so many roles in other registries than the one that is asked
/// about, and may pull there by a role of the last group.
fn time_caller(index: &mut Index, groups: u128, assignments: u128) -> u64 {
    let groups: Vec<Uuid> = (0..groups)
        .map(|number| group_id(GROUPS + number))
        .collect();
    let Document::Principal(caller) = principal(PRINCIPALS) else {
        unreachable!("a principal");
    };
    let object_id = caller.object_id;
    let role = |number, principal_id, registry| RoleAssignment {
        id: Uuid::from_u128(0x6_0000_0000 + number),
        scope: Scope::parse(&resource_id(registry)).expect("made as a scope"),
        principal_id,
        role_definition_id: uuid::uuid!("7f951dda-4ed3-4680-a7ca-43fe172d538d"),
        condition: None,
    };
    let last = *groups.last().expect("one at least");
    let caller = Document::Principal(Principal {
        groups: groups.clone(),
        ..caller
    });
    let memberships = groups.into_iter().map(|object_id| {
        Document::Group(Group {
            object_id,
            groups: Vec::new(),
        })
    });
    let elsewhere = (1..=assignments).map(|number| role(number, object_id, number));
    let assigned = elsewhere
        .chain([role(0, last, 0)])
        .map(Document::RoleAssignment);
    for document in memberships.chain([caller]).chain(assigned) {
        index.apply(&stored(&document));
    }
    let registry = index.registry(registry_uid(0)).expect("a registry");
    let mut times: Vec<u64> = (0..1_000)
        .map(|_| {
            let started_at = Instant::now();
            let access = index.access(registry, object_id);
            assert!(access.permits(RepositoryPermission::Pull, Some("app")));
            nanoseconds(started_at.elapsed())
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Nanoseconds of one decision, each a mean over a run.
fn time_decisions(index: &Index) -> Vec<u64> {
    let mut sequence = Sequence(0x2545_f491_4f6c_dd1d);
    let mut allowed = 0_usize;
    let times = (0..DECISIONS / RUN)
        .map(|_| {
            let started_at = Instant::now();
            for _ in 0..RUN {
                allowed += usize::from(decide(index, &mut sequence));
            }
            nanoseconds(started_at.elapsed()) / RUN as u64
        })
        .collect();
    std::hint::black_box(allowed);
    times
}

/// Nanoseconds of one change, from the wait for the lock to its release, while another thread
/// decides without pause.
fn time_changes(index: &Arc<RwLock<Index>>) -> Vec<u64> {
    let is_done = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (index, is_done) = (Arc::clone(index), Arc::clone(&is_done));
        move || {
            let mut sequence = Sequence(0x1234_5678_9abc_def1);
            while !is_done.load(Ordering::Relaxed) {
                std::hint::black_box(decide(&index.read(), &mut sequence));
            }
        }
    });
    let mut sequence = Sequence(0x0dd0_15ea_5e0f_f1ce);
    let times = (0..CHANGES)
        .map(|number| {
            let document = match number % 3 {
                0 => stored(&assignment(sequence.below(ASSIGNMENTS), &mut sequence)),
                1 => stored(&registry(sequence.below(REGISTRIES))),
                _ => stored(&principal(sequence.below(PRINCIPALS))),
            };
            let started_at = Instant::now();
            index.write().apply(&document);
            nanoseconds(started_at.elapsed())
        })
        .collect();
    is_done.store(true, Ordering::Relaxed);
    reader.join().expect("the reader does not panic");
    times
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn quantiles(mut values: Vec<u64>) -> serde_json::Value {
    values.sort_unstable();
    let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
    serde_json::json!({
        "median": at(0.5),
        "p99": at(0.99),
        "maximum": at(1.0),
    })
}

/// The resident set of this process, in bytes; 0 where there is no `/proc`.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

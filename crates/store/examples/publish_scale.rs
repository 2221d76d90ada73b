//! Publishes a large configuration (registries, principals, role assignments) to the database of an
//! installation, in large batches, for a measurement of what nodes make of it. The resources themselves
//! are not made: nodes know documents only. Prints one JSON object.
//!
//! `DATABASE_URL=… cargo run --release -p store --example publish_scale -- REGION REGISTRIES PRINCIPALS ASSIGNMENTS`

#![expect(
    clippy::disallowed_methods,
    reason = "a program begins here, with the machine's clock"
)]

use std::{error::Error, io::Write, time::Instant};

use config_documents::{
    AdminPassword, AdminPasswordSlot, AdminUser, Document, Principal, PrincipalSecret, Region,
    Registry, RegistryName, RoleAssignmentMode,
};
use credentials::{Secret, SecretKind, SystemRandomness, Verifier, generate};
use rbac::{RoleAssignment, Scope, built_in_roles};
use store::Store;
use store::config::{Change, Published, publish};
use time::OffsetDateTime;
use uuid::Uuid;

/// Documents of one revision.
const BATCH_DOCUMENTS: usize = 10_000;
const SUBSCRIPTIONS: u128 = 100;
const REGISTRIES_IN_GROUP: u128 = 10;
const GROUPS_OF_PRINCIPALS: u128 = 1_000;

type Failure = Box<dyn Error + Send + Sync>;

/// What is published, by numbers.
struct Scale {
    region: Region,
    registries: u128,
    principals: u128,
    assignments: u128,
    /// One for all, each time under another salt: making secrets takes longer than publishing them.
    secret: Secret,
    now: OffsetDateTime,
}

fn main() -> Result<(), Failure> {
    let usage = "REGION REGISTRIES PRINCIPALS ASSIGNMENTS";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [region, registries, principals, assignments] = arguments.as_slice() else {
        return Err(usage.into());
    };
    let scale = Scale {
        region: Region(region.clone()),
        registries: registries.parse()?,
        principals: principals.parse()?,
        assignments: assignments.parse()?,
        secret: generate(SecretKind::ServicePrincipalSecret, &SystemRandomness),
        now: OffsetDateTime::now_utc(),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(&scale))
}

async fn run(scale: &Scale) -> Result<(), Failure> {
    let store = Store::open(&std::env::var("DATABASE_URL")?)?;
    let began = Instant::now();
    let mut batch = Vec::new();
    let mut documents = 0_usize;
    let mut last = None;
    for change in scale.changes() {
        documents += 1;
        batch.push(change);
        if batch.len() == BATCH_DOCUMENTS {
            last = Some(publish_batch(&store, &mut batch).await?);
        }
    }
    if !batch.is_empty() {
        last = Some(publish_batch(&store, &mut batch).await?);
    }
    let result = serde_json::json!({
        "documents": documents,
        "revision": last.map(|published| published.revision),
        "seconds": began.elapsed().as_secs_f64(),
    });
    Ok(writeln!(std::io::stdout(), "{result}")?)
}

async fn publish_batch(store: &Store, batch: &mut Vec<Change>) -> Result<Published, Failure> {
    let mut transaction = store.begin().await?;
    let published = publish(&mut transaction, batch).await?;
    transaction.commit().await?;
    batch.clear();
    Ok(published)
}

impl Scale {
    fn changes(&self) -> impl Iterator<Item = Change> {
        let mut sequence = Sequence(0x9e37_79b9_7f4a_7c15);
        let here = |document| Change::Upsert {
            region: self.region.clone(),
            document,
        };
        let everywhere = |document| Change::Upsert {
            region: Region::all(),
            document,
        };
        let registries = (0..self.registries).flat_map(move |number| {
            let name = Document::RegistryName(self.registry_name(number));
            [
                everywhere(name),
                here(Document::Registry(self.registry(number))),
            ]
        });
        let principals = (0..self.principals)
            .map(move |number| everywhere(Document::Principal(self.principal(number))));
        let assignments = (0..self.assignments).map(move |number| {
            let assignment = self.assignment(number, &mut sequence);
            everywhere(Document::RoleAssignment(assignment))
        });
        registries.chain(principals).chain(assignments)
    }

    fn verifier(&self) -> Verifier {
        Verifier::of(&self.secret, &SystemRandomness)
    }

    fn registry(&self, number: u128) -> Registry {
        let password = |slot| AdminPassword {
            slot,
            generation: 1,
            verifier: self.verifier(),
        };
        Registry {
            uid: registry_uid(number),
            name: registry(number),
            resource_id: resource_id(number),
            login_server: login_server(number),
            home_region: self.region.clone(),
            role_assignment_mode: RoleAssignmentMode::LegacyRegistryPermissions,
            admin_user: Some(AdminUser {
                username: registry(number),
                passwords: AdminPasswordSlot::ALL.map(password).to_vec(),
            }),
            anonymous_pull_enabled: false,
            retention: None,
            quota_bytes: None,
        }
    }

    fn registry_name(&self, number: u128) -> RegistryName {
        RegistryName {
            name: registry(number),
            uid: registry_uid(number),
            login_server: login_server(number),
            home_region: self.region.clone(),
            regions: vec![self.region.clone()],
        }
    }

    /// With one secret, and direct member of two groups.
    fn principal(&self, number: u128) -> Principal {
        Principal {
            object_id: object_id(number),
            app_id: Some(Uuid::from_u128(0x4_0000_0000 + number)),
            enabled: true,
            secrets: vec![PrincipalSecret {
                key_id: Uuid::from_u128(0x6_0000_0000 + number),
                verifier: self.verifier(),
                starts_at: self.now,
                expires_at: self.now + time::Duration::days(365),
            }],
            chosen_secrets: Vec::new(),
            sign_in_credentials: Vec::new(),
            groups: vec![
                group_id(number % GROUPS_OF_PRINCIPALS),
                group_id(number * 7 % GROUPS_OF_PRINCIPALS),
            ],
        }
    }

    /// Most on a registry, some on resource groups and subscriptions; a tenth held by groups.
    fn assignment(&self, number: u128, sequence: &mut Sequence) -> RoleAssignment {
        let registry = sequence.below(self.registries);
        let scope = match sequence.below(20) {
            0 => subscription(registry),
            1..=3 => resource_group(registry),
            _ => resource_id(registry),
        };
        let principal_id = match sequence.below(10) {
            0 => group_id(sequence.below(GROUPS_OF_PRINCIPALS)),
            _ => object_id(sequence.below(self.principals)),
        };
        let role = sequence.below(built_in_roles().len() as u128);
        RoleAssignment {
            id: Uuid::from_u128(0x5_0000_0000 + number),
            scope: Scope::parse(&scope).expect("made as a scope"),
            principal_id,
            role_definition_id: built_in_roles()[role as usize].id,
            condition: None,
        }
    }
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

fn registry(number: u128) -> String {
    format!("scale{number}")
}

fn login_server(number: u128) -> String {
    format!("scale{number}.registry.example:443")
}

fn subscription(registry: u128) -> String {
    let group = registry / REGISTRIES_IN_GROUP;
    format!("/subscriptions/{}", Uuid::from_u128(group % SUBSCRIPTIONS))
}

fn resource_group(registry: u128) -> String {
    let group = registry / REGISTRIES_IN_GROUP;
    format!("{}/resourceGroups/team-{group}", subscription(registry))
}

fn resource_id(number: u128) -> String {
    format!(
        "{}/providers/Microsoft.ContainerRegistry/registries/{}",
        resource_group(number),
        registry(number)
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

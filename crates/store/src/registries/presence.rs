//! In which regions a registry is known: its home, where its content is, and others whose nodes authenticate its callers and forward
//! what is about content. Every change of a registry is published to all of them.

use std::collections::{BTreeSet, HashMap};

use config_documents::{AdminPassword, AdminUser, Document, Kind, Region, RegistryName};
use sqlx::types::Json;
use uuid::Uuid;

use super::usage::{StorageLimits, storage_limits};
use super::{Registry, RegistryRow, RetentionPolicy, admin_password};
use crate::config::{Change, Published, publish};
use crate::{Store, StoreError, Transaction};

/// What came of publishing a registry in further regions.
#[derive(Debug)]
pub enum RegistryPresence {
    Published(Published),
    /// It was in exactly these regions.
    Unchanged,
    /// There is no such region.
    RegionUnknown(Region),
    NotFound,
}

impl Store {
    /// Makes the registry known in exactly these regions beside its home: nodes there authenticate its callers and forward what is
    /// about content home. Where it leaves, its document is withdrawn; the regions' list travels with its name to all nodes.
    pub async fn registry_publish_in_regions(
        &self,
        uid: Uuid,
        further_regions: &[Region],
    ) -> Result<RegistryPresence, StoreError> {
        let mut transaction = self.begin().await?;
        let limits = storage_limits(&mut transaction).await?;
        let row = sqlx::query!(
            "SELECT location, further_regions FROM registries WHERE uid = $1 FOR UPDATE",
            uid
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else {
            return Ok(RegistryPresence::NotFound);
        };
        let known: Vec<String> = sqlx::query_scalar!("SELECT name FROM regions")
            .fetch_all(&mut *transaction)
            .await?;
        if let Some(unknown) = further_regions
            .iter()
            .find(|region| !known.contains(&region.0))
        {
            return Ok(RegistryPresence::RegionUnknown(unknown.clone()));
        }
        let wanted = further_regions.iter().map(|region| region.0.clone());
        let before = Presence::new(row.location.clone(), row.further_regions);
        let after = Presence::new(row.location, wanted.collect());
        if before == after {
            return Ok(RegistryPresence::Unchanged);
        }
        let further: Vec<String> = after
            .further
            .iter()
            .map(|region| region.0.clone())
            .collect();
        sqlx::query!(
            "UPDATE registries SET further_regions = $2 WHERE uid = $1",
            uid,
            &further
        )
        .execute(&mut *transaction)
        .await?;
        let mut changes = Vec::new();
        for (registry, passwords) in locked_registries(&mut transaction, &[uid]).await? {
            changes.extend(registry_changes(&registry, passwords, &after, &limits));
            changes.push(name_change(&registry, &after));
        }
        let left = before.further.difference(&after.further);
        changes.extend(left.map(|region| withdrawal(region, uid)));
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(RegistryPresence::Published(published))
    }
}

/// Where a registry is known, as its row says it; what a caller read before may be old.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    home: Region,
    /// Without the home region.
    further: BTreeSet<Region>,
}

impl Presence {
    pub(crate) fn new(location: String, further_regions: Vec<String>) -> Self {
        let home = Region(location);
        let further = further_regions.into_iter().map(Region);
        Self {
            further: further.filter(|region| *region != home).collect(),
            home,
        }
    }

    pub(super) fn at_home(registry: &Registry) -> Self {
        Self::new(registry.location.clone(), Vec::new())
    }

    fn regions(&self) -> impl Iterator<Item = &Region> {
        std::iter::once(&self.home).chain(&self.further)
    }
}

/// What nodes are told when a registry is deleted.
pub(crate) fn deletions(uid: Uuid, name_key: String, presence: &Presence) -> Vec<Change> {
    let name = Change::Delete {
        region: Region::all(),
        kind: Kind::RegistryName,
        key: name_key,
    };
    presence
        .regions()
        .map(|region| withdrawal(region, uid))
        .chain([name])
        .collect()
}

fn withdrawal(region: &Region, uid: Uuid) -> Change {
    Change::Delete {
        region: region.clone(),
        kind: Kind::Registry,
        key: uid.to_string(),
    }
}

/// The registry's document for each region where it is known.
pub(super) fn registry_changes(
    registry: &Registry,
    passwords: Vec<AdminPassword>,
    presence: &Presence,
    limits: &StorageLimits,
) -> Vec<Change> {
    let admin_user = registry.admin_user_enabled.then(|| AdminUser {
        username: registry.name.clone(),
        passwords,
    });
    let document = Document::Registry(config_documents::Registry {
        uid: registry.uid,
        name: registry.name.clone(),
        resource_id: registry.id().as_str().to_owned(),
        login_server: registry.login_server.clone(),
        home_region: presence.home.clone(),
        role_assignment_mode: registry.role_assignment_mode,
        admin_user,
        anonymous_pull_enabled: registry.anonymous_pull_enabled,
        retention: registry.retention.in_force(),
        quota_bytes: limits.of(&registry.sku),
    });
    presence
        .regions()
        .map(|region| Change::Upsert {
            region: region.clone(),
            document: document.clone(),
        })
        .collect()
}

pub(super) fn name_change(registry: &Registry, presence: &Presence) -> Change {
    Change::Upsert {
        region: Region::all(),
        document: Document::RegistryName(RegistryName {
            name: arm::canonical_key(&registry.name),
            uid: registry.uid,
            login_server: registry.login_server.clone(),
            home_region: presence.home.clone(),
            regions: presence.regions().cloned().collect(),
        }),
    }
}

/// Registries whose rows are locked, in the order of their uids, with their passwords and the regions where they are known.
pub(super) async fn locked_registries(
    transaction: &mut Transaction,
    uids: &[Uuid],
) -> Result<Vec<(Registry, Vec<AdminPassword>)>, StoreError> {
    let rows = sqlx::query_as!(
        RegistryRow,
        r#"SELECT r.uid, r.subscription_id, g.name AS group_name, r.name, r.login_server, r.location, r.sku, r.tags,
             r.admin_user_enabled, r.role_assignment_mode, r.anonymous_pull_enabled,
             r.retention AS "retention: Json<RetentionPolicy>", r.created_at, r.created_by, r.created_by_type, r.last_modified_at,
             r.last_modified_by, r.last_modified_by_type, r.generation
           FROM registries r JOIN resource_groups g ON g.uid = r.resource_group_uid WHERE r.uid = ANY ($1) ORDER BY r.uid"#,
        uids
    )
    .fetch_all(&mut **transaction)
    .await?;
    let mut passwords: HashMap<Uuid, Vec<AdminPassword>> = HashMap::new();
    let of_all = sqlx::query!(
        "SELECT registry_uid, slot, verifier, generation FROM registry_passwords WHERE registry_uid = ANY ($1) ORDER BY slot",
        uids
    )
    .fetch_all(&mut **transaction)
    .await?;
    for row in of_all {
        let password = admin_password(&row.slot, &row.verifier, row.generation)?;
        passwords
            .entry(row.registry_uid)
            .or_default()
            .push(password);
    }
    rows.into_iter()
        .map(|row| {
            let registry = row.read()?;
            let passwords = passwords.remove(&registry.uid).unwrap_or_default();
            Ok((registry, passwords))
        })
        .collect()
}

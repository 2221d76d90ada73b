//! What a decision about access needs, loaded in one statement together with the resource that the path names.

mod remembered;

use rbac::RoleDefinition;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use remembered::Remembered;
pub(crate) use remembered::RememberedCallers;

use crate::head::Head;
use crate::registries::{Registry, RetentionPolicy};
use crate::resource_groups::ResourceGroup;
use crate::{Store, StoreError};

/// The credential behind a token.
#[derive(Debug, Clone, Copy)]
pub struct Credential {
    pub object_id: Uuid,
    /// The secret, certificate, federated credential or password that the token came from.
    pub key_id: Uuid,
}

/// Where a decision is asked for, as canonical keys.
#[derive(Debug, Clone, Default)]
pub struct ScopeKeys {
    /// The scope itself and all above it, up to `/`.
    pub chain: Vec<String>,
    pub subscription_id: Option<Uuid>,
    pub resource_group: Option<String>,
    /// The name of a registry, when the path goes that deep.
    pub registry: Option<String>,
}

/// Everything that a decision about access needs.
#[derive(Debug, Clone)]
pub struct AccessFacts {
    /// Whether the token's principal is there and enabled, and the token's credential is there and not over.
    pub credential_is_good: bool,
    /// `None` when the principal is gone.
    pub caller: Option<CallerFacts>,
    /// Of the directory, by name.
    pub directory_roles: Vec<String>,
    /// What the caller and its groups hold at the scope and above it.
    pub held: HeldRoles,
    /// What the path names, as far as it exists.
    pub subscription_exists: bool,
    pub resource_group: Option<ResourceGroup>,
    pub registry: Option<Registry>,
}

/// Who a caller is, as it is shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerFacts {
    pub kind: PrincipalKind,
    /// A person's user principal name, a service principal's application id.
    pub name: String,
}

/// The kind of a principal, as role assignments name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    ServicePrincipal,
    User,
    Group,
}

impl PrincipalKind {
    pub const ALL: [Self; 3] = [Self::ServicePrincipal, Self::User, Self::Group];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServicePrincipal => "ServicePrincipal",
            Self::User => "User",
            Self::Group => "Group",
        }
    }

    /// Of a column; the schema has a check.
    pub(crate) fn read(text: &str) -> Result<Self, StoreError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| StoreError::Corrupt {
                table: "principals",
                reason: format!("kind '{text}'"),
            })
    }
}

/// Roles that a principal holds itself or by its groups, however deep these are nested.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldRoles {
    pub assignments: Vec<AssignedRole>,
    /// The definitions of those that are custom roles.
    pub custom: Vec<RoleDefinition>,
}

/// A role that a principal has at a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedRole {
    pub scope_key: String,
    /// The caller, or one of its groups.
    pub principal_id: Uuid,
    pub role_definition_id: Uuid,
}

impl AssignedRole {
    fn is_custom(&self) -> bool {
        !rbac::built_in_roles()
            .iter()
            .any(|role| role.id == self.role_definition_id)
    }
}

/// What a path names, of a row of either statement.
macro_rules! found {
    ($row:expr) => {{
        let row = &mut $row;
        let resource_group = match (row.subscription_id, row.group_uid) {
            (Some(subscription_id), Some(uid)) => Some(ResourceGroup {
                uid,
                subscription_id,
                name: row.group_name.take().unwrap_or_default(),
                location: row.group_location.take().unwrap_or_default(),
                tags: crate::registries::read_tags(
                    "resource_groups",
                    row.group_tags.take().unwrap_or_default(),
                )?,
                created_at: row.group_created_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            }),
            _ => None,
        };
        let registry = match (&resource_group, row.uid) {
            (Some(group), Some(uid)) => Some(Registry {
                uid,
                subscription_id: group.subscription_id,
                resource_group_name: group.name.clone(),
                name: row.name.take().unwrap_or_default(),
                login_server: row.login_server.take().unwrap_or_default(),
                location: row.location.take().unwrap_or_default(),
                sku: row.sku.take().unwrap_or_default(),
                tags: crate::registries::read_tags(
                    "registries",
                    row.tags.take().unwrap_or_default(),
                )?,
                admin_user_enabled: row.admin_user_enabled.unwrap_or_default(),
                role_assignment_mode: crate::registries::read_mode(
                    &row.role_assignment_mode.take().unwrap_or_default(),
                )?,
                anonymous_pull_enabled: row.anonymous_pull_enabled.unwrap_or_default(),
                retention: crate::registries::read_retention(row.retention.take()),
                system_data: crate::registries::read_system_data(
                    row.created_by.take().unwrap_or_default(),
                    &row.created_by_type.take().unwrap_or_default(),
                    row.created_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
                    row.last_modified_by.take().unwrap_or_default(),
                    &row.last_modified_by_type.take().unwrap_or_default(),
                    row.last_modified_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
                )?,
                generation: row.generation.unwrap_or_default(),
            }),
            _ => None,
        };
        Found {
            subscription_exists: row.subscription_id.is_some(),
            resource_group,
            registry,
        }
    }};
}

/// What a path names, as far as it exists.
struct Found {
    subscription_exists: bool,
    resource_group: Option<ResourceGroup>,
    registry: Option<Registry>,
}

/// What both statements read: the head, and what the path (`$1` to `$3`) names.
macro_rules! facts {
    ($more:tt, $from:tt, $scope:expr $(, $parameter:expr)*) => {
        sqlx::query!(
            r#"SELECT "# + $more + r#"
                 h.epoch AS "epoch?", h.revision AS "revision?",
                 s.subscription_id AS "subscription_id?",
                 g.uid AS "group_uid?", g.name AS "group_name?", g.location AS "group_location?",
                 g.tags AS "group_tags?", g.created_at AS "group_created_at?",
                 r.uid AS "uid?", r.name AS "name?", r.login_server AS "login_server?", r.location AS "location?",
                 r.sku AS "sku?", r.tags AS "tags?", r.admin_user_enabled AS "admin_user_enabled?",
                 r.role_assignment_mode AS "role_assignment_mode?", r.anonymous_pull_enabled AS "anonymous_pull_enabled?",
                 r.retention AS "retention?: Json<RetentionPolicy>",
                 r.created_at AS "created_at?", r.created_by AS "created_by?", r.created_by_type AS "created_by_type?",
                 r.last_modified_at AS "last_modified_at?", r.last_modified_by AS "last_modified_by?",
                 r.last_modified_by_type AS "last_modified_by_type?", r.generation AS "generation?"
               FROM "# + $from + r#"
               LEFT JOIN subscriptions s ON s.subscription_id = $1
               LEFT JOIN resource_groups g ON g.subscription_id = s.subscription_id AND g.name_key = $2
               LEFT JOIN registries r ON r.resource_group_uid = g.uid AND r.name_key = $3"#,
            $scope.subscription_id,
            $scope.resource_group,
            $scope.registry
            $(, $parameter)*
        )
    };
}

/// Until when a credential counts that does not end by itself.
const WITHOUT_END: OffsetDateTime = time::macros::datetime!(9999-12-31 0:00 UTC);

impl Store {
    /// The facts for one decision, and the resource that it is about.
    ///
    /// Of most callers all is known from the decision before, and one small statement shows that it is still so ([`remembered`]).
    pub async fn access_facts(
        &self,
        credential: Credential,
        scope: &ScopeKeys,
        now: OffsetDateTime,
    ) -> Result<AccessFacts, StoreError> {
        let Some(known) = self.remembered.get(credential, scope, now) else {
            return self.access_facts_anew(credential, scope, now).await;
        };
        let mut connection = self.connection().await?;
        let row = facts!(
            "",
            "(SELECT epoch, revision FROM config_head WHERE singleton) h",
            scope
        )
        .fetch_optional(&mut *connection)
        .await?;
        self.put_by(connection);
        let row = row.filter(|row| Head::of(row.epoch, row.revision) == Some(known.head));
        let Some(mut row) = row else {
            return self.access_facts_anew(credential, scope, now).await;
        };
        let found = found!(row);
        Ok(AccessFacts {
            credential_is_good: true,
            caller: Some(known.caller.clone()),
            directory_roles: known.directory_roles.clone(),
            held: known.held.clone(),
            subscription_exists: found.subscription_exists,
            resource_group: found.resource_group,
            registry: found.registry,
        })
    }

    /// The same of somebody of whom nothing is known.
    ///
    /// Most callers are in no group and hold no custom role: one statement is all for them. The others' roles are read by a second one, so
    /// that what has been taken away before this call counts in neither.
    async fn access_facts_anew(
        &self,
        credential: Credential,
        scope: &ScopeKeys,
        now: OffsetDateTime,
    ) -> Result<AccessFacts, StoreError> {
        let mut connection = self.connection().await?;
        let mut row = facts!(
            r#"p.enabled AS "enabled?",
                 CASE WHEN u.credential_id = $5 THEN $7::timestamptz ELSE coalesce(
                   (SELECT c.expires_at FROM application_secrets c WHERE c.key_id = $5 AND c.app_id = sp.app_id),
                   (SELECT c.expires_at FROM application_certificates c WHERE c.key_id = $5 AND c.app_id = sp.app_id),
                   (SELECT $7::timestamptz FROM federated_credentials c WHERE c.credential_id = $5 AND c.app_id = sp.app_id)) END
                   AS "counts_until: OffsetDateTime",
                 p.kind AS "kind?", coalesce(u.user_principal_name, sp.app_id::text) AS caller_name,
                 ARRAY (SELECT d.role FROM directory_role_members d WHERE d.principal_id = $4) AS "directory_roles!",
                 EXISTS (SELECT FROM group_members m WHERE m.member_id = $4) AS "is_in_groups!",
                 ARRAY (SELECT a.principal_id::text || a.role_definition_id::text || a.scope_key FROM role_assignments a
                   WHERE a.principal_id = $4 AND a.scope_key = ANY ($6)) AS "assignments!","#,
            r#"(SELECT 1) one
               LEFT JOIN config_head h ON h.singleton
               LEFT JOIN principals p ON p.object_id = $4
               LEFT JOIN users u ON u.object_id = p.object_id
               LEFT JOIN service_principals sp ON sp.object_id = p.object_id"#,
            scope,
            credential.object_id,
            credential.key_id,
            &scope.chain,
            WITHOUT_END
        )
        .fetch_one(&mut *connection)
        .await?;
        self.put_by(connection);
        let counts_until = row.counts_until.filter(|_| row.enabled == Some(true));
        let credential_is_good = counts_until.is_some_and(|end| now < end);
        let caller = row.kind.take().map(|kind| {
            Ok::<_, StoreError>(CallerFacts {
                kind: PrincipalKind::read(&kind)?,
                name: row.caller_name.take().unwrap_or_default(),
            })
        });
        let caller = caller.transpose()?;
        let mut head = Head::of(row.epoch, row.revision);
        let mut held = HeldRoles {
            assignments: assigned_roles(&row.assignments)?,
            custom: Vec::new(),
        };
        if row.is_in_groups || held.assignments.iter().any(AssignedRole::is_custom) {
            let (later, read) = self
                .roles_held_at(credential.object_id, &scope.chain)
                .await?;
            held = read;
            // Both of one state, or it is none.
            head = head.filter(|head| Some(*head) == later);
        }
        if let Some(head) = head {
            self.remembered.saw(head);
            if let (Some(caller), Some(counts_until)) = (caller.clone(), counts_until) {
                let found = Remembered {
                    head,
                    caller,
                    counts_until,
                    directory_roles: row.directory_roles.clone(),
                    held: held.clone(),
                };
                self.remembered.insert(credential, scope, found);
            }
        }
        let found = found!(row);
        Ok(AccessFacts {
            credential_is_good,
            caller,
            directory_roles: row.directory_roles,
            held,
            subscription_exists: found.subscription_exists,
            resource_group: found.resource_group,
            registry: found.registry,
        })
    }

    /// Whatever a principal holds at these scopes, itself or by its groups.
    ///
    /// However many groups the caller is in, and whatever it holds elsewhere: only groups that hold a role at one of the scopes are
    /// looked for, and each part is a probe of an index. `OFFSET 0` keeps the planner from turning the probes round, which it would on
    /// statistics of another day.
    async fn roles_held_at(
        &self,
        principal_id: Uuid,
        chain: &[String],
    ) -> Result<(Option<Head>, HeldRoles), StoreError> {
        let row = sqlx::query!(
            r#"WITH RECURSIVE
               of_groups AS MATERIALIZED (
                 SELECT holder.principal_id FROM unnest($2::text[]) AS here (scope_key) CROSS JOIN LATERAL (
                   SELECT principal_id FROM role_assignments a
                   WHERE a.principal_type = 'Group' AND a.scope_key = here.scope_key OFFSET 0) holder),
               member_of (id) AS (
                 SELECT group_id FROM group_members WHERE member_id = $1 AND EXISTS (SELECT FROM of_groups)
                 UNION
                 SELECT above.group_id FROM member_of CROSS JOIN LATERAL (
                   SELECT group_id FROM group_members m WHERE m.member_id = member_of.id OFFSET 0) above),
               counting (id) AS (
                 SELECT $1::uuid UNION ALL (SELECT principal_id FROM of_groups INTERSECT SELECT id FROM member_of)),
               held AS MATERIALIZED (
                 SELECT assigned.* FROM counting CROSS JOIN unnest($2::text[]) AS here (scope_key) CROSS JOIN LATERAL (
                   SELECT principal_id, role_definition_id, scope_key FROM role_assignments a
                   WHERE a.principal_id = counting.id AND a.scope_key = here.scope_key OFFSET 0) assigned)
               SELECT
                 ARRAY (SELECT h.principal_id::text || h.role_definition_id::text || h.scope_key FROM held h)
                   AS "assignments!",
                 (SELECT jsonb_agg(jsonb_build_object('id', d.id, 'roleName', d.role_name, 'kind', 'CustomRole',
                      'permissions', d.permissions))
                    FROM role_definitions d WHERE d.id = ANY (ARRAY (SELECT h.role_definition_id FROM held h)))
                   AS "custom: Json<Vec<RoleDefinition>>",
                 (SELECT epoch FROM config_head WHERE singleton) AS epoch,
                 (SELECT revision FROM config_head WHERE singleton) AS revision"#,
            principal_id,
            chain,
        )
        .fetch_one(self.pool())
        .await?;
        let held = HeldRoles {
            assignments: assigned_roles(&row.assignments)?,
            custom: row.custom.map(|Json(custom)| custom).unwrap_or_default(),
        };
        Ok((Head::of(row.epoch, row.revision), held))
    }

    /// Everything that a principal holds, for lists that leave out what it may not read.
    pub async fn roles_held(&self, principal_id: Uuid) -> Result<HeldRoles, StoreError> {
        let row = sqlx::query!(
            r#"WITH RECURSIVE
               counting (id) AS (
                 SELECT $1::uuid
                 UNION
                 SELECT above.group_id FROM counting CROSS JOIN LATERAL (
                   SELECT group_id FROM group_members m WHERE m.member_id = counting.id OFFSET 0) above),
               held AS MATERIALIZED (
                 SELECT assigned.* FROM counting CROSS JOIN LATERAL (
                   SELECT principal_id, role_definition_id, scope_key FROM role_assignments a
                   WHERE a.principal_id = counting.id OFFSET 0) assigned)
               SELECT
                 ARRAY (SELECT h.principal_id::text || h.role_definition_id::text || h.scope_key FROM held h)
                   AS "assignments!",
                 (SELECT jsonb_agg(jsonb_build_object('id', d.id, 'roleName', d.role_name, 'kind', 'CustomRole',
                      'permissions', d.permissions))
                    FROM role_definitions d WHERE d.id = ANY (ARRAY (SELECT DISTINCT h.role_definition_id FROM held h)))
                   AS "custom: Json<Vec<RoleDefinition>>""#,
            principal_id
        )
        .fetch_one(self.pool())
        .await?;
        Ok(HeldRoles {
            assignments: assigned_roles(&row.assignments)?,
            custom: row.custom.map(|Json(custom)| custom).unwrap_or_default(),
        })
    }
}

/// Reads ids of principal and role, each followed by the next, and the key of the scope: one column for all, so that one scan gives them.
fn assigned_roles(texts: &[String]) -> Result<Vec<AssignedRole>, StoreError> {
    let read = |text: &String| {
        let (principal, rest) = text.split_at_checked(Hyphenated::LENGTH)?;
        let (role, scope_key) = rest.split_at_checked(Hyphenated::LENGTH)?;
        Some(AssignedRole {
            scope_key: scope_key.to_owned(),
            principal_id: Uuid::try_parse(principal).ok()?,
            role_definition_id: Uuid::try_parse(role).ok()?,
        })
    };
    texts
        .iter()
        .map(|text| {
            read(text).ok_or_else(|| StoreError::Corrupt {
                table: "role_assignments",
                reason: format!("'{text}' is not two ids and a scope"),
            })
        })
        .collect()
}

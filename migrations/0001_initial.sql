-- Names, ids and scopes compare by stored *_key columns, made by one function of the service; never by lower(), whose result depends on
-- the locale. Their order is bytewise (COLLATE "C"), so that ranges of keys mean the same everywhere; so is that of all other text in an
-- index, since a replica on another system may order by the same locale in another way. Rows have uuid keys, and children refer to uids,
-- not to names.

-- One row: what this installation is.
CREATE TABLE installation (
    singleton                  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    tenant_id                  uuid NOT NULL,
    tenant_display_name        text NOT NULL,
    public_url                 text NOT NULL,
    -- With a leading dot and, if any, the port.
    login_server_suffix        text NOT NULL,
    key_encryption_fingerprint text NOT NULL,
    -- The application with which the installation began: Owner of its subscription and directory administrator.
    bootstrap_app_id           uuid NOT NULL,
    created_at                 timestamptz NOT NULL
);

CREATE TABLE regions (
    name         text COLLATE "C" PRIMARY KEY,
    display_name text NOT NULL
);

CREATE TABLE subscriptions (
    subscription_id uuid PRIMARY KEY,
    tenant_id       uuid NOT NULL,
    display_name    text NOT NULL,
    created_at      timestamptz NOT NULL
);

CREATE TABLE resource_groups (
    uid             uuid PRIMARY KEY,
    subscription_id uuid NOT NULL REFERENCES subscriptions,
    name            text NOT NULL,
    name_key        text COLLATE "C" NOT NULL,
    location        text COLLATE "C" NOT NULL REFERENCES regions,
    tags            jsonb NOT NULL,
    created_at      timestamptz NOT NULL,
    UNIQUE (subscription_id, name_key)
);

CREATE TABLE registries (
    uid                   uuid PRIMARY KEY,
    resource_group_uid    uuid NOT NULL REFERENCES resource_groups,
    subscription_id       uuid NOT NULL REFERENCES subscriptions,
    name                  text NOT NULL,
    -- Registry names are unique in the installation: they are host names.
    name_key              text COLLATE "C" NOT NULL UNIQUE,
    login_server          text NOT NULL,
    -- The home region, where its content is.
    location              text COLLATE "C" NOT NULL REFERENCES regions,
    -- The other regions whose nodes know it, without the home region; each was in regions when it was written, and none is ever removed.
    further_regions       text[] COLLATE "C" NOT NULL DEFAULT '{}',
    sku                   text NOT NULL,
    tags                  jsonb NOT NULL,
    admin_user_enabled    boolean NOT NULL,
    role_assignment_mode  text COLLATE "C" NOT NULL DEFAULT 'LegacyRegistryPermissions'
        CHECK (role_assignment_mode IN ('LegacyRegistryPermissions', 'AbacRepositoryPermissions')),
    created_at            timestamptz NOT NULL,
    created_by            text NOT NULL,
    created_by_type       text NOT NULL,
    last_modified_at      timestamptz NOT NULL,
    last_modified_by      text NOT NULL,
    last_modified_by_type text NOT NULL,
    -- Goes up with each change; the entity tag.
    generation            bigint NOT NULL
);
CREATE INDEX registries_resource_group ON registries (resource_group_uid);
CREATE INDEX registries_subscription ON registries (subscription_id, name_key);

-- The passwords of a registry's admin account: sealed, because listCredentials returns them, and as verifiers for nodes.
CREATE TABLE registry_passwords (
    registry_uid uuid NOT NULL REFERENCES registries ON DELETE CASCADE,
    slot         text COLLATE "C" NOT NULL CHECK (slot IN ('password', 'password2')),
    sealed       bytea NOT NULL,
    verifier     bytea NOT NULL,
    -- Never the same again, also after a restore: tokens name it.
    generation   bigint NOT NULL,
    -- To the hour, as nodes tell; null when never.
    last_used_at timestamptz,
    PRIMARY KEY (registry_uid, slot)
);

-- The directory.
CREATE TABLE applications (
    object_id    uuid PRIMARY KEY,
    app_id       uuid NOT NULL UNIQUE,
    display_name text NOT NULL,
    name_key     text COLLATE "C" NOT NULL,
    created_at   timestamptz NOT NULL
);
CREATE INDEX applications_name ON applications (name_key);

-- Whatever can hold a role; its kind has a table of its own.
CREATE TABLE principals (
    object_id    uuid PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('ServicePrincipal', 'User', 'Group')),
    display_name text NOT NULL,
    name_key     text COLLATE "C" NOT NULL,
    enabled      boolean NOT NULL,
    created_at   timestamptz NOT NULL
);
CREATE INDEX principals_name ON principals (name_key);

CREATE TABLE service_principals (
    object_id uuid PRIMARY KEY REFERENCES principals ON DELETE CASCADE,
    app_id    uuid NOT NULL UNIQUE REFERENCES applications (app_id)
);

-- People.
CREATE TABLE users (
    object_id                  uuid PRIMARY KEY REFERENCES principals ON DELETE CASCADE,
    user_principal_name        text NOT NULL,
    user_principal_name_key    text COLLATE "C" NOT NULL UNIQUE,
    mail_nickname              text NOT NULL,
    -- Argon2id, in PHC string format.
    password_verifier          text NOT NULL,
    -- What tokens name that came from this password. Another one, never used before, whenever the password is reset or sessions are revoked.
    credential_id              uuid NOT NULL UNIQUE,
    must_change_password       boolean NOT NULL,
    last_signed_in_at          timestamptz
);

CREATE TABLE groups (
    object_id         uuid PRIMARY KEY REFERENCES principals ON DELETE CASCADE,
    description       text,
    mail_nickname     text NOT NULL,
    mail_nickname_key text COLLATE "C" NOT NULL
);

-- Direct members: service principals, users and groups. Groups may contain each other.
CREATE TABLE group_members (
    group_id  uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    member_id uuid NOT NULL REFERENCES principals ON DELETE CASCADE,
    PRIMARY KEY (group_id, member_id)
);
CREATE INDEX group_members_member ON group_members (member_id, group_id);

-- Secrets stand on an application or on its service principal; either signs the service principal in.
CREATE TABLE application_secrets (
    key_id       uuid PRIMARY KEY,
    app_id       uuid NOT NULL REFERENCES applications (app_id) ON DELETE CASCADE,
    -- The application or the service principal that shows it.
    owner_id     uuid NOT NULL,
    display_name text,
    hint         text NOT NULL,
    starts_at    timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    -- One of the two: of a generated secret, or of one that the caller chose (Argon2id, in PHC string format).
    verifier        bytea,
    chosen_verifier text,
    -- To the hour, as nodes and sign-in tell; null when never.
    last_used_at timestamptz,
    CHECK ((verifier IS NULL) <> (chosen_verifier IS NULL))
);
CREATE INDEX application_secrets_app ON application_secrets (app_id);
CREATE INDEX application_secrets_owner ON application_secrets (owner_id);

-- Certificates (keyCredentials) that sign a service principal in by a client assertion.
CREATE TABLE application_certificates (
    key_id       uuid PRIMARY KEY,
    app_id       uuid NOT NULL REFERENCES applications (app_id) ON DELETE CASCADE,
    -- The application or the service principal that shows it.
    owner_id     uuid NOT NULL,
    display_name text,
    -- DER.
    certificate  bytea NOT NULL,
    -- SHA-1 and SHA-256 of it: what an assertion's x5t and x5t#S256 name.
    thumbprint_sha1   bytea NOT NULL,
    thumbprint_sha256 bytea NOT NULL,
    starts_at    timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    last_used_at timestamptz
);
CREATE INDEX application_certificates_app ON application_certificates (app_id);
CREATE INDEX application_certificates_owner ON application_certificates (owner_id);

-- Tokens of external issuers that sign a service principal in.
CREATE TABLE federated_credentials (
    credential_id uuid PRIMARY KEY,
    app_id        uuid NOT NULL REFERENCES applications (app_id) ON DELETE CASCADE,
    name          text NOT NULL,
    name_key      text COLLATE "C" NOT NULL,
    -- Compared exactly.
    issuer        text COLLATE "C" NOT NULL,
    subject       text COLLATE "C" NOT NULL,
    audiences     text[] COLLATE "C" NOT NULL,
    description   text,
    last_used_at  timestamptz,
    UNIQUE (app_id, name_key),
    UNIQUE (app_id, issuer, subject)
);

CREATE TABLE directory_owners (
    object_id uuid NOT NULL,
    owner_id  uuid NOT NULL REFERENCES principals ON DELETE CASCADE,
    PRIMARY KEY (object_id, owner_id)
);
CREATE INDEX directory_owners_owner ON directory_owners (owner_id);

CREATE TABLE directory_role_members (
    role         text COLLATE "C" NOT NULL CHECK (role IN ('administrator', 'reader', 'application-administrator')),
    principal_id uuid NOT NULL REFERENCES principals ON DELETE CASCADE,
    PRIMARY KEY (role, principal_id)
);

-- Custom roles; built-in ones are part of the service.
CREATE TABLE role_definitions (
    id                uuid PRIMARY KEY,
    role_name         text NOT NULL,
    role_name_key     text COLLATE "C" NOT NULL UNIQUE,
    description       text NOT NULL,
    -- As rbac::Permission writes it.
    permissions       jsonb NOT NULL,
    assignable_scopes text[] NOT NULL,
    assignable_scope_keys text[] COLLATE "C" NOT NULL,
    created_at        timestamptz NOT NULL,
    created_by        uuid,
    updated_at        timestamptz NOT NULL,
    updated_by        uuid
);

CREATE TABLE role_assignments (
    name               uuid PRIMARY KEY,
    scope              text NOT NULL,
    scope_key          text COLLATE "C" NOT NULL,
    principal_id       uuid NOT NULL REFERENCES principals ON DELETE CASCADE,
    principal_type     text NOT NULL,
    role_definition_id uuid NOT NULL,
    description        text,
    -- In the one form that is understood; null when the role holds without condition.
    condition          text,
    condition_version  text,
    created_at         timestamptz NOT NULL,
    created_by         uuid,
    updated_at         timestamptz NOT NULL,
    updated_by         uuid,
    UNIQUE (scope_key, principal_id, role_definition_id)
);
CREATE INDEX role_assignments_principal ON role_assignments (principal_id, scope_key);
CREATE INDEX role_assignments_scope ON role_assignments (scope_key);
-- At the scopes of a decision there are few groups, however many groups a caller is in.
CREATE INDEX role_assignments_groups ON role_assignments (scope_key, principal_id) WHERE principal_type = 'Group';
CREATE INDEX role_assignments_role ON role_assignments (role_definition_id);

-- Keys that sign access tokens of the control plane (ES256); the private part is sealed and bound to its row. The public part is not
-- stored: it comes from the private one, so nobody who can only write rows can slip in a key.
CREATE TABLE sign_in_keys (
    kid            text COLLATE "C" PRIMARY KEY,
    sealed_private bytea NOT NULL,
    not_before     timestamptz NOT NULL,
    retired_at     timestamptz
);

-- Refresh tokens of sign-in. Each is used once and followed by another of its family; one that is used again ends the family.
CREATE TABLE refresh_tokens (
    token_id      uuid PRIMARY KEY,
    family_id     uuid NOT NULL,
    -- Of the generated secret in it.
    verifier      bytea NOT NULL,
    principal_id  uuid NOT NULL REFERENCES principals ON DELETE CASCADE,
    -- The credential that the family came from: it dies with that.
    credential_id uuid NOT NULL,
    client_id     text NOT NULL,
    issued_at     timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    used_at       timestamptz,
    -- The one that was used to get it; NULL of a family's first.
    follows       uuid
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_principal ON refresh_tokens (principal_id);
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);

-- Who did what: a row for each change, written in its transaction, for each refused attempt, and for each sign-in. Never a secret.
CREATE TABLE activity_log (
    event_id        uuid PRIMARY KEY,
    occurred_at     timestamptz NOT NULL,
    correlation_id  uuid NOT NULL,
    -- Administrative, or SignIn.
    category        text COLLATE "C" NOT NULL,
    -- The action, as providers/operations names it.
    operation_name  text COLLATE "C" NOT NULL,
    -- What it was done to; its key begins with the key of the scope at which it may be read.
    resource_id     text NOT NULL,
    resource_key    text COLLATE "C" NOT NULL,
    -- Started, Succeeded or Failed.
    status          text COLLATE "C" NOT NULL,
    http_status     smallint,
    error_code      text,
    -- The object id of whom did it, and the name under which it is shown; null for a stranger.
    caller_id       uuid,
    caller_name     text,
    caller_address  text,
    -- The configuration's revision that it published.
    revision        bigint,
    properties      jsonb NOT NULL
);
CREATE INDEX activity_log_time ON activity_log (occurred_at, event_id);
CREATE INDEX activity_log_resource ON activity_log (resource_key, occurred_at);
CREATE INDEX activity_log_correlation ON activity_log (correlation_id);

-- Running control planes, and the key-encryption keys that each has: a new one seals once all have it. The clock is Postgres's.
CREATE TABLE control_planes (
    instance_id         uuid PRIMARY KEY,
    key_fingerprints    text[] NOT NULL,
    -- Of the key that it seals with.
    sealing_fingerprint text NOT NULL,
    seen_at             timestamptz NOT NULL
);

-- The config feed.

CREATE TABLE config_head (
    singleton       boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch           uuid NOT NULL,
    revision        bigint NOT NULL,
    purged_through  bigint NOT NULL,
    -- config_identity() when the epoch began: where it differs now, the epoch is over.
    begun_on        text NOT NULL,
    begun_at        timestamptz NOT NULL,
    -- The newest revision when the epoch began.
    begun_revision  bigint NOT NULL,
    -- The epoch before, if all that it had up to begun_revision is known to be here.
    continues       uuid,
    -- The form in which documents of each kind are published; of a kind that is not here 1, or 0 (none) where not every build knows it.
    forms           jsonb NOT NULL
);

-- Which database this is, and which of its histories: a restored dump, a copy, a point-in-time recovery and a promoted replica all differ
-- from the original in one of these parts. The timeline is that of the current position, not that of the last checkpoint, which lags behind
-- a promotion; a dump restored in place differs in the table's file only. One expression without a subquery, so that it is inlined.
CREATE FUNCTION config_identity() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT concat_ws(
        '/',
        (pg_control_system()).system_identifier,
        left(pg_walfile_name(pg_current_wal_lsn()), 8),
        'config_head'::regclass::oid,
        -- Names the database too.
        pg_relation_filepath('config_head')
    )
$$;

CREATE TABLE config_regions (
    region   text COLLATE "C" PRIMARY KEY,
    -- The sum of the live documents' hashes, modulo 2^128.
    checksum numeric(39) NOT NULL
);

-- Latest state only; a tombstone has no body.
CREATE TABLE config_documents (
    region     text COLLATE "C" NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    body       text,
    hash       numeric(39) NOT NULL,
    deleted    boolean NOT NULL,
    revision   bigint NOT NULL,
    -- Tombstones are purged by it; the clock is Postgres's.
    deleted_at timestamptz,
    PRIMARY KEY (region, kind, key),
    CHECK (deleted = (body IS NULL)),
    CHECK (deleted = (deleted_at IS NOT NULL))
);
CREATE INDEX config_documents_revision ON config_documents (revision);
CREATE INDEX config_documents_tombstones ON config_documents (deleted_at) WHERE deleted;

-- Documents that were published without something, or not at all, because the form in use cannot say it; whole, to be published when the
-- form is raised.
CREATE TABLE withheld_documents (
    region text COLLATE "C" NOT NULL,
    kind   text COLLATE "C" NOT NULL,
    key    text COLLATE "C" NOT NULL,
    body   text NOT NULL,
    PRIMARY KEY (region, kind, key)
);

-- Enrolled nodes.
CREATE TABLE nodes (
    node_id               uuid PRIMARY KEY,
    region                text COLLATE "C" NOT NULL REFERENCES regions,
    address               text NOT NULL,
    verifier              bytea NOT NULL,
    -- The key that it signs registry tokens with; unique, so that no node can put its key in another's place.
    kid                   text COLLATE "C" NOT NULL UNIQUE,
    -- Of a rotation that has begun: what counts beside the two above until it is first used.
    next_verifier         bytea,
    next_kid              text COLLATE "C" UNIQUE,
    -- An operator asked for a rotation, and the node has not begun it.
    rotation_requested_at timestamptz,
    -- The newest form of each kind that the node understands, as it last announced it.
    forms                 jsonb NOT NULL,
    created_at            timestamptz NOT NULL
);

-- Keys that nodes signed with before a rotation: withdrawn when the last token signed with them is dead.
CREATE TABLE retired_signing_keys (
    kid        text COLLATE "C" PRIMARY KEY,
    node_id    uuid NOT NULL,
    region     text COLLATE "C" NOT NULL,
    retired_at timestamptz NOT NULL
);

-- Nodes that were removed, so that one that was away meanwhile is told so when it comes back.
CREATE TABLE removed_nodes (
    node_id    uuid PRIMARY KEY,
    region     text COLLATE "C" NOT NULL,
    address    text NOT NULL,
    -- Of the credentials that it may have.
    verifiers  bytea[] NOT NULL,
    removed_at timestamptz NOT NULL
);

-- Used and expired ones are kept a while, so that an operator is told which of the two it was.
CREATE TABLE node_join_tokens (
    token_id   uuid PRIMARY KEY,
    region     text COLLATE "C" NOT NULL REFERENCES regions,
    verifier   bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    -- The node that used it; no reference: the node may be removed.
    node_id    uuid
);

-- What control planes write about the nodes connected to them, with synchronous_commit off; the clock is Postgres's.

-- The newest stream of each node. What an older one still brings does not count.
CREATE TABLE node_streams (
    node_id                 uuid PRIMARY KEY REFERENCES nodes ON DELETE CASCADE,
    stream_id               uuid NOT NULL,
    begun_at                timestamptz NOT NULL,
    -- The age of its configuration past which the node refuses requests; null when it serves without bound.
    staleness_bound_seconds bigint,
    -- When the node last said that it has applied something, on any stream and in any epoch.
    applied_at              timestamptz,
    lease_expires_at        timestamptz NOT NULL
);

CREATE TABLE node_progress (
    node_id  uuid NOT NULL REFERENCES nodes ON DELETE CASCADE,
    epoch    uuid NOT NULL,
    revision bigint NOT NULL,
    rejected jsonb NOT NULL,
    PRIMARY KEY (node_id, epoch)
);

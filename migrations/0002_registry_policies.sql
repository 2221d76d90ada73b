-- Who may pull without credentials, which manifests are removed, and how much is and may be stored.

ALTER TABLE registries
    ADD COLUMN anonymous_pull_enabled boolean NOT NULL DEFAULT false,
    -- The rules for manifests without a tag; null: never set.
    ADD COLUMN retention jsonb;

-- How much a registry of each SKU may store; null: no limit.
CREATE TABLE storage_limits (
    sku         text COLLATE "C" PRIMARY KEY,
    limit_bytes bigint CHECK (limit_bytes >= 0)
);
INSERT INTO storage_limits (sku) VALUES ('Basic'), ('Standard'), ('Premium');

-- How much each registry stores, as the nodes of its home region tell; written with synchronous_commit off.
CREATE TABLE registry_usage (
    registry_uid uuid PRIMARY KEY REFERENCES registries ON DELETE CASCADE,
    bytes        bigint NOT NULL,
    -- When that was so, by the clock of the node that counted last.
    counted_at   timestamptz NOT NULL
);

//! Where everything lies below the root of a content store: one function for each kind of key. No other file spells a key.
//!
//! A registry's immutable uid names its content, so a registry deleted and made again starts empty, and one registry never
//! shares bytes with another. `!` ends a repository's name because it sorts before every character that a name may have.

use uuid::Uuid;

use super::record_store::PROBE_PREFIX;
use crate::names::{Digest, RepositoryName, Tag};

/// The record that says whose root this is.
pub(crate) const FORMAT: &str = "_format";

/// The number of this layout.
pub(crate) const LAYOUT: u32 = 1;

fn digest_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// The digest that a key's last component names, or `None` where it names none.
pub(crate) fn digest_of_name(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

/// The blob's record: size and where the bytes are; shared by the registry's repositories.
pub(crate) fn blob(registry: Uuid, digest: &Digest) -> String {
    let hex = digest.hex();
    format!(
        "r/{registry}/blob/{}/{}/{hex}",
        digest.algorithm().as_str(),
        &hex[..2]
    )
}

/// One object of an upload's bytes. `number` orders a listing; `id` makes the name one that is never used again, even by
/// two requests that append at the same time.
pub(crate) fn data(registry: Uuid, upload: Uuid, number: usize, id: Uuid) -> String {
    format!("{}{number:05}-{id}", data_prefix(registry, upload))
}

/// What all objects of an upload's bytes begin with.
pub(crate) fn data_prefix(registry: Uuid, upload: Uuid) -> String {
    format!("r/{registry}/data/{upload}/")
}

/// The mark of a registry whose tombstone was seen.
pub(crate) fn deleted(registry: Uuid) -> String {
    format!("r/{registry}/deleted")
}

/// The sum of the registry's bytes.
pub(crate) fn usage(registry: Uuid) -> String {
    format!("r/{registry}/usage")
}

/// The session of an upload.
pub(crate) fn upload(registry: Uuid, upload: Uuid) -> String {
    format!("r/{registry}/up/{upload}")
}

/// Whether a record under this key, once removed, is never created again: its name has a random id.
pub(crate) fn is_never_used_again(key: &str) -> bool {
    let of_registry = || key.strip_prefix("r/")?.split_once('/');
    key.starts_with(PROBE_PREFIX) || of_registry().is_some_and(|(_, rest)| rest.starts_with("up/"))
}

/// What all repositories' records begin with.
pub(crate) fn repositories_prefix(registry: Uuid) -> String {
    format!("r/{registry}/repo/")
}

/// The record of a repository.
pub(crate) fn repository(registry: Uuid, name: &RepositoryName) -> String {
    format!("{}{name}!", repositories_prefix(registry))
}

/// The repository that a key under [`repositories_prefix`] names.
pub(crate) fn repository_of_key(registry: Uuid, key: &str) -> Option<RepositoryName> {
    key.strip_prefix(&repositories_prefix(registry))?
        .strip_suffix('!')?
        .parse()
        .ok()
}

/// What the marks of all repositories begin with whose records a catalog must look at.
pub(crate) fn catalog_marks_prefix(registry: Uuid) -> String {
    format!("r/{registry}/catalog/")
}

/// The mark of a repository that is perhaps not to be listed.
pub(crate) fn catalog_mark(registry: Uuid, name: &RepositoryName) -> String {
    format!("{}{name}!", catalog_marks_prefix(registry))
}

/// The repository that a key under [`catalog_marks_prefix`] names.
pub(crate) fn repository_of_catalog_mark(registry: Uuid, key: &str) -> Option<RepositoryName> {
    key.strip_prefix(&catalog_marks_prefix(registry))?
        .strip_suffix('!')?
        .parse()
        .ok()
}

fn repository_part(registry: Uuid, name: &RepositoryName, part: &str) -> String {
    format!("r/{registry}/n/{name}!/{part}/")
}

/// The link that lets this repository serve a blob.
pub(crate) fn link(registry: Uuid, name: &RepositoryName, digest: &Digest) -> String {
    repository_part(registry, name, "b") + &digest_name(digest)
}

/// What all manifests of a repository begin with.
pub(crate) fn manifests_prefix(registry: Uuid, name: &RepositoryName) -> String {
    repository_part(registry, name, "m")
}

/// A manifest.
pub(crate) fn manifest(registry: Uuid, name: &RepositoryName, digest: &Digest) -> String {
    manifests_prefix(registry, name) + &digest_name(digest)
}

/// What all tags of a repository begin with.
pub(crate) fn tags_prefix(registry: Uuid, name: &RepositoryName) -> String {
    repository_part(registry, name, "t")
}

/// A tag.
pub(crate) fn tag(registry: Uuid, name: &RepositoryName, tag: &Tag) -> String {
    tags_prefix(registry, name) + tag.as_str()
}

/// What all hints of a repository begin with.
pub(crate) fn all_hints_prefix(registry: Uuid, name: &RepositoryName) -> String {
    repository_part(registry, name, "mt")
}

/// What all hints at a manifest's tags begin with.
pub(crate) fn hints_prefix(registry: Uuid, name: &RepositoryName, digest: &Digest) -> String {
    all_hints_prefix(registry, name) + &digest_name(digest) + "/"
}

/// The hint that a tag may point to this manifest.
pub(crate) fn hint(registry: Uuid, name: &RepositoryName, digest: &Digest, tag: &Tag) -> String {
    hints_prefix(registry, name, digest) + tag.as_str()
}

/// What all referrers in a repository begin with.
pub(crate) fn all_referrers_prefix(registry: Uuid, name: &RepositoryName) -> String {
    repository_part(registry, name, "s")
}

/// What all referrers of a subject begin with.
pub(crate) fn referrers_prefix(registry: Uuid, name: &RepositoryName, subject: &Digest) -> String {
    all_referrers_prefix(registry, name) + &digest_name(subject) + "/"
}

/// The descriptor of a referrer.
pub(crate) fn referrer(
    registry: Uuid,
    name: &RepositoryName,
    subject: &Digest,
    digest: &Digest,
) -> String {
    referrers_prefix(registry, name, subject) + &digest_name(digest)
}

/// The last component of a key.
pub(crate) fn last_component(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

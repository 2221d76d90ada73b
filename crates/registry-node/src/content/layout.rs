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

/// What all registries' keys begin with.
pub(crate) const REGISTRIES: &str = "r/";

/// The record that says that somebody collects while everybody else's writes are refused.
pub(crate) const EXCLUSIVE: &str = "_exclusive";

/// What all keys of a registry begin with.
pub(crate) fn registry_prefix(registry: Uuid) -> String {
    format!("{REGISTRIES}{registry}/")
}

/// The registry that a key is of, or `None` where it is of none.
pub(crate) fn registry_of_key(key: &str) -> Option<Uuid> {
    let (uid, _) = key.strip_prefix(REGISTRIES)?.split_once('/')?;
    Uuid::try_parse(uid).ok()
}

/// A key after all that begin with `prefix` (which ends with `/`) and before every other.
pub(crate) fn after_all_of(prefix: &str) -> String {
    let mut after = prefix.trim_end_matches('/').to_owned();
    after.push('0');
    after
}

/// What the bytes of all of a registry's blobs begin with.
pub(crate) fn all_data_prefix(registry: Uuid) -> String {
    format!("r/{registry}/data/")
}

/// Who collects, and when somebody last did.
pub(crate) fn lease(registry: Uuid) -> String {
    format!("r/{registry}/gc/lease")
}

/// What the registry's content came to when it was last counted.
pub(crate) fn usage(registry: Uuid) -> String {
    format!("r/{registry}/usage")
}

/// What all objects of an upload's bytes begin with.
pub(crate) fn data_prefix(registry: Uuid, upload: Uuid) -> String {
    format!("r/{registry}/data/{upload}/")
}

/// The mark of a registry whose tombstone was seen.
pub(crate) fn deleted(registry: Uuid) -> String {
    format!("r/{registry}/deleted")
}

/// What all sessions of uploads begin with.
pub(crate) fn uploads_prefix(registry: Uuid) -> String {
    format!("r/{registry}/up/")
}

/// What all blobs' records begin with.
pub(crate) fn blobs_prefix(registry: Uuid) -> String {
    format!("r/{registry}/blob/")
}

/// The blob whose record has this key, or `None` where it is no blob's.
pub(crate) fn digest_of_blob_key(registry: Uuid, key: &str) -> Option<Digest> {
    let rest = key.strip_prefix(&blobs_prefix(registry))?;
    let (algorithm, rest) = rest.split_once('/')?;
    let (_, hex) = rest.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// What the content of all repositories begins with.
pub(crate) fn contents_prefix(registry: Uuid) -> String {
    format!("r/{registry}/n/")
}

/// The repository whose content has this key, or `None` where it is of none.
pub(crate) fn repository_of_content_key(registry: Uuid, key: &str) -> Option<RepositoryName> {
    let rest = key.strip_prefix(&contents_prefix(registry))?;
    rest.split_once("!/")?.0.parse().ok()
}

/// What all content of a repository begins with.
pub(crate) fn content_prefix(registry: Uuid, name: &RepositoryName) -> String {
    format!("{}{name}!/", contents_prefix(registry))
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

/// What all links of a repository begin with.
pub(crate) fn links_prefix(registry: Uuid, name: &RepositoryName) -> String {
    repository_part(registry, name, "b")
}

/// What all manifests of a repository begin with.
pub(crate) fn manifests_prefix(registry: Uuid, name: &RepositoryName) -> String {
    repository_part(registry, name, "m")
}

/// What all records of pulls begin with.
pub(crate) fn pulls_prefix(registry: Uuid, name: &RepositoryName) -> String {
    repository_part(registry, name, "p")
}

/// When a manifest was last pulled.
pub(crate) fn pull(registry: Uuid, name: &RepositoryName, digest: &Digest) -> String {
    pulls_prefix(registry, name) + &digest_name(digest)
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

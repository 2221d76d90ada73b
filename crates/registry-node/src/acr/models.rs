//! The bodies of answers, as `acr-dataplane` 2021-07-01 has them.

use serde::Serialize;
use time::OffsetDateTime;

use crate::content::{
    ChangeableAttributes, ManifestProperties, ManifestReference, RepositoryProperties,
    TagProperties,
};

/// A repository.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RepositoryAttributes<'a> {
    registry: &'a str,
    image_name: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    created_time: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    last_update_time: OffsetDateTime,
    manifest_count: usize,
    tag_count: usize,
    changeable_attributes: ChangeableAttributes,
}

/// What was deleted with a repository.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeletedRepository {
    pub(super) manifests_deleted: Vec<String>,
    pub(super) tags_deleted: Vec<String>,
}

/// What an answer is about, with something of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OfRepository<'a, T> {
    pub(super) registry: &'a str,
    pub(super) image_name: &'a str,
    #[serde(flatten)]
    pub(super) content: T,
}

/// Something of a repository, under the name that it has in answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Content {
    Tags(Vec<TagAttributes>),
    Tag(TagAttributes),
    Manifests(Vec<ManifestAttributes>),
    Manifest(ManifestAttributes),
}

/// A tag.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TagAttributes {
    name: String,
    digest: String,
    #[serde(with = "time::serde::rfc3339")]
    created_time: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    last_update_time: OffsetDateTime,
    /// By content trust, which there is not.
    signed: bool,
    changeable_attributes: ChangeableAttributes,
}

/// A manifest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestAttributes {
    digest: String,
    image_size: u64,
    #[serde(with = "time::serde::rfc3339")]
    created_time: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    last_update_time: OffsetDateTime,
    media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    references: Vec<Reference>,
    changeable_attributes: ChangeableAttributes,
}

/// A manifest that an index lists.
#[derive(Serialize)]
struct Reference {
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<String>,
}

impl<'a> RepositoryAttributes<'a> {
    pub(super) fn new(
        registry: &'a str,
        image_name: &'a str,
        properties: &RepositoryProperties,
    ) -> Self {
        Self {
            registry,
            image_name,
            created_time: to_ticks(properties.created),
            last_update_time: to_ticks(properties.updated),
            manifest_count: properties.manifest_count,
            tag_count: properties.tag_count,
            changeable_attributes: properties.attributes,
        }
    }
}

impl From<TagProperties> for TagAttributes {
    fn from(tag: TagProperties) -> Self {
        Self {
            name: tag.tag.into(),
            digest: tag.digest.into(),
            created_time: to_ticks(tag.created),
            last_update_time: to_ticks(tag.updated),
            signed: false,
            changeable_attributes: tag.attributes,
        }
    }
}

impl From<ManifestProperties> for ManifestAttributes {
    fn from(manifest: ManifestProperties) -> Self {
        let created = to_ticks(manifest.created);
        let details = manifest.details;
        Self {
            digest: manifest.digest.into(),
            image_size: details.image_size,
            created_time: created,
            // A manifest never changes.
            last_update_time: created,
            media_type: manifest.media_type,
            architecture: details.platform.architecture,
            os: details.platform.os,
            config_media_type: details.config_media_type,
            artifact_type: details.artifact_type,
            tags: manifest.tags.into_iter().map(String::from).collect(),
            references: details
                .references
                .into_iter()
                .map(Reference::from)
                .collect(),
            changeable_attributes: manifest.attributes,
        }
    }
}

impl From<ManifestReference> for Reference {
    fn from(reference: ManifestReference) -> Self {
        Self {
            digest: reference.digest,
            architecture: reference.platform.architecture,
            os: reference.platform.os,
        }
    }
}

/// To the hundred nanoseconds: clients read seven digits of a second.
fn to_ticks(time: OffsetDateTime) -> OffsetDateTime {
    let nanosecond = time.nanosecond() / 100 * 100;
    time.replace_nanosecond(nanosecond)
        .expect("less than it was")
}

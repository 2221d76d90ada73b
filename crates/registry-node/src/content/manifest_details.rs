//! What is shown of a manifest beside its bytes: sizes, platform, what it refers to. Read as far as it is there: nothing depends
//! on it.

use bytes::BytesMut;
use futures_util::TryStreamExt;
use serde_json::Value;

use super::Repository;
use super::error::ContentError;
use super::records::{ManifestRecord, Versioned};
use crate::limits::CONFIG_BYTES_READ_MAXIMUM;
use crate::names::Digest;

/// For what a manifest was built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    /// As Go names processors: `amd64`.
    pub architecture: Option<String>,
    /// As Go names operating systems: `linux`.
    pub os: Option<String>,
}

/// A manifest that an index lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestReference {
    /// Its digest.
    pub digest: String,
    /// What the index says of its platform.
    pub platform: Platform,
}

/// What was read of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestDetails {
    /// Size of the manifest and of all that it lists, in bytes.
    pub image_size: u64,
    /// What the config of an image says.
    pub platform: Platform,
    /// Media type of its config.
    pub config_media_type: Option<String>,
    /// What kind of artifact it says it is.
    pub artifact_type: Option<String>,
    /// The manifests that an index lists.
    pub references: Vec<ManifestReference>,
}

impl Platform {
    fn of(value: &Value) -> Self {
        Self {
            architecture: text(value, "architecture"),
            os: text(value, "os"),
        }
    }
}

impl Repository<'_> {
    pub(super) async fn manifest_details(
        &self,
        record: &Versioned<ManifestRecord>,
    ) -> Result<ManifestDetails, ContentError> {
        let manifest: Value = serde_json::from_slice(&record.body).unwrap_or_default();
        let mut details = details_of(&manifest, record.value.size);
        if let Some(config) = image_config(&manifest) {
            details.platform = self.platform_of(&config).await?;
        }
        Ok(details)
    }

    /// What an image's config says of its platform; nothing if it is not here, is too large, or is no config.
    async fn platform_of(&self, config: &Digest) -> Result<Platform, ContentError> {
        let Some(blob) = self.blob_of_manifest(config).await? else {
            return Ok(Platform::default());
        };
        if blob.size() > CONFIG_BYTES_READ_MAXIMUM {
            return Ok(Platform::default());
        }
        let bytes = match self.read_blob(&blob, 0..blob.size()).await {
            Ok(bytes) => bytes,
            Err(ContentError::DamagedData(_)) => return Ok(Platform::default()),
            Err(error) => return Err(error),
        };
        let bytes: BytesMut = bytes.try_collect().await?;
        let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Platform::of(&config))
    }
}

fn text(value: &Value, name: &str) -> Option<String> {
    let text = value.get(name)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The config of a manifest, if it is that of an image: others need not be JSON.
fn image_config(manifest: &Value) -> Option<Digest> {
    const IMAGE_CONFIGS: [&str; 2] = [
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    ];
    let config = manifest.get("config")?;
    let media_type = config.get("mediaType")?.as_str()?;
    if !IMAGE_CONFIGS.contains(&media_type) {
        return None;
    }
    config.get("digest")?.as_str()?.parse().ok()
}

fn details_of(manifest: &Value, size: u64) -> ManifestDetails {
    let config = manifest.get("config");
    let parts = config
        .into_iter()
        .chain(list(manifest, "layers"))
        .chain(list(manifest, "blobs"))
        .chain(list(manifest, "manifests"));
    let image_size = parts
        .filter_map(|part| part.get("size")?.as_u64())
        .fold(size, u64::saturating_add);
    let references = list(manifest, "manifests").iter().filter_map(|entry| {
        Some(ManifestReference {
            digest: text(entry, "digest")?,
            platform: entry.get("platform").map(Platform::of).unwrap_or_default(),
        })
    });
    ManifestDetails {
        image_size,
        platform: Platform::default(),
        config_media_type: config.and_then(|config| text(config, "mediaType")),
        artifact_type: text(manifest, "artifactType"),
        references: references.collect(),
    }
}

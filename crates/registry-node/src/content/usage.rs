//! What content comes to, counted now, for operators. Collection counts the same and keeps the sum (see `collection`).

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Content;
use super::error::ContentError;
use super::layout;
use super::pages::{Pages, Repositories};
use super::progress::Progress;
use super::pulls::whole;
use super::records::{BlobRecord, ManifestRecord, PullRecord};
use crate::names::{Digest, RepositoryName};

/// A registry's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountedUsage {
    /// Bytes of its manifests and, each once, of its blobs.
    pub bytes: u64,
    /// Its blobs.
    pub blobs: u64,
    /// Its repositories with content.
    pub repositories: Vec<RepositoryUsage>,
}

/// A repository's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryUsage {
    /// Its name.
    pub name: RepositoryName,
    /// Bytes of its manifests and of the blobs that it has, also of those that other repositories have as well.
    pub bytes: u64,
    /// Blobs that it has.
    pub blobs: u64,
    /// Its tags.
    pub tags: u64,
    /// Its manifests.
    pub manifests: Vec<ManifestUsage>,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestUsage {
    /// Its digest.
    pub digest: Digest,
    /// Its own bytes.
    pub bytes: u64,
    /// When it was first pushed.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The hour of its last pull, as far as one is known.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_pulled: Option<OffsetDateTime>,
}

impl RepositoryUsage {
    /// The hour of the last pull of any of its manifests.
    #[must_use]
    pub fn last_pulled(&self) -> Option<OffsetDateTime> {
        let pulls = self.manifests.iter();
        pulls.filter_map(|manifest| manifest.last_pulled).max()
    }
}

impl Content {
    /// Counts one registry's content.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn count_usage(
        &self,
        registry: Uuid,
        progress: &Progress,
    ) -> Result<CountedUsage, ContentError> {
        let mut usage = CountedUsage::default();
        progress.begin(Some(registry), "counting blobs");
        let mut pages = Pages::new(&self.records, layout::blobs_prefix(registry));
        while let Some(page) = pages.next().await? {
            for entry in page {
                progress.advance(1);
                let record = self.records.get::<BlobRecord>(&entry.key).await?;
                let Some(record) = record else { continue };
                let owned = record.value.data.iter().filter(|piece| piece.owned);
                usage.bytes += owned.map(|piece| piece.size).sum::<u64>();
                usage.blobs += 1;
            }
        }
        let mut repositories = Repositories::new(self, registry);
        while let Some(name) = repositories.next().await? {
            let counted = self.count_repository(registry, name, progress).await?;
            let manifests = counted.manifests.iter();
            usage.bytes += manifests.map(|manifest| manifest.bytes).sum::<u64>();
            usage.repositories.push(counted);
        }
        Ok(usage)
    }

    async fn count_repository(
        &self,
        registry: Uuid,
        name: RepositoryName,
        progress: &Progress,
    ) -> Result<RepositoryUsage, ContentError> {
        progress.begin(Some(registry), "counting repositories");
        let mut usage = RepositoryUsage {
            bytes: 0,
            blobs: 0,
            tags: 0,
            manifests: Vec::new(),
            name,
        };
        let name = usage.name.clone();
        let mut pages = Pages::new(&self.records, layout::links_prefix(registry, &name));
        while let Some(page) = pages.next().await? {
            for entry in page {
                progress.advance(1);
                let Some(link) = self.records.get::<BlobRecord>(&entry.key).await? else {
                    continue;
                };
                usage.bytes += link.value.size;
                usage.blobs += 1;
            }
        }
        let mut pages = Pages::new(&self.records, layout::tags_prefix(registry, &name));
        while let Some(page) = pages.next().await? {
            usage.tags += page.len() as u64;
            progress.advance(page.len());
        }
        let mut pages = Pages::new(&self.records, layout::manifests_prefix(registry, &name));
        while let Some(page) = pages.next().await? {
            for entry in page {
                progress.advance(1);
                let manifest = self.count_manifest(registry, &name, &entry.key).await?;
                let Some(manifest) = manifest else { continue };
                usage.bytes += manifest.bytes;
                usage.manifests.push(manifest);
            }
        }
        Ok(usage)
    }

    async fn count_manifest(
        &self,
        registry: Uuid,
        name: &RepositoryName,
        key: &str,
    ) -> Result<Option<ManifestUsage>, ContentError> {
        let found = self.records.get::<ManifestRecord>(key).await?;
        let digest = layout::digest_of_name(layout::last_component(key));
        let (Some(found), Some(digest)) = (found, digest) else {
            return Ok(None);
        };
        if found.value.deleting {
            return Ok(None);
        }
        let pull = layout::pull(registry, name, &digest);
        let pulled = whole(self.records.get::<PullRecord>(&pull).await)?;
        Ok(Some(ManifestUsage {
            digest,
            bytes: found.value.size,
            created: found.value.created,
            last_pulled: pulled.map(|pulled| pulled.value.pulled),
        }))
    }
}

//! The second step of a pass: each repository's manifests, and its links that none of them refers to.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::marks::Marks;
use super::pass::{Pass, READS_IN_FLIGHT, Read};
use crate::content::error::ContentError;
use crate::content::layout;
use crate::content::manifest_document::{ManifestDocument, read_manifest};
use crate::content::pages::{Pages, Repositories};
use crate::content::record_store::ListedRecord;
use crate::content::records::{
    BlobRecord, ManifestRecord, PullRecord, RepositoryRecord, Versioned,
};
use crate::names::{Digest, RepositoryName};

/// What a repository's manifests refer to.
#[derive(Default)]
struct References {
    blobs: Marks,
    manifests: Marks,
    /// Some of them cannot be read, and may refer to anything.
    are_complete: bool,
}

/// A manifest as a pass reads it.
pub(super) struct FoundManifest {
    pub(super) digest: Digest,
    pub(super) record: Versioned<ManifestRecord>,
    pub(super) document: ManifestDocument,
}

/// The manifests of a page of a listing.
#[derive(Default)]
pub(super) struct FoundManifests {
    pub(super) live: Vec<FoundManifest>,
    /// Those whose deletion was begun.
    deleting: Vec<(Digest, Versioned<ManifestRecord>)>,
    /// How many cannot be understood.
    pub(super) unreadable: u64,
}

impl Pass<'_> {
    pub(super) async fn repositories(&mut self) -> Result<(), ContentError> {
        self.end_deletions_of_repositories().await?;
        let mut repositories = Repositories::new(self.content, self.registry);
        while let Some(name) = repositories.next().await? {
            self.report.repositories += 1;
            self.repository(&name).await?;
        }
        Ok(())
    }

    async fn end_deletions_of_repositories(&mut self) -> Result<(), ContentError> {
        self.stage("looking for deleted repositories");
        let mut pages = Pages::new(self.records(), layout::repositories_prefix(self.registry));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            for entry in page {
                let Read::Record(found) = self.read::<RepositoryRecord>(&entry.key).await? else {
                    continue;
                };
                let name = layout::repository_of_key(self.registry, &entry.key);
                let (true, Some(name)) = (found.value.deleting, name) else {
                    continue;
                };
                self.report.removed.deletions += 1;
                if !self.options.is_dry_run {
                    let repository = self.content.repository(self.registry, &name);
                    repository.finish_deletion_of_all(&found.version).await?;
                }
            }
            self.breathe(looked_at).await;
        }
        Ok(())
    }

    /// The record of a repository, if it is there. What its manifests say they are of is held against it.
    pub(super) async fn live_repository(
        &self,
        name: &RepositoryName,
    ) -> Result<Option<RepositoryRecord>, ContentError> {
        let repository = self.content.repository(self.registry, name);
        let record = repository.record().await?;
        Ok(record
            .map(|record| record.value)
            .filter(|record| !record.deleting))
    }

    async fn repository(&mut self, name: &RepositoryName) -> Result<(), ContentError> {
        let gone = match self.options.retention {
            Some(rules) => self.retain(name, &rules).await?,
            None => HashSet::new(),
        };
        let references = self.references(name, &gone).await?;
        self.links(name, &references).await?;
        self.pulls(name, &references).await
    }

    /// Reads what the repository's manifests refer to, and ends deletions on the way. In a dry run those that would be gone are still
    /// there, and do not count.
    async fn references(
        &mut self,
        name: &RepositoryName,
        gone: &HashSet<Digest>,
    ) -> Result<References, ContentError> {
        self.stage("reading manifests");
        let mut references = References {
            are_complete: true,
            ..References::default()
        };
        let repository = self.live_repository(name).await?;
        let mut pages = Pages::new(
            self.records(),
            layout::manifests_prefix(self.registry, name),
        );
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            let found = self.read_manifests(page).await?;
            references.are_complete &= found.unreadable == 0;
            self.report.unreadable += found.unreadable;
            for manifest in found.live {
                if self.options.is_dry_run && gone.contains(&manifest.digest) {
                    continue;
                }
                let is_there = repository
                    .as_ref()
                    .is_some_and(|record| record.has_manifest_of(manifest.record.value.life));
                if !is_there && self.remove_overtaken(name, &manifest).await? {
                    continue;
                }
                self.report.manifests += 1;
                self.report.bytes += manifest.record.value.size;
                references.manifests.mark_digest(&manifest.digest);
                let document = &manifest.document;
                for blob in document.blobs.iter().chain(&document.foreign_blobs) {
                    references.blobs.mark_digest(blob);
                }
            }
            self.end_deletions(name, found.deleting).await?;
            self.breathe(looked_at).await;
        }
        Ok(references)
    }

    /// Removes what a push left behind that a deletion of the repository overtook: nobody can see it. It may also be of a push under way.
    async fn remove_overtaken(
        &mut self,
        name: &RepositoryName,
        manifest: &FoundManifest,
    ) -> Result<bool, ContentError> {
        if !self.is_old(manifest.record.value.touched) {
            return Ok(false);
        }
        let key = layout::manifest(self.registry, name, &manifest.digest);
        // Read again for its bytes, which the mark keeps; the version is the one that was judged.
        let Read::Record(mut found) = self.read::<ManifestRecord>(&key).await? else {
            return Ok(false);
        };
        if found.version != manifest.record.version {
            return Ok(false);
        }
        if !self.options.is_dry_run {
            let repository = self.content.repository(self.registry, name);
            let digest = &manifest.digest;
            if !repository.mark_deleted(digest, &mut found).await? {
                return Ok(false);
            }
            repository.finish_deletion(digest, &found).await?;
        }
        self.report.removed.deletions += 1;
        Ok(true)
    }

    async fn end_deletions(
        &mut self,
        name: &RepositoryName,
        deleting: Vec<(Digest, Versioned<ManifestRecord>)>,
    ) -> Result<(), ContentError> {
        for (digest, record) in deleting {
            self.report.removed.deletions += 1;
            if !self.options.is_dry_run {
                let repository = self.content.repository(self.registry, name);
                repository.finish_deletion(&digest, &record).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn read_manifests(
        &self,
        page: Vec<ListedRecord>,
    ) -> Result<FoundManifests, ContentError> {
        let mut found = FoundManifests::default();
        let mut reads = stream::iter(page)
            .map(|entry| async move { self.read_manifest(entry.key).await })
            .buffered(READS_IN_FLIGHT);
        while let Some(read) = reads.next().await {
            match read? {
                ManifestRead::Live(manifest) => found.live.push(*manifest),
                ManifestRead::Deleting(digest, record) => found.deleting.push((digest, *record)),
                ManifestRead::Gone => {}
                ManifestRead::Unreadable => found.unreadable += 1,
            }
        }
        Ok(found)
    }

    async fn read_manifest(&self, key: String) -> Result<ManifestRead, ContentError> {
        let Some(digest) = layout::digest_of_name(layout::last_component(&key)) else {
            return Ok(ManifestRead::Unreadable);
        };
        let mut record = match self.read::<ManifestRecord>(&key).await? {
            Read::Record(record) => record,
            Read::Gone => return Ok(ManifestRead::Gone),
            Read::Unreadable => return Ok(ManifestRead::Unreadable),
        };
        if record.value.deleting {
            return Ok(ManifestRead::Deleting(digest, Box::new(record)));
        }
        match read_manifest(&record.body, Some(&record.value.media_type)) {
            Ok(document) => {
                // What it refers to is read; its bytes are held no longer.
                record.body = Bytes::new();
                Ok(ManifestRead::Live(Box::new(FoundManifest {
                    digest,
                    record,
                    document,
                })))
            }
            Err(fault) => {
                tracing::warn!(
                    record.key = key,
                    "a manifest cannot be read any more; all blobs of its repository are kept: {fault}"
                );
                Ok(ManifestRead::Unreadable)
            }
        }
    }

    /// Removes old links that no manifest refers to, and marks the blobs of all others.
    async fn links(
        &mut self,
        name: &RepositoryName,
        references: &References,
    ) -> Result<(), ContentError> {
        self.stage("checking blobs of repositories");
        let mut pages = Pages::new(self.records(), layout::links_prefix(self.registry, name));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            for entry in page {
                let Some(digest) = layout::digest_of_name(layout::last_component(&entry.key))
                else {
                    self.report.unreadable += 1;
                    continue;
                };
                let is_kept = !references.are_complete
                    || references.blobs.has(digest.as_str())
                    || !self.remove_unused_link(&entry.key).await?;
                if is_kept {
                    self.linked.mark_digest(&digest);
                }
            }
            self.breathe(looked_at).await;
        }
        Ok(())
    }

    /// Whether the link is gone.
    async fn remove_unused_link(&mut self, key: &str) -> Result<bool, ContentError> {
        let link = match self.read::<BlobRecord>(key).await? {
            Read::Record(link) => link,
            Read::Gone => return Ok(true),
            Read::Unreadable => {
                self.report.unreadable += 1;
                return Ok(false);
            }
        };
        let is_gone = self.is_old(link.value.touched) && self.remove(key, &link.version).await?;
        self.report.removed.links += u64::from(is_gone);
        Ok(is_gone)
    }

    /// Removes what is known of pulls of manifests that are gone.
    async fn pulls(
        &mut self,
        name: &RepositoryName,
        references: &References,
    ) -> Result<(), ContentError> {
        if self.options.is_dry_run || !references.are_complete {
            return Ok(());
        }
        let mut pages = Pages::new(self.records(), layout::pulls_prefix(self.registry, name));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            for entry in page {
                let digest = layout::digest_of_name(layout::last_component(&entry.key));
                if digest.is_some_and(|digest| references.manifests.has(digest.as_str())) {
                    continue;
                }
                if let Read::Record(found) = self.read::<PullRecord>(&entry.key).await?
                    && self.is_old(found.value.pulled)
                {
                    self.remove(&entry.key, &found.version).await?;
                }
            }
            self.breathe(looked_at).await;
        }
        Ok(())
    }
}

enum ManifestRead {
    Live(Box<FoundManifest>),
    Deleting(Digest, Box<Versioned<ManifestRecord>>),
    Gone,
    Unreadable,
}

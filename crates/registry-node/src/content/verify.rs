//! Checking that what the records promise is there. It reads only, and runs beside everything else: what looks like a fault is looked at
//! again before it is told, so that a push or a deletion under way is none.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Content;
use super::error::ContentError;
use super::hashing::ContentHasher;
use super::layout;
use super::manifest_document::{ManifestDocument, read_manifest};
use super::pages::{Pages, Repositories};
use super::parts::hash_part;
use super::progress::Progress;
use super::records::{BlobRecord, ManifestRecord, TagRecord, Versioned};
use crate::names::{Digest, RepositoryName};

/// Something that is promised and not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// In which registry.
    pub registry: Uuid,
    /// In which repository.
    pub repository: RepositoryName,
    /// Which tag or digest it is about.
    pub subject: String,
    /// What is wrong.
    pub kind: FaultKind,
    /// More about it.
    pub detail: String,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// A tag points to a manifest that is not there.
    TagWithoutManifest,
    /// A manifest refers to a blob that its repository does not have.
    BlobMissing,
    /// An index refers to a manifest that its repository does not have.
    ManifestMissing,
    /// A manifest's bytes are not those of its digest, or cannot be understood.
    ManifestDamaged,
    /// Bytes of a blob are missing or of another size than its record says.
    DataMissing,
    /// A blob's bytes are not those of its digest.
    DataDamaged,
    /// A record cannot be read.
    RecordDamaged,
}

impl FaultKind {
    /// What to do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::TagWithoutManifest => "push the tag again, or delete it",
            Self::BlobMissing | Self::DataMissing | Self::DataDamaged => {
                "push an image with this blob to this repository again: that repairs it"
            }
            Self::ManifestMissing => {
                "push that manifest again; nothing is wrong if it was deleted on purpose"
            }
            Self::ManifestDamaged => "delete this manifest and push it again",
            Self::RecordDamaged => "restore the record from a backup, or remove it and push again",
        }
    }
}

/// What was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// Repositories with content.
    pub repositories: u64,
    /// Tags.
    pub tags: u64,
    /// Manifests.
    pub manifests: u64,
    /// Blobs that a repository has; each once.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub bytes: u64,
    /// What is wrong.
    pub faults: u64,
}

/// How a check goes about.
#[derive(Clone, Default)]
pub struct VerifyOptions {
    /// All bytes are read and hashed.
    pub with_digests: bool,
    /// Told how far it is.
    pub progress: Progress,
}

impl Content {
    /// Checks one registry: that each tag's manifest is there, all that a manifest refers to, and each blob's bytes.
    ///
    /// # Errors
    /// When the store cannot be read. What is wrong with the content is told by `tell`.
    pub async fn verify(
        &self,
        registry: Uuid,
        options: &VerifyOptions,
        tell: impl FnMut(Fault),
    ) -> Result<VerifyReport, ContentError> {
        let mut verification = Verification {
            content: self,
            registry,
            options,
            tell,
            report: VerifyReport::default(),
            sound: HashSet::new(),
        };
        let mut repositories = Repositories::new(self, registry);
        while let Some(name) = repositories.next().await? {
            verification.report.repositories += 1;
            verification.repository(&name).await?;
        }
        Ok(verification.report)
    }
}

struct Verification<'a, T> {
    content: &'a Content,
    registry: Uuid,
    options: &'a VerifyOptions,
    tell: T,
    report: VerifyReport,
    /// Blobs whose bytes are as they should be: they are looked at once, however many repositories have them.
    sound: HashSet<Digest>,
}

impl<T: FnMut(Fault)> Verification<'_, T> {
    async fn repository(&mut self, name: &RepositoryName) -> Result<(), ContentError> {
        self.options
            .progress
            .begin(Some(self.registry), "checking blobs");
        let mut pages = Pages::new(
            &self.content.records,
            layout::links_prefix(self.registry, name),
        );
        while let Some(page) = pages.next().await? {
            for entry in page {
                self.blob(name, &entry.key).await?;
                self.options.progress.advance(1);
            }
        }
        self.options
            .progress
            .begin(Some(self.registry), "checking manifests");
        let prefix = layout::manifests_prefix(self.registry, name);
        let mut pages = Pages::new(&self.content.records, prefix);
        while let Some(page) = pages.next().await? {
            for entry in page {
                self.manifest(name, &entry.key).await?;
                self.options.progress.advance(1);
            }
        }
        self.options
            .progress
            .begin(Some(self.registry), "checking tags");
        let mut pages = Pages::new(
            &self.content.records,
            layout::tags_prefix(self.registry, name),
        );
        while let Some(page) = pages.next().await? {
            for entry in page {
                self.tag(name, &entry.key).await?;
                self.options.progress.advance(1);
            }
        }
        Ok(())
    }

    fn fault(
        &mut self,
        repository: &RepositoryName,
        kind: FaultKind,
        subject: &str,
        detail: impl Into<String>,
    ) {
        self.report.faults += 1;
        (self.tell)(Fault {
            registry: self.registry,
            repository: repository.clone(),
            subject: subject.to_owned(),
            kind,
            detail: detail.into(),
        });
    }

    /// Reads a record; one that cannot be read is a fault.
    async fn read<R: DeserializeOwned>(
        &mut self,
        name: &RepositoryName,
        key: &str,
    ) -> Result<Option<Versioned<R>>, ContentError> {
        match self.content.records.get(key).await {
            Err(ContentError::DamagedRecord { key }) => {
                let subject = layout::last_component(&key).to_owned();
                self.fault(name, FaultKind::RecordDamaged, &subject, key);
                Ok(None)
            }
            other => other,
        }
    }

    async fn blob(&mut self, name: &RepositoryName, link_key: &str) -> Result<(), ContentError> {
        let Some(digest) = layout::digest_of_name(layout::last_component(link_key)) else {
            self.fault(
                name,
                FaultKind::RecordDamaged,
                link_key,
                "its key names no digest",
            );
            return Ok(());
        };
        if self.sound.contains(&digest) {
            return Ok(());
        }
        let Some(link) = self.read::<BlobRecord>(name, link_key).await? else {
            return Ok(());
        };
        let key = layout::blob(self.registry, &digest);
        // As reads do: the link's copy first, then the record that the registry's repositories share.
        let mut fault = self.fault_of_data(&digest, &link.value).await?;
        if fault.is_some()
            && let Some(record) = self.read::<BlobRecord>(name, &key).await?
            && record.value.data != link.value.data
        {
            fault = self.fault_of_data(&digest, &record.value).await?;
        }
        match fault {
            None => {
                self.report.blobs += 1;
                self.report.bytes += link.value.size;
                self.sound.insert(digest);
            }
            Some((kind, detail)) => {
                // Somebody may have deleted it while it was looked at.
                if self.content.records.version(link_key).await?.is_some() {
                    self.fault(name, kind, digest.as_str(), detail);
                }
            }
        }
        Ok(())
    }

    async fn fault_of_data(
        &self,
        digest: &Digest,
        record: &BlobRecord,
    ) -> Result<Option<(FaultKind, String)>, ContentError> {
        let missing = |detail| Ok(Some((FaultKind::DataMissing, detail)));
        let total: u64 = record.data.iter().map(|piece| piece.size).sum();
        if total != record.size {
            return missing(format!(
                "its pieces have {total} bytes together and it has {}",
                record.size
            ));
        }
        for piece in &record.data {
            match self.content.data.size_of(&piece.key).await? {
                None => return missing(format!("{} is missing", piece.key)),
                Some(size) if size != piece.size => {
                    return missing(format!(
                        "{} has {size} bytes and should have {}",
                        piece.key, piece.size
                    ));
                }
                Some(_) => {}
            }
        }
        if !self.options.with_digests {
            return Ok(None);
        }
        let mut hasher = ContentHasher::new(digest.algorithm());
        let mut bytes = self
            .content
            .data
            .read(record.data.clone(), 0..record.size)
            .boxed();
        while let Some(block) = bytes.try_next().await? {
            hasher = hash_part(hasher, block).await?;
        }
        let actual = hasher.digest();
        Ok((actual != *digest).then(|| {
            let detail = format!("its bytes have the digest {actual}");
            (FaultKind::DataDamaged, detail)
        }))
    }

    async fn manifest(&mut self, name: &RepositoryName, key: &str) -> Result<(), ContentError> {
        let Some(manifest) = self.read::<ManifestRecord>(name, key).await? else {
            return Ok(());
        };
        if manifest.value.deleting || !self.is_of_repository(name, &manifest.value).await? {
            return Ok(());
        }
        self.report.manifests += 1;
        let Some(digest) = layout::digest_of_name(layout::last_component(key)) else {
            self.fault(
                name,
                FaultKind::RecordDamaged,
                key,
                "its key names no digest",
            );
            return Ok(());
        };
        let mut hasher = ContentHasher::new(digest.algorithm());
        hasher.update(&manifest.body);
        let actual = hasher.digest();
        if actual != digest {
            let detail = format!("its bytes have the digest {actual}");
            self.fault(name, FaultKind::ManifestDamaged, digest.as_str(), detail);
            return Ok(());
        }
        match read_manifest(&manifest.body, Some(&manifest.value.media_type)) {
            Ok(document) => self.references(name, key, &digest, &document).await,
            Err(fault) => {
                let kind = FaultKind::ManifestDamaged;
                self.fault(name, kind, digest.as_str(), fault.to_string());
                Ok(())
            }
        }
    }

    async fn references(
        &mut self,
        name: &RepositoryName,
        key: &str,
        digest: &Digest,
        document: &ManifestDocument,
    ) -> Result<(), ContentError> {
        let records = &self.content.records;
        let mut missing = Vec::new();
        for blob in &document.blobs {
            let link = layout::link(self.registry, name, blob);
            if records.version(&link).await?.is_none() {
                missing.push((FaultKind::BlobMissing, blob));
            }
        }
        for manifest in &document.manifests {
            if !self.is_live(name, manifest).await? {
                missing.push((FaultKind::ManifestMissing, manifest));
            }
        }
        // A manifest that was deleted in between needs nothing any more.
        if missing.is_empty() || records.version(key).await?.is_none() {
            return Ok(());
        }
        for (kind, reference) in missing {
            let detail = format!("{digest} refers to it");
            self.fault(name, kind, reference.as_str(), detail);
        }
        Ok(())
    }

    /// What a push left that a deletion of the repository overtook counts as absent.
    async fn is_of_repository(
        &self,
        name: &RepositoryName,
        manifest: &ManifestRecord,
    ) -> Result<bool, ContentError> {
        let repository = self.content.repository(self.registry, name);
        let record = repository.record().await?;
        Ok(record.is_some_and(|record| {
            !record.value.deleting && record.value.has_manifest_of(manifest.life)
        }))
    }

    async fn is_live(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, name, digest);
        match self.content.records.get::<ManifestRecord>(&key).await {
            Ok(found) => Ok(found.is_some_and(|found| !found.value.deleting)),
            // Told where all manifests are looked at.
            Err(ContentError::DamagedRecord { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn tag(&mut self, name: &RepositoryName, key: &str) -> Result<(), ContentError> {
        let Some(tag) = self.read::<TagRecord>(name, key).await? else {
            return Ok(());
        };
        self.report.tags += 1;
        if self.is_live(name, &tag.value.digest).await? {
            return Ok(());
        }
        // Being deleted, its tags go; that is no fault, nor is a tag that moved on.
        let manifest = layout::manifest(self.registry, name, &tag.value.digest);
        let records = &self.content.records;
        let is_fault = records.version(&manifest).await?.is_none()
            && records.version(key).await? == Some(tag.version);
        if is_fault {
            let subject = layout::last_component(key).to_owned();
            let detail = format!("its manifest is {}", tag.value.digest);
            self.fault(name, FaultKind::TagWithoutManifest, &subject, detail);
        }
        Ok(())
    }
}

//! The content of a registry whose tombstone was seen: after the grace period all of it goes, bytes first and the mark last, so that a pass
//! that dies is taken up by the next.

use futures_util::StreamExt;
use time::OffsetDateTime;
use uuid::Uuid;

use super::pass::Pass;
use crate::content::Content;
use crate::content::error::ContentError;
use crate::content::layout;
use crate::content::pages::Pages;
use crate::content::record_store::{Durability, ListedRecord};
use crate::content::records::{DataPiece, DeletedRecord};

impl Pass<'_> {
    /// When the registry was marked as deleted, if it was.
    pub(super) async fn deleted_at(&self) -> Result<Option<OffsetDateTime>, ContentError> {
        let key = layout::deleted(self.registry);
        let found = self.records().get::<DeletedRecord>(&key).await?;
        Ok(found.map(|found| found.value.deleted))
    }

    pub(super) async fn remove_everything(&mut self) -> Result<(), ContentError> {
        self.stage("removing the content of a deleted registry");
        // Nobody collects what is gone, and the lease is gone with it.
        self.drop_lease();
        self.remove_all_data().await?;
        let mark = layout::deleted(self.registry);
        let mut pages = Pages::new(self.records(), layout::registry_prefix(self.registry));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            for entry in page.iter().filter(|entry| entry.key != mark) {
                self.remove_listed(entry).await?;
            }
            self.breathe(looked_at).await;
        }
        self.report.is_gone = true;
        if self.options.is_dry_run {
            return Ok(());
        }
        self.abandoned_parts().await;
        // While the mark is there, so that the next pass takes up what this one leaves; then the directory that the mark was in.
        self.remove_empty_directories().await;
        if let Some(version) = self.records().version(&mark).await? {
            self.remove(&mark, &version).await?;
        }
        self.remove_empty_directories().await;
        Ok(())
    }

    async fn remove_empty_directories(&self) {
        let prefix = layout::registry_prefix(self.registry);
        self.content.data.remove_empty_directories(&prefix).await;
    }

    async fn remove_all_data(&mut self) -> Result<(), ContentError> {
        let content = self.content;
        let mut listed = content.data.list(&layout::all_data_prefix(self.registry));
        while let Some(found) = listed.next().await {
            let found = found?;
            self.report.removed.objects += 1;
            self.report.removed.bytes += found.size;
            if !self.options.is_dry_run {
                let piece = DataPiece {
                    key: found.key,
                    size: found.size,
                    owned: true,
                };
                content.data.remove(&[piece]).await;
            }
            self.breathe(1).await;
        }
        Ok(())
    }

    async fn remove_listed(&mut self, entry: &ListedRecord) -> Result<(), ContentError> {
        if self.options.is_dry_run {
            return Ok(());
        }
        let version = match &entry.version {
            Some(version) => Some(version.clone()),
            None => self.records().version(&entry.key).await?,
        };
        if let Some(version) = version {
            self.records()
                .remove(&entry.key, &version, Durability::Eventually)
                .await?;
        }
        Ok(())
    }
}

impl Content {
    /// Takes the mark of a deleted registry back: a database that was restored has it again. `true` if there was one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn unmark_registry_deleted(&self, registry: Uuid) -> Result<bool, ContentError> {
        let key = layout::deleted(registry);
        let Some(version) = self.records.version(&key).await? else {
            return Ok(false);
        };
        self.records
            .remove(&key, &version, Durability::OnReturn)
            .await
    }
}

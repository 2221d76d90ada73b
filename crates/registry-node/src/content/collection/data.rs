//! The fourth step of a pass: bytes that nothing names. Their names are never used again, so that their age alone says that nobody is
//! about to name them.

use std::time::SystemTime;

use futures_util::StreamExt;

use super::pass::Pass;
use crate::content::data::{DataStore, StoredData};
use crate::content::error::ContentError;
use crate::content::layout;
use crate::content::records::DataPiece;

/// Objects looked at between two rests.
const BATCH: usize = 1024;

impl Pass<'_> {
    pub(super) async fn data(&mut self) -> Result<(), ContentError> {
        if self.is_data_unknown {
            tracing::warn!(
                registry.uid = %self.registry,
                "a blob's record cannot be read: no bytes of this registry are removed until it can"
            );
            return Ok(());
        }
        self.stage("looking for bytes of no use");
        let content = self.content;
        let listed = content.data.list(&layout::all_data_prefix(self.registry));
        let mut batches = listed.chunks(BATCH);
        while let Some(batch) = batches.next().await {
            let looked_at = batch.len();
            for found in batch {
                self.judge_data(found?).await;
            }
            self.breathe(looked_at).await;
        }
        if !self.options.is_dry_run {
            self.abandoned_parts().await;
        }
        Ok(())
    }

    pub(super) async fn abandoned_parts(&mut self) {
        let before = SystemTime::from(self.began - self.options.grace_period);
        let prefix = layout::all_data_prefix(self.registry);
        let directories = self.content.data.upload_directories(&prefix).await;
        for batch in directories.chunks(BATCH) {
            DataStore::remove_abandoned_parts(batch.to_vec(), before).await;
            self.breathe(0).await;
        }
    }

    async fn judge_data(&mut self, found: StoredData) {
        if self.data.has(&found.key) || !self.is_old(found.modified) {
            return;
        }
        self.report.removed.objects += 1;
        self.report.removed.bytes += found.size;
        if self.options.is_dry_run {
            return;
        }
        let piece = DataPiece {
            key: found.key,
            size: found.size,
            owned: true,
        };
        self.content.data.remove(&[piece]).await;
    }
}

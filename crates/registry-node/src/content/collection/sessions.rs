//! The first step of a pass: uploads under way name bytes that nothing else names yet; those that nobody goes on with end.

use super::pass::Pass;
use crate::content::error::ContentError;
use crate::content::layout;
use crate::content::pages::Pages;
use crate::content::record_store::ListedRecord;
use crate::content::records::UploadRecord;
use crate::limits::IDLE_UPLOAD_AGE;

impl Pass<'_> {
    pub(super) async fn sessions(&mut self) -> Result<(), ContentError> {
        self.stage("looking for idle uploads");
        let mut pages = Pages::new(self.records(), layout::uploads_prefix(self.registry));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            for entry in page {
                self.session(&entry).await?;
            }
            self.breathe(looked_at).await;
        }
        Ok(())
    }

    async fn session(&mut self, entry: &ListedRecord) -> Result<(), ContentError> {
        let session = match self.records().get::<UploadRecord>(&entry.key).await {
            Ok(Some(session)) => session,
            Ok(None) => return Ok(()),
            Err(ContentError::DamagedRecord { .. }) => {
                return self.damaged_session(&entry.key).await;
            }
            Err(error) => return Err(error),
        };
        // Its bytes are named by it, or by a blob if it was finishing; in this pass they stay.
        for piece in &session.value.chunks {
            self.data.mark(&piece.key);
        }
        if !self.is_older_than(session.value.updated, IDLE_UPLOAD_AGE) {
            return Ok(());
        }
        let ended = self.remove(&entry.key, &session.version).await?;
        self.report.removed.uploads += u64::from(ended);
        if ended && !session.value.finishing && !self.options.is_dry_run {
            self.content.data.remove(&session.value.chunks).await;
        }
        Ok(())
    }

    /// Half written at a loss of power: nobody can go on with it.
    async fn damaged_session(&mut self, key: &str) -> Result<(), ContentError> {
        if let Some(version) = self.records().version(key).await? {
            let ended = self.remove(key, &version).await?;
            self.report.removed.uploads += u64::from(ended);
        }
        Ok(())
    }
}

//! The third step of a pass: blobs that no repository has. All others are counted, and their bytes marked.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::pass::{Pass, READS_IN_FLIGHT, Read};
use crate::content::error::ContentError;
use crate::content::layout;
use crate::content::pages::{Pages, Repositories};
use crate::content::records::{BlobRecord, Versioned};
use crate::names::{Digest, RepositoryName};

impl Pass<'_> {
    pub(super) async fn blobs(&mut self) -> Result<(), ContentError> {
        self.stage("checking blobs");
        let mut pages = Pages::new(self.records(), layout::blobs_prefix(self.registry));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            let pass = &*self;
            // Read after all links were: so this reading is the one that is judged.
            let read: Vec<(String, Read<BlobRecord>)> = stream::iter(page)
                .map(|entry| async move {
                    let read = pass.read(&entry.key).await?;
                    Ok::<_, ContentError>((entry.key, read))
                })
                .buffered(READS_IN_FLIGHT)
                .try_collect()
                .await?;
            for (key, read) in read {
                self.blob(&key, read).await?;
            }
            self.breathe(looked_at).await;
        }
        if self.linked.has_unmet() {
            self.blobs_without_record().await?;
        }
        Ok(())
    }

    async fn blob(&mut self, key: &str, read: Read<BlobRecord>) -> Result<(), ContentError> {
        let digest = layout::digest_of_blob_key(self.registry, key);
        let (record, digest) = match (read, digest) {
            (Read::Record(record), Some(digest)) => (record, digest),
            (Read::Gone, _) => return Ok(()),
            // Without knowing which bytes are its own none can be judged.
            (Read::Unreadable | Read::Record(_), _) => {
                self.report.unreadable += 1;
                self.is_data_unknown = true;
                return Ok(());
            }
        };
        let is_linked = self.linked.meet(digest.as_str());
        if !is_linked && self.remove_unused_blob(key, &record).await? {
            return Ok(());
        }
        self.report.blobs += 1;
        let owned = record.value.data.iter().filter(|piece| piece.owned);
        self.report.bytes += owned.map(|piece| piece.size).sum::<u64>();
        self.mark_data(&record.value);
        Ok(())
    }

    async fn remove_unused_blob(
        &mut self,
        key: &str,
        record: &Versioned<BlobRecord>,
    ) -> Result<bool, ContentError> {
        let is_gone =
            self.is_old(record.value.touched) && self.remove(key, &record.version).await?;
        self.report.removed.blobs += u64::from(is_gone);
        Ok(is_gone)
    }

    fn mark_data(&mut self, record: &BlobRecord) {
        for piece in &record.data {
            self.data.mark(&piece.key);
        }
    }

    /// Links whose blob has no record: it was pushed after the blobs were read, or the record was lost. A link names the bytes as well, and
    /// these are kept.
    async fn blobs_without_record(&mut self) -> Result<(), ContentError> {
        let mut repositories = Repositories::new(self.content, self.registry);
        while let Some(name) = repositories.next().await? {
            self.links_without_record(&name).await?;
        }
        Ok(())
    }

    async fn links_without_record(&mut self, name: &RepositoryName) -> Result<(), ContentError> {
        let mut pages = Pages::new(self.records(), layout::links_prefix(self.registry, name));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            for entry in page {
                let digest: Option<Digest> =
                    layout::digest_of_name(layout::last_component(&entry.key));
                let is_wanted = digest.is_some_and(|digest| self.linked.is_unmet(digest.as_str()));
                if !is_wanted {
                    continue;
                }
                match self.read::<BlobRecord>(&entry.key).await? {
                    Read::Record(link) => self.mark_data(&link.value),
                    Read::Gone => {}
                    Read::Unreadable => self.is_data_unknown = true,
                }
            }
            self.breathe(looked_at).await;
        }
        Ok(())
    }
}

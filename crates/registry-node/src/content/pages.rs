//! Walking through everything: listings page by page, and the repositories that have content. For work in the background and for tools.

use uuid::Uuid;

use super::Content;
use super::error::ContentError;
use super::layout;
use super::record_store::ListedRecord;
use super::records::Records;
use crate::names::RepositoryName;

/// Entries that are worked through at a time.
const PAGE: usize = 128;
/// Entries listed at a time: a directory that changes meanwhile is read anew for each listing.
const LISTED: usize = 4096;

/// A listing, page by page.
pub(super) struct Pages<'a> {
    records: &'a Records,
    prefix: String,
    after: String,
    listed: std::vec::IntoIter<ListedRecord>,
    is_done: bool,
}

impl<'a> Pages<'a> {
    pub(super) fn new(records: &'a Records, prefix: String) -> Self {
        Self {
            records,
            prefix,
            after: String::new(),
            listed: Vec::new().into_iter(),
            is_done: false,
        }
    }

    /// The next page; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<ListedRecord>>, ContentError> {
        if self.listed.len() == 0 && !self.is_done {
            let records = self.records;
            let listed = records.list(&self.prefix, &self.after, LISTED).await?;
            self.is_done = listed.len() < LISTED;
            if let Some(last) = listed.last() {
                self.after.clone_from(&last.key);
            }
            self.listed = listed.into_iter();
        }
        let page: Vec<ListedRecord> = self.listed.by_ref().take(PAGE).collect();
        Ok((!page.is_empty()).then_some(page))
    }
}

/// The repositories of a registry that have content, whether or not they have a record.
pub(super) struct Repositories<'a> {
    content: &'a Content,
    registry: Uuid,
    after: String,
}

impl<'a> Repositories<'a> {
    pub(super) fn new(content: &'a Content, registry: Uuid) -> Self {
        Self {
            content,
            registry,
            after: String::new(),
        }
    }

    /// The next one; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<RepositoryName>, ContentError> {
        let prefix = layout::contents_prefix(self.registry);
        loop {
            let listed = self.content.records.list(&prefix, &self.after, 1).await?;
            let Some(entry) = listed.into_iter().next() else {
                return Ok(None);
            };
            if let Some(name) = layout::repository_of_content_key(self.registry, &entry.key) {
                self.after = layout::after_all_of(&layout::content_prefix(self.registry, &name));
                return Ok(Some(name));
            }
            self.after = entry.key;
        }
    }
}

//! Retention: which manifests without a tag go, by the rules of the registry.
//!
//! A manifest stays, whatever the rules say, while
//!
//! - a tag points to it;
//! - it is locked: its own attributes, or its repository's, say that it cannot be deleted or changed;
//! - it was pushed, or a push referred to it, within the grace period;
//! - an index that stays refers to it, or a manifest that stays names it as its subject (so what somebody signs anew stays);
//! - it names a manifest that stays as its subject: signatures and the like have no tag of their own.
//!
//! The rest goes as if somebody deleted it by its digest, indexes before what they refer to. A push of a tag, an index or a referrer
//! touches the manifest first, so the rule of collection (see the module above) makes this as safe as the rest of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::pass::{Pass, READS_IN_FLIGHT, Read};
use super::repositories::FoundManifest;
use crate::content::attributes::ChangeableAttributes;
use crate::content::error::ContentError;
use crate::content::layout;
use crate::content::pages::Pages;
use crate::content::records::{
    Attributes, ManifestRecord, PullRecord, RepositoryRecord, TagRecord,
};
use crate::names::{Digest, RepositoryName};

/// Which untagged manifests may go: those that every rule lets go. A rule that is absent lets all go; without any rule none goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionRules {
    /// Pushed, or referred to by a push, at least so many days ago.
    pub days_since_push: Option<u32>,
    /// Pulled at least so many days ago; one that was never pulled counts from its push.
    pub days_since_pull: Option<u32>,
    /// Not among so many of the repository's untagged manifests that were pushed last.
    pub keep_newest: Option<u32>,
}

impl RetentionRules {
    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is known of a manifest, by its digest.
struct Known {
    pushed: OffsetDateTime,
    is_locked: bool,
    children: Vec<Digest>,
    subject: Option<Digest>,
}

/// A repository's manifests, and how they need each other.
#[derive(Default)]
struct Graph {
    known: BTreeMap<Digest, Known>,
    /// Of each subject.
    referrers: HashMap<Digest, Vec<Digest>>,
}

impl Graph {
    fn insert(&mut self, digest: Digest, known: Known) {
        if let Some(subject) = &known.subject {
            let referrers = self.referrers.entry(subject.clone()).or_default();
            referrers.push(digest.clone());
        }
        self.known.insert(digest, known);
    }

    /// What stays because this one does, short of its subject.
    fn dependents(&self, digest: &Digest) -> impl Iterator<Item = &Digest> {
        let children = self.known.get(digest).map(|known| &known.children);
        let referrers = self.referrers.get(digest);
        children.into_iter().chain(referrers).flatten()
    }

    fn subject(&self, digest: &Digest) -> Option<&Digest> {
        self.known.get(digest)?.subject.as_ref()
    }
}

impl Pass<'_> {
    /// Removes the manifests of a repository that the rules let go; says which.
    pub(super) async fn retain(
        &mut self,
        name: &RepositoryName,
        rules: &RetentionRules,
    ) -> Result<HashSet<Digest>, ContentError> {
        let none = HashSet::new();
        let repository = match rules.is_empty() {
            true => None,
            false => self.live_repository(name).await?,
        };
        let Some(repository) = repository.filter(|record| !is_locked(&record.attributes)) else {
            return Ok(none);
        };
        self.stage("looking for untagged manifests");
        let Some(graph) = self.graph(name, &repository).await? else {
            return Ok(none);
        };
        let tagged = self.tagged(name).await?;
        let pulls = match rules.days_since_pull {
            Some(_) => self.pulled(name).await?,
            None => HashMap::new(),
        };
        let going = going(&graph, &tagged, |untagged| {
            self.released(rules, &graph, &pulls, untagged)
        });
        let mut stayed: HashSet<&Digest> = HashSet::new();
        let mut gone = HashSet::new();
        for digest in &going {
            if !stayed.contains(digest) && self.release(name, digest).await? {
                gone.insert(digest.clone());
            } else {
                stayed.extend(graph.dependents(digest));
            }
        }
        Ok(gone)
    }

    /// All manifests, or `None` if one cannot be read: it may be an index that needs the others.
    async fn graph(
        &mut self,
        name: &RepositoryName,
        repository: &RepositoryRecord,
    ) -> Result<Option<Graph>, ContentError> {
        let mut graph = Graph::default();
        let mut is_complete = true;
        let prefix = layout::manifests_prefix(self.registry, name);
        let mut pages = Pages::new(self.records(), prefix);
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            let found = self.read_manifests(page).await?;
            is_complete &= found.unreadable == 0;
            for manifest in found.live {
                if repository.has_manifest_of(manifest.record.value.life) {
                    graph.insert(manifest.digest.clone(), Known::of(manifest));
                }
            }
            self.breathe(looked_at).await;
        }
        Ok(is_complete.then_some(graph))
    }

    async fn tagged(&mut self, name: &RepositoryName) -> Result<HashSet<Digest>, ContentError> {
        let mut tagged = HashSet::new();
        let mut pages = Pages::new(self.records(), layout::tags_prefix(self.registry, name));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            let pass = &*self;
            let read: Vec<Option<Digest>> = stream::iter(page)
                .map(|entry| async move {
                    // A tag that cannot be read may be any manifest's: then nothing is judged.
                    let found = pass.records().get::<TagRecord>(&entry.key).await?;
                    Ok::<_, ContentError>(found.map(|found| found.value.digest))
                })
                .buffered(READS_IN_FLIGHT)
                .try_collect()
                .await?;
            tagged.extend(read.into_iter().flatten());
            self.breathe(looked_at).await;
        }
        Ok(tagged)
    }

    async fn pulled(
        &mut self,
        name: &RepositoryName,
    ) -> Result<HashMap<Digest, OffsetDateTime>, ContentError> {
        let mut pulled = HashMap::new();
        let mut pages = Pages::new(self.records(), layout::pulls_prefix(self.registry, name));
        while let Some(page) = pages.next().await? {
            let looked_at = page.len();
            for entry in page {
                let digest = layout::digest_of_name(layout::last_component(&entry.key));
                if let Some(digest) = digest
                    && let Read::Record(record) = self.read::<PullRecord>(&entry.key).await?
                {
                    pulled.insert(digest, record.value.pulled);
                }
            }
            self.breathe(looked_at).await;
        }
        Ok(pulled)
    }

    /// Which of the untagged manifests the rules let go.
    fn released(
        &self,
        rules: &RetentionRules,
        graph: &Graph,
        pulls: &HashMap<Digest, OffsetDateTime>,
        untagged: Vec<&Digest>,
    ) -> HashSet<Digest> {
        let mut newest_first = untagged;
        newest_first.sort_by_key(|digest| std::cmp::Reverse(graph.known[*digest].pushed));
        let kept = rules.keep_newest.unwrap_or(0) as usize;
        let is_past = |time: OffsetDateTime, days: Option<u32>| {
            days.is_none_or(|days| self.began - time >= Duration::days(days.into()))
        };
        let is_released = |digest: &&Digest| {
            let known = &graph.known[*digest];
            let used = pulls
                .get(*digest)
                .map_or(known.pushed, |pulled| known.pushed.max(*pulled));
            !known.is_locked
                && self.is_old(known.pushed)
                && is_past(known.pushed, rules.days_since_push)
                && is_past(used, rules.days_since_pull)
        };
        newest_first
            .into_iter()
            .skip(kept)
            .filter(is_released)
            .cloned()
            .collect()
    }

    /// Deletes a manifest, unless it was touched since it was judged; says whether it is gone.
    async fn release(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, name, digest);
        let Read::Record(mut found) = self.read::<ManifestRecord>(&key).await? else {
            return Ok(false);
        };
        // Read again, and judged by what was read.
        let is_unchanged = !found.value.deleting
            && !is_locked(&found.value.attributes)
            && self.is_old(found.value.touched);
        if !is_unchanged {
            return Ok(false);
        }
        if !self.options.is_dry_run {
            let repository = self.content.repository(self.registry, name);
            if !repository.mark_deleted(digest, &mut found).await? {
                return Ok(false);
            }
            // The repository may have been locked in between: either is seen by the other.
            if repository.check_deletable().await.is_err()
                && repository.take_back_mark(digest, &found).await?
            {
                return Ok(false);
            }
            repository.finish_deletion(digest, &found).await?;
        }
        self.report.removed.manifests += 1;
        tracing::info!(
            registry.uid = %self.registry,
            repository = %name,
            digest = %digest,
            dry_run = self.options.is_dry_run,
            "an untagged manifest goes by the registry's rules of retention"
        );
        Ok(true)
    }
}

impl Known {
    fn of(manifest: FoundManifest) -> Self {
        let record = &manifest.record.value;
        Self {
            pushed: record.created.max(record.touched),
            is_locked: is_locked(&record.attributes),
            children: manifest.document.manifests,
            subject: manifest.document.subject,
        }
    }
}

/// Whether an object's attributes say that it cannot be deleted or changed.
fn is_locked(attributes: &Attributes) -> bool {
    let attributes = ChangeableAttributes::of(attributes);
    !attributes.may_be_deleted()
}

/// The manifests that go, each before those that would stay because of it.
fn going(
    graph: &Graph,
    tagged: &HashSet<Digest>,
    released: impl FnOnce(Vec<&Digest>) -> HashSet<Digest>,
) -> Vec<Digest> {
    let untagged = graph
        .known
        .keys()
        .filter(|digest| !tagged.contains(*digest));
    let released = released(untagged.collect());
    let mut kept: HashSet<&Digest> = HashSet::new();
    let mut to_follow: Vec<&Digest> = graph
        .known
        .keys()
        .filter(|digest| !released.contains(*digest))
        .collect();
    while let Some(digest) = to_follow.pop() {
        if graph.known.contains_key(digest) && kept.insert(digest) {
            to_follow.extend(graph.dependents(digest));
            to_follow.extend(graph.subject(digest));
        }
    }
    let mut seen = kept.clone();
    let mut going = Vec::new();
    for digest in graph.known.keys().filter(|digest| !kept.contains(*digest)) {
        push_after_dependents(graph, digest, &mut seen, &mut going);
    }
    going.reverse();
    going
}

/// Appends what was not seen yet, dependents first. Those of a few odd manifests go round in a circle; then somebody is first.
fn push_after_dependents<'a>(
    graph: &'a Graph,
    root: &'a Digest,
    seen: &mut HashSet<&'a Digest>,
    going: &mut Vec<Digest>,
) {
    let mut stack = vec![(root, false)];
    while let Some((digest, are_dependents_done)) = stack.pop() {
        if are_dependents_done {
            going.push(digest.clone());
        } else if graph.known.contains_key(digest) && seen.insert(digest) {
            stack.push((digest, true));
            stack.extend(graph.dependents(digest).map(|dependent| (dependent, false)));
        }
    }
}

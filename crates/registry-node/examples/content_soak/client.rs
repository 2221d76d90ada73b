//! One client: it pushes images of its own under tags of its own, so it knows what must be there; their layers are everybody's.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use registry_node::content::{BodyError, Content, ContentError, OCI_MANIFEST, Repository};
use registry_node::names::{Digest, DigestAlgorithm, Reference, RepositoryName, Tag};
use serde_json::json;
use uuid::Uuid;

use crate::Problem;
use crate::world::{Random, Source, World, count, digest_of};

/// Images that a client keeps at most: pushes beyond that delete one first.
const IMAGES_MAXIMUM: usize = 12;
const PRINCIPAL: &str = "soak";

/// An image, or what is about one, that was acknowledged and not deleted.
struct Image {
    registry: Uuid,
    repository: usize,
    /// `None` once the tag was deleted.
    tag: Option<Tag>,
    digest: Digest,
    manifest: Bytes,
    blobs: Vec<Source>,
    /// What it is about.
    subject: Option<Digest>,
}

pub(crate) struct Client {
    world: Arc<World>,
    number: u64,
    random: Random,
    made: u64,
    images: Vec<Image>,
}

impl Client {
    pub(crate) fn new(world: Arc<World>, number: u64, seed: u64) -> Self {
        Self {
            world,
            number,
            random: Random(seed << 20 | number),
            made: 0,
            images: Vec::new(),
        }
    }

    /// All contents of its images, by registry.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (Uuid, Source)> {
        let of = |image: &Image| -> Vec<_> {
            let blobs = image.blobs.iter();
            blobs.map(|blob| (image.registry, *blob)).collect()
        };
        self.images.iter().flat_map(of)
    }

    pub(crate) async fn step(&mut self) -> Result<(), Problem> {
        let chance = self.random.below(100);
        match self.random.below(self.images.len().max(1)) {
            _ if self.images.is_empty() => self.push(None).await,
            _ if chance < 30 && self.images.len() < IMAGES_MAXIMUM => self.push(None).await,
            of if chance < 40 && self.images.len() < IMAGES_MAXIMUM => self.push(Some(of)).await,
            which if chance < 80 => self.pull(which).await,
            which if chance < 85 => self.delete_tag(which).await,
            which => self.delete(which).await,
        }
    }

    /// Pushes an image, or something about one that is there.
    async fn push(&mut self, about: Option<usize>) -> Result<(), Problem> {
        let about = about.map(|of| &self.images[of]);
        let (registry, repository, subject) = match about {
            Some(image) => (image.registry, image.repository, Some(image.digest.clone())),
            None => (
                self.world.registries[self.random.below(2)],
                self.random.below(self.world.repositories.len()),
                None,
            ),
        };
        self.made += 1;
        let mut blobs = vec![Source::unique(self.number, self.made)];
        for _ in 0..=self.random.below(3) {
            let layer = Source::shared(self.random.next());
            if !blobs.contains(&layer) {
                blobs.push(layer);
            }
        }
        for blob in &blobs {
            self.provide(registry, repository, *blob).await?;
        }
        let manifest = manifest_of(&blobs, subject.as_ref());
        let tag: Tag = format!("c{}-{}", self.number, self.made).parse()?;
        let node = self.any_node();
        let world = Arc::clone(&self.world);
        let name = &world.repositories[repository];
        let by = Reference::Tag(tag.clone());
        let pushed = node
            .repository(registry, name)
            .put_manifest(&by, Some(OCI_MANIFEST), manifest.clone(), PRINCIPAL)
            .await;
        match pushed {
            Err(ContentError::ReferencesMissing { missing }) => {
                world.violation(&format!(
                    "{name}: blobs that were there a moment ago are not known: {missing:?}"
                ));
                return Ok(());
            }
            pushed => pushed?,
        };
        count(match subject {
            None => &world.counts.pushes,
            Some(_) => &world.counts.referrers,
        });
        self.images.push(Image {
            registry,
            repository,
            tag: Some(tag),
            digest: digest_of(&manifest),
            manifest,
            blobs,
            subject,
        });
        Ok(())
    }

    /// Has a blob be in a repository: it is there, or another repository has it, or it is uploaded, its steps at any node.
    async fn provide(
        &mut self,
        registry: Uuid,
        repository: usize,
        blob: Source,
    ) -> Result<(), Problem> {
        let world = Arc::clone(&self.world);
        let digest = blob.digest();
        let name = &world.repositories[repository];
        let asked = self.any_node();
        let asked = asked.repository(registry, name);
        if asked.promised_blob(&digest).await?.is_some() {
            count(&world.counts.blobs_promised);
            return Ok(());
        }
        let from = &world.repositories[self.random.below(world.repositories.len())];
        let mounting = self.any_node();
        let mounting = mounting.repository(registry, name);
        if from != name && mounting.mount_blob(&digest, from).await? {
            count(&world.counts.blobs_mounted);
            return Ok(());
        }
        count(&world.counts.blobs_pushed);
        let bytes = blob.bytes();
        if self.random.below(2) == 0 {
            let node = self.any_node();
            let node = node.repository(registry, name);
            node.put_blob(&digest, body(bytes)).await?;
            return Ok(());
        }
        let [begins, goes_on, ends] = [self.any_node(), self.any_node(), self.any_node()];
        let cut = self.random.below(bytes.len());
        let upload = begins
            .repository(registry, name)
            .start_upload(DigestAlgorithm::Sha256, PRINCIPAL)
            .await?;
        goes_on
            .repository(registry, name)
            .append_to_upload(upload.id, Some(0), body(bytes.slice(..cut)))
            .await?;
        ends.repository(registry, name)
            .finish_upload(
                upload.id,
                &digest,
                Some(cut as u64),
                body(bytes.slice(cut..)),
            )
            .await?;
        Ok(())
    }

    /// Pulls an image of its own, and holds every byte against what was pushed.
    async fn pull(&mut self, which: usize) -> Result<(), Problem> {
        let node = self.any_node();
        count(&self.world.counts.pulls);
        let image = &self.images[which];
        let name = &self.world.repositories[image.repository];
        let repository = node.repository(image.registry, name);
        let by = match &image.tag {
            Some(tag) => Reference::Tag(tag.clone()),
            None => Reference::Digest(image.digest.clone()),
        };
        let lost = |what: String| self.world.violation(&format!("{name}:{by}: {what}"));
        match repository.manifest(&by).await? {
            Some(manifest) if manifest.bytes == image.manifest => {}
            Some(_) => lost("the manifest differs".to_owned()),
            None => lost("the manifest is not there".to_owned()),
        }
        for blob in &image.blobs {
            match read(&repository, &blob.digest()).await? {
                Some(bytes) if bytes == blob.bytes() => {}
                Some(bytes) => lost(format!("a blob differs: {} bytes", bytes.len())),
                None => lost(format!("blob {} is not known", blob.digest())),
            }
        }
        if let Some(subject) = &image.subject {
            let listed = repository
                .referrers(subject, None, None, usize::MAX)
                .await?;
            if !listed.entries.iter().any(|it| it.digest == image.digest) {
                lost(format!("it is not among the referrers of {subject}"));
            }
        }
        Ok(())
    }

    async fn delete_tag(&mut self, which: usize) -> Result<(), Problem> {
        let Some(tag) = self.images[which].tag.take() else {
            return Ok(());
        };
        count(&self.world.counts.deletions);
        let node = self.any_node();
        self.repository_of(&node, which).delete_tag(&tag).await?;
        Ok(())
    }

    /// Deletes an image; then it is not there any more, whichever node is asked.
    async fn delete(&mut self, which: usize) -> Result<(), Problem> {
        count(&self.world.counts.deletions);
        let [node, other] = [self.any_node(), self.any_node()];
        let digest = self.images[which].digest.clone();
        self.repository_of(&node, which)
            .delete_manifest(&digest)
            .await?;
        let gone = Reference::Digest(digest);
        if self
            .repository_of(&other, which)
            .manifest(&gone)
            .await?
            .is_some()
        {
            self.world
                .violation(&format!("{gone} is there though it was deleted"));
        }
        self.images.swap_remove(which);
        Ok(())
    }

    /// Pulls all that it has; how many images these are.
    pub(crate) async fn check_everything(&mut self) -> Result<usize, Problem> {
        for which in 0..self.images.len() {
            self.pull(which).await?;
        }
        Ok(self.images.len())
    }

    fn repository_of<'a>(&'a self, node: &'a Content, which: usize) -> Repository<'a> {
        let image = &self.images[which];
        let name: &RepositoryName = &self.world.repositories[image.repository];
        node.repository(image.registry, name)
    }

    fn any_node(&mut self) -> Content {
        self.world.nodes[self.random.below(2)].clone()
    }
}

fn body(bytes: Bytes) -> impl futures_util::Stream<Item = Result<Bytes, BodyError>> + Unpin {
    let pieces: Vec<Bytes> = match bytes.is_empty() {
        true => Vec::new(),
        false => vec![bytes],
    };
    stream::iter(pieces.into_iter().map(Ok))
}

async fn read(repository: &Repository<'_>, digest: &Digest) -> Result<Option<Bytes>, Problem> {
    let Some(blob) = repository.blob(digest).await? else {
        return Ok(None);
    };
    let bytes = repository.read_blob(&blob, 0..blob.size()).await?;
    let blocks: Vec<Bytes> = bytes.boxed().try_collect().await?;
    Ok(Some(Bytes::from(blocks.concat())))
}

fn manifest_of(blobs: &[Source], subject: Option<&Digest>) -> Bytes {
    let descriptor = |media_type: &str, blob: &Source| json!({"mediaType": media_type, "digest": blob.digest().as_str(), "size": blob.bytes().len()});
    let layers: Vec<_> = blobs
        .iter()
        .skip(1)
        .map(|blob| descriptor("application/vnd.oci.image.layer.v1.tar", blob))
        .collect();
    let config = descriptor("application/vnd.oci.image.config.v1+json", &blobs[0]);
    let mut manifest =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    if let Some(subject) = subject {
        manifest["subject"] =
            json!({"mediaType": OCI_MANIFEST, "digest": subject.as_str(), "size": 1});
    }
    Bytes::from(manifest.to_string())
}

//! Images, and how docker pushes and pulls them.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::client::{Client, Pieces, Problem};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const BYTES: &str = "application/octet-stream";

/// What a large blob repeats: long enough to cost no more than one piece of that size.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// A blob that nobody has yet.
pub(crate) struct Blob {
    digest: String,
    length: u64,
    content: Pieces,
}

impl Blob {
    /// Its first bytes are random, and make all of it like no other.
    pub(crate) fn random(length: u64) -> Self {
        let head: Vec<u8> = Uuid::new_v4().to_string().into_bytes();
        let piece: Vec<u8> = (0..PIECE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        let content = Pieces::repeated(Bytes::from(head), Bytes::from(piece), length);
        let (mut hasher, mut unread) = (Sha256::new(), content.clone());
        while let Some(bytes) = unread.next() {
            hasher.update(&bytes);
        }
        Self {
            digest: digest_of(hasher),
            length,
            content,
        }
    }

    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }
}

fn digest_of(hasher: Sha256) -> String {
    let hash = hasher.finalize();
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The part of a manifest that a pull needs.
#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

impl Client {
    /// Uploads a blob: POST, one PATCH with all of it, PUT.
    pub(crate) async fn upload(&mut self, repository: &str, blob: &Blob) -> Result<(), Problem> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let accepted = [StatusCode::ACCEPTED];
        let nothing = Pieces::default;
        let begun = self
            .send(Method::POST, &path, "", nothing(), &accepted, false)
            .await?;
        let path = begun.location()?;
        let content = blob.content.clone();
        let sent = self
            .send(Method::PATCH, &path, BYTES, content, &accepted, false)
            .await?;
        let path = sent.location()?;
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={}", blob.digest);
        let created = [StatusCode::CREATED];
        self.send(Method::PUT, &path, "", nothing(), &created, false)
            .await?;
        Ok(())
    }

    /// Pushes an image: asks for each blob, uploads it, then puts the manifest.
    pub(crate) async fn push(
        &mut self,
        repository: &str,
        tag: &str,
        blobs: &[Blob],
    ) -> Result<(), Problem> {
        for blob in blobs {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            let missing = [StatusCode::NOT_FOUND];
            self.send(Method::HEAD, &path, "", Pieces::default(), &missing, false)
                .await?;
            self.upload(repository, blob).await?;
        }
        let descriptor = |media_type: &str, blob: &Blob| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.length});
        let (config, layers) = blobs.split_first().ok_or("an image has a configuration")?;
        let layers: Vec<_> = layers.iter().map(|blob| descriptor(LAYER, blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config), "layers": layers,
        });
        self.put_manifest(repository, tag, MANIFEST, &manifest)
            .await
    }

    async fn put_manifest(
        &mut self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: &serde_json::Value,
    ) -> Result<(), Problem> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let body = Pieces::whole(Bytes::from(manifest.to_string()));
        let created = [StatusCode::CREATED];
        self.send(Method::PUT, &path, media_type, body, &created, false)
            .await?;
        Ok(())
    }

    /// Puts a manifest that refers to nothing.
    pub(crate) async fn put_empty_index(
        &mut self,
        repository: &str,
        tag: &str,
    ) -> Result<(), Problem> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
        self.put_manifest(repository, tag, INDEX, &index).await
    }

    /// Pulls an image: the manifest, then what it names.
    pub(crate) async fn pull(&mut self, repository: &str, tag: &str) -> Result<(), Problem> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let body = Pieces::default();
        let answer = self
            .send(Method::GET, &path, "", body, &[StatusCode::OK], true)
            .await?;
        let manifest: Manifest = serde_json::from_slice(&answer.body)?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            let answer = self.get(&path, false).await?;
            if answer.length != blob.size {
                return Err(format!("{path}: {} of {} bytes", answer.length, blob.size).into());
            }
        }
        Ok(())
    }
}

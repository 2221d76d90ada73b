//! Content of many blobs, for measurements: `fill` makes it in a content directory, quickly and without asking the disk for durability;
//! `collect` collects it as a node does, pass after pass, until it is ended, and prints a line of JSON after each.

#![allow(
    clippy::print_stdout,
    reason = "the line on standard output is the result"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use clap::{Parser, Subcommand};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use registry_node::content::record_store::{
    Durability, ListedRecord, LocalRecords, ReadError, RecordStore, StoredRecord, Version,
    WriteError,
};
use registry_node::content::{CollectOptions, Content, OCI_MANIFEST, Sources};
use registry_node::names::{Digest, Reference, RepositoryName};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

const AT_ONCE: usize = 16;
const BLOBS_OF_AN_IMAGE: usize = 10;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
    /// Directory of a region's content
    #[arg(long, global = true, default_value = ".")]
    content_dir: PathBuf,
    /// Which registry
    #[arg(long, global = true, default_value_t)]
    registry: Uuid,
}

#[derive(Subcommand)]
enum Work {
    /// Adds images of ten small blobs each
    Fill {
        /// How many blobs
        #[arg(long)]
        blobs: usize,
    },
    /// Collects again and again
    Collect,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    match arguments.work {
        Work::Fill { blobs } => fill(&arguments, blobs).await,
        Work::Collect => collect(&arguments).await,
    }
}

async fn fill(arguments: &Arguments, blobs: usize) -> Result<(), Failure> {
    let sources = Sources::of_the_system();
    let records = LocalRecords::open(&arguments.content_dir, sources.clone())?;
    let data = LocalFileSystem::new_with_prefix(&arguments.content_dir)?;
    let format = std::fs::read(arguments.content_dir.join("_format"))?;
    let region = serde_json::from_slice::<serde_json::Value>(&format)?["region"].clone();
    let region = region.as_str().unwrap_or_default();
    let content = Content::open_on(Arc::new(Hasty(records)), Arc::new(data), region, sources);
    let content = content.await?;
    let name: RepositoryName = "bench/filled".parse()?;
    let registry = arguments.registry;
    stream::iter(0..blobs.div_ceil(BLOBS_OF_AN_IMAGE))
        .map(|image| {
            let (content, name) = (&content, &name);
            async move { push(content, registry, name, image).await }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    println!("{}", json!({ "blobs": blobs }));
    Ok(())
}

async fn push(
    content: &Content,
    registry: Uuid,
    name: &RepositoryName,
    image: usize,
) -> Result<(), Failure> {
    let repository = content.repository(registry, name);
    let mut layers = Vec::new();
    for layer in 0..BLOBS_OF_AN_IMAGE {
        let bytes = Bytes::from(format!("layer {layer} of image {image}"));
        let hash = Sha256::digest(&bytes);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let digest: Digest = format!("sha256:{hex}").parse()?;
        let size = bytes.len();
        repository
            .put_blob(&digest, stream::iter([Ok(bytes)]))
            .await?;
        layers.push(json!({"mediaType": "application/octet-stream", "digest": digest.as_str(), "size": size}));
    }
    let config = layers[0].clone();
    let manifest =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    let reference: Reference = format!("v{image}").parse()?;
    let bytes = Bytes::from(manifest.to_string());
    repository
        .put_manifest(&reference, Some(OCI_MANIFEST), bytes, "bench")
        .await?;
    Ok(())
}

async fn collect(arguments: &Arguments) -> Result<(), Failure> {
    let sources = Sources::of_the_system();
    let content = Content::open_existing(&arguments.content_dir, false, sources).await?;
    let options = CollectOptions::default();
    loop {
        let began = Instant::now();
        let report = content.collect(arguments.registry, &options).await?;
        println!(
            "{}",
            json!({"seconds": began.elapsed().as_secs_f64(), "blobs": report.blobs, "removed": report.removed.blobs})
        );
    }
}

/// Records that are not durable when a call returns.
struct Hasty(LocalRecords);

#[async_trait]
impl RecordStore for Hasty {
    async fn get(&self, key: &str) -> Result<Option<StoredRecord>, ReadError> {
        self.0.get(key).await
    }

    async fn version(&self, key: &str) -> Result<Option<Version>, ReadError> {
        self.0.version(key).await
    }

    async fn create(&self, key: &str, bytes: Bytes, _: Durability) -> Result<Version, WriteError> {
        self.0.create(key, bytes, Durability::Eventually).await
    }

    async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        version: &Version,
        _: Durability,
    ) -> Result<Version, WriteError> {
        self.0
            .replace(key, bytes, version, Durability::Eventually)
            .await
    }

    async fn remove(&self, key: &str, version: &Version, _: Durability) -> Result<(), WriteError> {
        self.0.remove(key, version, Durability::Eventually).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedRecord>, ReadError> {
        self.0.list(prefix, after, limit).await
    }
}

//! A directory as a content root: whose it is, and what is found in it after a bad end.

use std::os::unix::fs::PermissionsExt;

use registry_node::content::{Content, ContentError, OpenError, OpenOptions, Sources};
use registry_node::names::{DigestAlgorithm, RepositoryName};
use tempfile::TempDir;

use super::harness::{REGISTRY, Registry, files_below, open};

async fn open_for(directory: &TempDir, region: &str) -> Result<Content, OpenError> {
    let options = OpenOptions {
        region: region.to_owned(),
        single_node: false,
    };
    Content::open(directory.path(), options, Sources::of_the_system()).await
}

#[tokio::test]
async fn a_root_belongs_to_one_region() {
    let directory = TempDir::new().expect("a directory");
    open_for(&directory, "westus").await.expect("a fresh root");
    open_for(&directory, "westus")
        .await
        .expect("the same region");
    let refused = open_for(&directory, "eastus").await.err();
    let refused = refused.expect("another region");
    assert!(refused.to_string().contains("westus") && refused.to_string().contains("eastus"));
}

#[tokio::test]
async fn a_root_of_another_layout_is_refused() {
    let directory = TempDir::new().expect("a directory");
    open_for(&directory, "westus").await.expect("a fresh root");
    let format = directory.path().join("_format");
    let text = std::fs::read_to_string(&format).expect("read");
    std::fs::write(&format, text.replace("\"layout\":1", "\"layout\":2")).expect("written");
    let refused = open_for(&directory, "westus").await.err();
    assert!(matches!(
        refused,
        Some(OpenError::OtherLayout { found: 2, known: 1 })
    ));
    std::fs::write(&format, "").expect("written");
    let refused = open_for(&directory, "westus").await.err();
    assert!(matches!(refused, Some(OpenError::Format(_))));
}

#[tokio::test]
async fn a_deleted_registry_is_marked_once() {
    let directory = TempDir::new().expect("a directory");
    let content = open_for(&directory, "westus").await.expect("a fresh root");
    let mark = directory.path().join(format!("r/{REGISTRY}/deleted"));
    assert!(!mark.exists());
    content
        .mark_registry_deleted(REGISTRY)
        .await
        .expect("marked");
    let first = std::fs::read_to_string(&mark).expect("a mark");
    assert!(first.contains("\"deleted\":\"20"), "{first}");
    // Another node, or the same one again: the time of the first counts.
    let other = open_for(&directory, "westus").await.expect("the same root");
    other.mark_registry_deleted(REGISTRY).await.expect("marked");
    assert_eq!(std::fs::read_to_string(&mark).expect("a mark"), first);
}

#[tokio::test]
async fn a_root_that_is_made_is_its_owners_alone() {
    let directory = TempDir::new().expect("a directory");
    let root = directory.path().join("new/root");
    open(&root).await;
    let mode = std::fs::metadata(&root).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_file_is_no_root() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("written");
    let options = OpenOptions {
        region: "westus".to_owned(),
        single_node: false,
    };
    let refused = Content::open(&file, options, Sources::of_the_system()).await;
    assert!(matches!(refused.err(), Some(OpenError::Directory { .. })));
}

#[tokio::test]
async fn opening_leaves_nothing_half_written() {
    let directory = TempDir::new().expect("a directory");
    open(directory.path()).await;
    let staged = directory.path().join("_staged");
    assert_eq!(files_below(&staged), Vec::<String>::new());
    assert_eq!(
        files_below(&directory.path().join("_probe")),
        Vec::<String>::new()
    );
    let old = staged.join("old");
    std::fs::write(&old, "").expect("written");
    let two_days = std::time::Duration::from_secs(2 * 24 * 60 * 60);
    let file = std::fs::File::options()
        .write(true)
        .open(&old)
        .expect("opened");
    let now = (service::clock::of_the_system())();
    file.set_modified((now - two_days).into()).expect("set");
    std::fs::write(staged.join("young"), "").expect("written");
    open(directory.path()).await;
    assert_eq!(
        files_below(&staged),
        [staged.join("young").display().to_string()]
    );
}

#[tokio::test]
async fn a_session_damaged_by_a_loss_of_power_is_unknown() {
    let directory = TempDir::new().expect("a directory");
    let content = open(directory.path()).await;
    let name: RepositoryName = "app".parse().expect("a name");
    let repository = content.repository(REGISTRY, &name);
    let started = repository
        .start_upload(DigestAlgorithm::Sha256, "somebody")
        .await;
    let id = started.expect("started").id;
    let file = directory.path().join(format!("r/{REGISTRY}/up/{id}"));
    std::fs::write(file, "").expect("written");
    let found = repository.upload(id).await;
    assert!(matches!(found, Err(ContentError::UploadUnknown(_))));
}

#[actix_web::test]
async fn a_new_entry_is_listed_at_once() {
    let registry = Registry::start().await;
    for number in 0..30 {
        registry
            .push_image("app", &format!("v{number:02}"), b"one")
            .await;
        let tags = registry.get("/v2/app/tags/list").await.json();
        assert_eq!(tags["tags"].as_array().expect("tags").len(), number + 1);
    }
}

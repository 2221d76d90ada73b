//! A node towards its control plane, over real TLS and WebSockets: joining, following, and what it
//! does when there is none.

#[path = "../support/mod.rs"]
mod support;

mod control_plane;
mod renewal;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use config_documents::{Checksum, ControlPlaneMessage, NodeMessage, Region, Revision, forms};
use control_plane::TestControlPlane;
use credentials::{Secret, SecretKind, SigningKey, SystemRandomness};
use registry_node::config::{
    BootClock, Configuration, Connection, ControlPlane, Follower, Identities, Progress, Standing,
    enrolment::{self, EnrolmentError},
    wait_for_change, wait_until_servable,
};
use service::{clock, shutdown::Shutdown};
use support::*;

/// A node's configuration, followed in the background until it is dropped.
struct Following {
    configuration: Arc<Configuration>,
    identities: Arc<Identities>,
    shutdown: Shutdown,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Following {
    fn start(directory: &Path, control_plane: ControlPlane, credential: Secret) -> Self {
        let key = SigningKey::generate("kid");
        let identities = Identities::in_memory(control_plane::NODE_ID, region(), credential, key);
        Self::start_as(directory, control_plane, Arc::new(identities))
    }

    fn start_as(
        directory: &Path,
        control_plane: ControlPlane,
        identities: Arc<Identities>,
    ) -> Self {
        Self::start_with_bound(directory, control_plane, identities, None)
    }

    fn start_with_bound(
        directory: &Path,
        control_plane: ControlPlane,
        identities: Arc<Identities>,
        bound: Option<Duration>,
    ) -> Self {
        let standing = Standing::open(
            directory,
            BootClock::of_the_system(),
            clock::of_the_system(),
            bound,
        );
        let feed = Feed::with_standing(directory, standing.expect("a directory"));
        let shutdown = Shutdown::new();
        let follower = Follower {
            control_plane,
            identities: Arc::clone(&identities),
            address: "node:5443".to_owned(),
            configuration: Arc::clone(&feed.configuration),
            applier: feed.applier,
            clock: clock::of_the_system(),
            randomness: Arc::new(SystemRandomness),
            shutdown: shutdown.clone(),
        };
        let task = tokio::spawn(follower.run());
        Self {
            configuration: feed.configuration,
            identities,
            shutdown,
            task: Some(task),
        }
    }

    /// Ends it, and gives back its directory.
    async fn stop(mut self) {
        self.shutdown.request();
        let task = self.task.take().expect("it is taken once");
        task.await.expect("it does not panic");
    }

    async fn until(&self, is_so: impl Fn(&Progress) -> bool) {
        let mut progress = self.configuration.subscribe();
        while !is_so(&progress.borrow_and_update()) {
            wait_for_change(&mut progress).await;
        }
    }

    /// Whether the node serves within a moment, and else what it says.
    async fn opens(&self, timeout: Duration) -> Result<(), String> {
        let said = parking_lot::Mutex::new(String::new());
        let (configuration, identities) = (&self.configuration, &self.identities);
        let clock = clock::of_the_system();
        let waiting = wait_until_servable(configuration, identities, timeout, &clock, |why| {
            *said.lock() = why.to_owned();
        });
        let opened = tokio::time::timeout(timeout * 4, waiting).await;
        opened.map_err(|_| said.into_inner())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

async fn join(
    control_plane: &TestControlPlane,
    directory: &Path,
) -> Result<Identities, EnrolmentError> {
    enrolment::join(
        &control_plane.client(),
        &control_plane.join_token,
        &region(),
        "node:5443",
        SigningKey::generate("kid"),
        directory,
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_once_and_keeps_what_it_got_for_its_owner_only() {
    let control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    assert!(
        enrolment::load(directory.path(), &region())
            .expect("nothing is no fault")
            .is_none()
    );
    let joined = join(&control_plane, directory.path()).await.expect("joins");
    let request = control_plane.joined().expect("a request came");
    assert_eq!(request.region, region());
    assert_eq!(request.address, "node:5443");
    let joined = joined.in_use();
    assert_eq!(request.public_key, joined.signing_key.public());
    let file = directory.path().join("credential.json");
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = enrolment::load(directory.path(), &region())
        .expect("readable")
        .expect("there");
    assert_eq!(again.node_id(), control_plane::NODE_ID);
    let again = again.in_use();
    assert_eq!(again.credential.expose(), control_plane.credential.expose());
    assert_eq!(again.signing_key.public(), joined.signing_key.public());
    let elsewhere = enrolment::load(directory.path(), &Region("eastus".to_owned()));
    assert!(matches!(elsewhere, Err(EnrolmentError::Region { .. })));
    let text = fs::read_to_string(&file).expect("text");
    fs::write(&file, &text[..text.len() / 2]).expect("write");
    let damaged = enrolment::load(directory.path(), &region());
    assert!(matches!(damaged, Err(EnrolmentError::Damaged { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_join_is_final_and_an_unanswered_one_is_not() {
    let control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    join(&control_plane, directory.path())
        .await
        .expect("the token is good once");
    let Err(EnrolmentError::Join(error)) = join(&control_plane, directory.path()).await else {
        panic!("the token was used up");
    };
    assert!(error.is_refusal(), "{error}");
    assert!(
        error.to_string().contains("The join token was used."),
        "{error}"
    );
    control_plane.stop().await;
    let Err(EnrolmentError::Join(error)) = join(&control_plane, directory.path()).await else {
        panic!("nobody is there");
    };
    assert!(!error.is_refusal(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_hello_applies_and_answers() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let credential = control_plane.credential.clone();
    let node = Following::start(directory.path(), control_plane.client(), credential);
    let NodeMessage::Hello {
        node_id,
        region,
        forms: said,
        epoch,
        revision,
        address,
        staleness_bound_seconds: None,
    } = control_plane.next().await
    else {
        panic!("the first message is hello");
    };
    assert_eq!(node_id, control_plane::NODE_ID);
    assert_eq!(region, support::region());
    assert_eq!(said, forms());
    assert_eq!((epoch, revision.0), (None, 0));
    assert_eq!(address, "node:5443");
    let documents = vec![config_documents::Document::Registry(registry(
        1,
        "Contoso",
        5443,
        &[],
    ))];
    control_plane.send_snapshot(&documents);
    let NodeMessage::Applied {
        sequence: 1,
        revision,
        ..
    } = control_plane.next().await
    else {
        panic!("the mark is answered");
    };
    assert_eq!(revision.0, 1);
    assert!(
        node.configuration
            .index()
            .registry_by_host("contoso.registry.localhost")
            .is_some()
    );
    assert_eq!(
        node.configuration.progress().connection,
        Connection::Connected
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_opened_again_where_it_ended() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let credential = control_plane.credential.clone();
    let node = Following::start(directory.path(), control_plane.client(), credential);
    assert!(matches!(
        control_plane.next().await,
        NodeMessage::Hello { .. }
    ));
    control_plane.send_snapshot(&roles());
    assert!(matches!(
        control_plane.next().await,
        NodeMessage::Applied { .. }
    ));
    control_plane.close();
    node.until(|progress| matches!(progress.connection, Connection::Unreachable(_)))
        .await;
    let NodeMessage::Hello {
        epoch, revision, ..
    } = control_plane.next().await
    else {
        panic!("the node comes back");
    };
    assert_eq!(epoch, Some(control_plane::EPOCH));
    assert_eq!(revision.0, 1);
    control_plane.send_snapshot(&roles());
    let answer = control_plane.next().await;
    assert!(matches!(answer, NodeMessage::Applied { sequence: 1, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_node_serves_when_a_mark_is_applied_and_not_when_it_arrives() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let credential = control_plane.credential.clone();
    let key = SigningKey::generate("kid");
    let identities = Identities::in_memory(control_plane::NODE_ID, region(), credential, key);
    let node = Following::start_with_bound(
        directory.path(),
        control_plane.client(),
        Arc::new(identities),
        Some(Duration::from_secs(60)),
    );
    assert!(matches!(
        control_plane.next().await,
        NodeMessage::Hello { .. }
    ));
    control_plane.send_snapshot(&[]);
    let answer = control_plane.next().await;
    assert!(matches!(answer, NodeMessage::Applied { sequence: 1, .. }));
    let is_fenced = || node.configuration.standing().refusal().is_some();
    assert!(is_fenced(), "no answer is known to have been heard");
    let mark = |checksum| ControlPlaneMessage::Mark {
        epoch: control_plane::EPOCH,
        revision: Revision(1),
        time: now(),
        checksum,
        heard: 1,
    };
    control_plane.send(&mark(Checksum(5)));
    let answer = control_plane.next().await;
    assert!(matches!(answer, NodeMessage::SnapshotWanted { .. }));
    assert!(is_fenced(), "what it has is not what the mark says");
    control_plane.send_snapshot(&[]);
    let answer = control_plane.next().await;
    assert!(matches!(answer, NodeMessage::Applied { sequence: 2, .. }));
    control_plane.send(&mark(Checksum::default()));
    let answer = control_plane.next().await;
    assert!(matches!(answer, NodeMessage::Applied { sequence: 3, .. }));
    assert!(!is_fenced());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_understood_ends_the_stream_and_not_the_node() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let credential = control_plane.credential.clone();
    let _node = Following::start(directory.path(), control_plane.client(), credential);
    assert!(matches!(
        control_plane.next().await,
        NodeMessage::Hello { .. }
    ));
    control_plane.send_text("{\"type\":\"unheard-of\"}");
    assert!(matches!(
        control_plane.next().await,
        NodeMessage::Hello { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_of_another_authority_learns_nothing() {
    let control_plane = TestControlPlane::start().await;
    let impostor = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let client = ControlPlane::new(&impostor.url(), Some(&control_plane.ca_file())).expect("a URL");
    let credential = control_plane.credential.clone();
    let node = Following::start(directory.path(), client, credential);
    node.until(|progress| matches!(progress.connection, Connection::Unreachable(_)))
        .await;
    assert!(impostor.told_nothing());
    assert!(control_plane.told_nothing());
    control_plane.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_gets_no_join_token() {
    let control_plane = TestControlPlane::start().await;
    let impostor = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let client = ControlPlane::new(&impostor.url(), Some(&control_plane.ca_file())).expect("a URL");
    let joined = enrolment::join(
        &client,
        &impostor.join_token,
        &region(),
        "node:5443",
        SigningKey::generate("kid"),
        directory.path(),
    )
    .await;
    let Err(EnrolmentError::Join(error)) = joined else {
        panic!("an impostor is not joined");
    };
    assert!(!error.is_refusal(), "{error}");
    assert!(impostor.joined().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_known_serves_from_its_copy_and_without_a_copy_it_says_so() {
    let control_plane = TestControlPlane::start().await;
    for has_copy in [true, false] {
        let directory = tempfile::tempdir().expect("a directory");
        if has_copy {
            drop(Feed::with(directory.path(), roles()));
        }
        let other = secret(SecretKind::NodeCredential);
        let node = Following::start(directory.path(), control_plane.client(), other);
        node.until(|progress| matches!(progress.connection, Connection::Refused(_)))
            .await;
        match node.opens(Duration::from_millis(200)).await {
            Ok(()) => assert!(has_copy),
            Err(said) => assert!(!has_copy && said.contains("refuses this node"), "{said}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_opens_when_the_head_is_applied_with_its_own_key() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let credential = control_plane.credential.clone();
    let node = Following::start(directory.path(), control_plane.client(), credential);
    assert!(matches!(
        control_plane.next().await,
        NodeMessage::Hello { .. }
    ));
    control_plane.send_snapshot(&roles());
    assert!(matches!(
        control_plane.next().await,
        NodeMessage::Applied { .. }
    ));
    let said = node
        .opens(Duration::from_millis(100))
        .await
        .expect_err("closed");
    assert!(said.contains("signing key"), "{said}");
    let mut documents = roles();
    documents.push(signing_key(SigningKey::generate("kid").public()));
    control_plane.send_snapshot(&documents);
    assert!(matches!(
        control_plane.next().await,
        NodeMessage::Applied { .. }
    ));
    node.opens(Duration::from_secs(5)).await.expect("open");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_control_plane_a_node_serves_from_its_copy_and_without_a_copy_it_waits() {
    let control_plane = TestControlPlane::start().await;
    control_plane.stop().await;
    for has_copy in [true, false] {
        let directory = tempfile::tempdir().expect("a directory");
        if has_copy {
            drop(Feed::with(directory.path(), roles()));
        }
        let credential = control_plane.credential.clone();
        let node = Following::start(directory.path(), control_plane.client(), credential);
        let opened = node.opens(Duration::from_millis(200)).await;
        match opened {
            Ok(()) => assert!(has_copy),
            Err(said) => assert!(!has_copy && said.contains("no copy"), "{said}"),
        }
        let progress = node.configuration.progress();
        assert_eq!(progress.age(now()).is_some(), has_copy);
    }
}

#[test]
fn only_a_plain_https_url_is_a_control_plane() {
    service::install_crypto_provider();
    let directory = tempfile::tempdir().expect("a directory");
    let certified =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a key");
    let ca_file = directory.path().join("ca.pem");
    fs::write(&ca_file, certified.cert.pem()).expect("write");
    let parse = |url: &str| ControlPlane::new(url, Some(&ca_file));
    for url in [
        "https://localhost:8443",
        "https://[::1]:8443/",
        "https://control.example/base",
    ] {
        assert!(parse(url).is_ok(), "{url}");
    }
    for url in [
        "",
        "localhost:8443",
        "http://localhost",
        "https://user@x",
        "https://x?y",
        "https://",
    ] {
        assert!(parse(url).is_err(), "{url}");
    }
}

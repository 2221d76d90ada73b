//! Taking a new credential and key, and being removed.

use std::{path::Path, sync::Arc, time::Duration};

use config_documents::{ControlPlaneMessage, Document, NodeMessage};
use credentials::SigningKey;
use registry_node::config::{BootClock, Identities, Refusal, Standing, enrolment};
use service::clock;

use crate::{Following, control_plane::TestControlPlane, join, support::*};

fn loaded(directory: &Path) -> Arc<Identities> {
    let loaded = enrolment::load(directory, &region()).expect("readable");
    Arc::new(loaded.expect("enrolled"))
}

fn start(control_plane: &TestControlPlane, directory: &Path) -> Following {
    Following::start_as(directory, control_plane.client(), loaded(directory))
}

async fn said_hello(control_plane: &mut TestControlPlane) {
    while !matches!(control_plane.next().await, NodeMessage::Hello { .. }) {}
}

async fn has_applied(control_plane: &mut TestControlPlane, documents: &[Document]) {
    control_plane.send_snapshot(documents);
    while !matches!(control_plane.next().await, NodeMessage::Applied { .. }) {}
}

fn key_in_use(node: &Following) -> Option<String> {
    let index = node.configuration.index();
    let key = node.identities.signing_key(&index);
    key.map(|key| key.kid().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_a_new_credential_and_signs_with_the_new_key_once_others_have_it() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let joined = join(&control_plane, directory.path()).await.expect("joins");
    let old = joined.in_use();
    let node = start(&control_plane, directory.path());
    said_hello(&mut control_plane).await;
    let mut documents = roles();
    documents.push(signing_key(old.signing_key.public()));
    has_applied(&mut control_plane, &documents).await;
    assert_eq!(key_in_use(&node).as_deref(), Some("kid"));

    control_plane.rotations_answer("pending");
    control_plane.send(&ControlPlaneMessage::Rotate);
    let (bearer, request) = control_plane.rotation(0).await;
    assert_eq!(bearer, old.credential.expose());
    assert_ne!(request.credential, old.credential.expose());
    let new_kid = request.public_key.kid().to_owned();
    // It is in the node's own index, but a live node may lack it.
    documents.push(signing_key(request.public_key.clone()));
    has_applied(&mut control_plane, &documents).await;
    assert_eq!(key_in_use(&node).as_deref(), Some("kid"));
    let kept = loaded(directory.path());
    assert_eq!(kept.in_use().credential.expose(), old.credential.expose());

    // Both count once it is answered that the new one does: the node may show it at once.
    control_plane.accept(&[old.credential.expose(), &request.credential]);
    control_plane.rotations_answer("partial");
    let (_, again) = control_plane.rotation(1).await;
    assert_eq!(
        again.credential, request.credential,
        "nothing is made twice"
    );
    said_hello(&mut control_plane).await;
    assert_eq!(control_plane.shown().last(), Some(&request.credential));
    assert_eq!(key_in_use(&node), Some(new_kid.clone()));
    has_applied(&mut control_plane, &documents).await;
    while loaded(directory.path()).in_use().kid() != new_kid {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_died_before_its_new_credential_counted_falls_back_and_begins_no_third_one() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let joined = join(&control_plane, directory.path()).await.expect("joins");
    let old = joined.in_use();
    control_plane.rotations_answer("pending");
    let dies = start(&control_plane, directory.path());
    said_hello(&mut control_plane).await;
    control_plane.send(&ControlPlaneMessage::Rotate);
    control_plane.rotation(0).await;
    dies.stop().await;
    let before = control_plane.rotations().len();
    let _node = start(&control_plane, directory.path());
    said_hello(&mut control_plane).await;
    assert_eq!(
        control_plane.shown().last().map(String::as_str),
        Some(old.credential.expose()),
        "the control plane does not know the new one yet"
    );
    control_plane.send(&ControlPlaneMessage::Rotate);
    let (bearer, request) = control_plane.rotation(before).await;
    assert_eq!(bearer, old.credential.expose());
    assert_eq!(
        request.credential,
        control_plane.rotations()[0].1.credential
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_rotation_counted_without_an_answer_shows_the_new_credential_and_makes_sure() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    join(&control_plane, directory.path()).await.expect("joins");
    control_plane.rotations_answer("pending");
    let dies = start(&control_plane, directory.path());
    said_hello(&mut control_plane).await;
    control_plane.send(&ControlPlaneMessage::Rotate);
    control_plane.rotation(0).await;
    dies.stop().await;
    let (_, request) = control_plane.rotations()[0].clone();
    control_plane.accept(&[&request.credential]);
    control_plane.rotations_answer("complete");
    let before = control_plane.rotations().len();
    let node = start(&control_plane, directory.path());
    said_hello(&mut control_plane).await;
    let mut documents = roles();
    documents.push(signing_key(request.public_key.clone()));
    documents.push(signing_key(SigningKey::generate("another").public()));
    has_applied(&mut control_plane, &documents).await;
    let (bearer, again) = control_plane.rotation(before).await;
    assert_eq!(bearer, request.credential);
    assert_eq!(again.public_key, request.public_key);
    assert_eq!(key_in_use(&node).as_deref(), Some(request.public_key.kid()));
}

fn refusal(directory: &Path) -> Option<Refusal> {
    let standing = Standing::open(
        directory,
        BootClock::of_the_system(),
        clock::of_the_system(),
        None,
    );
    standing.expect("readable").refusal()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_refuses_also_after_a_restart_until_it_is_enrolled_again() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    join(&control_plane, directory.path()).await.expect("joins");
    let node = start(&control_plane, directory.path());
    said_hello(&mut control_plane).await;
    has_applied(&mut control_plane, &roles()).await;
    assert_eq!(node.configuration.standing().refusal(), None);
    control_plane.send(&ControlPlaneMessage::Removed);
    // It goes on asking, with the same words.
    said_hello(&mut control_plane).await;
    for refusal in [
        node.configuration.standing().refusal(),
        refusal(directory.path()),
    ] {
        assert!(
            matches!(refusal, Some(Refusal::Removed { .. })),
            "{refusal:?}"
        );
    }
    node.stop().await;
    let node = start(&control_plane, directory.path());
    said_hello(&mut control_plane).await;
    assert!(
        node.configuration.standing().refusal().is_some(),
        "a hello is no answer"
    );
    has_applied(&mut control_plane, &roles()).await;
    while refusal(directory.path()).is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.configuration.standing().refusal(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_credential_alone_does_not_stop_a_node() {
    let mut control_plane = TestControlPlane::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    join(&control_plane, directory.path()).await.expect("joins");
    let node = start(&control_plane, directory.path());
    said_hello(&mut control_plane).await;
    has_applied(&mut control_plane, &roles()).await;
    control_plane.accept(&[]);
    control_plane.close();
    node.until(|progress| {
        matches!(
            progress.connection,
            registry_node::config::Connection::Refused(_)
        )
    })
    .await;
    assert_eq!(node.configuration.standing().refusal(), None);
}

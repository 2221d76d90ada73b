//! A node that keeps the real stream and does only what the control plane can see: it takes every document, checks that what it holds adds
//! up at each mark, and answers. It indexes nothing, so that many of them leave the processors to the control plane that is measured.

use std::collections::HashMap;

use config_documents::{Checksum, Epoch, NodeMessage, Revision, StoredDocument, forms};
use registry_node::config::{ControlPlane, ControlPlaneError, Identities, Stream};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::Position;

/// Every message in one shape: telling them apart by their tag first would copy each of them once more.
#[derive(Deserialize)]
struct Said {
    r#type: String,
    #[serde(default)]
    epoch: Option<Epoch>,
    #[serde(default)]
    revision: Revision,
    #[serde(default, with = "time::serde::rfc3339::option")]
    time: Option<OffsetDateTime>,
    #[serde(default)]
    checksum: Checksum,
    #[serde(default)]
    documents: Vec<StoredDocument>,
}

/// What a node holds: each document's share of the checksum, by kind and key.
#[derive(Default)]
struct Copy {
    shares: HashMap<(String, String, String), Checksum>,
    sum: Checksum,
    epoch: Option<Epoch>,
}

pub(crate) struct Light {
    pub(crate) control_plane: ControlPlane,
    pub(crate) identities: Identities,
    pub(crate) address: String,
    pub(crate) position: watch::Sender<Position>,
}

impl Light {
    /// Follows until its stream ends, and then begins anew.
    pub(crate) async fn run(self) {
        let mut copy = Copy::default();
        loop {
            let Err(error) = self.follow(&mut copy).await;
            tracing::error!("the stream of a simulated node is down: {error}");
            self.position
                .send_modify(|position| position.is_connected = false);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    async fn follow(&self, copy: &mut Copy) -> Result<std::convert::Infallible, ControlPlaneError> {
        let credential = self.identities.in_use().credential;
        let mut stream = self.control_plane.connect(&credential).await?;
        // It says that it has nothing, so what it had is replaced.
        *copy = Copy::default();
        let hello = NodeMessage::Hello {
            node_id: self.identities.node_id(),
            region: self.identities.region().clone(),
            forms: forms(),
            epoch: None,
            revision: Revision(0),
            address: self.address.clone(),
            staleness_bound_seconds: None,
        };
        stream.send(&hello).await?;
        let mut sequence = 0;
        loop {
            for said in stream.receive_arrived::<Said>().await? {
                self.take(said, copy, &mut stream, &mut sequence).await?;
            }
        }
    }

    async fn take(
        &self,
        said: Said,
        copy: &mut Copy,
        stream: &mut Stream,
        sequence: &mut u64,
    ) -> Result<(), ControlPlaneError> {
        match said.r#type.as_str() {
            "snapshot-begin" => {
                *copy = Copy {
                    epoch: said.epoch,
                    ..Copy::default()
                };
            }
            "documents" => copy.keep(said.documents),
            "mark" => {
                if said.epoch.is_some() && copy.epoch == said.epoch && copy.sum == said.checksum {
                    *sequence += 1;
                    stream
                        .send(&NodeMessage::Applied {
                            sequence: *sequence,
                            epoch: said.epoch,
                            revision: said.revision,
                            rejected: Vec::new(),
                        })
                        .await?;
                    let as_of = said.time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
                    self.position.send_replace(Position {
                        is_connected: true,
                        state: Some((said.revision, as_of)),
                    });
                } else {
                    let reason = "what a simulated node holds does not add up".to_owned();
                    stream.send(&NodeMessage::SnapshotWanted { reason }).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Copy {
    fn keep(&mut self, documents: Vec<StoredDocument>) {
        for document in documents {
            let StoredDocument {
                region,
                kind,
                key,
                body,
                revision: _,
            } = document;
            let place = (region.as_str().to_owned(), kind, key);
            let old = match body {
                Some(body) => {
                    let share = Checksum::of(&place.0, &place.1, &place.2, &body);
                    self.sum += share;
                    self.shares.insert(place, share)
                }
                None => self.shares.remove(&place),
            };
            self.sum -= old.unwrap_or_default();
        }
    }
}

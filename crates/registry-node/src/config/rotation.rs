//! Taking a new credential and a new signing key, when an operator asks for it: they are made and kept first, then announced, and count
//! once the region's nodes have the key.

use std::{sync::Arc, time::Duration};

use config_documents::RotateRequest;
use credentials::{Randomness, SecretKind, SigningKey};
use uuid::Uuid;

use super::{
    Configuration, ControlPlane, ControlPlaneError,
    control_plane::Propagated,
    enrolment::EnrolmentError,
    identities::{Identities, Identity},
    wait_for_change,
};

const RETRY_MINIMUM: Duration = Duration::from_secs(1);
const RETRY_MAXIMUM: Duration = Duration::from_secs(30);

/// What a rotation takes. It belongs to one stream, and ends with it.
pub(super) struct Rotation {
    pub(super) control_plane: ControlPlane,
    pub(super) identities: Arc<Identities>,
    pub(super) configuration: Arc<Configuration>,
    pub(super) randomness: Arc<dyn Randomness>,
    /// What the stream was opened with.
    pub(super) in_use: Identity,
}

#[derive(Debug, thiserror::Error)]
enum RotationError {
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
    #[error("the region's nodes do not have the key yet")]
    Pending,
}

/// What is announced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    /// A new credential and a new key, because an operator asked for them.
    New,
    /// Those in use: the answer to their announcement was lost.
    InUse,
}

impl Rotation {
    /// Returns when it is done; after [`Announced::New`] the stream should be opened again with the new credential.
    pub(super) async fn run(self, what: Announced) {
        let mut wait = RETRY_MINIMUM;
        while let Err(error) = self.attempt(what).await {
            tracing::warn!(
                "a new signing key is not in force yet; it is tried again: {}",
                service::errors::chain(&error)
            );
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAXIMUM);
        }
    }

    async fn attempt(&self, what: Announced) -> Result<(), RotationError> {
        let identity = match what {
            Announced::InUse => self.in_use.clone(),
            Announced::New => {
                let make = || Identity {
                    credential: credentials::generate(
                        SecretKind::NodeCredential,
                        &*self.randomness,
                    ),
                    signing_key: Arc::new(SigningKey::generate(&Uuid::new_v4().to_string())),
                    is_announced: false,
                };
                tokio::task::block_in_place(|| {
                    self.identities.successor_of(self.in_use.kid(), make)
                })?
            }
        };
        self.announce(&identity).await?;
        tracing::info!(
            signing_key = identity.kid(),
            "the region's nodes have this node's new signing key"
        );
        Ok(())
    }

    /// The key is announced when the region's live nodes have it, and this one too.
    async fn announce(&self, identity: &Identity) -> Result<(), RotationError> {
        let request = RotateRequest {
            credential: identity.credential.expose().to_owned(),
            public_key: identity.signing_key.public(),
        };
        let propagated = self
            .control_plane
            .rotate(&self.in_use.credential, &request)
            .await?;
        if propagated == Propagated::Pending {
            return Err(RotationError::Pending);
        }
        let mut progress = self.configuration.subscribe();
        let is_here = || {
            self.configuration
                .index()
                .signing_key(identity.kid())
                .is_some()
        };
        while !is_here() {
            wait_for_change(&mut progress).await;
        }
        tokio::task::block_in_place(|| self.identities.announced(identity.kid()))?;
        Ok(())
    }
}

//! How this process became a node, once: a join token gives it an id and a credential of its own,
//! which it keeps beside the private part of its signing key.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use config_documents::{JoinRequest, Region, forms};
use credentials::{Secret, SigningKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use super::{
    ControlPlane, ControlPlaneError,
    identities::{Identities, Identity, State},
};

const FILE: &str = "credential.json";

/// Why this process is not a node.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what the node wrote.
    #[error("{} is damaged: {reason}; restore it, or enrol this node anew from an empty state directory", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file cannot be written.
    #[error("cannot keep the node's credential")]
    Write(#[from] service::configuration::ConfigurationError),
    /// The state directory belongs to a node elsewhere.
    #[error("this node was enrolled for region '{enrolled}', not '{given}'")]
    Region {
        /// The region in the file.
        enrolled: Region,
        /// The region asked for.
        given: Region,
    },
    /// The control plane does not take the join token.
    #[error("this node cannot join")]
    Join(#[source] ControlPlaneError),
}

/// As kept on disk, for its owner only.
#[derive(Serialize, Deserialize)]
struct Stored {
    form: u32,
    node_id: Uuid,
    region: Region,
    #[serde(flatten)]
    in_use: StoredIdentity,
    /// What will take the place of the one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<StoredIdentity>,
    /// Whose place the one in use has taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<StoredIdentity>,
}

#[derive(Serialize, Deserialize)]
struct StoredIdentity {
    credential: String,
    signing_key_id: String,
    /// PKCS #8, base64.
    signing_key: String,
    #[serde(default = "yes")]
    is_announced: bool,
}

fn yes() -> bool {
    true
}

impl Drop for StoredIdentity {
    fn drop(&mut self) {
        self.credential.zeroize();
        self.signing_key.zeroize();
    }
}

impl StoredIdentity {
    fn of(identity: &Identity) -> Self {
        Self {
            credential: identity.credential.expose().to_owned(),
            signing_key_id: identity.kid().to_owned(),
            signing_key: STANDARD.encode(identity.signing_key.pkcs8()),
            is_announced: identity.is_announced,
        }
    }

    fn parse(&self) -> Result<Identity, String> {
        let pkcs8 = STANDARD
            .decode(self.signing_key.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| "the signing key is not base64".to_owned())?;
        let signing_key = SigningKey::from_pkcs8(&self.signing_key_id, &pkcs8)
            .map_err(|error| error.to_string())?;
        Ok(Identity {
            credential: Secret::new(self.credential.clone()),
            signing_key: Arc::new(signing_key),
            is_announced: self.is_announced,
        })
    }
}

/// The enrolment of an earlier start; `None` for a process that is no node yet.
///
/// # Errors
/// [`EnrolmentError::Read`], [`EnrolmentError::Damaged`] and [`EnrolmentError::Region`].
pub fn load(state_directory: &Path, region: &Region) -> Result<Option<Identities>, EnrolmentError> {
    let path = state_directory.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EnrolmentError::Read { path, source }),
    };
    let (stored, state) =
        parse(&text).map_err(|reason| EnrolmentError::Damaged { path, reason })?;
    if stored.region != *region {
        return Err(EnrolmentError::Region {
            enrolled: stored.region.clone(),
            given: region.clone(),
        });
    }
    let directory = Some(state_directory.to_owned());
    Ok(Some(Identities::new(
        stored.node_id,
        stored.region,
        directory,
        state,
    )))
}

fn parse(text: &[u8]) -> Result<(Stored, State), String> {
    let stored: Stored = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if stored.form != 1 {
        return Err(format!("its form {} is unknown", stored.form));
    }
    let mut identities = Vec::new();
    let parts = [
        stored.next.as_ref(),
        Some(&stored.in_use),
        stored.previous.as_ref(),
    ];
    for identity in parts.into_iter().flatten() {
        identities.push(identity.parse()?);
    }
    identities.truncate(2);
    let in_use = usize::from(stored.next.is_some());
    let state = State {
        identities,
        in_use,
        // The next one may have come into force without an answer.
        preferred: 0,
    };
    Ok((stored, state))
}

/// Writes down what the node shows and signs with.
///
/// # Errors
/// [`EnrolmentError::Write`]
pub(super) fn keep(
    state_directory: &Path,
    node_id: Uuid,
    region: &Region,
    state: &State,
) -> Result<(), EnrolmentError> {
    let stored_at = |place: usize| state.identities.get(place).map(StoredIdentity::of);
    let (next, in_use, previous) = match state.in_use {
        0 => (None, 0, stored_at(1)),
        place => (stored_at(0), place, None),
    };
    let stored = Stored {
        form: 1,
        node_id,
        region: region.clone(),
        in_use: StoredIdentity::of(&state.identities[in_use]),
        next,
        previous,
    };
    let text = serde_json::to_vec_pretty(&stored).expect("the enrolment has string keys only");
    let text = Zeroizing::new(text);
    service::configuration::write_secret_file(&state_directory.join(FILE), &text)?;
    Ok(())
}

/// Enrols this process with a join token: makes the key pair, asks, and keeps what comes back.
///
/// # Errors
/// [`EnrolmentError::Join`] (see [`ControlPlaneError::is_refusal`]) and [`EnrolmentError::Write`].
pub async fn join(
    control_plane: &ControlPlane,
    join_token: &Secret,
    region: &Region,
    address: &str,
    signing_key: SigningKey,
    state_directory: &Path,
) -> Result<Identities, EnrolmentError> {
    let request = JoinRequest {
        join_token: join_token.expose().to_owned(),
        region: region.clone(),
        public_key: signing_key.public(),
        address: address.to_owned(),
        forms: forms(),
    };
    let answer = control_plane
        .join(&request)
        .await
        .map_err(EnrolmentError::Join)?;
    let state = State {
        identities: vec![Identity {
            credential: Secret::new(answer.credential),
            signing_key: Arc::new(signing_key),
            is_announced: true,
        }],
        in_use: 0,
        preferred: 0,
    };
    keep(state_directory, answer.node_id, region, &state)?;
    let directory = Some(state_directory.to_owned());
    Ok(Identities::new(
        answer.node_id,
        region.clone(),
        directory,
        state,
    ))
}

//! How this process became a node, once: a join token gives it an id and a credential of its own,
//! which it keeps beside the private part of its signing key.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use config_documents::{JoinRequest, Region, forms};
use credentials::{Secret, SigningKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use super::{ControlPlane, ControlPlaneError};

const FILE: &str = "credential.json";

/// What makes this process a node.
pub struct Enrolment {
    /// The node's id.
    pub node_id: Uuid,
    /// Where it belongs, for good.
    pub region: Region,
    /// The bearer of its stream.
    pub credential: Secret,
    /// What it signs registry tokens with.
    pub signing_key: SigningKey,
}

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
    credential: String,
    signing_key_id: String,
    /// PKCS #8, base64.
    signing_key: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.credential.zeroize();
        self.signing_key.zeroize();
    }
}

/// The enrolment of an earlier start; `None` for a process that is no node yet.
///
/// # Errors
/// [`EnrolmentError::Read`], [`EnrolmentError::Damaged`] and [`EnrolmentError::Region`].
pub fn load(state_directory: &Path, region: &Region) -> Result<Option<Enrolment>, EnrolmentError> {
    let path = state_directory.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EnrolmentError::Read { path, source }),
    };
    let enrolment = parse(&text).map_err(|reason| EnrolmentError::Damaged { path, reason })?;
    if enrolment.region != *region {
        return Err(EnrolmentError::Region {
            enrolled: enrolment.region,
            given: region.clone(),
        });
    }
    Ok(Some(enrolment))
}

fn parse(text: &[u8]) -> Result<Enrolment, String> {
    let stored: Stored = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if stored.form != 1 {
        return Err(format!("its form {} is unknown", stored.form));
    }
    let pkcs8 = STANDARD
        .decode(stored.signing_key.as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| "the signing key is not base64".to_owned())?;
    let signing_key = SigningKey::from_pkcs8(&stored.signing_key_id, &pkcs8)
        .map_err(|error| error.to_string())?;
    Ok(Enrolment {
        node_id: stored.node_id,
        region: stored.region.clone(),
        credential: Secret::new(stored.credential.clone()),
        signing_key,
    })
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
) -> Result<Enrolment, EnrolmentError> {
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
    let stored = Stored {
        form: 1,
        node_id: answer.node_id,
        region: region.clone(),
        credential: answer.credential,
        signing_key_id: signing_key.kid().to_owned(),
        signing_key: STANDARD.encode(signing_key.pkcs8()),
    };
    let text = serde_json::to_vec_pretty(&stored).expect("the enrolment has string keys only");
    let text = Zeroizing::new(text);
    service::configuration::write_secret_file(&state_directory.join(FILE), &text)?;
    Ok(Enrolment {
        node_id: stored.node_id,
        region: stored.region.clone(),
        credential: Secret::new(stored.credential.clone()),
        signing_key,
    })
}

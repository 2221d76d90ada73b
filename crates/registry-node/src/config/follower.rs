//! Keeps the stream to the control plane: opens it, feeds the applier, and opens it again.

use std::{sync::Arc, time::Duration};

use config_documents::{ControlPlaneMessage, Epoch, NodeMessage, Region, Revision, forms};
use credentials::{Randomness, Secret};
use service::shutdown::Shutdown;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Applier, ApplyError, Configuration, Connection, ControlPlane, ControlPlaneError};

const RETRY_MINIMUM: Duration = Duration::from_millis(100);
const RETRY_MAXIMUM: Duration = Duration::from_secs(5);

/// What it takes to follow the configuration.
pub struct Follower {
    /// Where the configuration comes from.
    pub control_plane: ControlPlane,
    /// Who asks.
    pub node_id: Uuid,
    /// For which region.
    pub region: Region,
    /// With what.
    pub credential: Secret,
    /// Where other nodes reach this one.
    pub address: String,
    /// What requests see.
    pub configuration: Arc<Configuration>,
    /// Where messages go.
    pub applier: Applier,
    /// For the jitter between attempts.
    pub randomness: Arc<dyn Randomness>,
    /// When it ends.
    pub shutdown: Shutdown,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl Follower {
    /// Follows until shutdown is asked for.
    pub async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.wait() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut wait = RETRY_MINIMUM;
        loop {
            let end = match self.stream().await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            let was_connected = self.configuration.progress().connection == Connection::Connected;
            if was_connected {
                wait = RETRY_MINIMUM;
            }
            self.report_end(&end, was_connected);
            tokio::time::sleep(self.with_jitter(wait)).await;
            wait = (wait * 2).min(RETRY_MAXIMUM);
        }
    }

    /// One stream from its beginning to its end, which is always an error.
    async fn stream(&mut self) -> Result<std::convert::Infallible, StreamEnd> {
        let mut stream = self.control_plane.connect(&self.credential).await?;
        let state = self.applier.begin_stream();
        stream
            .send(&NodeMessage::Hello {
                node_id: self.node_id,
                region: self.region.clone(),
                forms: forms(),
                epoch: state.map(|state| state.epoch),
                revision: state.map_or(Revision(0), |state| state.revision),
                address: self.address.clone(),
                staleness_bound_seconds: None,
            })
            .await?;
        loop {
            // What arrived while the disk worked becomes durable together.
            let arrived = stream.receive_arrived().await?;
            self.report_connected();
            for message in without_superseded_marks(arrived) {
                let applier = &mut self.applier;
                let now = OffsetDateTime::now_utc();
                let answer = tokio::task::block_in_place(|| applier.receive(message, now));
                match answer {
                    Ok(Some(answer)) => stream.send(&answer).await?,
                    Ok(None) => {}
                    Err(error) => {
                        stream.close().await;
                        return Err(error.into());
                    }
                }
            }
        }
    }

    fn report_connected(&self) {
        if self.configuration.progress().connection != Connection::Connected {
            tracing::info!("the control plane is connected");
            self.configuration
                .report(|progress| progress.connection = Connection::Connected);
        }
    }

    fn report_end(&self, end: &StreamEnd, was_connected: bool) {
        let reason = service::errors::chain(end);
        let connection = match end {
            // Anything else may come from whatever stands in for a control plane that is down.
            StreamEnd::ControlPlane(ControlPlaneError::Refused {
                status: 401 | 403, ..
            }) => Connection::Refused(reason.clone()),
            _ => Connection::Unreachable(reason.clone()),
        };
        // Once for each new reason: attempts go on every few seconds.
        if was_connected || self.configuration.progress().connection != connection {
            tracing::warn!("the stream of configuration is down: {reason}");
        }
        self.configuration
            .report(|progress| progress.connection = connection);
    }

    /// Between half and all of it, so that the nodes of a region do not all come back at once.
    fn with_jitter(&self, wait: Duration) -> Duration {
        let mut byte = [0_u8; 1];
        self.randomness.fill(&mut byte);
        wait / 2 + wait / 2 * u32::from(byte[0]) / 255
    }
}

/// Leaves out each mark behind which only changes follow, and then another mark of the same epoch: the later one closes both batches.
fn without_superseded_marks(messages: Vec<ControlPlaneMessage>) -> Vec<ControlPlaneMessage> {
    let mut kept: Vec<ControlPlaneMessage> = Vec::with_capacity(messages.len());
    // Where the last mark stands that the next one may supersede.
    let mut open: Option<(usize, Epoch)> = None;
    for message in messages {
        match &message {
            ControlPlaneMessage::Mark { epoch, .. } => {
                if let Some((place, before)) = open
                    && before == *epoch
                {
                    kept.remove(place);
                }
                open = Some((kept.len(), *epoch));
            }
            ControlPlaneMessage::SnapshotBegin { .. } | ControlPlaneMessage::SnapshotEnd => {
                open = None;
            }
            ControlPlaneMessage::Documents { .. }
            | ControlPlaneMessage::Rotate
            | ControlPlaneMessage::Removed => {}
        }
        kept.push(message);
    }
    kept
}

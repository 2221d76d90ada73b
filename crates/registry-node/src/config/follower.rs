//! Keeps the stream to the control plane: opens it, feeds the applier, and opens it again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use config_documents::{ControlPlaneMessage, Epoch, NodeMessage, Revision, forms};
use credentials::Randomness;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Fuse},
};
use service::{clock::Clock, shutdown::Shutdown};

use super::{
    Applier, ApplyError, Configuration, Connection, ControlPlane, ControlPlaneError, Identities,
    control_plane::Stream,
    identities::Identity,
    rotation::{Announced, Rotation},
};
use crate::limits::USED_CREDENTIALS_INTERVAL;

const RETRY_MINIMUM: Duration = Duration::from_millis(100);
const RETRY_MAXIMUM: Duration = Duration::from_secs(5);
/// How far apart nodes try, on the average, that lost their streams together, and how long all of them may take for it: far less than
/// the ten seconds for which a change waits for a node that has gone.
const RETRY_APART: Duration = Duration::from_millis(10);
const RETRY_APART_MAXIMUM: Duration = Duration::from_secs(3);
/// The forms of the stream's messages from which on a control plane takes `used` and `usage`.
const USED_FORM: u32 = 3;
const USAGE_FORM: u32 = 4;

/// What it takes to follow the configuration.
pub struct Follower {
    /// Where the configuration comes from.
    pub control_plane: ControlPlane,
    /// Who asks, and with what.
    pub identities: Arc<Identities>,
    /// Where other nodes reach this one.
    pub address: String,
    /// What requests see.
    pub configuration: Arc<Configuration>,
    /// Where messages go.
    pub applier: Applier,
    /// By which times are told and kept.
    pub clock: Clock,
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
    #[error("this node was removed")]
    Removed,
    #[error("it is opened again with a new credential")]
    Rotated,
}

/// What is under way beside a stream.
type Task = Fuse<BoxFuture<'static, ()>>;

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
            if matches!(end, StreamEnd::Rotated) {
                tokio::time::sleep(RETRY_MINIMUM).await;
                continue;
            }
            let was_connected = self.configuration.progress().connection == Connection::Connected;
            // A removed node is told so on each stream anew, and what a full disk refuses may be a whole snapshot: no reason to open the next
            // one at once.
            if was_connected && !matches!(end, StreamEnd::Removed | StreamEnd::Apply(_)) {
                wait = RETRY_MINIMUM;
            }
            self.report_end(&end, was_connected);
            tokio::time::sleep(self.with_jitter(wait) + self.turn()).await;
            wait = (wait * 2).min(RETRY_MAXIMUM);
        }
    }

    /// One stream from its beginning to its end, which is always an error.
    async fn stream(&mut self) -> Result<std::convert::Infallible, StreamEnd> {
        let (mut stream, identity) = self.connect().await?;
        let state = self.applier.begin_stream();
        self.configuration.standing().begin_stream();
        self.configuration.used().tell_again();
        self.configuration.usage().tell_again();
        stream
            .send(&NodeMessage::Hello {
                node_id: self.identities.node_id(),
                region: self.identities.region().clone(),
                forms: forms(),
                epoch: state.map(|state| state.epoch),
                revision: state.map_or(Revision(0), |state| state.revision),
                address: self.address.clone(),
                staleness_bound_seconds: self
                    .configuration
                    .standing()
                    .given_bound()
                    .map(seconds_of),
            })
            .await?;
        let end = self.exchange(&mut stream, &identity).await;
        if !matches!(end, Err(StreamEnd::ControlPlane(_))) {
            stream.close().await;
        }
        end
    }

    /// A stream with the first of the node's credentials that is accepted.
    async fn connect(&self) -> Result<(Stream, Identity), ControlPlaneError> {
        let mut refused = None;
        for identity in self.identities.attempts() {
            match self.control_plane.connect(&identity.credential).await {
                Ok(stream) => return Ok((stream, identity)),
                Err(error) if error.is_unknown_credential() => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.expect("a node has one credential at least"))
    }

    async fn exchange(
        &mut self,
        stream: &mut Stream,
        identity: &Identity,
    ) -> Result<std::convert::Infallible, StreamEnd> {
        let mut has_applied = false;
        // The form that the control plane understands, once it has said so, and when it was last told what the node has to report.
        let mut greeted: Option<(u32, Instant)> = None;
        let mut rotation: Task = Fuse::terminated();
        let mut makes_sure: Task = Fuse::terminated();
        loop {
            // What arrived while the disk worked becomes durable together.
            let arrived = tokio::select! {
                arrived = stream.receive_arrived() => arrived?,
                () = &mut rotation => return Err(StreamEnd::Rotated),
                () = &mut makes_sure => continue,
            };
            self.report_connected();
            let had_applied = has_applied;
            for message in without_superseded_marks(arrived) {
                match message {
                    ControlPlaneMessage::Rotate if is_idle(&rotation) => {
                        rotation = self.rotation(identity).run(Announced::New).boxed().fuse();
                    }
                    ControlPlaneMessage::Rotate => {}
                    ControlPlaneMessage::Greeting { stream_form } => {
                        greeted = Some((stream_form, Instant::now()));
                    }
                    ControlPlaneMessage::Removed => return Err(self.removed()),
                    message => has_applied |= self.apply(message, stream).await?,
                }
            }
            // Marks come every second: no clock of its own is needed.
            if let Some((form, told_at)) = &mut greeted
                && told_at.elapsed() >= USED_CREDENTIALS_INTERVAL
            {
                *told_at = Instant::now();
                self.report(*form, stream).await?;
            }
            if has_applied && !had_applied {
                self.accepted(identity);
                if !identity.is_announced && is_idle(&rotation) {
                    makes_sure = self.rotation(identity).run(Announced::InUse).boxed().fuse();
                }
            }
        }
    }

    /// Tells what a control plane of that form takes: which credentials were used, and how much registries store.
    async fn report(&self, form: u32, stream: &mut Stream) -> Result<(), StreamEnd> {
        if form >= USED_FORM {
            let now = (self.clock)();
            let credentials = self.configuration.used().take_untold(now);
            if !credentials.is_empty() {
                stream.send(&NodeMessage::Used { credentials }).await?;
            }
        }
        if form >= USAGE_FORM {
            let registries = self.configuration.usage().take_untold();
            if !registries.is_empty() {
                stream.send(&NodeMessage::Usage { registries }).await?;
            }
        }
        Ok(())
    }

    /// True when something is applied and has been answered so.
    async fn apply(
        &mut self,
        message: ControlPlaneMessage,
        stream: &mut Stream,
    ) -> Result<bool, StreamEnd> {
        let heard = match &message {
            ControlPlaneMessage::Mark { heard, .. } => Some(*heard),
            _ => None,
        };
        #[cfg(feature = "faults-on-purpose")]
        {
            if heard.is_some() {
                self.configuration.standing().mark_arrived();
            }
            self.acknowledge_before_applying(&message, stream).await?;
        }
        let applier = &mut self.applier;
        let now = (self.clock)();
        let Some(answer) = tokio::task::block_in_place(|| applier.receive(message, now))? else {
            return Ok(false);
        };
        let NodeMessage::Applied { sequence, .. } = &answer else {
            stream.send(&answer).await?;
            return Ok(false);
        };
        // Not before it is applied: a node that was fenced must not serve what it had then.
        if let Some(heard) = heard {
            tokio::task::block_in_place(|| self.configuration.standing().heard(heard));
        }
        self.configuration.standing().sending(*sequence);
        stream.send(&answer).await?;
        Ok(true)
    }

    #[cfg(feature = "faults-on-purpose")]
    async fn acknowledge_before_applying(
        &mut self,
        message: &ControlPlaneMessage,
        stream: &mut Stream,
    ) -> Result<(), StreamEnd> {
        if service::faults_on_purpose::is_on("acknowledge-before-applying")
            && let Some(answer) = self.applier.promise(message)
        {
            stream.send(&answer).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn rotation(&self, identity: &Identity) -> Rotation {
        Rotation {
            control_plane: self.control_plane.clone(),
            identities: Arc::clone(&self.identities),
            configuration: Arc::clone(&self.configuration),
            randomness: Arc::clone(&self.randomness),
            in_use: identity.clone(),
        }
    }

    /// A control plane has taken this node's hello.
    fn accepted(&self, identity: &Identity) {
        let kept = tokio::task::block_in_place(|| self.identities.accepted(identity.kid()));
        if let Err(error) = kept {
            tracing::warn!(
                "which credential is in use cannot be kept: {}",
                service::errors::chain(&error)
            );
        }
        match tokio::task::block_in_place(|| self.configuration.standing().enrolled()) {
            Ok(true) => tracing::warn!("this node had been removed, and serves again"),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                "that this node is enrolled again cannot be kept: {}",
                service::errors::chain(&error)
            ),
        }
    }

    fn removed(&self) -> StreamEnd {
        let standing = self.configuration.standing();
        let now = (self.clock)();
        match tokio::task::block_in_place(|| standing.removed(now)) {
            Ok(true) => {
                tracing::error!("this node was removed and refuses every request from now on");
            }
            Ok(false) => {}
            Err(error) => tracing::error!(
                "this node was removed and refuses every request until it ends, but that cannot be kept: {}",
                service::errors::chain(&error)
            ),
        }
        StreamEnd::Removed
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
            })
            | StreamEnd::Removed => Connection::Refused(reason.clone()),
            _ => Connection::Unreachable(reason.clone()),
        };
        // Once for each new reason: attempts go on every few seconds.
        if was_connected || self.configuration.progress().connection != connection {
            tracing::warn!("the stream of configuration is down: {reason}");
        }
        self.configuration
            .report(|progress| progress.connection = connection);
    }

    /// Between half and all of it.
    fn with_jitter(&self, wait: Duration) -> Duration {
        wait / 2 + wait / 2 * self.random() / u32::from(u8::MAX)
    }

    /// When this one comes among all nodes, at random: a control plane that lost its streams gets them back one after the other, and
    /// answers requests meanwhile. A few nodes take no notice of each other.
    fn turn(&self) -> Duration {
        let nodes = self.configuration.index().nodes().len();
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let all = RETRY_APART.saturating_mul(nodes).min(RETRY_APART_MAXIMUM);
        all * self.random() / u32::from(u8::MAX)
    }

    /// From 0 to 255.
    fn random(&self) -> u32 {
        let mut byte = [0_u8; 1];
        self.randomness.fill(&mut byte);
        u32::from(byte[0])
    }
}

fn is_idle(task: &Task) -> bool {
    use futures_util::future::FusedFuture;
    task.is_terminated()
}

fn seconds_of(bound: Duration) -> u32 {
    u32::try_from(bound.as_secs()).unwrap_or(u32::MAX)
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
            | ControlPlaneMessage::Greeting { .. }
            | ControlPlaneMessage::Rotate
            | ControlPlaneMessage::Removed => {}
        }
        kept.push(message);
    }
    kept
}

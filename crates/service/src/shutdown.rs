//! Ending in order: one request to stop, heard by everyone who holds a clone.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A request to stop, asked once and seen by all clones.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::request`] asks for.
    pub fn new() -> Self {
        Self {
            requested: Arc::new(watch::Sender::new(false)),
        }
    }

    /// A shutdown asked for by SIGTERM or SIGINT. Call it inside a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new();
        let requester = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping: {name} received");
            requester.request();
        });
        Ok(shutdown)
    }

    /// Asks for the end. Asking again changes nothing.
    pub fn request(&self) {
        self.requested.send_replace(true);
    }

    /// True once the end was asked for.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Returns when the end is asked for; at once when it was.
    pub async fn wait(&self) {
        let mut receiver = self.requested.subscribe();
        receiver
            .wait_for(|requested| *requested)
            .await
            .expect("this value holds the sender, so it cannot be gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_who_waits_is_woken() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_requested());
        let waiter = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        shutdown.request();
        waiter.await.expect("the waiter must not panic");
        shutdown.wait().await;
        assert!(shutdown.is_requested());
    }
}

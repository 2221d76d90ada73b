//! Requests that are under way, so that a control plane that ends knows when it may.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts requests.
pub(crate) struct InFlight {
    count: watch::Sender<usize>,
}

/// One request; it counts until this is dropped.
pub(crate) struct UnderWay(Arc<InFlight>);

impl InFlight {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            count: watch::Sender::new(0),
        })
    }

    pub(crate) fn begin(self: &Arc<Self>) -> UnderWay {
        self.count.send_modify(|count| *count += 1);
        UnderWay(Arc::clone(self))
    }

    /// Returns when there is none.
    pub(crate) async fn none(&self) {
        let mut count = self.count.subscribe();
        count
            .wait_for(|count| *count == 0)
            .await
            .expect("this value holds the sender, so it cannot be gone");
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| *count -= 1);
    }
}

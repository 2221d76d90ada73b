//! How many requests to external issuers are made at once: few, and of these few to one host, so that the slow host of one issuer, whatever
//! number of paths and names of issuers it has, does not keep the keys of all others away.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{ISSUER_FETCHES, ISSUER_FETCHES_OF_HOST};

/// The places of some issuers.
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// Of hosts for which a place is taken or waited for; others are forgotten.
    of_hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A place, taken until it is dropped.
pub(super) struct Place {
    _of_host: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ISSUER_FETCHES)),
            of_hosts: Mutex::default(),
        }
    }

    /// Waits for a place, in the order of coming.
    pub(super) async fn take(&self, host: &str) -> Place {
        // First that of the host: whoever waits for a slow one takes no place of others meanwhile.
        let of_host = take_one(self.of_host(host)).await;
        let of_all = take_one(Arc::clone(&self.all)).await;
        Place {
            _of_host: of_host,
            _of_all: of_all,
        }
    }

    fn of_host(&self, host: &str) -> Arc<Semaphore> {
        // A name means the same with a dot at its end.
        let host = host.trim_end_matches('.');
        let mut of_hosts = self.of_hosts.lock();
        of_hosts.retain(|_, places| places.strong_count() > 0);
        if let Some(places) = of_hosts.get(host).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(ISSUER_FETCHES_OF_HOST));
        of_hosts.insert(host.to_owned(), Arc::downgrade(&places));
        places
    }
}

async fn take_one(places: Arc<Semaphore>) -> OwnedSemaphorePermit {
    places.acquire_owned().await.expect("it is never closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn one_host_has_few_places_and_all_hosts_have_some_together() {
        let places = Places::new();
        let take = |host: &str| places.take(host).now_or_never();
        let of_one: Vec<Place> = (0..ISSUER_FETCHES).map_while(|_| take("a")).collect();
        assert_eq!(of_one.len(), ISSUER_FETCHES_OF_HOST);
        assert!(take("a.").is_none(), "it is the same host");
        let of_others: Vec<Place> = (0..).map_while(|host| take(&format!("h{host}"))).collect();
        assert_eq!(of_others.len(), ISSUER_FETCHES - ISSUER_FETCHES_OF_HOST);
        drop(of_one);
        assert!(take("a").is_some());
        assert!(take("b").is_some());
    }

    #[test]
    fn who_waits_for_a_slow_host_takes_no_place_of_others() {
        let places = Places::new();
        let _slow = places.take("slow").now_or_never().expect("a place");
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(places.take("slow"))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(places.take("other").now_or_never().is_some());
    }

    #[test]
    fn hosts_are_forgotten_when_nobody_asks_them() {
        let places = Places::new();
        for host in 0..100 {
            drop(places.take(&format!("h{host}")).now_or_never());
        }
        assert_eq!(places.of_hosts.lock().len(), 1, "the last one only");
    }
}

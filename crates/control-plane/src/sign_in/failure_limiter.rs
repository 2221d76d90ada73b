//! Counts failed sign-ins and says when there were too many.
//!
//! A right secret is never counted and never refused here, so nobody can lock an owner out by failing in its name.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use uuid::Uuid;

use crate::limits::{
    SIGN_IN_FAILURE_ADDRESSES, SIGN_IN_FAILURES_OF_ADDRESS, SIGN_IN_FAILURES_OF_CLIENT,
};

type Limiter<K, C> = RateLimiter<K, DashMapStateStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Failures per address, and per address and client.
pub(super) struct FailureLimiter<C: Clock = DefaultClock> {
    of_address: Limiter<IpAddr, C>,
    of_client: Limiter<(IpAddr, Uuid), C>,
    clock: C,
}

impl FailureLimiter {
    pub(super) fn new() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock + Clone> FailureLimiter<C> {
    fn with_clock(clock: C) -> Self {
        let per_minute = Quota::per_minute;
        Self {
            of_address: RateLimiter::dashmap_with_clock(
                per_minute(SIGN_IN_FAILURES_OF_ADDRESS),
                clock.clone(),
            ),
            of_client: RateLimiter::dashmap_with_clock(
                per_minute(SIGN_IN_FAILURES_OF_CLIENT),
                clock.clone(),
            ),
            clock,
        }
    }

    /// Counts a failure. When there were too many: how long to wait before the next may be answered as one.
    ///
    /// `client` is the one that was tried, if it can be one.
    pub(super) fn failed(
        &self,
        address: Option<IpAddr>,
        client: Option<Uuid>,
    ) -> Result<(), Duration> {
        let address = self.counted_as(address);
        // The address first: whoever is over its bound adds no more pairs to remember.
        self.of_address
            .check_key(&address)
            .map_err(|refusal| refusal.wait_time_from(self.clock.now()))?;
        // With too many pairs to remember, the bound of the address is the one that counts.
        match client {
            Some(client) if self.of_client.len() < SIGN_IN_FAILURE_ADDRESSES => self
                .of_client
                .check_key(&(address, client))
                .map_err(|refusal| refusal.wait_time_from(self.clock.now())),
            _ => Ok(()),
        }
    }

    /// Forgets who has not failed for as long as it counts.
    pub(super) fn forget_old(&self) {
        self.of_address.retain_recent();
        self.of_address.shrink_to_fit();
        self.of_client.retain_recent();
        self.of_client.shrink_to_fit();
    }

    /// The address to count under: of IPv6 the network that one user is given (/64); one for all when there are too many to remember.
    fn counted_as(&self, address: Option<IpAddr>) -> IpAddr {
        const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let address = match address.map(|address| address.to_canonical()) {
            None => OTHERS,
            Some(IpAddr::V4(address)) => IpAddr::V4(address),
            Some(IpAddr::V6(address)) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
        };
        if self.of_address.len() < SIGN_IN_FAILURE_ADDRESSES {
            address
        } else {
            OTHERS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    fn failures_until_refused(
        limiter: &FailureLimiter<FakeRelativeClock>,
        mut fail: impl FnMut(&FailureLimiter<FakeRelativeClock>) -> Result<(), Duration>,
    ) -> u32 {
        (0..10_000)
            .find(|_| fail(limiter).is_err())
            .expect("it ends")
    }

    #[test]
    fn a_client_that_fails_too_often_waits_and_others_do_not() {
        let clock = FakeRelativeClock::default();
        let limiter = FailureLimiter::with_clock(clock.clone());
        let (one, other) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
        let count = failures_until_refused(&limiter, |limiter| {
            limiter.failed(address("192.0.2.1"), one)
        });
        assert_eq!(count, SIGN_IN_FAILURES_OF_CLIENT.get());
        assert_eq!(limiter.failed(address("192.0.2.1"), other), Ok(()));
        assert_eq!(limiter.failed(address("192.0.2.2"), one), Ok(()));
        let wait = limiter
            .failed(address("192.0.2.1"), one)
            .expect_err("still refused");
        clock.advance(wait);
        assert_eq!(limiter.failed(address("192.0.2.1"), one), Ok(()));
    }

    #[test]
    fn an_address_that_tries_many_clients_waits() {
        let limiter = FailureLimiter::with_clock(FakeRelativeClock::default());
        let mut client = 0;
        let count = failures_until_refused(&limiter, |limiter| {
            client += 1;
            limiter.failed(address("192.0.2.1"), Some(Uuid::from_u128(client)))
        });
        assert_eq!(count, SIGN_IN_FAILURES_OF_ADDRESS.get());
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let limiter = FailureLimiter::with_clock(FakeRelativeClock::default());
        let mut host = 0_u32;
        let count = failures_until_refused(&limiter, |limiter| {
            host += 1;
            limiter.failed(address(&format!("2001:db8::{host:x}")), None)
        });
        assert_eq!(count, SIGN_IN_FAILURES_OF_ADDRESS.get());
        assert_eq!(limiter.failed(address("2001:db8:0:1::1"), None), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let clock = FakeRelativeClock::default();
        let limiter = FailureLimiter::with_clock(clock.clone());
        for host in 0..u32::try_from(SIGN_IN_FAILURE_ADDRESSES).expect("it is small") + 100 {
            let _ = limiter.failed(Some(IpAddr::V4(host.into())), None);
        }
        assert!(limiter.of_address.len() <= SIGN_IN_FAILURE_ADDRESSES + 1);
        clock.advance(Duration::from_secs(120));
        limiter.forget_old();
        assert!(limiter.of_address.is_empty());
    }
}

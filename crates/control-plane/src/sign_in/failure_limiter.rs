//! Counts failed sign-ins and says when there were too many.
//!
//! A right secret that was generated is never counted and never refused here, so nobody can lock an owner out by failing in its name. What
//! somebody chose can be guessed, and checking it is slow: there the refusal comes first.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use governor::clock::{self, Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use moka::sync::Cache;
use uuid::Uuid;

use crate::limits::{
    FAMILIAR_ADDRESS_LIFETIME, SIGN_IN_FAILURE_ADDRESSES, SIGN_IN_FAILURES_OF_ACCOUNT,
    SIGN_IN_FAILURES_OF_ADDRESS, SIGN_IN_FAILURES_OF_CLIENT,
};

type Limiter<K, C> = RateLimiter<K, DashMapStateStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// In whose name somebody tried to sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subject {
    id: Uuid,
    /// Whether what was shown is a thing that can be guessed.
    is_guessable: bool,
}

impl Subject {
    /// A client that shows something generated.
    pub(super) fn client(id: Uuid) -> Self {
        Self {
            id,
            is_guessable: false,
        }
    }

    /// A client that shows a secret that somebody chose.
    pub(super) fn chosen(id: Uuid) -> Self {
        Self {
            id,
            is_guessable: true,
        }
    }
}

/// Failures per address, per address and client, and, of what can be guessed, per account.
pub(super) struct FailureLimiter<C: Clock = DefaultClock> {
    of_address: Limiter<IpAddr, C>,
    /// The same of what can be guessed, apart: only these failures make what can be guessed be refused unseen. Of others there are more, and
    /// many people may have one address.
    guesses_of_address: Limiter<IpAddr, C>,
    of_client: Limiter<(IpAddr, Uuid), C>,
    of_account: Limiter<Uuid, C>,
    /// Until when what can be guessed is refused unseen: of an address, of an account, or of both.
    refused_until: Cache<(Option<IpAddr>, Option<Uuid>), C::Instant>,
    /// From where an account was signed in to: there it cannot be locked by others.
    familiar: Cache<(IpAddr, Uuid), ()>,
    names: RandomState,
    clock: C,
}

impl FailureLimiter {
    pub(super) fn new() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock + Clone> FailureLimiter<C>
where
    C::Instant: Send + Sync + 'static,
{
    fn with_clock(clock: C) -> Self {
        let per_minute = Quota::per_minute;
        let capacity = u64::try_from(SIGN_IN_FAILURE_ADDRESSES).unwrap_or(u64::MAX);
        Self {
            of_address: RateLimiter::dashmap_with_clock(
                per_minute(SIGN_IN_FAILURES_OF_ADDRESS),
                clock.clone(),
            ),
            guesses_of_address: RateLimiter::dashmap_with_clock(
                per_minute(SIGN_IN_FAILURES_OF_ADDRESS),
                clock.clone(),
            ),
            of_client: RateLimiter::dashmap_with_clock(
                per_minute(SIGN_IN_FAILURES_OF_CLIENT),
                clock.clone(),
            ),
            of_account: RateLimiter::dashmap_with_clock(
                Quota::per_hour(SIGN_IN_FAILURES_OF_ACCOUNT),
                clock.clone(),
            ),
            refused_until: Cache::builder()
                .max_capacity(capacity)
                .time_to_live(Duration::from_secs(3600))
                .build(),
            familiar: Cache::builder()
                .max_capacity(capacity)
                .time_to_live(FAMILIAR_ADDRESS_LIFETIME)
                .build(),
            names: RandomState::new(),
            clock,
        }
    }

    /// Somebody who signs in by a name; whether there is such an account makes no difference.
    pub(super) fn named(&self, name_key: &str) -> Subject {
        Subject::chosen(Uuid::from_u128(self.names.hash_one(name_key).into()))
    }

    /// Counts a failure. When there were too many: how long to wait before the next may be answered as one.
    ///
    /// `subject` is the one that was tried, if it can be one.
    pub(super) fn failed(
        &self,
        address: Option<IpAddr>,
        subject: Option<Subject>,
    ) -> Result<(), Duration> {
        let address = self.counted_as(address);
        // The address first: whoever is over its bound adds no more pairs to remember.
        let is_guessable = subject.is_some_and(|subject| subject.is_guessable);
        let of_address = if is_guessable {
            &self.guesses_of_address
        } else {
            &self.of_address
        };
        of_address.check_key(&address).map_err(|refusal| {
            let wait = refusal.wait_time_from(self.clock.now());
            if is_guessable {
                self.refuse((Some(address), None), wait);
            }
            wait
        })?;
        let Some(subject) = subject else {
            return Ok(());
        };
        let of_account =
            if subject.is_guessable && self.of_account.len() < SIGN_IN_FAILURE_ADDRESSES {
                self.of_account.check_key(&subject.id).map_err(|refusal| {
                    let wait = refusal.wait_time_from(self.clock.now());
                    self.refuse((None, Some(subject.id)), wait)
                })
            } else {
                Ok(())
            };
        // With too many pairs to remember, the bound of the address is the one that counts.
        if self.of_client.len() < SIGN_IN_FAILURE_ADDRESSES {
            self.of_client
                .check_key(&(address, subject.id))
                .map_err(|refusal| {
                    let wait = refusal.wait_time_from(self.clock.now());
                    self.refuse((Some(address), Some(subject.id)), wait)
                })?;
        }
        of_account
    }

    fn refuse(&self, what: (Option<IpAddr>, Option<Uuid>), wait: Duration) -> Duration {
        let until = self.clock.now() + wait.into();
        self.refused_until.insert(what, until);
        wait
    }

    /// Whether what can be guessed may be looked at at all; otherwise how long to wait. Ask it when the turn has come: what failed before
    /// is counted by then.
    pub(super) fn check(&self, address: Option<IpAddr>, subject: Subject) -> Result<(), Duration> {
        let address = self.counted_as(address);
        let now = self.clock.now();
        let of_both = (Some(address), Some(subject.id));
        for what in [(Some(address), None), of_both, (None, Some(subject.id))] {
            // Where somebody signed in before, only that one's own failures count, from there.
            let is_theirs = what != of_both && self.familiar.contains_key(&(address, subject.id));
            if let Some(until) = self.refused_until.get(&what)
                && until > now
                && !is_theirs
            {
                return Err(clock::Reference::duration_since(&until, now).into());
            }
        }
        Ok(())
    }

    /// Somebody who could have been guessing was right.
    pub(super) fn succeeded(&self, address: Option<IpAddr>, subject: Subject) {
        self.familiar
            .insert((self.counted_as(address), subject.id), ());
    }

    /// Forgets who has not failed for as long as it counts.
    pub(super) fn forget_old(&self) {
        self.of_address.retain_recent();
        self.of_address.shrink_to_fit();
        self.guesses_of_address.retain_recent();
        self.guesses_of_address.shrink_to_fit();
        self.of_client.retain_recent();
        self.of_client.shrink_to_fit();
        self.of_account.retain_recent();
        self.of_account.shrink_to_fit();
    }

    /// The address to count under; one for all when there are too many to remember.
    fn counted_as(&self, address: Option<IpAddr>) -> IpAddr {
        const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let address = address.map_or(OTHERS, counted_address);
        if self.of_address.len() + self.guesses_of_address.len() < SIGN_IN_FAILURE_ADDRESSES {
            address
        } else {
            OTHERS
        }
    }
}

/// What of an address is whoever has it: of IPv6 the network that one user is given (/64).
pub(super) fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
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
        let client = |id| Some(Subject::client(Uuid::from_u128(id)));
        let (one, other) = (client(1), client(2));
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
            limiter.failed(
                address("192.0.2.1"),
                Some(Subject::client(Uuid::from_u128(client))),
            )
        });
        assert_eq!(count, SIGN_IN_FAILURES_OF_ADDRESS.get());
    }

    #[test]
    fn what_can_be_guessed_is_refused_unseen_after_too_many_failures() {
        let clock = FakeRelativeClock::default();
        let limiter = FailureLimiter::with_clock(clock.clone());
        let (here, there) = (address("192.0.2.1"), address("192.0.2.2"));
        let (ann, ben) = (limiter.named("ann@a.test"), limiter.named("ben@a.test"));
        let count = failures_until_refused(&limiter, |limiter| limiter.failed(here, Some(ann)));
        assert_eq!(count, SIGN_IN_FAILURES_OF_CLIENT.get());
        let wait = limiter.check(here, ann).expect_err("refused unseen");
        assert_eq!(limiter.check(here, ben), Ok(()));
        assert_eq!(limiter.check(there, ann), Ok(()));
        clock.advance(wait);
        assert_eq!(limiter.check(here, ann), Ok(()));
    }

    #[test]
    fn failures_that_cost_nothing_keep_nobody_of_the_address_from_signing_in() {
        let limiter = FailureLimiter::with_clock(FakeRelativeClock::default());
        let here = address("192.0.2.1");
        let (ann, ben) = (limiter.named("ann@a.test"), limiter.named("ben@a.test"));
        failures_until_refused(&limiter, |limiter| limiter.failed(here, None));
        assert_eq!(limiter.check(here, ann), Ok(()));
        assert_eq!(limiter.failed(here, Some(ann)), Ok(()));
        assert_eq!(limiter.check(here, ann), Ok(()));
        // Guesses do, but for whoever signed in from there.
        limiter.succeeded(here, ann);
        let mut name = 0;
        failures_until_refused(&limiter, |limiter| {
            name += 1;
            limiter.failed(here, Some(limiter.named(&name.to_string())))
        });
        assert!(limiter.check(here, ben).is_err());
        assert_eq!(limiter.check(here, ann), Ok(()));
    }

    #[test]
    fn an_account_that_many_addresses_guess_at_is_closed_to_them_and_not_to_its_owner() {
        let clock = FakeRelativeClock::default();
        let limiter = FailureLimiter::with_clock(clock.clone());
        let ann = limiter.named("ann@a.test");
        let home = address("198.51.100.7");
        limiter.succeeded(home, ann);
        let mut host = 0_u32;
        let count = failures_until_refused(&limiter, |limiter| {
            host += 1;
            limiter.failed(Some(IpAddr::V4(host.into())), Some(ann))
        });
        assert_eq!(count, SIGN_IN_FAILURES_OF_ACCOUNT.get());
        assert!(limiter.check(address("203.0.113.9"), ann).is_err());
        assert_eq!(limiter.check(home, ann), Ok(()));
        let generated = Subject::client(ann.id);
        assert_eq!(
            limiter.failed(address("203.0.113.9"), Some(generated)),
            Ok(())
        );
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

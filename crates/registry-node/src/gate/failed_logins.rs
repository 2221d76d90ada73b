//! How often an address may fail to log in. Only failures count: a correct secret never waits, so
//! nobody can lock an owner out. A chosen secret may wait once at a node: it is not even checked while failures are used up, those of its
//! address, or those of all addresses together at this account, unless the account has logged in from there.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;
use uuid::Uuid;

use super::allowance::Allowance;
use crate::limits::{
    FAILED_LOGIN_OF_ADDRESS_INTERVAL, FAILED_LOGIN_OF_USER_INTERVAL,
    FAILED_LOGINS_OF_ADDRESS_MAXIMUM, FAILED_LOGINS_OF_USER_MAXIMUM, FAILED_LOGINS_REMEMBERED,
    FAMILIAR_ADDRESS_LIFETIME, GUESS_AT_ACCOUNT_INTERVAL, GUESSES_AT_ACCOUNT_MAXIMUM,
};

/// Remembers failed logins, in bounded memory.
pub struct FailedLogins {
    hasher: RandomState,
    by_address: Cache<IpAddr, Arc<Allowance>>,
    by_user: Cache<(IpAddr, u64), Arc<Allowance>>,
    /// Of guesses at chosen secrets, by principal.
    by_account: Cache<Uuid, Arc<Allowance>>,
    /// From where a principal logged in with a chosen secret: there others cannot lock it out.
    familiar: Cache<(IpAddr, Uuid), ()>,
}

impl Default for FailedLogins {
    fn default() -> Self {
        // An allowance that nobody used for this long is full again.
        let user = FAILED_LOGIN_OF_USER_INTERVAL * FAILED_LOGINS_OF_USER_MAXIMUM;
        let address = FAILED_LOGIN_OF_ADDRESS_INTERVAL * FAILED_LOGINS_OF_ADDRESS_MAXIMUM;
        let account = GUESS_AT_ACCOUNT_INTERVAL * GUESSES_AT_ACCOUNT_MAXIMUM;
        Self {
            hasher: RandomState::new(),
            by_address: Cache::builder()
                .max_capacity(FAILED_LOGINS_REMEMBERED)
                .time_to_idle(address)
                .build(),
            by_user: Cache::builder()
                .max_capacity(FAILED_LOGINS_REMEMBERED)
                .time_to_idle(user)
                .build(),
            by_account: Cache::builder()
                .max_capacity(FAILED_LOGINS_REMEMBERED)
                .time_to_idle(account)
                .build(),
            familiar: Cache::builder()
                .max_capacity(FAILED_LOGINS_REMEMBERED)
                .time_to_live(FAMILIAR_ADDRESS_LIFETIME)
                .build(),
        }
    }
}

impl FailedLogins {
    /// Counts a failed login.
    ///
    /// # Errors
    /// The time to wait, if the address has failed too often.
    pub fn count(
        &self,
        address: IpAddr,
        registry: Uuid,
        user: &str,
        now: Instant,
    ) -> Result<(), Duration> {
        let address = network_of(address);
        let user = self.user_key(registry, user);
        let of_address = self.by_address.get_with(address, || {
            let maximum = FAILED_LOGINS_OF_ADDRESS_MAXIMUM;
            let interval = FAILED_LOGIN_OF_ADDRESS_INTERVAL;
            Arc::new(Allowance::full(maximum, interval, now))
        });
        let of_user = self.by_user.get_with((address, user), || {
            let maximum = FAILED_LOGINS_OF_USER_MAXIMUM;
            let interval = FAILED_LOGIN_OF_USER_INTERVAL;
            Arc::new(Allowance::full(maximum, interval, now))
        });
        of_user.take(now)?;
        of_address.take(now)
    }

    /// How long it takes until a failure is allowed; `None` when one is now. Nothing is counted.
    pub fn wait(
        &self,
        address: IpAddr,
        registry: Uuid,
        user: &str,
        now: Instant,
    ) -> Option<Duration> {
        let address = network_of(address);
        let user = self.user_key(registry, user);
        let known = [
            self.by_user.get(&(address, user)),
            self.by_address.get(&address),
        ];
        let known = known.into_iter().flatten();
        known.filter_map(|allowance| allowance.wait(now)).max()
    }

    /// How long it takes until a guess at a chosen secret of an account may be looked at; `None` when one may now.
    pub fn wait_of_guess(&self, address: IpAddr, account: Uuid, now: Instant) -> Option<Duration> {
        if self.familiar.contains_key(&(network_of(address), account)) {
            return None;
        }
        self.by_account.get(&account)?.wait(now)
    }

    /// Counts a guess that was wrong; more than there may be cannot be, since they are not looked at.
    pub fn guessed_wrong(&self, account: Uuid, now: Instant) {
        let allowance = self.by_account.get_with(account, || {
            let maximum = GUESSES_AT_ACCOUNT_MAXIMUM;
            Arc::new(Allowance::full(maximum, GUESS_AT_ACCOUNT_INTERVAL, now))
        });
        // Those from familiar addresses are looked at when there are none left.
        let _ = allowance.take(now);
    }

    /// Begins to look at a guess.
    pub fn look_at<'a>(
        &'a self,
        address: IpAddr,
        registry: Uuid,
        user: &'a str,
        account: Uuid,
    ) -> Guess<'a> {
        Guess {
            failures: self,
            address,
            registry,
            user,
            account,
            is_answered: false,
        }
    }

    /// Remembers from where a chosen secret was right.
    pub fn guessed_right(&self, address: IpAddr, account: Uuid) {
        self.familiar.insert((network_of(address), account), ());
    }

    fn user_key(&self, registry: Uuid, user: &str) -> u64 {
        self.hasher.hash_one((registry, arm::canonical_key(user)))
    }
}

/// A guess that is being looked at. Whoever hangs up meanwhile has guessed wrong: looking costs the same whether the answer is waited for.
pub struct Guess<'a> {
    failures: &'a FailedLogins,
    address: IpAddr,
    registry: Uuid,
    user: &'a str,
    account: Uuid,
    is_answered: bool,
}

impl Guess<'_> {
    /// It is known whether it was right; whoever asked counts it.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Guess<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let now = Instant::now();
        self.failures.guessed_wrong(self.account, now);
        // Nobody is there to be told to wait.
        let _ = self
            .failures
            .count(self.address, self.registry, self.user, now);
    }
}

/// Whoever has one IPv6 address usually has the whole network of 64 bits.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: Uuid = Uuid::from_u128(1);

    #[test]
    fn an_account_that_many_addresses_guess_at_is_closed_to_them_and_not_where_it_logged_in() {
        let (failed_logins, now) = (FailedLogins::default(), Instant::now());
        let (home, elsewhere) = ("192.0.2.1".parse(), "203.0.113.9".parse());
        let (home, elsewhere) = (home.expect("an address"), elsewhere.expect("an address"));
        failed_logins.guessed_right(home, ACCOUNT);
        for _ in 0..GUESSES_AT_ACCOUNT_MAXIMUM {
            assert_eq!(failed_logins.wait_of_guess(elsewhere, ACCOUNT, now), None);
            failed_logins.guessed_wrong(ACCOUNT, now);
        }
        let wait = failed_logins
            .wait_of_guess(elsewhere, ACCOUNT, now)
            .expect("it has to wait");
        assert_eq!(failed_logins.wait_of_guess(home, ACCOUNT, now), None);
        let another = Uuid::from_u128(2);
        assert_eq!(failed_logins.wait_of_guess(elsewhere, another, now), None);
        let later = failed_logins.wait_of_guess(elsewhere, ACCOUNT, now + wait);
        assert_eq!(later, None);
    }

    #[test]
    fn a_guess_that_is_not_waited_for_was_wrong() {
        let failed_logins = FailedLogins::default();
        let (registry, user) = (Uuid::from_u128(2), "account");
        let address: IpAddr = "203.0.113.9".parse().expect("an address");
        let wait = || {
            let now = Instant::now();
            let of_user = failed_logins.wait(address, registry, user, now);
            of_user.max(failed_logins.wait_of_guess(address, ACCOUNT, now))
        };
        for _ in 0..GUESSES_AT_ACCOUNT_MAXIMUM {
            let guess = failed_logins.look_at(address, registry, user, ACCOUNT);
            guess.answered();
        }
        assert_eq!(wait(), None);
        for _ in 0..FAILED_LOGINS_OF_USER_MAXIMUM {
            assert_eq!(wait(), None);
            drop(failed_logins.look_at(address, registry, user, ACCOUNT));
        }
        assert!(wait().is_some());
    }
}

//! How much of a node one registry, and one caller of it, may have: so that no team's load takes the node from another.
//!
//! What counts is a request of a caller who was let in, from then until the last byte of its answer is taken. Whoever is over a limit
//! gets 429 with `Retry-After`. While the node is crowded, each registry that is in use may have an equal share of it, and no more: what
//! one has under way beyond its share ends, and nothing is added to it. Strangers count for nobody, or they could shut a registry.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use uuid::Uuid;

use super::allowance::Allowance;
use crate::limits::{
    CALLER_REQUESTS_MAXIMUM, CROWDED_REQUESTS, REGISTRY_REQUESTS_MAXIMUM, TOO_BUSY_RETRY_AFTER,
};

/// Registries or callers that are remembered before those are forgotten that nothing is under way for.
const REMEMBERED: usize = 1024;

/// What one registry and one caller may have.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LoadLimits {
    /// Requests of one registry that this node serves at once, downloads and uploads under way included
    #[arg(long, value_name = "REQUESTS", default_value_t = REGISTRY_REQUESTS_MAXIMUM)]
    pub registry_requests: u32,
    /// Requests of one caller in one registry that this node serves at once
    #[arg(long, value_name = "REQUESTS", default_value_t = CALLER_REQUESTS_MAXIMUM)]
    pub caller_requests: u32,
    /// Requests of one registry that this node takes a second, and as many at once (default: as many as it can)
    #[arg(long, value_name = "REQUESTS")]
    pub registry_rate: Option<NonZeroU32>,
    /// Requests of one caller in one registry that this node takes a second, and as many at once (default: as many as it can)
    #[arg(long, value_name = "REQUESTS")]
    pub caller_rate: Option<NonZeroU32>,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            registry_requests: REGISTRY_REQUESTS_MAXIMUM,
            caller_requests: CALLER_REQUESTS_MAXIMUM,
            registry_rate: None,
            caller_rate: None,
        }
    }
}

/// Somebody in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CallerKey {
    pub(super) registry: Uuid,
    pub(super) who: Who,
}

/// Whose requests count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// The registry's own account.
    Admin,
    Principal(Uuid),
    /// All who show no credentials: known callers have a part of the registry's share that these cannot take.
    Anonymous,
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) limit: Limit,
    pub(super) retry_after: Duration,
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    RegistryRequests,
    CallerRequests,
    RegistryRate,
    CallerRate,
    Crowded,
}

impl Limit {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::RegistryRequests => "registry-requests",
            Self::CallerRequests => "caller-requests",
            Self::RegistryRate => "registry-rate",
            Self::CallerRate => "caller-rate",
            Self::Crowded => "crowded",
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::RegistryRequests => "too many requests of this registry are under way here",
            Self::CallerRequests => "too many requests of this caller are under way here",
            Self::RegistryRate => "too many requests of this registry in a second",
            Self::CallerRate => "too many requests of this caller in a second",
            Self::Crowded => "the node is crowded, and this registry has its share of it under way",
        }
    }
}

/// Counts what is under way; clones are one.
#[derive(Clone)]
pub(super) struct Admission {
    limits: LoadLimits,
    /// Requests under way at which the node is crowded.
    crowded_at: u32,
    usage: Arc<Mutex<Usage>>,
}

struct Usage {
    under_way: u32,
    /// Registries with something under way.
    registries_in_use: u32,
    registries: Shares<Uuid>,
    callers: Shares<CallerKey>,
}

/// A request that was let in; it counts until this is dropped.
pub(super) struct Admitted {
    usage: Arc<Mutex<Usage>>,
    caller: CallerKey,
}

impl Admission {
    pub(super) fn new(limits: LoadLimits) -> Self {
        Self {
            limits,
            crowded_at: CROWDED_REQUESTS,
            usage: Arc::new(Mutex::new(Usage {
                under_way: 0,
                registries_in_use: 0,
                registries: Shares::new(limits.registry_rate),
                callers: Shares::new(limits.caller_rate),
            })),
        }
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// The limit that is reached, and when to ask again.
    pub(super) fn admit(&self, caller: CallerKey, now: Instant) -> Result<Admitted, Refused> {
        let mut usage = self.usage.lock();
        self.check_numbers(&mut usage, &caller, now)?;
        let registry = caller.registry;
        for (waits, limit) in [
            (usage.callers.wait(&caller, now), Limit::CallerRate),
            (usage.registries.wait(&registry, now), Limit::RegistryRate),
        ] {
            if let Some(retry_after) = waits {
                return Err(Refused { limit, retry_after });
            }
        }
        usage.under_way += 1;
        usage.callers.begin(caller, now);
        if usage.registries.begin(registry, now) == 1 {
            usage.registries_in_use += 1;
        }
        Ok(Admitted {
            usage: Arc::clone(&self.usage),
            caller,
        })
    }

    fn check_numbers(
        &self,
        usage: &mut Usage,
        caller: &CallerKey,
        now: Instant,
    ) -> Result<(), Refused> {
        let of_registry = usage.registries.share(caller.registry, now).under_way;
        let of_caller = usage.callers.share(*caller, now).under_way;
        // With this one, if it has nothing under way yet.
        let in_use = usage.registries_in_use + u32::from(of_registry == 0);
        let fair = (self.crowded_at / in_use.max(1)).max(1);
        let reached = if of_caller >= self.limits.caller_requests {
            Limit::CallerRequests
        } else if of_registry >= self.limits.registry_requests {
            Limit::RegistryRequests
        } else if usage.under_way >= self.crowded_at && of_registry >= fair {
            Limit::Crowded
        } else {
            return Ok(());
        };
        Err(Refused {
            limit: reached,
            retry_after: TOO_BUSY_RETRY_AFTER,
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut usage = self.usage.lock();
        usage.under_way -= 1;
        usage.callers.end(&self.caller);
        if usage.registries.end(&self.caller.registry) == 0 {
            usage.registries_in_use -= 1;
        }
    }
}

/// What each of many has.
struct Shares<K> {
    rate: Option<NonZeroU32>,
    shares: HashMap<K, Share>,
    /// When there are so many, those that are as if they were new are forgotten.
    forget_at: usize,
}

struct Share {
    under_way: u32,
    allowance: Option<Allowance>,
}

impl<K: Eq + Hash + Copy> Shares<K> {
    fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            rate,
            shares: HashMap::new(),
            forget_at: REMEMBERED,
        }
    }

    fn share(&mut self, key: K, now: Instant) -> &mut Share {
        if self.shares.len() >= self.forget_at {
            self.shares.retain(|_, share| !share.is_as_new(now));
            self.forget_at = (2 * self.shares.len()).max(REMEMBERED);
        }
        let rate = self.rate;
        self.shares.entry(key).or_insert_with(|| Share {
            under_way: 0,
            allowance: rate
                .map(|rate| Allowance::full(rate.get(), Duration::from_secs(1) / rate.get(), now)),
        })
    }

    fn wait(&mut self, key: &K, now: Instant) -> Option<Duration> {
        self.share(*key, now).allowance.as_ref()?.wait(now)
    }

    /// How many are under way then.
    fn begin(&mut self, key: K, now: Instant) -> u32 {
        let share = self.share(key, now);
        if let Some(allowance) = &share.allowance {
            // It was asked just before, under the same lock.
            let _ = allowance.take(now);
        }
        share.under_way += 1;
        share.under_way
    }

    /// How many are under way then.
    fn end(&mut self, key: &K) -> u32 {
        let Some(share) = self.shares.get_mut(key) else {
            return 0;
        };
        share.under_way -= 1;
        share.under_way
    }
}

impl Share {
    fn is_as_new(&self, now: Instant) -> bool {
        let is_full = |allowance: &Allowance| allowance.is_full(now);
        self.under_way == 0 && self.allowance.as_ref().is_none_or(is_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(registry: u128, principal: u128) -> CallerKey {
        CallerKey {
            registry: Uuid::from_u128(registry),
            who: Who::Principal(Uuid::from_u128(principal)),
        }
    }

    fn admission(limits: LoadLimits, crowded_at: u32) -> Admission {
        Admission {
            crowded_at,
            ..Admission::new(limits)
        }
    }

    fn reached(result: Result<Admitted, Refused>) -> Limit {
        result.err().expect("a limit").limit
    }

    #[test]
    fn a_caller_and_a_registry_have_so_many_at_once() {
        let limits = LoadLimits {
            registry_requests: 3,
            caller_requests: 2,
            ..LoadLimits::default()
        };
        let (admission, now) = (admission(limits, 100), Instant::now());
        let admit = |registry, principal| admission.admit(caller(registry, principal), now);
        let first = [admit(1, 1), admit(1, 1)];
        assert_eq!(reached(admit(1, 1)), Limit::CallerRequests);
        let second = admit(1, 2);
        assert_eq!(reached(admit(1, 2)), Limit::RegistryRequests);
        assert!(admit(2, 1).is_ok(), "another registry's");
        drop(first);
        assert!(admit(1, 2).is_ok() && second.is_ok());
    }

    #[test]
    fn a_rate_is_kept_and_says_when_to_ask_again() {
        let limits = LoadLimits {
            registry_rate: NonZeroU32::new(4),
            caller_rate: NonZeroU32::new(2),
            ..LoadLimits::default()
        };
        let (admission, now) = (admission(limits, 100), Instant::now());
        let admit = |principal, now| admission.admit(caller(1, principal), now);
        assert!(admit(1, now).is_ok() && admit(1, now).is_ok());
        let refused = admit(1, now).err().expect("too many");
        assert_eq!(refused.limit, Limit::CallerRate);
        assert_eq!(refused.retry_after, Duration::from_millis(500));
        // What was refused took nothing from the registry.
        assert!(admit(2, now).is_ok() && admit(2, now).is_ok());
        assert_eq!(reached(admit(3, now)), Limit::RegistryRate);
        assert!(admit(3, now + Duration::from_millis(250)).is_ok());
    }

    #[test]
    fn in_a_crowded_node_each_registry_has_its_share() {
        let (admission, now) = (admission(LoadLimits::default(), 8), Instant::now());
        let admit = |registry| admission.admit(caller(registry, 1), now);
        let mut first: Vec<Admitted> = (0..8).filter_map(|_| admit(1).ok()).collect();
        assert_eq!(first.len(), 8, "alone it may have all of it");
        assert_eq!(reached(admit(1)), Limit::Crowded);
        // Another one is let in all the same, up to its own half.
        let second: Vec<Admitted> = (0..4).filter_map(|_| admit(2).ok()).collect();
        assert_eq!(second.len(), 4);
        assert_eq!(reached(admit(2)), Limit::Crowded);
        first.truncate(4);
        assert_eq!(reached(admit(1)), Limit::Crowded);
        first.truncate(3);
        assert!(admit(1).is_ok());
    }

    #[test]
    fn nobody_is_remembered_for_ever() {
        let (admission, now) = (admission(LoadLimits::default(), 8), Instant::now());
        let kept = admission.admit(caller(0, 0), now);
        for number in 1..=2 * REMEMBERED as u128 {
            assert!(admission.admit(caller(number, number), now).is_ok());
        }
        let usage = admission.usage.lock();
        assert!(usage.callers.shares.len() <= REMEMBERED);
        assert!(usage.callers.shares.contains_key(&caller(0, 0)) && kept.is_ok());
        assert_eq!((usage.under_way, usage.registries_in_use), (1, 1));
    }
}

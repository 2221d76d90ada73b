//! Which credentials were used here, to the hour: what the control plane is told, so that somebody who rotates a secret sees whether it is
//! still in use. Kept in memory only; what a node that ends had not told is lost.

use std::collections::HashMap;

use config_documents::{UsedCredential, UsedCredentialId};
use parking_lot::Mutex;
use time::{Duration, OffsetDateTime, Time, UtcOffset};

use crate::limits::{USED_CREDENTIALS_MAXIMUM, USED_CREDENTIALS_TOLD_AT_ONCE};

/// How long a use is known after its hour, to be told again on another stream.
const KEPT: Duration = Duration::hours(2);

/// The uses of the last hours. One of a credential that was noted in the same hour costs a look-up.
#[derive(Default)]
pub struct UsedCredentials {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    uses: HashMap<UsedCredentialId, Use>,
    untold: usize,
}

struct Use {
    hour: OffsetDateTime,
    is_told: bool,
}

impl UsedCredentials {
    /// A credential let somebody in.
    pub fn note(&self, credential: UsedCredentialId, now: OffsetDateTime) {
        let hour = hour_of(now);
        let mut state = self.state.lock();
        if let Some(known) = state.uses.get_mut(&credential) {
            if known.hour >= hour {
                return;
            }
            let was_told = std::mem::replace(&mut known.is_told, false);
            known.hour = hour;
            state.untold += usize::from(was_told);
            return;
        }
        if state.uses.len() >= USED_CREDENTIALS_MAXIMUM {
            state.forget(hour - KEPT);
        }
        if state.uses.len() >= USED_CREDENTIALS_MAXIMUM {
            // Told of at its next use, once there is room.
            return;
        }
        let is_told = false;
        state.uses.insert(credential, Use { hour, is_told });
        state.untold += 1;
    }

    /// What is to be told, not more than goes into one message; it counts as told from then on.
    pub fn take_untold(&self, now: OffsetDateTime) -> Vec<UsedCredential> {
        let mut state = self.state.lock();
        if state.untold == 0 {
            return Vec::new();
        }
        let untold = state.uses.iter_mut().filter(|(_, used)| !used.is_told);
        let taken: Vec<UsedCredential> = untold
            .take(USED_CREDENTIALS_TOLD_AT_ONCE)
            .map(|(credential, used)| {
                used.is_told = true;
                UsedCredential {
                    credential: credential.clone(),
                    hour: used.hour,
                }
            })
            .collect();
        state.untold -= taken.len();
        state.forget(hour_of(now) - KEPT);
        taken
    }

    /// A stream begins: what was told on the one before may not have been heard.
    pub fn tell_again(&self) {
        let mut state = self.state.lock();
        for used in state.uses.values_mut() {
            used.is_told = false;
        }
        state.untold = state.uses.len();
    }
}

impl State {
    /// Leaves out what was told and is older.
    fn forget(&mut self, before: OffsetDateTime) {
        self.uses
            .retain(|_, used| !used.is_told || used.hour >= before);
    }
}

fn hour_of(time: OffsetDateTime) -> OffsetDateTime {
    let time = time.to_offset(UtcOffset::UTC);
    time.replace_time(Time::from_hms(time.hour(), 0, 0).expect("an hour of the day"))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:34:56 UTC);

    fn secret(number: u128) -> UsedCredentialId {
        UsedCredentialId::Secret {
            key_id: Uuid::from_u128(number),
        }
    }

    fn told(used: &UsedCredentials, now: OffsetDateTime) -> Vec<(UsedCredentialId, u8)> {
        let mut told: Vec<(UsedCredentialId, u8)> = used
            .take_untold(now)
            .into_iter()
            .map(|used| (used.credential, used.hour.hour()))
            .collect();
        told.sort();
        told
    }

    #[test]
    fn a_use_is_told_once_an_hour_and_again_on_another_stream() {
        let used = UsedCredentials::default();
        used.note(secret(1), NOW);
        used.note(secret(1), NOW + Duration::minutes(1));
        used.note(secret(2), NOW);
        let both = vec![(secret(1), 12), (secret(2), 12)];
        assert_eq!(told(&used, NOW), both);
        used.note(secret(1), NOW);
        assert_eq!(told(&used, NOW), []);
        used.tell_again();
        assert_eq!(told(&used, NOW), both);
        used.note(secret(2), NOW + Duration::hours(1));
        assert_eq!(told(&used, NOW), [(secret(2), 13)]);
        // What is long past was told long since.
        let later = NOW + Duration::hours(3);
        used.note(secret(3), later);
        assert_eq!(told(&used, later), [(secret(3), 15)]);
        used.tell_again();
        assert_eq!(told(&used, later), [(secret(2), 13), (secret(3), 15)]);
    }

    #[test]
    fn messages_and_memory_have_a_bound_and_nothing_untold_is_forgotten() {
        let used = UsedCredentials::default();
        for number in 0..=USED_CREDENTIALS_MAXIMUM as u128 {
            used.note(secret(number), NOW);
        }
        let mut count = 0;
        loop {
            let taken = used.take_untold(NOW + Duration::hours(9));
            assert!(taken.len() <= USED_CREDENTIALS_TOLD_AT_ONCE);
            if taken.is_empty() {
                break;
            }
            count += taken.len();
        }
        assert_eq!(count, USED_CREDENTIALS_MAXIMUM);
    }
}

//! How long ago the configuration was certainly current, and when that is too long to serve by it: a state machine without clock.
//!
//! Freshness counts from when the node *sent* an `applied` that a control plane says to have committed; when that word came does not matter,
//! since a mark that sat in a buffer renews nothing. So the node ends before the control plane stops to wait for it, which counts from the
//! commit.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

/// Answers of which it is remembered when they were sent. More are under way only while nothing is heard.
const SENT_MAXIMUM: usize = 64;

/// A point on the machine's own clock: the time since its start. It goes on while the machine sleeps, and nobody can set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// The time from an earlier point to this one; zero for a later one.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// When the configuration was certainly current, and how long it may be served by.
#[derive(Clone, Debug)]
pub struct Freshness {
    /// The bound that this start of the node was given; `None` for no bound.
    given: Option<Duration>,
    /// The bound that control planes may still count on, from an earlier start; in force until one has heard the given one.
    kept: Option<Duration>,
    is_heard: bool,
    fresh_at: Option<BootTime>,
    /// The sequences of answers on this stream with the time before each was sent, both rising.
    sent: VecDeque<(u64, BootTime)>,
}

/// What a word of the control plane changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that was not known.
    Nothing,
    /// The configuration is known to be fresher.
    Fresher,
    /// That, and the given bound counts from now on.
    BoundInForce,
}

/// The configuration is too old to serve by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// How old it may be.
    pub bound: Duration,
    /// How old it is; `None` when that is not known, because the machine was started since or no control plane has ever heard this node.
    pub age: Option<Duration>,
}

impl Freshness {
    /// Begins with what an earlier start of the node left: the bound that it kept to, and when it was fresh if the machine has not been
    /// started since.
    pub fn new(
        given: Option<Duration>,
        kept: Option<Duration>,
        fresh_at: Option<BootTime>,
    ) -> Self {
        Self {
            given,
            kept,
            is_heard: false,
            fresh_at,
            sent: VecDeque::new(),
        }
    }

    /// A stream begins: what was sent on another one is never heard on this one.
    pub fn begin_stream(&mut self) {
        self.sent.clear();
    }

    /// Say this before an `applied` is sent.
    pub fn sending(&mut self, sequence: u64, at: BootTime) {
        if self.sent.len() == SENT_MAXIMUM {
            // What is heard of later ones then counts from an earlier time, or from this one.
            self.sent.pop_back();
        }
        self.sent.push_back((sequence, at));
    }

    /// A control plane says up to where it has committed this stream's answers.
    pub fn heard(&mut self, sequence: u64) -> Heard {
        let mut sent_at = None;
        while let Some((_, at)) = self.sent.front().filter(|(sent, _)| *sent <= sequence) {
            sent_at = Some(*at);
            self.sent.pop_front();
        }
        let Some(sent_at) = sent_at else {
            return Heard::Nothing;
        };
        self.fresh_at = self.fresh_at.max(Some(sent_at));
        if std::mem::replace(&mut self.is_heard, true) {
            return Heard::Fresher;
        }
        self.kept = self.given;
        Heard::BoundInForce
    }

    /// A mark arrived, whatever it says.
    #[cfg(feature = "faults-on-purpose")]
    pub fn arrived(&mut self, at: BootTime) {
        self.fresh_at = Some(at);
    }

    /// The bound that this start of the node was given.
    pub fn given(&self) -> Option<Duration> {
        self.given
    }

    /// The bound in force: the given one, but no longer one than was kept to before, as long as no control plane has heard it.
    pub fn bound(&self) -> Option<Duration> {
        match (self.is_heard, self.given, self.kept) {
            (true, given, _) => given,
            (false, Some(given), Some(kept)) => Some(given.min(kept)),
            (false, given, kept) => given.or(kept),
        }
    }

    /// When the configuration was last known to be current.
    pub fn fresh_at(&self) -> Option<BootTime> {
        self.fresh_at
    }

    /// How long ago that was.
    pub fn age(&self, now: BootTime) -> Option<Duration> {
        self.fresh_at.map(|fresh_at| now.since(fresh_at))
    }

    /// Why the node may not serve now; `None` when it may.
    pub fn stale(&self, now: BootTime) -> Option<Stale> {
        let bound = self.bound()?;
        let age = self.age(now);
        age.is_none_or(|age| age >= bound)
            .then_some(Stale { bound, age })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn at(number: u64) -> BootTime {
        BootTime(seconds(number))
    }

    #[test]
    fn freshness_counts_from_when_the_answer_was_sent() {
        let mut freshness = Freshness::new(Some(seconds(10)), None, None);
        assert_eq!(
            freshness.stale(at(100)),
            Some(Stale {
                bound: seconds(10),
                age: None
            })
        );
        freshness.begin_stream();
        freshness.sending(1, at(100));
        freshness.sending(2, at(101));
        // Heard much later: a mark that was held up renews nothing.
        assert_eq!(freshness.heard(1), Heard::BoundInForce);
        assert_eq!(freshness.stale(at(109)), None);
        assert!(freshness.stale(at(110)).is_some());
        assert_eq!(freshness.heard(1), Heard::Nothing);
        assert_eq!(freshness.heard(2), Heard::Fresher);
        assert_eq!(freshness.stale(at(110)), None);
        assert_eq!(freshness.age(at(111)), Some(seconds(10)));
        assert!(freshness.stale(at(111)).is_some());
    }

    #[test]
    fn what_was_sent_on_another_stream_is_not_heard_on_this_one() {
        let mut freshness = Freshness::new(Some(seconds(10)), None, None);
        freshness.sending(1, at(5));
        freshness.begin_stream();
        assert_eq!(freshness.heard(1), Heard::Nothing);
        assert!(freshness.stale(at(5)).is_some());
    }

    #[test]
    fn a_longer_bound_counts_once_a_control_plane_has_heard_it_and_a_shorter_one_at_once() {
        for (given, kept, before, after) in [
            (None, Some(10), Some(10), None),
            (Some(60), Some(10), Some(10), Some(60)),
            (Some(10), Some(60), Some(10), Some(10)),
            (Some(10), None, Some(10), Some(10)),
            (None, None, None, None),
        ] {
            let mut freshness =
                Freshness::new(given.map(seconds), kept.map(seconds), Some(at(100)));
            assert_eq!(freshness.bound(), before.map(seconds));
            freshness.begin_stream();
            freshness.sending(1, at(100));
            assert_eq!(freshness.bound(), before.map(seconds));
            freshness.heard(1);
            assert_eq!(freshness.bound(), after.map(seconds));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// So many milliseconds go by.
        Wait(u16),
        Send,
        /// A control plane commits what has arrived, and its word waits in a buffer.
        Commit,
        /// The oldest word in the buffer arrives.
        Arrive,
        NewStream,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0_u16..4_000).prop_map(Step::Wait),
            Just(Step::Send),
            Just(Step::Commit),
            Just(Step::Arrive),
            Just(Step::NewStream),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        /// Whatever is delayed or lost: a node that serves had an answer committed that it sent less than the bound ago. The control plane,
        /// which counts from the commit and waits longer, has it among those that may serve.
        #[test]
        fn a_node_never_serves_longer_than_its_bound_after_a_committed_answer(steps in steps()) {
            let bound = seconds(10);
            let mut freshness = Freshness::new(Some(bound), None, None);
            let mut now = BootTime::default();
            let mut sequence = 0;
            let mut committed_at: Option<BootTime> = None;
            let mut words = VecDeque::new();
            for step in steps {
                match step {
                    Step::Wait(milliseconds) => {
                        now.0 += Duration::from_millis(u64::from(milliseconds));
                    }
                    Step::Send => {
                        sequence += 1;
                        freshness.sending(sequence, now);
                    }
                    Step::Commit if sequence > 0 => {
                        committed_at = Some(now);
                        words.push_back(sequence);
                    }
                    Step::Commit => {}
                    Step::Arrive => {
                        if let Some(word) = words.pop_front() {
                            freshness.heard(word);
                        }
                    }
                    Step::NewStream => {
                        sequence = 0;
                        words.clear();
                        freshness.begin_stream();
                    }
                }
                let fenced_for_control_plane =
                    committed_at.is_none_or(|at| now.since(at) >= bound * 11 / 10);
                if fenced_for_control_plane {
                    prop_assert!(freshness.stale(now).is_some());
                }
                prop_assert!(freshness.sent.len() <= SENT_MAXIMUM);
            }
        }
    }
}

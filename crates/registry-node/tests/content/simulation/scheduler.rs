//! Runs tasks one store call at a time, in an order that a seed decides, and ends some of them in the middle.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use time::Duration;

use super::random::Random;
use super::stores::World;

/// More steps than any test needs.
const STEPS_MAXIMUM: usize = 200_000;

/// Runs a future that only waits for the stores, with every call made at once.
pub(crate) fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..STEPS_MAXIMUM {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("a future that waits for something else than a store");
}

/// Something that is being done, with what it came to.
pub(crate) struct Task<T> {
    future: Option<Pin<Box<dyn Future<Output = T>>>>,
    /// After so many steps its process dies.
    dies_after: Option<usize>,
    steps: usize,
    pub(crate) started_at: usize,
    pub(crate) ended_at: usize,
    /// `None` if it died.
    pub(crate) outcome: Option<T>,
}

impl<T> Task<T> {
    pub(crate) fn new(
        future: impl Future<Output = T> + 'static,
        dies_after: Option<usize>,
    ) -> Self {
        Self {
            future: Some(Box::pin(future)),
            dies_after,
            steps: 0,
            started_at: usize::MAX,
            ended_at: usize::MAX,
            outcome: None,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.future.is_none()
    }

    pub(crate) fn kill(&mut self) {
        self.future = None;
    }
}

/// The order of things.
pub(crate) struct Scheduler {
    world: Arc<World>,
    random: Random,
    step: usize,
}

impl Scheduler {
    pub(crate) fn new(world: &Arc<World>, seed: u64) -> Self {
        Self {
            world: Arc::clone(world),
            random: Random::new(seed),
            step: 0,
        }
    }

    /// Runs all tasks until those of `awaited` kind are over; others may go on later.
    pub(crate) fn run<T>(&mut self, tasks: &mut [Task<T>], is_awaited: impl Fn(usize) -> bool) {
        loop {
            let running: Vec<usize> = (0..tasks.len())
                .filter(|index| !tasks[*index].is_over())
                .collect();
            if !running.iter().any(|index| is_awaited(*index)) {
                self.world.grant_all();
                return;
            }
            let chosen = self.random.pick(&running);
            self.step += 1;
            assert!(self.step < STEPS_MAXIMUM, "it never ends");
            if self.random.one_in(40) {
                self.world.advance(Duration::seconds(7));
            }
            self.step_of(&mut tasks[chosen]);
        }
    }

    fn step_of<T>(&mut self, task: &mut Task<T>) {
        let Some(future) = &mut task.future else {
            return;
        };
        task.started_at = task.started_at.min(self.step);
        task.steps += 1;
        if task.dies_after.is_some_and(|steps| task.steps > steps) {
            task.future = None;
            return;
        }
        self.world.grant(1);
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
            task.outcome = Some(outcome);
            task.ended_at = self.step;
            task.future = None;
        }
        self.world.grant(0);
    }
}

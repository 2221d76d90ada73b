//! Something that is kept for a client only as long as the client takes what it asked for.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use actix_web::rt::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Holds a value until it is dropped, or the client was idle for too long.
pub(crate) struct WhileTaken<T> {
    state: Rc<RefCell<State<T>>>,
    watch: JoinHandle<()>,
}

struct State<T> {
    /// `None` once the client was given up.
    value: Option<T>,
    /// Whether somebody else is waited for, not the client.
    is_waiting: bool,
    asked_at: Instant,
}

impl<T: 'static> WhileTaken<T> {
    /// Gives the client up when it asks for nothing for longer than `limit`. On a thread of the server only.
    pub(crate) fn new(value: T, limit: Duration) -> Self {
        let state = Rc::new(RefCell::new(State {
            value: Some(value),
            is_waiting: false,
            asked_at: Instant::now(),
        }));
        let watch = actix_web::rt::spawn(watch(Rc::downgrade(&state), limit));
        Self { state, watch }
    }

    /// The client asks for more. What is done with the value; `None` when it is gone.
    pub(crate) fn asked<R>(&self, act: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut state = self.state.borrow_mut();
        state.asked_at = Instant::now();
        state.is_waiting = false;
        state.value.as_mut().map(act)
    }

    /// There is nothing for the client yet, which is not its fault.
    pub(crate) fn waits(&self) {
        self.state.borrow_mut().is_waiting = true;
    }
}

impl<T> Drop for WhileTaken<T> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

async fn watch<T>(held: Weak<RefCell<State<T>>>, limit: Duration) {
    while let Some(rest) = held
        .upgrade()
        .and_then(|state| give_up_or_wait(&state, limit))
    {
        sleep(rest).await;
    }
}

/// How long to wait before the next look; `None` if the client is given up.
fn give_up_or_wait<T>(state: &RefCell<State<T>>, limit: Duration) -> Option<Duration> {
    let mut state = state.borrow_mut();
    let idle = match state.is_waiting {
        true => Duration::ZERO,
        false => state.asked_at.elapsed(),
    };
    let rest = limit.checked_sub(idle);
    if rest.is_none_or(|rest| rest.is_zero()) {
        state.value = None;
        return None;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[actix_web::test]
    async fn only_a_client_that_asks_for_nothing_loses_it() {
        tokio::time::pause();
        let value = Rc::new(());
        let held = WhileTaken::new(Rc::clone(&value), LIMIT);
        for _ in 0..4 {
            sleep(LIMIT * 3 / 4).await;
            assert_eq!(held.asked(|_| ()), Some(()));
        }
        held.waits();
        sleep(LIMIT * 3).await;
        assert_eq!(held.asked(|_| ()), Some(()));
        sleep(LIMIT * 2).await;
        assert_eq!(Rc::strong_count(&value), 1);
        assert_eq!(held.asked(|_| ()), None);
    }
}

//! Work that is slow on purpose: hashing what somebody chose, to check it or to keep it. Beside the threads that serve requests, and little
//! at once, whatever it is for: each takes memory and a processor.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{SLOW_WORK_AT_ONCE, SLOW_WORK_QUEUE, SLOW_WORK_WAIT};

/// The places in which it is done.
#[derive(Clone)]
pub(crate) struct SlowWork {
    places: Arc<Semaphore>,
    /// Of those who wait for one.
    queue: Arc<Semaphore>,
}

/// A place to work in; free again when it is given up, or when the work in it is over.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// No place became free in time.
#[derive(Debug)]
pub(crate) struct Busy;

impl Default for SlowWork {
    fn default() -> Self {
        Self::with_places(SLOW_WORK_AT_ONCE)
    }
}

impl SlowWork {
    fn with_places(count: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(count)),
            queue: Arc::new(Semaphore::new(SLOW_WORK_QUEUE)),
        }
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// None became free in time, or would: too many wait.
    pub(crate) async fn place(&self) -> Result<Place, Busy> {
        let _waiting = self.queue.try_acquire().map_err(|_| Busy)?;
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(SLOW_WORK_WAIT, place).await {
            Ok(permit) => Ok(Place {
                _permit: permit.expect("it is never closed"),
            }),
            Err(_) => Err(Busy),
        }
    }
}

impl Place {
    /// Does work in this place, which is given back to go on with. Whoever asked may give up; the work goes on, and keeps its place until
    /// it is done.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> (T, Self) {
        tokio::task::spawn_blocking(move || (work(), self))
            .await
            .expect("it neither panics nor is aborted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_keeps_its_place_when_nobody_waits_for_it_any_more() {
        let slow_work = SlowWork::with_places(1);
        let taken = slow_work.place().await.expect("one is free");
        let (finish, may_finish) = mpsc::channel::<()>();
        let (begin, has_begun) = tokio::sync::oneshot::channel();
        let work = tokio::spawn(taken.run(move || {
            begin.send(()).expect("the test waits");
            may_finish.recv().expect("the test says when");
        }));
        has_begun.await.expect("it begins");
        work.abort();
        assert!(work.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(slow_work.places.available_permits(), 0);
        finish.send(()).expect("it waits");
        assert!(slow_work.place().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_too_long_is_sent_away() {
        let slow_work = SlowWork::with_places(1);
        let taken = slow_work.place().await.expect("one is free");
        assert!(slow_work.place().await.is_err());
        drop(taken);
        assert!(slow_work.place().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn of_more_than_can_have_their_turn_in_time_the_rest_is_sent_away_at_once() {
        let slow_work = SlowWork::with_places(1);
        let _taken = slow_work.place().await.expect("one is free");
        let waiting: Vec<_> = (0..SLOW_WORK_QUEUE)
            .map(|_| {
                let slow_work = slow_work.clone();
                tokio::spawn(async move { slow_work.place().await.is_ok() })
            })
            .collect();
        while slow_work.queue.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let began = tokio::time::Instant::now();
        assert!(slow_work.place().await.is_err());
        assert_eq!(began.elapsed(), std::time::Duration::ZERO);
        for waiting in waiting {
            assert!(!waiting.await.expect("no panic"));
        }
    }

    #[tokio::test]
    async fn a_place_is_given_back_with_what_came_of_the_work() {
        let slow_work = SlowWork::with_places(1);
        let place = slow_work.place().await.expect("one is free");
        let (outcome, place) = place.run(|| 7).await;
        assert_eq!((outcome, slow_work.places.available_permits()), (7, 0));
        drop(place);
        assert_eq!(slow_work.places.available_permits(), 1);
    }
}

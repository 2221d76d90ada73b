//! A blob's bytes on their way to a client that may be slow, or may never take them: what waits for it is little, and not for ever.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::Version;
use actix_web::rt::task::JoinHandle;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, sleep};

use crate::content::ContentError;
use crate::limits::READER_IDLE_TIMEOUT;

/// The server keeps about two pieces of an answer for its client.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// Bytes in small pieces. Whatever was read ahead for a client that takes none of it is let go.
pub(super) struct Download {
    state: Rc<RefCell<State>>,
    /// A piece in a queue must not keep all of the block that it was cut from.
    is_copied: bool,
    watch: JoinHandle<()>,
}

struct State {
    /// `None` once the client was given up.
    blocks: Option<BoxStream<'static, Result<Bytes, ContentError>>>,
    /// What is left of the last block.
    block: Bytes,
    /// Whether the store is waited for, not the client.
    is_reading: bool,
    asked_at: Instant,
}

impl Download {
    pub(super) fn new(
        blocks: BoxStream<'static, Result<Bytes, ContentError>>,
        version: Version,
    ) -> Self {
        let state = Rc::new(RefCell::new(State {
            blocks: Some(blocks),
            block: Bytes::new(),
            is_reading: false,
            asked_at: Instant::now(),
        }));
        let watch = actix_web::rt::spawn(watch(Rc::downgrade(&state)));
        Self {
            state,
            is_copied: version == Version::HTTP_2,
            watch,
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Stream for Download {
    type Item = Result<Bytes, ContentError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let state = &mut *self.state.borrow_mut();
        state.asked_at = Instant::now();
        state.is_reading = false;
        let Some(blocks) = &mut state.blocks else {
            return Poll::Ready(Some(Err(ContentError::ReaderIdle)));
        };
        while state.block.is_empty() {
            match blocks.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(block))) => state.block = block,
                Poll::Pending => {
                    state.is_reading = true;
                    return Poll::Pending;
                }
                end => return end,
            }
        }
        let length = state.block.len().min(PIECE_BYTES);
        let piece = state.block.split_to(length);
        Poll::Ready(Some(Ok(match self.is_copied {
            true => Bytes::copy_from_slice(&piece),
            false => piece,
        })))
    }
}

/// Gives the client up when it has not asked for more for too long.
async fn watch(download: Weak<RefCell<State>>) {
    while let Some(rest) = download.upgrade().and_then(|state| give_up_or_wait(&state)) {
        sleep(rest).await;
    }
}

/// How long to wait before the next look; `None` if the client is given up.
fn give_up_or_wait(state: &RefCell<State>) -> Option<Duration> {
    let mut state = state.borrow_mut();
    let idle = match state.is_reading {
        true => Duration::ZERO,
        false => state.asked_at.elapsed(),
    };
    let rest = READER_IDLE_TIMEOUT.checked_sub(idle);
    if rest.is_none_or(|rest| rest.is_zero()) {
        state.blocks = None;
        state.block = Bytes::new();
        return None;
    }
    rest
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;

    fn blocks(sizes: &[usize]) -> BoxStream<'static, Result<Bytes, ContentError>> {
        let blocks: Vec<Bytes> = sizes
            .iter()
            .map(|size| Bytes::from((0..*size).map(|at| at as u8).collect::<Vec<u8>>()))
            .collect();
        stream::iter(blocks.into_iter().map(Ok)).boxed()
    }

    #[actix_web::test]
    async fn all_bytes_come_in_small_pieces() {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let sizes = [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 7, 0, 5];
            let whole: Vec<u8> = blocks(&sizes)
                .map(|block| block.expect("a block"))
                .collect::<Vec<_>>()
                .await
                .concat();
            let pieces: Vec<Bytes> = Download::new(blocks(&sizes), version)
                .map(|piece| piece.expect("a piece"))
                .collect()
                .await;
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
            assert_eq!(pieces.concat(), whole);
        }
    }

    #[actix_web::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        tokio::time::pause();
        let held = std::sync::Arc::new(());
        let read_ahead = std::sync::Arc::clone(&held);
        let endless = stream::repeat_with(move || {
            let _read_ahead = &read_ahead;
            Ok(Bytes::from_static(b"abc"))
        });
        let mut download = Download::new(endless.boxed(), Version::HTTP_11);
        for _ in 0..3 {
            sleep(READER_IDLE_TIMEOUT / 2).await;
            assert!(download.next().await.expect("more").is_ok());
        }
        sleep(READER_IDLE_TIMEOUT * 2).await;
        assert_eq!(
            std::sync::Arc::strong_count(&held),
            1,
            "nothing is kept for it"
        );
        let end = download.next().await.expect("an end");
        assert!(matches!(end, Err(ContentError::ReaderIdle)));
    }

    #[actix_web::test]
    async fn a_slow_store_is_not_the_clients_fault() {
        tokio::time::pause();
        let slow = stream::once(async {
            sleep(READER_IDLE_TIMEOUT * 3).await;
            Ok(Bytes::from_static(b"abc"))
        });
        let mut download = Download::new(slow.boxed(), Version::HTTP_11);
        assert!(download.next().await.expect("a block").is_ok());
    }
}

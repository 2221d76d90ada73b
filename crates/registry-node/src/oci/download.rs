//! A blob's bytes, or a large manifest's, on their way to a client that may be slow, or may never take them: what waits for it is little, and not for ever.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::http::Version;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;

use crate::content::ContentError;
use crate::limits::READER_IDLE_TIMEOUT;
use crate::while_taken::WhileTaken;

/// The server keeps about two pieces of an answer for its client.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// Bytes in small pieces. Whatever was read ahead for a client that takes none of it is let go.
pub(super) struct Download {
    content: WhileTaken<Content>,
    /// A piece in a queue must not keep all of the block that it was cut from.
    is_copied: bool,
}

struct Content {
    blocks: BoxStream<'static, Result<Bytes, ContentError>>,
    /// What is left of the last block.
    block: Bytes,
}

impl Download {
    pub(super) fn new(
        blocks: BoxStream<'static, Result<Bytes, ContentError>>,
        version: Version,
    ) -> Self {
        let content = Content {
            blocks,
            block: Bytes::new(),
        };
        Self {
            content: WhileTaken::new(content, READER_IDLE_TIMEOUT),
            is_copied: version == Version::HTTP_2,
        }
    }
}

impl Content {
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, ContentError>>> {
        while self.block.is_empty() {
            match self.blocks.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(block))) => self.block = block,
                end => return end,
            }
        }
        let length = self.block.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(self.block.split_to(length))))
    }
}

impl Stream for Download {
    type Item = Result<Bytes, ContentError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.content.asked(|content| content.poll_piece(context));
        let Some(polled) = polled else {
            return Poll::Ready(Some(Err(ContentError::ReaderIdle)));
        };
        if polled.is_pending() {
            // The store is waited for.
            self.content.waits();
        }
        polled.map(|piece| {
            piece.map(|piece| {
                piece.map(|piece| match self.is_copied {
                    true => Bytes::copy_from_slice(&piece),
                    false => piece,
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use tokio::time::sleep;

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

//! Memory for manifests that are being pushed, shared by all pushes: a manifest is read whole, and many large ones at once must not fill
//! the machine.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ContentError;
use crate::limits::{MANIFEST_BYTES_SMALL, MANIFESTS_BYTES_AT_ONCE};

/// What one permit stands for.
const UNIT_BYTES: usize = 1024;

/// The memory; clones are one.
#[derive(Clone)]
pub(super) struct ManifestRoom(Arc<Semaphore>);

impl Default for ManifestRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(
            MANIFESTS_BYTES_AT_ONCE / UNIT_BYTES,
        )))
    }
}

impl ManifestRoom {
    /// Takes room for so many bytes until the returned value is dropped. Small ones need none. Nobody waits for room: a body that is not read
    /// meanwhile would keep others of its HTTP/2 connection from coming, also those that have room.
    pub(super) fn take(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, ContentError> {
        if bytes <= MANIFEST_BYTES_SMALL {
            return Ok(None);
        }
        let units = bytes.div_ceil(UNIT_BYTES as u64);
        let units = u32::try_from(units).map_err(|_| ContentError::TooManyManifests)?;
        let room = Arc::clone(&self.0).try_acquire_many_owned(units);
        room.map(Some).map_err(|_| ContentError::TooManyManifests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MANIFEST_BYTES_MAXIMUM;

    #[test]
    fn large_manifests_need_room_and_small_ones_do_not() {
        let room = ManifestRoom::default();
        let mut taken = Vec::new();
        for _ in 0..MANIFESTS_BYTES_AT_ONCE as u64 / MANIFEST_BYTES_MAXIMUM {
            taken.push(room.take(MANIFEST_BYTES_MAXIMUM).expect("room"));
        }
        let small = room.take(MANIFEST_BYTES_SMALL);
        assert!(matches!(small, Ok(None)));
        let refused = room.take(MANIFEST_BYTES_MAXIMUM);
        assert!(matches!(refused, Err(ContentError::TooManyManifests)));
        taken.pop();
        let next = room.take(MANIFEST_BYTES_MAXIMUM);
        assert!(matches!(next, Ok(Some(_))));
    }
}

//! What stands in the place of a removed record, in a store that cannot remove at a version.

use bytes::Bytes;
use uuid::Uuid;

use super::{OPERATION_HEAD_BYTES, OPERATION_PREFIX};

/// What follows the operation id. No record has it: a record's header ends with a line end.
const TAIL: &[u8] = b"\",\"removed\":true}";

/// The size of every tombstone, by which a listing tells what can be one.
pub(super) const TOMBSTONE_BYTES: u64 = (OPERATION_HEAD_BYTES + TAIL.len()) as u64;

/// A tombstone; a fresh operation id makes it unlike every other.
pub(super) fn tombstone(operation: Uuid) -> Bytes {
    let mut bytes = OPERATION_PREFIX.to_vec();
    bytes.extend_from_slice(operation.to_string().as_bytes());
    bytes.extend_from_slice(TAIL);
    Bytes::from(bytes)
}

pub(super) fn is_tombstone(record: &[u8]) -> bool {
    record.len() as u64 == TOMBSTONE_BYTES
        && record.starts_with(OPERATION_PREFIX)
        && record.ends_with(TAIL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::record_store::operation_id;

    #[test]
    fn a_tombstone_is_known_as_one_and_has_an_operation_id() {
        let id = Uuid::from_u128(7);
        let bytes = tombstone(id);
        assert!(is_tombstone(&bytes));
        assert_eq!(operation_id(&bytes), Some(id.to_string().as_str()));
        let with_line_end = [&bytes[..], b"\n"].concat();
        assert!(!is_tombstone(&with_line_end));
    }
}

//! `Range` of a download and `Content-Range` of an upload's chunk. Pure.

use std::ops::Range;

/// What a `Range` header asks of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeRequest {
    /// All of it: no range, several ranges, another unit, or no range at all. A server may ignore `Range` (RFC 9110, 14.2).
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that the blob does not have.
    Unsatisfiable,
}

impl RangeRequest {
    /// Reads the header's value against a blob of `size` bytes.
    #[must_use]
    pub fn parse(header: &str, size: u64) -> Self {
        parse_single(header, size).unwrap_or(Self::Whole)
    }
}

/// `None` where the header is to be ignored.
fn parse_single(header: &str, size: u64) -> Option<RangeRequest> {
    let (unit, set) = header.trim().split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    let range = match (first.is_empty(), last.is_empty()) {
        (true, true) => return None,
        (true, false) => size.saturating_sub(number(last)?)..size,
        (false, true) => number(first)?..size,
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..size.min(last.saturating_add(1))
        }
    };
    if range.start >= range.end {
        return Some(RangeRequest::Unsatisfiable);
    }
    Some(RangeRequest::Part(range))
}

/// Digits only, unlike `u64::from_str`, which takes a sign. Numbers too large for the type are as good as its largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Where a chunk of an upload goes: `<first>-<last>` of OCI Distribution; `bytes <first>-<last>/<total>` is understood too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRange {
    /// Position of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub length: u64,
}

impl ChunkRange {
    /// Reads the header's value; `None` if it is none.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let text = header.trim();
        let text = text
            .strip_prefix("bytes")
            .map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
        let text = match text.split_once('/') {
            Some((range, total)) if total == "*" || number(total).is_some() => range,
            Some(_) => return None,
            None => text,
        };
        let (first, last) = text.split_once('-')?;
        let (start, last) = (number(first)?, number(last)?);
        let length = last.checked_sub(start)?.checked_add(1)?;
        Some(Self { start, length })
    }
}

/// The `Range` header that says how far an upload is.
#[must_use]
pub fn received_range(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

//! `Range` of a download and `Content-Range` of an upload's chunk. Pure.

use std::ops::Range;

use crate::limits::BLOB_RANGES_MAXIMUM;

/// What a `Range` header asks of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeRequest {
    /// All of it: no range, another unit, or what is no range at all. A server may ignore `Range` (RFC 9110, 14.2).
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// These bytes, in this order, two or more times.
    Parts(Vec<Range<u64>>),
    /// Bytes that the blob does not have.
    Unsatisfiable,
}

impl RangeRequest {
    /// Reads the header's value against a blob of `size` bytes.
    #[must_use]
    pub fn parse(header: &str, size: u64) -> Self {
        parse_set(header, size).unwrap_or(Self::Whole)
    }
}

/// `None` where the header is to be ignored.
fn parse_set(header: &str, size: u64) -> Option<RangeRequest> {
    let (unit, set) = header.trim().split_once('=')?;
    // Some clients ask for `bytes=0-` whatever they read; of an empty blob that is all of it.
    if !unit.trim().eq_ignore_ascii_case("bytes") || size == 0 {
        return None;
    }
    let specifiers: Vec<&str> = set
        .split(',')
        .map(str::trim)
        .filter(|specifier| !specifier.is_empty())
        .take(BLOB_RANGES_MAXIMUM + 1)
        .collect();
    if specifiers.is_empty() || specifiers.len() > BLOB_RANGES_MAXIMUM {
        return None;
    }
    let mut ranges = Vec::with_capacity(specifiers.len());
    for specifier in specifiers {
        // A range that ends before it begins is refused like one that the blob does not have: all bytes would hide the client's
        // fault (RFC 9110, 14.2, leaves it to the server).
        let range = parse_specifier(specifier, size)?;
        ranges.extend((range.start < range.end).then_some(range));
    }
    // Ranges that overlap would make an answer larger than the blob.
    let asked_bytes: u64 = ranges
        .iter()
        .map(|range| range.end - range.start)
        .fold(0, u64::saturating_add);
    Some(match ranges.as_slice() {
        [] => RangeRequest::Unsatisfiable,
        [range] => RangeRequest::Part(range.clone()),
        _ if asked_bytes > size => return None,
        _ => RangeRequest::Parts(ranges),
    })
}

/// One range, not past the end of the blob; empty if there is nothing there. `None` if it is no range at all.
fn parse_specifier(specifier: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = specifier.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    Some(match (first.is_empty(), last.is_empty()) {
        (true, true) => return None,
        (true, false) => size.saturating_sub(number(last)?)..size,
        (false, true) => number(first)?..size,
        (false, false) => number(first)?..number(last)?.saturating_add(1).min(size),
    })
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

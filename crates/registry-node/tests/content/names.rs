//! Grammars of names, digests and ranges, held against the specification's regular expressions.

use proptest::prelude::*;
use registry_node::names::{Digest, Reference, RepositoryName, Tag};
use registry_node::oci::{ChunkRange, RangeRequest};

/// A second opinion on the grammar: by splitting, not by walking.
fn is_component(component: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators: Vec<&str> = component
        .split(is_alphanumeric)
        .filter(|part| !part.is_empty())
        .collect();
    component.starts_with(is_alphanumeric)
        && component.ends_with(is_alphanumeric)
        && separators.iter().all(|separator| {
            [".", "_", "__"].contains(separator) || separator.chars().all(|c| c == '-')
        })
}

proptest! {
    #[test]
    fn names_of_the_grammar_are_taken(
        components in proptest::collection::vec(
            "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}",
            1..5,
        ),
    ) {
        let name = components.join("/");
        let parsed: RepositoryName = name.parse().expect("a name of the grammar");
        prop_assert_eq!(parsed.as_str(), name);
    }

    #[test]
    fn names_are_taken_if_and_only_if_all_components_are_right(name in "[a-b0._/-]{0,9}") {
        let is_right = !name.is_empty() && name.split('/').all(is_component);
        prop_assert_eq!(name.parse::<RepositoryName>().is_ok(), is_right);
    }

    #[test]
    fn any_text_is_taken_or_refused_with_a_short_message(text in any::<String>()) {
        for error in [
            text.parse::<RepositoryName>().err(),
            text.parse::<Tag>().err(),
            text.parse::<Digest>().err(),
            text.parse::<Reference>().err(),
        ].into_iter().flatten() {
            prop_assert!(error.to_string().len() < 2000);
            prop_assert!(error.to_string().chars().all(|c| !c.is_control()));
        }
    }

    #[test]
    fn names_are_at_most_200_bytes(length in 195_usize..205) {
        prop_assert_eq!("a".repeat(length).parse::<RepositoryName>().is_ok(), length <= 200);
    }

    #[test]
    fn tags_are_of_the_grammar(text in "[a-zA-Z0-9._:/-]{0,6}") {
        let starts_right = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let is_right = starts_right && !text.contains([':', '/']);
        prop_assert_eq!(text.parse::<Tag>().is_ok(), is_right);
    }

    #[test]
    fn tags_are_at_most_128_bytes(length in 125_usize..132) {
        prop_assert_eq!("t".repeat(length).parse::<Tag>().is_ok(), length <= 128);
    }

    #[test]
    fn digests_have_the_length_of_their_algorithm(
        algorithm in "sha256|sha512|md5|SHA256",
        hex in "[0-9a-f]{64}|[0-9a-f]{128}|[0-9a-f]{63}|[0-9A-F]{64}g",
    ) {
        let is_right = (algorithm == "sha256" && hex.len() == 64)
            || (algorithm == "sha512" && hex.len() == 128);
        let text = format!("{algorithm}:{hex}");
        let parsed = text.parse::<Digest>();
        prop_assert_eq!(parsed.is_ok(), is_right);
        if let Ok(digest) = parsed {
            prop_assert_eq!(digest.as_str(), text);
            prop_assert_eq!(digest.hex(), hex);
        }
    }

    #[test]
    fn ranges_lie_inside_the_blob_and_are_no_longer_than_it(
        header in "bytes=[0-9]{0,21}-[0-9]{0,21}(,[0-9]{0,3}-[0-9]{0,3}){0,5}",
        size in 0_u64..1000,
    ) {
        let ranges = match RangeRequest::parse(&header, size) {
            RangeRequest::Part(range) => vec![range],
            RangeRequest::Parts(ranges) => {
                prop_assert!(ranges.len() > 1);
                ranges
            }
            RangeRequest::Whole | RangeRequest::Unsatisfiable => vec![],
        };
        prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
        prop_assert!(ranges.iter().map(|range| range.end - range.start).sum::<u64>() <= size);
    }

    #[test]
    fn a_range_is_what_it_says(first in 0_u64..100, length in 1_u64..100, size in 0_u64..150) {
        let last = first + length - 1;
        let parsed = RangeRequest::parse(&format!("bytes={first}-{last}"), size);
        let expected = match first < size {
            true => RangeRequest::Part(first..size.min(last + 1)),
            false if size == 0 => RangeRequest::Whole,
            false => RangeRequest::Unsatisfiable,
        };
        prop_assert_eq!(parsed, expected);
        let suffix = RangeRequest::parse(&format!("bytes=-{length}"), size);
        let expected = match size {
            0 => RangeRequest::Whole,
            _ => RangeRequest::Part(size.saturating_sub(length)..size),
        };
        prop_assert_eq!(suffix, expected);
    }

    #[test]
    fn what_is_no_range_of_bytes_is_ignored(
        header in "|bytes|bytes=|bytes=-|bytes=a-b|bytes=0-1,b|items=0-1|bytes=0-,0-|bytes=\\+1-2",
    ) {
        prop_assert_eq!(RangeRequest::parse(&header, 100), RangeRequest::Whole);
    }

    #[test]
    fn a_chunk_range_is_read_in_both_spellings(start in any::<u32>(), length in 1_u64..1_000_000) {
        let (start, last) = (u64::from(start), u64::from(start) + length - 1);
        let expected = Some(ChunkRange { start, length });
        prop_assert_eq!(ChunkRange::parse(&format!("{start}-{last}")), expected);
        prop_assert_eq!(ChunkRange::parse(&format!("bytes {start}-{last}/*")), expected);
        prop_assert_eq!(ChunkRange::parse(&format!("bytes {start}-{last}/{}", last + 1)), expected);
    }

    #[test]
    fn any_chunk_range_is_read_or_refused(text in "(bytes[= ])?[0-9+-]{0,30}(/[0-9*]{0,3})?") {
        if let Some(range) = ChunkRange::parse(&text) {
            prop_assert!(range.length > 0 && range.start.checked_add(range.length - 1).is_some());
        }
    }
}

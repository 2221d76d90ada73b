//! Times that clients send.

use arm::ApiError;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::errors::{bad_request, shorten};

/// A time of RFC 3339, in UTC and with the precision that is kept.
pub(super) fn parse_time(text: &str, name: &str) -> Result<OffsetDateTime, ApiError> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
        .filter(|time| time.year() > 0)
        .map(to_microseconds)
        .ok_or_else(|| {
            bad_request(format!(
                "The {name} '{}' is not a time such as 2027-01-31T12:00:00Z.",
                shorten(text)
            ))
            .with_target(name)
        })
}

/// With the precision that is kept.
pub(super) fn to_microseconds(time: OffsetDateTime) -> OffsetDateTime {
    let microsecond = time.microsecond();
    time.replace_microsecond(microsecond)
        .expect("the microsecond of a time is one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_a_time_or_refused(text in "\\PC{0,40}") {
            let _ = parse_time(&text, "endDateTime");
        }

        #[test]
        fn times_survive(seconds in -62_135_596_800_i64..253_402_300_800) {
            let time = OffsetDateTime::from_unix_timestamp(seconds).expect("it is in range");
            prop_assert_eq!(parse_time(&arm::format_time(time), "endDateTime").ok(), Some(time));
        }
    }
}

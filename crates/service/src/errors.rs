//! Printing an error with its causes, for the one place where a failure is logged or shown.

use std::error::Error;

/// The error and all its causes in one line, separated by `: `.
///
/// Errors of this project do not format their source into their own message, so that nothing is said twice here.
/// A cause that repeats what was just said (libraries do that) is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !text.is_empty() && !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_cause_follows_the_message() {
        let error = Outer(std::io::Error::other("disk is gone"));
        assert_eq!(chain(&error), "cannot read the file: disk is gone");
    }
}

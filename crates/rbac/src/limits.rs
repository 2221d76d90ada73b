//! Every limit of this crate.

/// Bytes that a condition may have.
pub const CONDITION_LENGTH_MAXIMUM: usize = 8 * 1024;

/// How deep parentheses and negations of a condition may be nested; the form that is understood needs four.
pub(crate) const CONDITION_DEPTH_MAXIMUM: usize = 32;

//! Finding, in what a program printed, the line that says why it ended.

/// How our own programs and Postgres's begin the line that counts.
const AT_THE_START: [&str; 2] = ["error: ", "initdb: error: "];
/// How Postgres marks it behind the time and the process id.
const ANYWHERE: [&str; 2] = ["FATAL:  ", "PANIC:  "];

/// The reason without its mark: from the first line that has one, else the last line that is not empty.
pub(crate) fn reason(text: &str) -> String {
    let last = || text.lines().rfind(|line| !line.trim().is_empty());
    text.lines()
        .find_map(marked)
        .or_else(last)
        .unwrap_or("it said nothing")
        .trim()
        .to_owned()
}

fn marked(line: &str) -> Option<&str> {
    let start = AT_THE_START.iter().find_map(|mark| line.strip_prefix(mark));
    start.or_else(|| {
        ANYWHERE
            .iter()
            .find_map(|mark| line.split_once(mark).map(|(_, rest)| rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_marked_line_counts_else_the_last_one() {
        for (text, expected) in [
            (
                "INFO x: I/O error: not this\nerror: the reason\n",
                "the reason",
            ),
            (
                "2026 UTC [7] LOG:  a\n2026 UTC [7] FATAL:  no disk\nerror: Postgres ended\n",
                "no disk",
            ),
            ("initdb: error: no room\nhint", "no room"),
            ("one\ntwo\n\n", "two"),
            ("", "it said nothing"),
        ] {
            assert_eq!(reason(text), expected, "{text:?}");
        }
    }
}

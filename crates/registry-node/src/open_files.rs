//! How many files and connections the process may have open. The usual limit is for programs that do not serve.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::CONNECTIONS_MAXIMUM;

/// Files that are open beside the connections: of content, the copy of the configuration, the runtime.
const OTHER_FILES: u64 = 1000;

/// Raises the limit as far as the process may, and warns if connections may use it up: content could not be opened then.
pub(crate) fn raise_limit() {
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: allowed.maximum,
        maximum: allowed.maximum,
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => allowed.maximum,
        Err(_) => allowed.current,
    };
    let wanted = CONNECTIONS_MAXIMUM as u64 + OTHER_FILES;
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        tracing::warn!(
            files.limit = limit,
            "at most {limit} files and connections can be open at once; {wanted} would be right (ulimit -Hn)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(200),
            maximum: before.maximum,
        };
        setrlimit(Resource::Nofile, low).expect("a lower limit is always allowed");
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}

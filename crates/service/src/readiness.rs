//! Whether the process can serve: named checks, each ready or not, each with a text that says why.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Serialize;

/// The checks of one process; clones share them.
#[derive(Clone, Debug)]
pub struct Readiness {
    checks: Arc<RwLock<BTreeMap<&'static str, Check>>>,
}

#[derive(Clone, Debug, Serialize)]
struct Check {
    ready: bool,
    detail: String,
}

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
pub struct ReadinessReport {
    ready: bool,
    checks: BTreeMap<&'static str, Check>,
}

impl ReadinessReport {
    /// True when every check is ready.
    pub fn is_ready(&self) -> bool {
        self.ready
    }
}

impl Readiness {
    /// A process that must pass these checks before it can serve; none of them is ready yet.
    pub fn new(names: &[&'static str]) -> Self {
        let waiting = Check {
            ready: false,
            detail: "starting".to_owned(),
        };
        let checks = names.iter().map(|name| (*name, waiting.clone())).collect();
        Self {
            checks: Arc::new(RwLock::new(checks)),
        }
    }

    /// Says how a check stands now: `Ok` is ready, `Err` is not; the text tells an operator the details.
    pub fn set(&self, name: &'static str, state: Result<String, String>) {
        let check = match state {
            Ok(detail) => Check {
                ready: true,
                detail,
            },
            Err(detail) => Check {
                ready: false,
                detail,
            },
        };
        self.checks.write().insert(name, check);
    }

    /// True when there is at least one check and every check is ready.
    pub fn is_ready(&self) -> bool {
        all_ready(&self.checks.read())
    }

    /// What each check that is not ready says, with its name.
    pub fn why_not(&self) -> Vec<String> {
        let checks = self.checks.read();
        let waiting = checks.iter().filter(|(_, check)| !check.ready);
        waiting
            .map(|(name, check)| format!("{name}: {}", check.detail))
            .collect()
    }

    /// All checks as they stand now.
    pub fn report(&self) -> ReadinessReport {
        let checks = self.checks.read().clone();
        ReadinessReport {
            ready: all_ready(&checks),
            checks,
        }
    }
}

fn all_ready(checks: &BTreeMap<&'static str, Check>) -> bool {
    !checks.is_empty() && checks.values().all(|check| check.ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_check_is() {
        let readiness = Readiness::new(&["database", "feed"]);
        assert!(!readiness.is_ready());
        readiness.set("database", Ok("connected".to_owned()));
        assert!(!readiness.is_ready());
        readiness.set("feed", Ok("revision 7".to_owned()));
        assert!(readiness.is_ready());
        readiness.set("database", Err("connection refused".to_owned()));
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_process_without_checks_is_not_ready() {
        assert!(!Readiness::new(&[]).is_ready());
    }
}

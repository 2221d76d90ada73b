//! How much registries store, as it is to be told to the control plane: the latest report of each, until it was told. Kept in memory only.

use std::collections::HashMap;

use config_documents::RegistryUsage;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::limits::USAGES_TOLD_AT_ONCE;

/// The reports of this process.
#[derive(Default)]
pub struct UsageReports(Mutex<HashMap<Uuid, Report>>);

struct Report {
    usage: RegistryUsage,
    is_told: bool,
}

impl UsageReports {
    /// A registry's sum changed.
    pub fn note(&self, usage: RegistryUsage) {
        let is_told = false;
        let report = Report { usage, is_told };
        self.0.lock().insert(report.usage.registry_uid, report);
    }

    /// What is to be told, not more than goes into one message; it counts as told from then on.
    pub fn take_untold(&self) -> Vec<RegistryUsage> {
        let mut reports = self.0.lock();
        let untold = reports.values_mut().filter(|report| !report.is_told);
        untold
            .take(USAGES_TOLD_AT_ONCE)
            .map(|report| {
                report.is_told = true;
                report.usage.clone()
            })
            .collect()
    }

    /// A stream begins: what was told on the one before may not have been heard.
    pub fn tell_again(&self) {
        for report in self.0.lock().values_mut() {
            report.is_told = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn usage(number: u128, bytes: u64) -> RegistryUsage {
        RegistryUsage {
            registry_uid: Uuid::from_u128(number),
            bytes,
            counted_at: datetime!(2026-11-23 12:00 UTC),
        }
    }

    #[test]
    fn each_report_is_told_once_and_again_on_another_stream() {
        let reports = UsageReports::default();
        reports.note(usage(1, 10));
        reports.note(usage(1, 20));
        assert_eq!(reports.take_untold(), [usage(1, 20)]);
        assert_eq!(reports.take_untold(), []);
        reports.tell_again();
        assert_eq!(reports.take_untold(), [usage(1, 20)]);
    }

    #[test]
    fn one_message_has_a_bound() {
        let reports = UsageReports::default();
        for number in 0..=USAGES_TOLD_AT_ONCE as u128 {
            reports.note(usage(number, 1));
        }
        assert_eq!(reports.take_untold().len(), USAGES_TOLD_AT_ONCE);
        assert_eq!(reports.take_untold().len(), 1);
    }
}

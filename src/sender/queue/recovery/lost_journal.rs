//! The report of a receive journal of the last run that is missing or damaged.
//!
//! The number of lost datagrams is unknown. The log line gives the bounds: when they were received, and the
//! most that the journal can have held.

use core::time::Duration;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nf_transport_core::datagram::Timestamp;

use crate::host::systemd::messages::sender;
use crate::limits::{JOURNAL_RING, JOURNAL_SLOTS};
use crate::sender::journal::JournalState;
use crate::sender::queue::last_run::RunStart;
use crate::status::count_of;

/// The known facts.
#[derive(Debug)]
pub(super) struct LostJournal<'a> {
    /// Its expected path; `None` if this run has none on disk.
    pub(super) path: Option<&'a Path>,
    pub(super) found: JournalState,
    /// It is intact and that of the last run, but cannot be written. So the last run may have failed to write
    /// it, too, and continued in memory.
    pub(super) is_trusted: bool,
    /// The time and the boot in which the last run began.
    pub(super) began: Option<RunStart>,
    pub(super) boot: [u8; 16],
    /// The arrival time of the newest datagram in the spool.
    pub(super) newest: Option<Timestamp>,
    /// Datagrams that were recovered from the ring nevertheless.
    pub(super) salvaged: u64,
}

impl LostJournal<'_> {
    /// Logs the loss. The loss of memory by a reboot is expected.
    pub(super) fn log(&self) {
        let line = self.line();
        let salvaged = self.salvaged;
        if self.was_rebooted() {
            tracing::info!(salvaged, "{line}");
        } else {
            tracing::warn!(message_id = sender::JOURNAL_LOST, salvaged, "{line}");
        }
    }

    fn was_rebooted(&self) -> bool {
        self.began.is_some_and(|began| began.boot != self.boot)
    }

    fn line(&self) -> String {
        let path = self.path.unwrap_or_else(|| Path::new("in memory")).display();
        let bound = format!("at most {} MiB and {JOURNAL_SLOTS} datagrams", JOURNAL_RING >> 20);
        if self.is_trusted {
            return format!(
                "the receive journal {path} cannot be written: if it failed before the last run was killed, \
                 datagrams received after {} that were neither delivered nor spooled are lost, {bound}",
                self.since()
            );
        }
        let happened = match self.found {
            _ if self.was_rebooted() => {
                "the machine was rebooted while nf-sender ran, and the receive journal was lost with its \
                 memory"
                    .to_owned()
            }
            JournalState::New => {
                format!("the receive journal {path} of the last run, which was killed, is missing or empty")
            }
            JournalState::Damaged => {
                format!(
                    "the receive journal {path} of the last run, which was killed, is truncated or damaged, \
                     or belongs to another spool"
                )
            }
            JournalState::Intact(_) => {
                format!("the receive journal {path} is not that of the last run, which was killed")
            }
        };
        let salvaged = match self.salvaged {
            0 => String::new(),
            datagrams => format!("; recovered {} from it", count_of(datagrams, "datagram")),
        };
        format!(
            "{happened}: datagrams received after {} that were neither delivered nor in the spool are lost, \
             {bound}{salvaged}",
            self.since(),
        )
    }

    /// Returns the earliest time of arrival of the lost datagrams: after the newest datagram of the spool,
    /// and after the run began.
    fn since(&self) -> String {
        match self.began.map(|began| began.at).max(self.newest) {
            Some(Timestamp(nanos)) => {
                let moment: SystemTime = UNIX_EPOCH + Duration::from_nanos(nanos);
                humantime::format_rfc3339_seconds(moment).to_string()
            }
            None => "the start of that run".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(found: JournalState, began: Option<RunStart>) -> LostJournal<'static> {
        let path = Some(Path::new("/run/nf-sender/intake"));
        LostJournal { path, found, is_trusted: false, began, boot: [1; 16], newest: None, salvaged: 0 }
    }

    #[test]
    fn the_line_names_the_bound() {
        let began = Some(RunStart { boot: [1; 16], at: Timestamp(1_000_000_000) });
        let mut gone = lost(JournalState::New, began);
        assert_eq!(
            gone.line(),
            "the receive journal /run/nf-sender/intake of the last run, which was killed, is missing or \
             empty: datagrams received after 1970-01-01T00:00:01Z that were neither delivered nor in the \
             spool are lost, at most 12 MiB and 128 datagrams"
        );
        gone.newest = Some(Timestamp(61_000_000_000));
        assert!(gone.line().contains("after 1970-01-01T00:01:01Z"));
        (gone.found, gone.salvaged) = (JournalState::Damaged, 7);
        assert!(gone.line().contains("damaged"));
        assert!(gone.line().ends_with("; recovered 7 datagrams from it"));
    }

    #[test]
    fn an_unwritable_journal_may_be_old() {
        let mut lost = lost(JournalState::Damaged, None);
        lost.is_trusted = true;
        assert!(
            lost.line().starts_with(
                "the receive journal /run/nf-sender/intake cannot be written: if it failed before"
            )
        );
    }

    #[test]
    fn a_reboot_differs_from_a_removed_file() {
        let began = Some(RunStart { boot: [2; 16], at: Timestamp(0) });
        assert!(lost(JournalState::New, began).line().starts_with("the machine was rebooted"));
        assert!(!lost(JournalState::New, None).was_rebooted());
    }
}

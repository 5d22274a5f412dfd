//! The report of an intake that the last run should have left, and that is missing or damaged.
//!
//! How many datagrams were in it cannot be known. The log line gives the bound: when they were received, and the most
//! that can have been there.

use core::time::Duration;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nf_transport_core::datagram::Timestamp;

use crate::host::systemd::messages::sender;
use crate::limits::{JOURNAL_RING, JOURNAL_SLOTS};
use crate::sender::journal::JournalState;
use crate::sender::queue::last_run::RunStart;
use crate::status::count_of;

/// What is known of it.
#[derive(Debug)]
pub(super) struct LostJournal<'a> {
    /// Where it was looked for; `None` if this run has none on disk.
    pub(super) path: Option<&'a Path>,
    pub(super) found: JournalState,
    /// Whether it is the last run's and whole, and yet cannot be written: so it may be that this run could not write it
    /// either, and went on in memory.
    pub(super) is_believed: bool,
    /// When the last run began, and in which boot.
    pub(super) began: Option<RunStart>,
    pub(super) boot: [u8; 16],
    /// When the newest datagram arrived that the spool holds.
    pub(super) newest: Option<Timestamp>,
    /// Datagrams that were found in the ring all the same.
    pub(super) salvaged: u64,
}

impl LostJournal<'_> {
    /// Logs it. That memory is lost with a reboot is no fault.
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
        let path = self.path.unwrap_or_else(|| Path::new("intake")).display();
        let bound = format!("at most {} MiB and {JOURNAL_SLOTS} datagrams", JOURNAL_RING >> 20);
        if self.is_believed {
            return format!(
                "the intake {path} cannot be written: if that was so before the last run was killed, datagrams that it \
                 received after {} and neither delivered nor spooled are lost, {bound}",
                self.since()
            );
        }
        let happened = match self.found {
            _ if self.was_rebooted() => {
                "the machine was rebooted while nf-sender ran, and the intake was lost with its memory"
                    .to_owned()
            }
            JournalState::New => {
                format!("the intake {path}, which the last run left when it was killed, is gone or empty")
            }
            JournalState::Damaged => {
                format!(
                    "the intake {path}, which the last run left when it was killed, is truncated or damaged, or is of \
                     another spool"
                )
            }
            JournalState::Intact(_) => {
                format!("the intake {path} is not that of the last run, which was killed")
            }
        };
        let salvaged = match self.salvaged {
            0 => String::new(),
            datagrams => format!("; recovered {} from it", count_of(datagrams, "datagram")),
        };
        format!(
            "{happened}: datagrams that were received after {} and neither delivered nor in the spool are lost, \
             {bound}{salvaged}",
            self.since(),
        )
    }

    /// What was there arrived after the newest datagram of the spool, and after the run began.
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
        LostJournal { path, found, is_believed: false, began, boot: [1; 16], newest: None, salvaged: 0 }
    }

    #[test]
    fn the_line_names_the_bound() {
        let began = Some(RunStart { boot: [1; 16], at: Timestamp(1_000_000_000) });
        let mut gone = lost(JournalState::New, began);
        assert_eq!(
            gone.line(),
            "the intake /run/nf-sender/intake, which the last run left when it was killed, is gone or empty: datagrams that \
             were received after 1970-01-01T00:00:01Z and neither delivered nor in the spool are lost, at most 12 MiB \
             and 128 datagrams"
        );
        gone.newest = Some(Timestamp(61_000_000_000));
        assert!(gone.line().contains("after 1970-01-01T00:01:01Z"));
        (gone.found, gone.salvaged) = (JournalState::Damaged, 7);
        assert!(gone.line().contains("damaged"));
        assert!(gone.line().ends_with("; recovered 7 datagrams from it"));
    }

    #[test]
    fn an_intake_that_cannot_be_written_may_be_old() {
        let mut lost = lost(JournalState::Damaged, None);
        lost.is_believed = true;
        assert!(
            lost.line()
                .starts_with("the intake /run/nf-sender/intake cannot be written: if that was so before")
        );
    }

    #[test]
    fn a_reboot_is_told_from_a_removed_file() {
        let began = Some(RunStart { boot: [2; 16], at: Timestamp(0) });
        assert!(lost(JournalState::New, began).line().starts_with("the machine was rebooted"));
        assert!(!lost(JournalState::New, None).was_rebooted());
    }
}

//! Warns of a spool without room, or with room for less than an hour: in the log, in the status and in
//! `check`.

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use bytesize::ByteSize;
use nf_transport_core::spool::disk::Space;
use nf_transport_core::spool::{Room, is_segment};

use crate::config::SpoolSettings;
use crate::host::systemd::messages::sender;
use crate::limits::{ROOM_SHORT, ROOM_SHORT_FOR, ROOM_WARNING_EVERY};
use crate::status::{self, Request, SenderStatus, span};

/// A shortage of room in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// There is no room at all.
    is_total: bool,
    /// The bound that is reached, and the remedy.
    pub(crate) text: String,
}

impl Shortage {
    /// Returns the shortage in `room` of the spool in `directory` at an input of `bytes_per_s`.
    pub(crate) fn detect(room: &Room, bytes_per_s: f64, directory: &Path) -> Option<Self> {
        if room.bytes == 0 {
            return Some(Self { is_total: true, text: no_room(room, directory) });
        }
        let time = time_left(room.bytes, bytes_per_s).filter(|time| *time < ROOM_SHORT)?;
        let text = format!(
            "the spool in {} has room for {} at the present rate ({} more): make room on the disk, or raise \
             spool.max-size",
            directory.display(),
            span(time.as_secs()),
            ByteSize(room.bytes)
        );
        Some(Self { is_total: false, text })
    }
}

/// Returns the time in which `bytes_per_s` fill `bytes`; `None` without input.
pub(crate) fn time_left(bytes: u64, bytes_per_s: f64) -> Option<Duration> {
    (bytes_per_s > 0.0)
        .then(|| Duration::try_from_secs_f64(status::to_f64(bytes) / bytes_per_s).unwrap_or(Duration::MAX))
}

fn no_room(room: &Room, directory: &Path) -> String {
    let [total, free, min_free, held, max_size] =
        [room.space.total, room.space.free, room.min_free, room.held, room.max_size].map(ByteSize);
    let directory = directory.display();
    if room.space.is_read_only {
        format!("the file system of the spool in {directory} is mounted read-only: nothing can be spooled")
    } else if room.space.total <= room.min_free {
        format!(
            "the file system of the spool in {directory} has {total} in all, and min-free keeps {min_free} \
             free: nothing can be spooled; lower spool.min-free"
        )
    } else if room.space.free <= room.min_free {
        format!(
            "the spool in {directory} has no room: {free} are free on its file system, and min-free keeps \
             {min_free}; make room on the disk, or lower spool.min-free"
        )
    } else {
        format!(
            "the spool in {directory} has no room: it holds {held} of max-size {max_size}; raise \
             spool.max-size if the disk has more"
        )
    }
}

/// Logs a shortage when it begins.
#[derive(Debug, Default)]
pub(crate) struct RoomWatch {
    /// The start of the current shortage.
    since: Option<Instant>,
    /// The current shortage is in the log.
    is_logged: bool,
    logged_at: Option<Instant>,
}

impl RoomWatch {
    /// Logs the shortage if it is due. The caller calls it once a second.
    pub(crate) fn poll(&mut self, shortage: Option<Shortage>) {
        match shortage {
            Some(shortage) if self.is_due(shortage.is_total, Instant::now()) => {
                tracing::warn!(message_id = sender::ROOM_SHORT, "{}", shortage.text);
            }
            Some(_) => {}
            None => (self.since, self.is_logged) = (None, false),
        }
    }

    /// Returns `true` if the shortage is logged now. A short burst is not a shortage.
    fn is_due(&mut self, is_total: bool, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let lasts = is_total || now.duration_since(since) >= ROOM_SHORT_FOR;
        let may_log = self.logged_at.is_none_or(|logged| now.duration_since(logged) >= ROOM_WARNING_EVERY);
        let is_due = lasts && may_log && !self.is_logged;
        if is_due {
            (self.is_logged, self.logged_at) = (true, Some(now));
        }
        is_due
    }
}

/// Returns the current room of a spool with these settings, if its directory can be read.
fn room_of(settings: &SpoolSettings) -> Option<Room> {
    // The directory may not exist yet.
    let space = settings.directory.ancestors().find_map(|path| Space::query(path).ok())?;
    let entries = std::fs::read_dir(&settings.directory).into_iter().flatten().flatten();
    let segments = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_segment));
    let held = segments.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
    Some(Room::new(space, &settings.policy, held))
}

/// Returns the note of `check` about the room in the spool, and a warning if it is short. A running nf-sender
/// behind `control` provides the rate.
pub(crate) fn check(settings: &SpoolSettings, control: &Path) -> (Option<String>, Option<String>) {
    let Some(room) = room_of(settings) else { return (None, None) };
    let note = format!(
        "the spool in {} may take {} more: its file system has {} in all and {} free, of which min-free \
         keeps {}",
        settings.directory.display(),
        ByteSize(room.bytes),
        ByteSize(room.space.total),
        ByteSize(room.space.free),
        ByteSize(room.min_free)
    );
    let answer = status::request(control, Request::Status).ok();
    let status = answer.and_then(|answer| serde_json::from_value::<SenderStatus>(answer).ok());
    let rate = status.map_or(0.0, |status| status::to_f64(status.queued.arriving_bytes_per_s));
    (Some(note), Shortage::detect(&room, rate, &settings.directory).map(|shortage| shortage.text))
}

#[cfg(test)]
mod tests {
    use nf_transport_core::spool::{MinFree, Policy};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(total: u64, free: u64, held: u64, min_free: MinFree) -> Room {
        let space = Space { total, free, free_inodes: None, is_read_only: false };
        Room::new(space, &Policy { min_free, max_size: 100 * MIB, ..Policy::default() }, held)
    }

    fn text(room: &Room, bytes_per_s: f64) -> String {
        Shortage::detect(room, bytes_per_s, Path::new("/spool")).unwrap().text
    }

    #[test]
    fn each_reason_for_no_room_has_its_text() {
        let small = room(900 * MIB, 800 * MIB, 0, MinFree::Bytes(1024 * MIB));
        assert!(text(&small, 0.0).contains("has 900.0 MiB in all, and min-free keeps 1.0 GiB"));
        let filled = room(900 * MIB, 50 * MIB, 0, MinFree::Auto);
        assert!(
            text(&filled, 0.0).contains("50.0 MiB are free on its file system, and min-free keeps 90.0 MiB")
        );
        let full = room(900 * MIB, 700 * MIB, 100 * MIB, MinFree::Auto);
        assert!(text(&full, 0.0).contains("it holds 100.0 MiB of max-size 100.0 MiB"));
        let mut read_only = room(900 * MIB, 700 * MIB, 0, MinFree::Auto);
        read_only = Room { bytes: 0, space: Space { is_read_only: true, ..read_only.space }, ..read_only };
        assert!(text(&read_only, 0.0).contains("mounted read-only"));
    }

    #[test]
    fn room_for_less_than_an_hour_is_a_shortage() {
        let room = room(900 * MIB, 700 * MIB, 40 * MIB, MinFree::Auto);
        let rate = status::to_f64(60 * MIB) / 3600.0;
        assert_eq!(Shortage::detect(&room, 0.0, Path::new("/spool")), None);
        assert_eq!(Shortage::detect(&room, rate, Path::new("/spool")), None);
        assert!(text(&room, rate * 2.0).contains("room for 30m 0s at the present rate (60.0 MiB more)"));
    }

    #[test]
    fn a_shortage_is_logged_once_when_it_begins() {
        let mut watch = RoomWatch::default();
        let start = Instant::now();
        assert!(!watch.is_due(false, start));
        assert!(watch.is_due(false, start + ROOM_SHORT_FOR));
        assert!(!watch.is_due(true, start + ROOM_WARNING_EVERY * 2));
        (watch.since, watch.is_logged) = (None, false);
        assert!(!watch.is_due(true, start + ROOM_SHORT_FOR * 2));
        assert!(watch.is_due(true, start + ROOM_SHORT_FOR + ROOM_WARNING_EVERY));
    }

    #[test]
    fn no_room_at_all_is_logged_at_once() {
        assert!(RoomWatch::default().is_due(true, Instant::now()));
    }
}

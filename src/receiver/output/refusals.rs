//! Datagrams that the kernel refuses to send although the collector is reachable, for example because an
//! egress filter forbids the exporter's address.
//!
//! A refused datagram is dropped while others are sent, so one exporter never delays another. If the kernel
//! refuses everything, the filter concerns the collector. Datagrams are then held, and a few are dropped at
//! intervals to find out whether later ones would pass.

use core::net::IpAddr;
use core::num::NonZeroUsize;
use core::time::Duration;

use lru::LruCache;
use nf_transport_core::limits::EXPORTERS_MAX;
use tokio::time::Instant;

/// Time for which a datagram is retried before it is dropped. A filter that limits a rate lets it pass within
/// this time.
pub(super) const RETRY_FOR: Duration = Duration::from_millis(20);

/// A lack of buffers for one exporter counts as a refusal after this time. Congestion lets some datagrams
/// pass.
const STARVED_FOR: Duration = Duration::from_secs(1);

/// Refusals concern single exporters if a datagram of another one was sent within this time.
const RECENTLY: Duration = Duration::from_secs(10);

/// Datagrams in a row that may be dropped before one is sent again.
const ALLOWANCE: u32 = 64;

/// The allowance after a hold: as many datagrams as a batch of small ones has, so that the datagrams after it
/// are tried.
const ALLOWANCE_AFTER_HOLDING: u32 = 1024;

/// Duration of the first hold once the allowance is used up. Each further hold takes twice as long.
const HOLD_AT_FIRST: Duration = Duration::from_secs(10);

/// Longest hold.
const HOLD_AT_MOST: Duration = Duration::from_secs(600);

/// Decision about a refused datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalVerdict {
    /// Drop it.
    Drop,
    /// Retry it after [`RETRY_FOR`].
    Retry,
    /// Hold it: the kernel refuses everything.
    Hold,
}

/// Times of one exporter. They are forgotten with the exporter, see [`EXPORTERS_MAX`].
#[derive(Clone, Copy, Debug, Default)]
struct RefusalTimes {
    /// Time at which the kernel last accepted one of its datagrams.
    sent: Option<Instant>,
    /// Time since which the kernel has refused them.
    refused: Option<Instant>,
}

/// The refusals of one destination.
#[derive(Debug)]
pub(super) struct Refusals {
    exporters: LruCache<IpAddr, RefusalTimes>,
    /// Time at which the kernel last accepted a datagram of any exporter.
    sent: Option<Instant>,
    /// Datagrams that may still be dropped before the next one is sent.
    allowance: u32,
    /// Time of the next allowance, once this one is used up.
    next_allowance: Option<Instant>,
    hold_for: Duration,
}

impl Default for Refusals {
    fn default() -> Self {
        let exporters = NonZeroUsize::new(EXPORTERS_MAX).map_or_else(LruCache::unbounded, LruCache::new);
        Self { exporters, sent: None, allowance: ALLOWANCE, next_allowance: None, hold_for: HOLD_AT_FIRST }
    }
}

impl Refusals {
    /// Notes that the kernel accepted a datagram of `exporter`.
    pub(super) fn note_sent(&mut self, exporter: IpAddr, now: Instant) {
        self.exporters.put(exporter, RefusalTimes { sent: Some(now), refused: None });
        self.sent = Some(now);
        (self.allowance, self.next_allowance, self.hold_for) = (ALLOWANCE, None, HOLD_AT_FIRST);
    }

    /// Decides about a datagram of `exporter` that the kernel refused.
    pub(super) fn judge(&mut self, exporter: IpAddr, now: Instant) -> RefusalVerdict {
        let known = self.note_refused(exporter, now);
        let is_recent = |sent: Option<Instant>| sent.is_some_and(|sent| now.duration_since(sent) < RECENTLY);
        if is_recent(self.sent) && !is_recent(known.sent) {
            return RefusalVerdict::Drop;
        }
        if known.refused.is_none_or(|since| now.duration_since(since) < RETRY_FOR) {
            return RefusalVerdict::Retry;
        }
        if self.allowance == 0 {
            let due = *self.next_allowance.get_or_insert(now + self.hold_for);
            if now < due {
                return RefusalVerdict::Hold;
            }
            self.next_allowance = None;
            self.hold_for = (self.hold_for * 2).min(HOLD_AT_MOST);
            self.allowance = ALLOWANCE_AFTER_HOLDING;
        }
        self.allowance -= 1;
        RefusalVerdict::Drop
    }

    /// Returns whether all datagrams are held.
    pub(super) fn is_holding(&self) -> bool {
        self.next_allowance.is_some()
    }

    /// Notes that the kernel had no buffer for a datagram of `exporter`. Returns whether that counts as a
    /// refusal, because a filter drops its datagrams below IP.
    pub(super) fn note_starved(&mut self, exporter: IpAddr, now: Instant) -> bool {
        let known = self.note_refused(exporter, now);
        known.refused.is_some_and(|since| now.duration_since(since) >= STARVED_FOR)
    }

    fn note_refused(&mut self, exporter: IpAddr, now: Instant) -> RefusalTimes {
        let known = self.exporters.get_or_insert_mut(exporter, RefusalTimes::default);
        known.refused.get_or_insert(now);
        *known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1));
    const BAD: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 66));

    #[test]
    fn an_exporter_always_refused_is_dropped() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.note_sent(GOOD, now);
        let later = now + RECENTLY / 2;
        assert!((0..100_000).all(|_| refusals.judge(BAD, later) == RefusalVerdict::Drop));
    }

    #[test]
    fn a_refused_datagram_is_retried_once() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for _ in 0..1000 {
            refusals.note_sent(GOOD, now);
            assert_eq!(refusals.judge(GOOD, now), RefusalVerdict::Retry);
            assert_eq!(refusals.judge(GOOD, now + RETRY_FOR), RefusalVerdict::Drop);
        }
    }

    /// Number of datagrams of `exporter` that are dropped within `duration` if the kernel refuses all of
    /// them.
    fn dropped(refusals: &mut Refusals, exporter: IpAddr, start: Instant, duration: Duration) -> u32 {
        let moments = (0..).map(|step| start + step * RETRY_FOR);
        let verdicts = moments.take_while(|now| *now < start + duration).flat_map(|now| {
            core::iter::from_fn(|| Some(refusals.judge(exporter, now)))
                .take_while(|verdict| *verdict == RefusalVerdict::Drop)
                .collect::<Vec<_>>()
        });
        verdicts.map(|_| 1).sum()
    }

    #[test]
    fn refusing_everything_holds_datagrams() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.note_sent(GOOD, now);
        let count = dropped(&mut refusals, GOOD, now, Duration::from_secs(3600));
        // After 10 s, 20 s and so on: ten times within the hour.
        assert_eq!(count, ALLOWANCE + 10 * ALLOWANCE_AFTER_HOLDING);
    }

    #[test]
    fn a_newly_refused_exporter_delays_others_briefly() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for exporter in [GOOD, BAD] {
            refusals.note_sent(exporter, now);
        }
        assert_eq!(dropped(&mut refusals, BAD, now, HOLD_AT_FIRST), ALLOWANCE);
        let later = now + RECENTLY;
        refusals.note_sent(GOOD, later);
        assert!((0..100_000).all(|_| refusals.judge(BAD, later) == RefusalVerdict::Drop));
    }

    #[test]
    fn a_lasting_lack_of_buffers_is_a_refusal() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert!(!refusals.note_starved(BAD, now));
        let later = now + STARVED_FOR;
        assert!(refusals.note_starved(BAD, later));
        refusals.note_sent(BAD, later);
        assert!(!refusals.note_starved(BAD, later + STARVED_FOR));
    }
}

//! A full spool drops the datagrams of the exporters that hold most.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::thread::JoinHandle;

use super::*;
use crate::sender::queue::fair_share::FairShare;

const MIB: u64 = 1 << 20;

/// A spool of `max_size` bytes in eight segments.
fn small(max_size: u64) -> Policy {
    Policy { max_size, ..policy() }
}

/// 500 pseudo-random bytes from `seed`.
fn noise(seed: u32) -> impl Iterator<Item = u8> {
    (0..125_u64).flat_map(move |word| {
        let mixed = (u64::from(seed) << 32 | word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ mixed >> 27).to_be_bytes().into_iter().take(4)
    })
}

/// Exporters that number their datagrams.
struct NumberedExporters {
    compression: Compression,
    sent: BTreeMap<u8, u32>,
}

impl NumberedExporters {
    fn new(compression: Compression) -> Self {
        Self { compression, sent: BTreeMap::new() }
    }

    /// Pushes the next datagrams of these exporters as one batch, in this order.
    fn push(&mut self, run: &mut RecoveredRun, exporters: &[u8]) {
        let mut builder = BatchBuilder::new(run.stream, self.compression);
        let local = "192.0.2.200:2055".parse().unwrap();
        for exporter in exporters {
            let sent = self.sent.entry(*exporter).or_default();
            // Half of it can be compressed.
            let payload: Vec<u8> =
                sent.to_be_bytes().into_iter().chain(noise(*sent)).chain([7; 500]).collect();
            let address = ([192, 0, 2, *exporter], 4000).into();
            builder
                .push(&Datagram { exporter: address, local, arrival: Timestamp(5), payload: &payload })
                .unwrap();
            *sent += 1;
        }
        let batch = builder.finish(run.queue.next_position()).unwrap();
        assert_eq!(run.queue.push(batch, &mut run.ring, &Pulse::default()), None);
    }

    /// Exporter 1 sends 50 datagrams `times` times, and the `others` one each in between.
    fn flood(&mut self, run: &mut RecoveredRun, times: u32, others: &[u8]) {
        for _ in 0..times {
            let batch: Vec<u8> = [&[1; 25][..], others, &[1; 25]].concat();
            self.push(run, &batch);
        }
    }
}

/// The numbers of each exporter's datagrams in the queue, in order.
fn queued(queue: &Arc<Queue>) -> BTreeMap<u8, Vec<u32>> {
    let mut found: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    let mut take = |batch: &Batch| {
        for datagram in batch.records().unwrap().iter() {
            let IpAddr::V4(address) = datagram.exporter.ip() else { panic!("an IPv4 exporter") };
            let number = u32::from_be_bytes(datagram.payload[..4].try_into().unwrap());
            found.entry(address.octets()[3]).or_default().push(number);
        }
    };
    each_batch(queue, queue.acknowledged(), &mut take);
    found
}

fn at_once(policy: Policy) -> FlusherSettings {
    FlusherSettings { policy, sync_after: Duration::ZERO }
}

/// A running flusher that spools everything at once.
struct Spooling {
    thread: JoinHandle<()>,
    counters: Arc<IngestCounters>,
    queue: Arc<Queue>,
    settings: watch::Sender<FlusherSettings>,
    /// While it is held, no segment is read to make room.
    gate: Arc<Mutex<()>>,
}

impl Spooling {
    fn new(run: &RecoveredRun, policy: Policy) -> Self {
        let (settings, flusher_settings) = watch::channel(at_once(policy));
        let (counters, queue) = (Arc::new(IngestCounters::new([])), run.queue.clone());
        let flusher = Flusher::new(queue.clone(), flusher_settings, counters.clone(), Pulse::default());
        let gate = flusher.gate();
        Self { thread: std::thread::spawn(move || flusher.run()), counters, queue, settings, gate }
    }

    /// Makes everything in the spool too old, and waits until it is dropped.
    fn drop_all(&self, policy: Policy) {
        self.settings.send_replace(at_once(Policy { max_age: Some(Duration::ZERO), ..policy }));
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.queue.figures().queued > 0 {
            assert!(Instant::now() < deadline, "{:?}", self.queue.figures());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until everything is in the spool.
    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.queue.inspect().tail().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", self.queue.figures());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Datagrams that each exporter lost, as the status shows them.
    fn lost(&self) -> BTreeMap<String, u64> {
        let rows = self.counters.dropped_exporters().rows();
        rows.into_iter().map(|(exporter, row)| (exporter.to_string(), row.count)).collect()
    }

    fn stop(self) {
        self.queue.advance_to(ShutdownStage::Stopped);
        self.thread.join().unwrap();
    }
}

fn all(numbers: core::ops::Range<u32>) -> Vec<u32> {
    numbers.collect()
}

#[test]
fn a_flood_does_not_drop_the_datagrams_of_others() {
    for compression in [Compression::None, Compression::Zstd] {
        let directory = tempfile::tempdir().unwrap();
        let full = small(4 * MIB);
        let mut run = start(&directory, full);
        let spooling = Spooling::new(&run, full);
        let mut crowd = NumberedExporters::new(compression);
        for _ in 0..100 {
            crowd.push(&mut run, &[2]);
        }
        crowd.flood(&mut run, 600, &[2, 3]);
        spooling.wait();
        assert_balanced(&run.queue);
        let found = queued(&run.queue);
        assert_eq!((&found[&2], &found[&3]), (&all(0..700), &all(0..600)), "{compression:?}");
        let flooder = &found[&1];
        assert_eq!(*flooder, all(flooder[0]..30_000), "the oldest of the flood are dropped");
        assert!(flooder.len() > 1500, "{} of the flood are left", flooder.len());
        let lost = u64::from(flooder[0]);
        assert_eq!(spooling.lost(), [("192.0.2.1".to_owned(), lost)].into());
        assert_eq!(run.queue.figures().counts.spool_full, lost);
        spooling.stop();
    }
}

#[test]
fn thinned_segments_do_not_pile_up() {
    let directory = tempfile::tempdir().unwrap();
    let full = small(4 * MIB);
    let mut run = start(&directory, full);
    let spooling = Spooling::new(&run, full);
    let mut crowd = NumberedExporters::new(Compression::None);
    // Ten times as much as the spool holds: 80 segments.
    crowd.flood(&mut run, 800, &[2]);
    spooling.wait();
    assert_eq!(queued(&run.queue)[&2], all(0..800));
    // A thinned segment is joined with the next one until it is a quarter as large as an unchanged one. Each
    // unchanged one is an eighth of the spool. So there are at most 32 thinned and 8 unchanged ones.
    assert!(segments(&directory) <= 40, "{} segments", segments(&directory));
    spooling.stop();
}

#[test]
fn exporters_with_equal_shares_lose_equally() {
    let directory = tempfile::tempdir().unwrap();
    let full = small(4 * MIB);
    let mut run = start(&directory, full);
    let spooling = Spooling::new(&run, full);
    let mut crowd = NumberedExporters::new(Compression::None);
    for _ in 0..400 {
        crowd.push(&mut run, &[1, 2, 3, 4].repeat(10));
    }
    spooling.wait();
    let found = queued(&run.queue);
    let first: Vec<u32> = found.values().map(|numbers| numbers[0]).collect();
    assert!(first[0] > 2000 && first.iter().all(|number| *number == first[0]), "{first:?}");
    for numbers in found.values() {
        assert_eq!(*numbers, all(first[0]..4000));
    }
    assert_eq!(spooling.lost().values().sum::<u64>(), run.queue.figures().counts.spool_full);
    spooling.stop();
}

#[test]
fn fair_shares_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let full = small(8 * MIB);
    let mut run = start(&directory, full);
    let spooling = Spooling::new(&run, full);
    let mut crowd = NumberedExporters::new(Compression::None);
    crowd.flood(&mut run, 300, &[2]);
    spooling.stop();
    let before = run.queue.figures();
    kill(run);
    let mut run = start(&directory, full);
    assert_eq!(run.queue.figures().queued, before.queued, "dropped datagrams are not queued after a start");
    let spooling = Spooling::new(&run, full);
    crowd.flood(&mut run, 300, &[2]);
    spooling.wait();
    assert_balanced(&run.queue);
    let found = queued(&run.queue);
    assert_eq!(found[&2], all(0..600));
    assert!(found[&1].is_sorted() && found[&1].last() == Some(&29_999));
    spooling.stop();
}

#[test]
fn data_in_flight_is_not_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let full = small(4 * MIB);
    let mut run = start(&directory, full);
    let spooling = Spooling::new(&run, full);
    let mut crowd = NumberedExporters::new(Compression::None);
    crowd.flood(&mut run, 4, &[2]);
    // The uplink sends the first half of it.
    for position in 0..100 {
        run.queue.begin_sending(Position(position), true);
    }
    crowd.flood(&mut run, 400, &[2]);
    spooling.wait();
    let found = queued(&run.queue);
    assert_eq!(found[&2], all(0..404));
    assert_eq!(found[&1][..98], all(0..98));
    assert!(run.queue.figures().counts.spool_full > 10_000);
    assert_balanced(&run.queue);
    spooling.stop();
}

#[test]
fn acknowledged_thinned_segments_count_once() {
    let directory = tempfile::tempdir().unwrap();
    let full = small(4 * MIB);
    let mut run = start(&directory, full);
    let spooling = Spooling::new(&run, full);
    NumberedExporters::new(Compression::None).flood(&mut run, 400, &[2]);
    spooling.wait();
    let queued = run.queue.figures().queued;
    for position in (0..20_400).step_by(100) {
        run.queue.acknowledge(Position(position), 0);
        assert_balanced(&run.queue);
    }
    run.queue.acknowledge(Position(20_400), 0);
    assert_eq!((run.queue.figures().counts.acknowledged, run.queue.figures().queued), (queued, 0));
    spooling.stop();
}

#[test]
fn spooling_continues_while_a_segment_is_thinned() {
    let directory = tempfile::tempdir().unwrap();
    let full = small(4 * MIB);
    let mut run = start(&directory, full);
    let spooling = Spooling::new(&run, full);
    let mut crowd = NumberedExporters::new(Compression::None);
    let gate = spooling.gate.lock().unwrap();
    // More than the spool and the ring hold together.
    crowd.flood(&mut run, 350, &[2]);
    assert!(run.queue.figures().counts.spool_full > 1000);
    drop(gate);
    crowd.flood(&mut run, 650, &[2]);
    spooling.wait();
    assert_balanced(&run.queue);
    let found = queued(&run.queue);
    assert_eq!(found[&2], all(0..1000));
    assert!(found[&1].is_sorted() && found[&1].len() > 1500, "{} of the flood are left", found[&1].len());
    let lost = 50_000 - u64::try_from(found[&1].len()).unwrap();
    assert_eq!(spooling.lost(), [("192.0.2.1".to_owned(), lost)].into());
    spooling.stop();
    let (queued_before, found_before) = (run.queue.figures().queued, queued(&run.queue));
    kill(run);
    let run = start(&directory, full);
    assert_eq!((run.queue.figures().queued, queued(&run.queue)), (queued_before, found_before));
}

#[test]
fn a_smaller_max_size_drops_from_the_largest() {
    let directory = tempfile::tempdir().unwrap();
    let policy = small(32 * MIB);
    let mut run = start(&directory, policy);
    let spooling = Spooling::new(&run, policy);
    let mut crowd = NumberedExporters::new(Compression::None);
    crowd.flood(&mut run, 500, &[2]);
    spooling.wait();
    spooling.settings.send_replace(at_once(small(4 * MIB)));
    crowd.flood(&mut run, 500, &[2]);
    spooling.wait();
    assert_eq!(queued(&run.queue)[&2], all(0..1000));
    assert_balanced(&run.queue);
    spooling.stop();
}

#[test]
fn the_largest_loses_first_even_below_a_quarter() {
    let directory = tempfile::tempdir().unwrap();
    let full = small(4 * MIB);
    let mut run = start(&directory, full);
    let spooling = Spooling::new(&run, full);
    let mut crowd = NumberedExporters::new(Compression::None);
    // Exporter 1 sends a fifth, eight others a tenth each. A fifth is less than a quarter, but the largest
    // share.
    for _ in 0..500 {
        crowd.push(&mut run, &[1, 2, 3, 4, 5, 1, 6, 7, 8, 9]);
    }
    spooling.wait();
    let found = queued(&run.queue);
    let of_others: Vec<usize> = (2..10).map(|exporter| found[&exporter].len()).collect();
    let least = *of_others.iter().min().unwrap();
    // It is cut down to the level of the others, which then lose equally.
    let flooder = found[&1].len();
    assert!(flooder <= 600 && least >= flooder / 4 * 3, "{flooder} and {of_others:?}");
    spooling.stop();
}

#[test]
fn partly_acknowledged_drops_name_exporters() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    let spooling = Spooling::new(&run, policy());
    NumberedExporters::new(Compression::None).flood(&mut run, 10, &[2]);
    spooling.wait();
    run.queue.acknowledge(Position(51), 0);
    spooling.drop_all(policy());
    let lost = spooling.lost();
    assert_eq!(lost.values().sum::<u64>(), run.queue.figures().counts.too_old);
    assert_eq!(lost, [("192.0.2.1".to_owned(), 450), ("192.0.2.2".to_owned(), 9)].into());
    assert_eq!(spooling.counters.dropped_unknown(), 0);
    spooling.stop();
}

#[test]
fn drops_of_unread_segments_count_as_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    let spooling = Spooling::new(&run, policy());
    NumberedExporters::new(Compression::None).flood(&mut run, 10, &[2]);
    spooling.stop();
    kill(run);
    let run = start(&directory, policy());
    let spooling = Spooling::new(&run, policy());
    spooling.drop_all(policy());
    assert_eq!((spooling.lost().len(), spooling.counters.dropped_unknown()), (0, 510));
    assert_eq!(run.queue.figures().counts.too_old, 510);
    assert_eq!(spooling.counters.take_unlogged_unknown(), 0, "it is in the log");
    spooling.stop();
}

#[test]
fn an_unreadable_segment_is_retried() {
    let directory = tempfile::tempdir().unwrap();
    let full = small(4 * MIB);
    let mut run = start(&directory, full);
    let spooling = Spooling::new(&run, full);
    NumberedExporters::new(Compression::None).flood(&mut run, 70, &[2]);
    spooling.stop();
    kill(run);
    let run = start(&directory, full);
    let first = run.queue.spool().first().unwrap();
    let segment = directory.path().join(format!("{:020}.segment", first.0));
    let aside = directory.path().join("aside");
    let mut fair_share = FairShare::new(run.queue.clone());
    let mut read_all = |now: Instant| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            fair_share.prepare(&mut run.queue.spool(), Position(0), now, false);
            if !fair_share.is_busy() {
                return fair_share.knows(first);
            }
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    };
    std::fs::rename(&segment, &aside).unwrap();
    let start = Instant::now();
    assert!(!read_all(start));
    std::fs::rename(&aside, &segment).unwrap();
    // Others are read meanwhile.
    (1..50).for_each(|seconds| assert!(!read_all(start + Duration::from_secs(seconds))));
    assert!(read_all(start + Duration::from_secs(62)));
}

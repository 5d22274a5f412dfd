//! The queue with spool and receive journal in a real directory, without sockets and uplink.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nf_transport_core::batch::{Batch, BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::limits::POSITIONS_PER_RUN;
use nf_transport_core::secure::{Key, SpoolKeys};
use nf_transport_core::sequence::Position;
use nf_transport_core::spool::{MinFree, Policy, WhenFull};
use tokio::sync::watch;

use crate::host::Pulse;
use crate::limits::JOURNAL_RING;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::journal;
use crate::sender::queue::Queue;
use crate::sender::queue::flusher::{Flusher, FlusherSettings};
use crate::sender::queue::recovery::error::RecoveryError;
use crate::sender::queue::recovery::{RecoveredRun, recover};
use crate::sender::queue::state::{Next, ShutdownStage};
use crate::sender::uplink::segment_source::SegmentSource;

fn policy() -> Policy {
    Policy { min_free: MinFree::Bytes(0), ..Policy::default() }
}

fn start(directory: &tempfile::TempDir, policy: Policy) -> RecoveredRun {
    recover(directory.path(), None, policy, &Arc::default()).unwrap()
}

/// Ends a run like kill -9: nothing is written any more, and the kernel closes the files.
fn kill(recovered: RecoveredRun) {
    drop(recovered);
}

/// Pushes `batches` batches of one datagram of `length` bytes.
fn push(run: &mut RecoveredRun, batches: u64, length: usize) {
    let mut builder = BatchBuilder::new(run.stream, Compression::None);
    let address = "192.0.2.7:1".parse().unwrap();
    for _ in 0..batches {
        let first = run.queue.next_position();
        let payload = vec![u8::try_from(first.0 % 251).unwrap(); length];
        builder
            .push(&Datagram { exporter: address, local: address, arrival: Timestamp(5), payload: &payload })
            .unwrap();
        run.queue.push(builder.finish(first).unwrap(), &mut run.ring, &Pulse::default());
    }
}

/// Creates a flusher of the queue of the run.
fn flusher(run: &RecoveredRun, policy: Policy, sync_after: Duration) -> Flusher {
    let settings = watch::channel(FlusherSettings { policy, sync_after }).1;
    Flusher::new(run.queue.clone(), settings, Arc::new(IngestCounters::new([])), Pulse::default())
}

/// Runs a flusher until everything is synced in the spool.
fn spool_all(run: &RecoveredRun, policy: Policy) {
    let flusher = flusher(run, policy, Duration::from_secs(1));
    let thread = std::thread::spawn(move || flusher.run());
    run.queue.advance_to(ShutdownStage::Stopped);
    thread.join().unwrap();
}

/// Passes every batch of the queue from `position` on, from memory or disk, to `take`.
fn each_batch(queue: &Arc<Queue>, mut position: Position, take: &mut dyn FnMut(&Batch)) {
    let mut backlog = SegmentSource::new(queue.clone());
    loop {
        let next = queue.inspect().next(position);
        match next {
            Next::Batch(batch) => {
                take(&batch);
                position = batch.end();
            }
            Next::Gap(gap) => position = gap.end,
            Next::InSpool => {
                for batch in backlog.read(position).unwrap() {
                    take(&batch);
                    position = batch.end();
                }
            }
            Next::Nothing => return,
        }
    }
}

/// Returns the positions of all datagrams in the queue from `position` on.
fn drain(queue: &Arc<Queue>, position: Position) -> Vec<u64> {
    let mut given = Vec::new();
    let mut take = |batch: &Batch| {
        for (number, datagram) in (batch.first().0..).zip(batch.records().unwrap().iter()) {
            assert!(datagram.payload.iter().all(|byte| u64::from(*byte) == number % 251));
            given.push(number);
        }
    };
    each_batch(queue, position, &mut take);
    given
}

fn segments(directory: &tempfile::TempDir) -> usize {
    let names = std::fs::read_dir(directory.path()).unwrap();
    names
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "segment"))
        .count()
}

fn assert_balanced(queue: &Queue) {
    let figures = queue.figures();
    let counts = figures.counts;
    assert_eq!(
        counts.received + counts.recovered,
        counts.acknowledged + figures.queued + counts.spool_full + counts.too_old + counts.corrupt
    );
}

#[test]
fn batches_acknowledged_in_time_are_not_spooled() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    let flusher = flusher(&run, Policy::default(), Duration::from_secs(3600));
    let thread = std::thread::spawn(move || flusher.run());
    for _ in 0..100 {
        push(&mut run, 10, 1464);
        run.queue.acknowledge(run.queue.next_position(), 14_640);
    }
    assert_eq!((run.queue.figures().queued, segments(&directory)), (0, 0));
    run.queue.advance_to(ShutdownStage::Stopped);
    thread.join().unwrap();
    assert_eq!(segments(&directory), 0);
}

#[test]
fn unacknowledged_batches_move_to_the_spool() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    let flusher = flusher(&run, Policy::default(), Duration::ZERO);
    let thread = std::thread::spawn(move || flusher.run());
    push(&mut run, 10, 100);
    let deadline = Instant::now() + Duration::from_secs(20);
    while run.queue.figures().segments == 0 || !matches!(run.queue.inspect().next(Position(9)), Next::InSpool)
    {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(drain(&run.queue, Position(0)), (0..10).collect::<Vec<_>>());
    run.queue.acknowledge(Position(10), 0);
    run.queue.advance_to(ShutdownStage::Stopped);
    thread.join().unwrap();
    assert_eq!(segments(&directory), 0, "what is acknowledged is removed");
}

#[test]
fn pushed_datagrams_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 5, 100);
    kill(run);
    let mut run = start(&directory, policy());
    assert_eq!(run.queue.figures().counts.recovered, 5);
    push(&mut run, 5, 3000);
    spool_all(&run, policy());
    kill(run);
    let mut run = start(&directory, policy());
    push(&mut run, 5, 0);
    kill(run);
    let run = start(&directory, policy());
    assert_eq!(run.queue.figures().counts.recovered, 15);
    assert_eq!(drain(&run.queue, Position(0)), (0..15).collect::<Vec<_>>());
    assert_balanced(&run.queue);
}

#[test]
fn acknowledged_datagrams_do_not_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 10, 100);
    run.queue.acknowledge(Position(7), 0);
    kill(run);
    let run = start(&directory, policy());
    assert_eq!(run.queue.acknowledged(), Position(7));
    assert_eq!(drain(&run.queue, Position(7)), [7, 8, 9]);
}

#[test]
fn positions_stay_unique_without_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 10, 100);
    spool_all(&run, policy());
    push(&mut run, 3, 100);
    // The stop above recorded an orderly end; a later run was cut short.
    kill(run);
    kill(start(&directory, policy()));
    std::fs::remove_file(directory.path().join("intake")).unwrap();
    let mut run = start(&directory, policy());
    assert!(run.queue.next_position() > Position(13));
    push(&mut run, 2, 100);
    let given = drain(&run.queue, Position(0));
    assert_eq!(given.len(), 12, "ten from the spool, two new ones: {given:?}");
    assert_balanced(&run.queue);
}

/// Returns the datagrams that a run without uplink holds at the end of 600 datagrams of 60,000 bytes. The
/// disk of its spool fails after `breaking` it.
fn held_without_disk(full: Policy, breaking: impl FnOnce(&Path)) -> Vec<u64> {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, full);
    breaking(directory.path());
    let flusher = flusher(&run, full, Duration::ZERO);
    let thread = std::thread::spawn(move || flusher.run());
    push(&mut run, 600, 60_000);
    let figures = run.queue.figures();
    assert!(figures.counts.spool_full > 0 && figures.queued > 0, "{figures:?}");
    assert!(!run.queue.problems().is_empty());
    assert_balanced(&run.queue);
    let given = drain(&run.queue, run.queue.acknowledged());
    run.queue.acknowledge(run.queue.next_position(), 0);
    run.queue.advance_to(ShutdownStage::Stopped);
    thread.join().unwrap();
    given
}

#[test]
fn a_disk_filled_by_others_drops_new_datagrams() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        // Nothing fits: all free space must stay free.
        let full = Policy { min_free: MinFree::Bytes(u64::MAX / 2), when_full, ..policy() };
        let given = held_without_disk(full, |_| {});
        assert_eq!((given.first(), given.last() == Some(&599)), (Some(&0), false), "{when_full:?}");
        assert!(given.len() > 190, "the ring holds 12 MiB, not {}", given.len());
    }
}

#[test]
fn a_failing_disk_drops_by_when_full() {
    for (when_full, first_is_kept) in [(WhenFull::DropOldest, false), (WhenFull::DropNewest, true)] {
        let given = held_without_disk(Policy { when_full, ..policy() }, |spool| {
            std::fs::remove_dir_all(spool).unwrap();
        });
        assert_eq!(given.first() == Some(&0), first_is_kept);
        assert_eq!(given.last() == Some(&599), !first_is_kept);
    }
}

#[test]
fn the_exporter_table_is_free_while_a_push_waits() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    while run.queue.inspect().tail_bytes() + 2 * 61_000 < JOURNAL_RING {
        push(&mut run, 1, 60_000);
    }
    let full = run.queue.figures().counts.received;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        exporter.send_to(&vec![7; 60_000], socket.local_addr().unwrap()).unwrap();
    }
    let queue = run.queue.clone();
    let ingest = running::RunningIngest::start(run, vec![socket], &[]);
    while queue.figures().counts.received == full {
        std::thread::yield_now();
    }
    let (told, hears) = std::sync::mpsc::channel();
    let counters = ingest.counters.clone();
    let onlooker = std::thread::spawn(move || told.send(counters.exporters().figures().count()));
    let seen = hears.recv_timeout(Duration::from_secs(20));
    queue.acknowledge(queue.next_position(), 0);
    ingest.stop();
    onlooker.join().unwrap().unwrap();
    assert_eq!(seen, Ok(1));
}

#[test]
fn an_interrupted_start_trusts_no_old_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 3, 100);
    let stream = run.stream;
    kill(run);
    let path = directory.path().join("intake");
    // The machine was rebooted: the checkpoint has another boot id and may be older than the last assigned
    // position.
    let open = || journal::ReceiveJournal::open(&path, stream, journal::boot_id().unwrap()).unwrap().0;
    open().checkpoint.set_boot([0; 16]);
    drop(open());
    let run = start(&directory, policy());
    assert!(run.queue.next_position() >= Position(POSITIONS_PER_RUN));
}

#[test]
fn a_journal_of_an_older_run_hides_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 5, 100);
    run.queue.acknowledge(Position(5), 0);
    kill(run);
    kill(recover(directory.path(), Some(elsewhere.path()), policy(), &Arc::default()).unwrap());
    let mut run = start(&directory, policy());
    push(&mut run, 8, 100);
    kill(run);
    let run = start(&directory, policy());
    assert_eq!(drain(&run.queue, run.queue.acknowledged()).len(), 8);
    assert_eq!(run.queue.figures().counts.corrupt, 0);
}

#[test]
fn sent_and_read_batches_are_in_flight_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 10, 100);
    assert!(matches!(run.queue.inspect().next(Position(0)), Next::Batch(_)));
    assert_eq!(run.queue.inspect().in_flight, Position(0), "somebody only looked");
    assert!(matches!(run.queue.next_to_send(Position(0), true), Next::Batch(_)));
    assert_eq!(run.queue.inspect().in_flight, Position(1));
    spool_all(&run, policy());
    assert!(matches!(run.queue.next_to_send(Position(9), false), Next::InSpool));
    assert_eq!(run.queue.inspect().in_flight, Position(1), "only some collectors get it");
    assert!(matches!(run.queue.next_to_send(Position(7), true), Next::InSpool));
    assert_eq!(run.queue.inspect().in_flight, Position(8));
}

fn spool_key(byte: char) -> Key {
    Key::from_text(&byte.to_string().repeat(64)).unwrap()
}

/// Starts with these keys and a runtime directory, so that the journal is not in the spool directory.
fn start_sealed(
    directory: &tempfile::TempDir,
    runtime: &tempfile::TempDir,
    keys: SpoolKeys,
) -> Result<RecoveredRun, RecoveryError> {
    recover(directory.path(), Some(runtime.path()), policy(), &Arc::new(keys))
}

/// Returns every file of the spool with its content.
fn contents(directory: &tempfile::TempDir) -> std::collections::BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file());
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn an_encrypted_spool_drains_after_a_key_change() {
    let (directory, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let runs = [
        SpoolKeys::opening([]),
        SpoolKeys::sealing(spool_key('1'), []),
        SpoolKeys::sealing(spool_key('2'), [spool_key('1')]),
        SpoolKeys::opening([spool_key('2'), spool_key('1')]),
    ];
    for (number, keys) in runs.into_iter().enumerate() {
        let mut run = start_sealed(&directory, &runtime, keys).unwrap();
        let given = drain(&run.queue, Position(0));
        assert_eq!(given, (0..30 * u64::try_from(number).unwrap()).collect::<Vec<_>>());
        push(&mut run, 30, 700);
        let before = contents(&directory);
        spool_all(&run, policy());
        let new: Vec<u8> = contents(&directory)
            .into_iter()
            .filter(|(name, _)| !before.contains_key(name))
            .flat_map(|(_, bytes)| bytes)
            .collect();
        let shows =
            new.windows(64).any(|window| window.iter().all(|byte| *byte == window[0]) && window[0] > 0);
        assert_eq!(shows, number == 0 || number == 3, "run {number}");
        assert_balanced(&run.queue);
        kill(run);
    }
}

#[test]
fn without_its_key_a_spool_stays_unchanged() {
    let (directory, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut run = start_sealed(&directory, &runtime, SpoolKeys::sealing(spool_key('1'), [])).unwrap();
    push(&mut run, 10, 100);
    spool_all(&run, policy());
    kill(run);
    let before = contents(&directory);
    for (keys, given) in [
        (SpoolKeys::default(), "no key is given for it"),
        (
            SpoolKeys::sealing(spool_key('2'), []),
            &format!("the keys given for it are {}", spool_key('2').id()),
        ),
    ] {
        let refusal = start_sealed(&directory, &runtime, keys).unwrap_err().to_string();
        assert!(
            refusal.contains(&format!("encrypted with key {}, and {given}", spool_key('1').id())),
            "{refusal}"
        );
        assert_eq!(contents(&directory), before);
    }
    let run = start_sealed(&directory, &runtime, SpoolKeys::opening([spool_key('1')])).unwrap();
    assert_eq!(drain(&run.queue, Position(0)), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_segment_without_its_key_is_waited_for() {
    let (directory, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for key in ['1', '2', '1'] {
        let keys = SpoolKeys::sealing(spool_key(key), [spool_key('1'), spool_key('2')]);
        let mut run = start_sealed(&directory, &runtime, keys).unwrap();
        push(&mut run, 5, 100);
        spool_all(&run, policy());
        kill(run);
    }
    let run = start_sealed(&directory, &runtime, SpoolKeys::sealing(spool_key('1'), [])).unwrap();
    let mut backlog = SegmentSource::new(run.queue.clone());
    let first = backlog.read(Position(0)).unwrap();
    assert_eq!(first.last().unwrap().end(), Position(5));
    for _ in 0..10 {
        let error = backlog.read(Position(5)).unwrap_err().to_string();
        assert!(error.contains(&spool_key('2').id().to_string()), "{error}");
    }
    assert_eq!(run.queue.figures().counts.corrupt, 0);
    assert_eq!(run.queue.figures().queued, 15);
    drop(backlog);
    kill(run);
    let both = SpoolKeys::opening([spool_key('1'), spool_key('2')]);
    let run = start_sealed(&directory, &runtime, both).unwrap();
    assert_eq!(drain(&run.queue, Position(0)), (0..15).collect::<Vec<_>>());
}

#[test]
fn encryption_loses_no_unencrypted_journal() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 3, 100);
    kill(run);
    let sealing = || Arc::new(SpoolKeys::sealing(spool_key('1'), []));
    let refusal = recover(directory.path(), None, policy(), &sealing()).unwrap_err().to_string();
    assert!(refusal.contains("start once without spool.encrypt and stop in order"), "{refusal}");
    let run = start(&directory, policy());
    assert_eq!(drain(&run.queue, Position(0)), [0, 1, 2]);
    spool_all(&run, policy());
    std::fs::remove_file(directory.path().join("intake")).unwrap();
    kill(run);
    let mut run = recover(directory.path(), None, policy(), &sealing()).unwrap();
    push(&mut run, 3, 100);
    assert!(!directory.path().join("intake").exists());
    assert_eq!(drain(&run.queue, Position(0)), [0, 1, 2, 3, 4, 5]);
}

mod damage;
mod encryption;
mod fairness;
mod losses;
mod newer;
mod replacement;
mod running;

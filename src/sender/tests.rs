//! The queue with spool and receive journal in a real directory, without sockets and uplink.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nf_transport_core::batch::{Batch, BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::limits::POSITIONS_PER_RUN;
use nf_transport_core::sequence::Position;
use nf_transport_core::spool::{MinFree, Policy};
use tokio::sync::watch;

use crate::host::Pulse;
use crate::limits::JOURNAL_RING;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::journal;
use crate::sender::queue::Queue;
use crate::sender::queue::flusher::{Flusher, FlusherSettings};
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
            Next::Batch { batch, .. } => {
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

/// Waits until the queue has received this number of datagrams.
fn wait_for_received(queue: &Queue, received: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while queue.figures().counts.received < received {
        assert!(Instant::now() < deadline, "{:?}", queue.figures());
        std::thread::yield_now();
    }
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

#[test]
fn the_exporter_table_is_free_while_a_push_waits() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    while run.queue.inspect().tail().bytes() + 2 * 61_000 < JOURNAL_RING {
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
    assert!(matches!(run.queue.inspect().next(Position(0)), Next::Batch { .. }));
    assert_eq!(run.queue.inspect().in_flight(), Position(0), "somebody only looked");
    assert!(matches!(run.queue.begin_sending(Position(0), true), Next::Batch { .. }));
    assert!(!run.queue.begin_reading(Position(1), true), "it is in memory");
    assert_eq!(run.queue.inspect().in_flight(), Position(1));
    spool_all(&run, policy());
    assert!(matches!(run.queue.begin_sending(Position(9), false), Next::InSpool));
    assert_eq!(run.queue.inspect().in_flight(), Position(1), "only some collectors get it");
    assert!(matches!(run.queue.begin_sending(Position(7), true), Next::InSpool));
    assert_eq!(run.queue.inspect().in_flight(), Position(8));
    assert!(run.queue.begin_reading(Position(8), true));
    assert_eq!(run.queue.inspect().in_flight(), Position(9));
}

mod damage;
mod encryption;
mod fairness;
mod flushing;
mod full_disk;
mod key_changes;
mod losses;
mod max_delay;
mod newer;
mod replacement;
mod running;

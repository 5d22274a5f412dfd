//! Batches that move to the spool together.

use super::*;

/// Runs a flusher until the tail is empty. Returns the number of times that the state was locked.
fn flush(run: &RecoveredRun, policy: Policy, sync_after: Duration) -> u64 {
    let before = run.queue.state_locks();
    let flusher = flusher(run, policy, sync_after);
    let thread = std::thread::spawn(move || flusher.run());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !run.queue.inspect().tail().is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    run.queue.advance_to(ShutdownStage::Stopped);
    thread.join().unwrap();
    run.queue.state_locks() - before
}

#[test]
fn batches_due_together_take_one_round() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 200, 1000);
    let locks = flush(&run, policy(), Duration::ZERO);
    assert!(locks < 100, "the state was locked {locks} times for 200 batches");
    assert_eq!(drain(&run.queue, Position(0)), (0..200).collect::<Vec<_>>());
    assert_balanced(&run.queue);
}

#[test]
fn more_than_one_round_writes_all_batches() {
    let directory = tempfile::tempdir().unwrap();
    let small = Policy { rotate_size: 1 << 20, ..policy() };
    let mut run = start(&directory, small);
    push(&mut run, 100, 60_000);
    push(&mut run, 500, 10);
    flush(&run, small, Duration::ZERO);
    assert_eq!(drain(&run.queue, Position(0)), (0..600).collect::<Vec<_>>());
    kill(run);
    let run = start(&directory, small);
    assert_eq!(run.queue.figures().counts.recovered, 600);
    assert_eq!(drain(&run.queue, Position(0)), (0..600).collect::<Vec<_>>());
}

#[test]
fn batches_go_on_behind_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 10, 1000);
    run.queue.note_lost(5);
    push(&mut run, 10, 1000);
    flush(&run, policy(), Duration::ZERO);
    let gaps: Vec<_> = run.queue.spool().gaps().map(|gap| (gap.first, gap.end)).collect();
    assert_eq!(gaps, [(Position(10), Position(15))]);
    assert_eq!(drain(&run.queue, Position(0)), (0..10).chain(15..25).collect::<Vec<_>>());
    assert_balanced(&run.queue);
}

#[test]
fn a_filling_ring_wakes_the_flusher_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    while run.queue.inspect().tail().bytes() < JOURNAL_RING / 4 * 3 {
        push(&mut run, 1, 60_000);
    }
    assert_eq!(run.queue.wakeups(), 1);
}

#[test]
fn a_batch_wakes_an_idle_flusher_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    let before = run.queue.wakeups();
    run.queue.inspect().set_flusher_idle(true);
    push(&mut run, 3, 1464);
    assert_eq!(run.queue.wakeups() - before, 1);
}

#[test]
fn a_flusher_without_data_is_idle() {
    let directory = tempfile::tempdir().unwrap();
    let run = start(&directory, policy());
    let flusher = flusher(&run, Policy::default(), Duration::from_millis(10));
    let thread = std::thread::spawn(move || flusher.run());
    while !run.queue.inspect().is_flusher_idle() {
        std::thread::yield_now();
    }
    run.queue.advance_to(ShutdownStage::Stopped);
    thread.join().unwrap();
}

#[test]
fn the_last_acknowledgement_wakes_the_flusher() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = start(&directory, policy());
    push(&mut run, 10, 100);
    flush(&run, policy(), Duration::ZERO);
    let before = run.queue.wakeups();
    for position in 1..10 {
        run.queue.acknowledge(Position(position), 0);
    }
    assert_eq!(run.queue.wakeups() - before, 0, "its files are not removed yet");
    run.queue.acknowledge(Position(10), 0);
    assert_eq!(run.queue.wakeups() - before, 1);
}

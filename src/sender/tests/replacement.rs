//! Restored and cloned spools against a model of the receiver, which never misses a queued datagram.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use nf_transport_core::framing::{Heartbeat, Welcome};
use nf_transport_core::secure::{ChannelBinding, StreamKey};
use nf_transport_core::sequence::{RunId, StreamId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// The binding of the only connection.
const BINDING: ChannelBinding = ChannelBinding([9; 32]);

/// The state of a receiver, and the payloads that it has delivered.
#[derive(Default)]
struct Model {
    streams: HashMap<StreamId, (Position, RunId)>,
    delivered: Vec<u64>,
}

impl Model {
    fn has(&self) -> BTreeSet<u64> {
        self.delivered.iter().copied().collect()
    }

    fn repeats(&self) -> usize {
        self.delivered.len() - self.has().len()
    }

    /// Runs a session that delivers at most `most` batches. It acknowledges all of them, or only the position
    /// in WELCOME.
    fn session(&mut self, queue: &Arc<Queue>, most: usize, acknowledges: bool) {
        let mut attempts = 0;
        let (hello, resume) = loop {
            attempts += 1;
            assert!(attempts <= 2, "a new stream is always accepted");
            let hello = queue.hello(Heartbeat::nearest(Duration::from_secs(5)), BINDING);
            let (known, run) = self.streams.get(&hello.stream).copied().unwrap_or((Position(0), RunId::NONE));
            let resume = known.max(hello.first);
            let welcome = Welcome { resume, window: 1, received: resume, run };
            match queue.check_lineage(&welcome) {
                Ok(()) => break (hello, resume),
                Err(divergence) => {
                    queue.replace_stream(StreamKey::generate().unwrap(), divergence, resume, "receiver");
                }
            }
        };
        queue.acknowledge(resume, 0);
        let mut position = resume;
        let mut backlog = SegmentSource::new(queue.clone());
        for _ in 0..most {
            let next = queue.inspect().next(position);
            let batches = match next {
                Next::Batch { batch, .. } => vec![batch],
                Next::InSpool => backlog.read(position).unwrap(),
                Next::Gap(gap) => {
                    position = gap.end;
                    Vec::new()
                }
                Next::Nothing => break,
            };
            for batch in batches {
                let records = batch.with_stream(hello.stream).records().unwrap();
                let skip = usize::try_from(position.since(batch.first())).unwrap();
                self.delivered.extend(records.iter().skip(skip).map(|datagram| number(datagram.payload)));
                position = batch.end();
            }
            queue.note_sent(position);
            self.streams.insert(hello.stream, (position, hello.run));
        }
        if acknowledges {
            queue.acknowledge(position, 0);
        }
    }
}

fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload.try_into().unwrap())
}

/// One spool directory and the datagrams expected of it.
struct Life {
    directory: tempfile::TempDir,
    run: Option<RecoveredRun>,
    /// The numbers of all datagrams that it received or that were in the copy it began as.
    received: BTreeSet<u64>,
    /// Those of them that are in segments or were delivered.
    on_disk: BTreeSet<u64>,
}

impl Life {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, run: None, received: BTreeSet::new(), on_disk: BTreeSet::new() }
    }

    fn run(&mut self) -> &mut RecoveredRun {
        let directory = &self.directory;
        self.run.get_or_insert_with(|| start(directory, policy()))
    }

    fn queue(&mut self) -> Arc<Queue> {
        self.run().queue.clone()
    }

    fn receive(&mut self, numbers: core::ops::Range<u64>) {
        self.received.extend(numbers.clone());
        let run = self.run();
        let address = "192.0.2.7:1".parse().unwrap();
        for number in numbers {
            let mut builder = BatchBuilder::new(run.stream, Compression::None);
            let payload = &number.to_be_bytes();
            builder
                .push(&Datagram { exporter: address, local: address, arrival: Timestamp(5), payload })
                .unwrap();
            run.queue.push(
                builder.finish(run.queue.next_position()).unwrap(),
                &mut run.ring,
                &Pulse::default(),
            );
        }
    }

    /// Stops in order.
    fn stop(&mut self) {
        if let Some(run) = self.run.take() {
            spool_all(&run, policy());
            let location = run.location.clone();
            drop(run);
            journal::remove(location.path().unwrap()).unwrap();
            self.on_disk.clone_from(&self.received);
        }
    }

    fn kill(&mut self) {
        self.run = None;
    }

    /// Copies the spool like a backup or a cloned machine, and its memory only if `with_journal`.
    fn copy(&self, with_journal: bool) -> Self {
        let mut copy = Self::new();
        copy_files(self.directory.path(), copy.directory.path(), with_journal);
        let received = if with_journal { &self.received } else { &self.on_disk };
        (copy.received, copy.on_disk) = (received.clone(), self.on_disk.clone());
        copy
    }

    fn assert_all_arrive(&mut self, model: &mut Model) {
        let queue = self.queue();
        model.session(&queue, usize::MAX, true);
        assert_eq!(queue.figures().queued, 0);
        assert_balanced(&queue);
        let missing: Vec<_> = self.received.difference(&model.has()).copied().collect();
        assert!(missing.is_empty(), "missing {missing:?}");
    }
}

fn copy_files(from: &Path, to: &Path, with_journal: bool) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && (with_journal || !path.ends_with("intake")) {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// A spool after an orderly stop, with numbers 0 to 9 delivered and 10 to 14 queued, and its receiver.
fn stopped() -> (Life, Model) {
    let (mut life, mut model) = (Life::new(), Model::default());
    life.receive(0..10);
    model.session(&life.queue(), usize::MAX, true);
    life.receive(10..15);
    life.stop();
    (life, model)
}

#[test]
fn a_restored_spool_loses_nothing_after_restarts() {
    let (mut original, mut model) = stopped();
    let mut copy = original.copy(false);
    original.receive(100..150);
    original.assert_all_arrive(&mut model);
    for first in [200, 300, 400] {
        copy.receive(first..first + 80);
        copy.stop();
    }
    copy.assert_all_arrive(&mut model);
    assert_eq!(model.repeats(), 5, "what the copy held");
    let figures = copy.queue().figures();
    assert!(figures.replaced.is_some());
    assert!(figures.possible_repeats >= 5);
}

#[test]
fn with_a_known_divergence_nothing_repeats() {
    let (mut original, mut model) = stopped();
    // The copy is made while the run continues whose id it knows.
    original.receive(100..110);
    model.session(&original.queue(), 3, false);
    let mut copy = original.copy(true);
    model.session(&original.queue(), usize::MAX, false);
    original.receive(110..130);
    model.session(&original.queue(), usize::MAX, true);
    copy.receive(200..220);
    copy.assert_all_arrive(&mut model);
    assert_eq!((model.repeats(), copy.queue().figures().possible_repeats), (0, 0));
    original.receive(130..140);
    original.assert_all_arrive(&mut model);
}

#[test]
fn clones_deliver_everything_in_any_order() {
    let (mut original, mut model) = stopped();
    let mut clone = original.copy(false);
    for round in 0..4_u64 {
        original.receive(1000 + 10 * round..1010 + 10 * round);
        clone.receive(2000 + 10 * round..2010 + 10 * round);
        model.session(&original.queue(), 4, round % 2 == 0);
        model.session(&clone.queue(), 4, round % 2 == 1);
        if round == 1 { clone.stop() } else { original.kill() }
    }
    original.assert_all_arrive(&mut model);
    clone.assert_all_arrive(&mut model);
}

#[test]
fn a_hot_copy_restored_twice_loses_nothing() {
    let (mut original, mut model) = stopped();
    original.receive(100..120);
    model.session(&original.queue(), 10, true);
    let mut copies = [original.copy(false), original.copy(false)];
    original.assert_all_arrive(&mut model);
    for (copy, first) in copies.iter_mut().zip([200, 300]) {
        copy.receive(first..first + 20);
        copy.kill();
        copy.receive(first + 20..first + 40);
        copy.assert_all_arrive(&mut model);
    }
}

#[test]
fn restarts_of_a_spool_begin_no_new_stream() {
    let (mut life, mut model) = stopped();
    let stream = life.queue().figures().stream;
    for round in 0..20_u64 {
        life.receive(1000 + 10 * round..1010 + 10 * round);
        model.session(&life.queue(), 7, round % 3 == 0);
        if round % 2 == 0 { life.stop() } else { life.kill() }
    }
    life.assert_all_arrive(&mut model);
    assert_eq!((life.queue().figures().stream, model.repeats()), (stream, 0));
}

#[test]
fn a_replaced_stream_outlives_restarts() {
    let (mut original, mut model) = stopped();
    let mut copy = original.copy(false);
    original.assert_all_arrive(&mut model);
    original.receive(15..20);
    original.assert_all_arrive(&mut model);
    copy.assert_all_arrive(&mut model);
    let stream = copy.queue().figures().stream;
    copy.receive(200..210);
    copy.kill();
    copy.receive(210..220);
    copy.assert_all_arrive(&mut model);
    copy.stop();
    // Nothing is queued: batches bear the new id from now on.
    assert_eq!((copy.queue().stream(), copy.queue().figures().stream), (stream, stream));
    copy.receive(220..230);
    copy.assert_all_arrive(&mut model);
}

/// Spools that are copied, restored, killed and restarted at random.
fn random_lives(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    let mut lives = vec![Life::new()];
    let mut next = 0;
    for _ in 0..30 {
        let count = lives.len();
        let index = rng.random_range(0..count);
        let Some(life) = lives.get_mut(index) else { unreachable!() };
        match rng.random_range(0..10) {
            0..3 => {
                let end = next + rng.random_range(1..20);
                life.receive(next..end);
                next = end;
            }
            3..6 => model.session(&life.queue(), rng.random_range(0..12), rng.random_bool(0.6)),
            6 => life.stop(),
            7 => life.kill(),
            _ if count < 4 => {
                let with_journal = rng.random_bool(0.5);
                let copy = life.copy(with_journal);
                lives.push(copy);
            }
            _ => {
                let copy = life.copy(false);
                *life = copy;
            }
        }
    }
    for life in &mut lives {
        life.assert_all_arrive(&mut model);
    }
}

#[test]
fn copies_and_restarts_in_any_order_lose_nothing() {
    for seed in 0..60 {
        println!("seed {seed}");
        random_lives(seed);
    }
}

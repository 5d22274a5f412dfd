//! One run: the generator sends at a rate for a while through a relay to the sink, and the usage is recorded.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::generator::{Generator, GeneratorResult, Sending, TICK, Timetable};
use crate::numbers::{count, float};
use crate::payload::Content;
use crate::process::Process;
use crate::relay::{Buffer, Kind, Relay};
use crate::sink::{Arrivals, Sink};

/// Longest time between the last sent and the last arrived datagram. A slower relay has only stored its
/// input.
const PROMPT: Duration = Duration::from_millis(150);

/// Time without arrivals after which the wait ends.
const STALL: Duration = Duration::from_millis(500);

/// Default number of exporters.
pub(crate) const EXPORTERS: u16 = 4;

/// Warm-up of a relay, so that its memory is allocated and its sockets exist.
pub(crate) const WARM_UP_RATE: f64 = 20_000.0;
pub(crate) const WARM_UP_SECONDS: f64 = 0.75;

/// A relay between generator and sink.
pub(crate) struct Course {
    pub(crate) generator: Generator,
    pub(crate) processes: Vec<Process>,
    pub(crate) sink: Sink,
    content: Content,
    _relay: Option<Relay>,
}

/// Results of a run.
#[derive(Clone, Debug)]
pub(crate) struct RelayRun {
    pub(crate) total: u64,
    pub(crate) rate: f64,
    pub(crate) sent: GeneratorResult,
    pub(crate) arrivals: Arrivals,
    /// CPU time of each process of the relay.
    pub(crate) cpu: Vec<(&'static str, Duration)>,
    /// Bytes that all processes wrote to disk.
    pub(crate) written: u64,
}

impl Course {
    /// Starts a relay of this kind and warms it up.
    pub(crate) fn new(kind: Kind, exporters: u16, buffer: Buffer) -> Self {
        Self::of(exporters, |sink| kind.start(sink, buffer))
    }

    /// Starts a relay to the address of the sink with `start`, and warms it up.
    pub(crate) fn of(exporters: u16, start: impl FnOnce(SocketAddr) -> Relay) -> Self {
        let sink = Sink::start();
        let relay = start(sink.addr());
        let course = Self::through(&[relay.input], relay.processes.clone(), sink, exporters);
        Self { _relay: Some(relay), ..course }
    }

    /// Sends this content from now on.
    pub(crate) fn with_content(self, content: Content) -> Self {
        Self { content, ..self }
    }

    /// Uses running processes that receive on `inputs` and send to the sink, and warms them up.
    pub(crate) fn through(
        inputs: &[SocketAddr],
        processes: Vec<Process>,
        sink: Sink,
        exporters: u16,
    ) -> Self {
        let generator = Generator::new(exporters, inputs, Sending::Plain);
        let mut course = Self { generator, processes, sink, content: Content::Same, _relay: None };
        // Each exporter sends twice.
        let turns = 2.0 * f64::from(exporters) * TICK.as_secs_f64();
        course.run(WARM_UP_RATE, WARM_UP_SECONDS.max(turns));
        course
    }

    /// Sends bursts at this rate for this duration and waits for the arrivals.
    pub(crate) fn run(&mut self, rate: f64, seconds: f64) -> RelayRun {
        self.run_in(TICK, rate, seconds)
    }

    /// Sends evenly spaced datagrams at this rate for this duration and waits for the arrivals.
    pub(crate) fn run_evenly(&mut self, rate: f64, seconds: f64) -> RelayRun {
        // Otherwise the kernel combines timers of this thread that are due within 50 us. The relay, which has
        // started already, keeps its own.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).unwrap();
        let run = self.run_in(Duration::from_secs_f64(1.0 / rate), rate, seconds);
        rustix::thread::set_current_timer_slack(None).unwrap();
        run
    }

    /// Sends what is due at each `tick`.
    fn run_in(&mut self, tick: Duration, rate: f64, seconds: f64) -> RelayRun {
        let timetable = Timetable::of(self.content, next_run(), count(rate * seconds));
        self.sink.begin(&timetable, self.generator.sequences());
        let measure = |processes: &[Process]| -> (Vec<Duration>, u64) {
            (processes.iter().map(Process::cpu).collect(), processes.iter().map(Process::written).sum())
        };
        let (cpu_before, written_before) = measure(&self.processes);
        let sent = self.generator.run(&timetable, rate, tick);
        self.sink.wait_for_all(STALL);
        let (cpu, written) = measure(&self.processes);
        let each = cpu.iter().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
        let names = self.processes.iter().map(|process| process.name);
        RelayRun {
            total: timetable.total(),
            rate,
            sent,
            arrivals: self.sink.arrivals(),
            cpu: names.zip(each).collect(),
            written: written.saturating_sub(written_before),
        }
    }
}

/// Returns the number of the next run, by which the sink identifies the run's datagrams.
pub(crate) fn next_run() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl RelayRun {
    pub(crate) fn lost(&self) -> u64 {
        self.total - self.arrivals.arrived
    }

    /// Returns whether all datagrams arrived once, in order and unchanged.
    pub(crate) fn is_exact(&self) -> bool {
        let Arrivals { repeated, out_of_order, corrupted, .. } = self.arrivals;
        self.lost() + repeated + out_of_order + corrupted == 0
    }

    /// Returns the time from the last sent to the last arrived datagram.
    pub(crate) fn tail(&self) -> Duration {
        Duration::from_nanos(self.arrivals.last_at.saturating_sub(self.sent.ended_at))
    }

    /// Returns whether the relay carried the rate and the generator kept it.
    pub(crate) fn is_reached(&self) -> bool {
        self.sent.kept && self.is_exact() && self.tail() <= PROMPT
    }

    /// Returns the CPU time of all processes per datagram, in microseconds.
    pub(crate) fn cost(&self) -> f64 {
        let spent: Duration = self.cpu.iter().map(|(_, spent)| spent).sum();
        spent.as_secs_f64() * 1e6 / float(self.total)
    }
}

impl fmt::Display for RelayRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arrivals { repeated, out_of_order, corrupted, kernel_drops, .. } = self.arrivals;
        let (median, late) = (self.arrivals.latency(0.5), self.arrivals.latency(0.99));
        write!(f, "{:>7.0}/s: {} sent", self.rate, self.total)?;
        for (fault, count) in [
            ("lost", self.lost()),
            ("repeated", repeated),
            ("out of order", out_of_order),
            ("corrupted", corrupted),
            ("dropped at the sink", kernel_drops),
        ] {
            if count > 0 {
                write!(f, ", {count} {fault}")?;
            }
        }
        write!(f, ", last after {:.1?}, p50 {median:.2} ms, p99 {late:.2} ms", self.tail())?;
        for (name, spent) in &self.cpu {
            let each = spent.as_secs_f64() * 1e6 / float(self.total);
            write!(f, ", {name} {each:.2} us")?;
        }
        if !self.sent.kept {
            write!(f, ", the generator took {:.2?}", self.sent.took)?;
        }
        Ok(())
    }
}

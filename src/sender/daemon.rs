//! The daemon: sets up ingest, flusher and uplink, and stops them in an orderly way.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nf_transport_core::spool;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};

use crate::config::{Loaded, SENDER, SenderSettings, SpoolSettings};
use crate::host::process::logging;
use crate::host::systemd::messages::sender;
use crate::host::systemd::{notify, passed_sockets};
use crate::host::{
    DaemonError, DirectoryLock, Expiry, InternalErrorLog, Pulse, Shutdown, ShutdownTrigger, Signals,
    Supervised, Supervisor, Watchdog, abort_on_panic, allow_open_files, bind_metrics, bind_udp,
    ensure_receive_buffer, open_private_directory, receive_buffer_advice, shutdown_channel,
};
use crate::limits::{RECEIVE_BUFFER, STOP_GRACE};
use crate::sender::ingest::Ingest;
use crate::sender::ingest::counters::IngestCounters;
use crate::sender::ingest::exporter_log::ExporterLog;
use crate::sender::ingest::listener::Listener;
use crate::sender::ingest::loss_log::LossLog;
use crate::sender::journal;
use crate::sender::queue::Queue;
use crate::sender::queue::flusher::Flusher;
use crate::sender::queue::recovery::{RecoveredRun, recover};
use crate::sender::queue::room::RoomWatch;
use crate::sender::queue::state::ShutdownStage;
use crate::sender::reload::{LoadSettings, SenderReloader, spool_keys};
use crate::sender::report::Reporter;
use crate::sender::uplink::connection::SharedConnection;
use crate::sender::uplink::state::{Uplink, UplinkView};
use crate::status::{ControlSocket, Reply, Request, count_of, sender_metrics, serve_metrics};

/// Runs nf-sender until the shutdown signal.
pub(crate) fn run(load: LoadSettings) -> Result<(), DaemonError> {
    let loaded = load()?;
    logging::start();
    abort_on_panic(sender::INTERNAL_ERROR);
    for warning in loaded.report.warnings() {
        tracing::warn!("{warning}");
    }
    let Loaded { file, settings, .. } = loaded;
    let reloader = SenderReloader::new(load, file, settings.clone())?;
    allow_open_files();
    let _lock = DirectoryLock::acquire(&settings.spool.directory, &spool::SUBDIRECTORIES)?;
    // The receive journal is in there.
    if let Some(directory) = settings.runtime_directory.as_deref().filter(|directory| directory.exists()) {
        open_private_directory(directory)?;
    }
    let listeners = listen(&settings.listen)?;
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| DaemonError::system(format_args!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(supervise(settings, listeners, Arc::new(reloader), started));
    // A blocking task that still reads the spool need not finish.
    runtime.shutdown_background();
    outcome
}

/// Returns listeners on the sockets from systemd, or else on those of the settings.
fn listen(addresses: &[SocketAddr]) -> Result<Vec<Listener>, DaemonError> {
    let passed = passed_sockets::udp()?;
    let outlives_us = !passed.is_empty();
    let sockets = if outlives_us {
        passed
    } else {
        addresses.iter().map(|address| bind_udp(*address)).collect::<Result<_, _>>()?
    };
    let mut smallest = usize::MAX;
    let mut listeners = Vec::new();
    for socket in sockets {
        let system_error = |error| DaemonError::system(format_args!("cannot set up a UDP socket: {error}"));
        smallest = smallest.min(ensure_receive_buffer(&socket, RECEIVE_BUFFER).map_err(system_error)?);
        let address = socket.local_addr().map_err(system_error)?;
        tracing::info!(
            %address,
            from_systemd = outlives_us,
            "listening for datagrams on {address}{}",
            passed_sockets::origin(outlives_us)
        );
        listeners.push(Listener::new(socket, outlives_us).map_err(system_error)?);
    }
    if let Some(advice) = receive_buffer_advice(RECEIVE_BUFFER, smallest) {
        tracing::warn!(message_id = sender::BUFFER_SMALL, "{advice}");
    }
    Ok(listeners)
}

/// The threads outside of the runtime.
struct Threads {
    queue: Arc<Queue>,
    /// A write to it ends ingest.
    stop_ingest: OwnedFd,
    ingest_ended: oneshot::Receiver<()>,
    flusher: thread::JoinHandle<()>,
}

/// The running daemon.
struct SenderDaemon {
    reporter: Reporter,
    reloader: Arc<SenderReloader>,
    threads: Threads,
    uplink: JoinHandle<()>,
    stop_uplink: ShutdownTrigger,
    /// The task that answers requests at the control socket.
    answers: AbortHandle,
    room: RoomWatch,
    losses: LossLog,
    exporters: ExporterLog,
}

async fn supervise(
    settings: SenderSettings,
    listeners: Vec<Listener>,
    reloader: Arc<SenderReloader>,
    started: Instant,
) -> Result<(), DaemonError> {
    let signals = Signals::handle()?;
    let mut watchdog = Watchdog::new(SENDER, started, sender::LOOP_STUCK);
    let daemon = start(settings, listeners, reloader, &mut watchdog).await?;
    let queue = daemon.reporter.queue.clone();
    let internal_errors =
        InternalErrorLog::new(sender::INTERNAL_ERROR, "lost datagrams are counted as corrupt");
    let outcome = Supervisor::new(watchdog, internal_errors).run(signals, daemon).await;
    let queued = queue.figures().queued;
    tracing::info!(queued, "stopped; {} in the spool", count_of(queued, "datagram"));
    outcome
}

async fn start(
    settings: SenderSettings,
    listeners: Vec<Listener>,
    reloader: Arc<SenderReloader>,
    watchdog: &mut Watchdog,
) -> Result<SenderDaemon, DaemonError> {
    let control = ControlSocket::bind(&settings.control).map_err(DaemonError::cannot_create)?;
    let runtime_directory = settings.runtime_directory.as_deref();
    let spool = &settings.spool;
    let recovered = notify::with_patience(open_spool(spool, runtime_directory)).await?;

    let counters = Arc::new(IngestCounters::new(listeners.iter().map(Listener::address)));
    let reporter = Reporter {
        settings: reloader.uplink(),
        queue: recovered.queue.clone(),
        directory: spool.directory.clone(),
        counters: counters.clone(),
        view: UplinkView::new(&settings.receivers),
        pace: Arc::default(),
        journal: recovered.location.clone(),
    };
    let (stop_uplink, stop) = shutdown_channel();
    let uplink = make_uplink(&reporter, &reloader, watchdog.pulse("uplink"), stop);
    let connection = uplink.connection.clone();
    let threads = start_threads(listeners, recovered, connection, counters, &reloader, watchdog)?;
    if let Some(address) = settings.metrics {
        let reporter = reporter.clone();
        let listener = bind_metrics(address)?;
        tokio::spawn(serve_metrics(listener, move || sender_metrics(reporter.status())));
    }
    Ok(SenderDaemon {
        answers: tokio::spawn(control.serve(answer(reporter.clone(), reloader.clone()))).abort_handle(),
        uplink: tokio::spawn(uplink.run()),
        stop_uplink,
        threads,
        room: RoomWatch::default(),
        losses: LossLog::new(&reporter.counters),
        exporters: ExporterLog::default(),
        reporter,
        reloader,
    })
}

impl Supervised for SenderDaemon {
    fn reload(&mut self) {
        // The cause is in the log, and the daemon continues.
        drop(self.reloader.reload());
    }

    fn tick(&mut self) -> String {
        self.reporter.note_pace();
        self.room.poll(self.reporter.shortage());
        self.losses.poll(&self.reporter.counters);
        self.exporters.poll(&self.reporter.counters, Instant::now().into_std());
        self.reporter.line()
    }

    fn expiries(&self) -> Vec<(&'static str, Expiry)> {
        let settings = self.reporter.settings.borrow();
        let own = settings.channel_mode.certificate().map(Expiry::of_certificate);
        own.into_iter().map(|own| (sender::CERTIFICATE_ENDS, own)).collect()
    }

    async fn ended(&mut self) -> Result<(), DaemonError> {
        let sentence = tokio::select! {
            _ = &mut self.threads.ingest_ended => "the ingest thread ended: cannot receive datagrams any more",
            _ = &mut self.uplink => "the uplink task ended",
        };
        Err(DaemonError::system(sentence))
    }

    fn announce_stop(&self) -> String {
        tracing::info!("stopping: sending for up to {} s; the rest stays in the spool", STOP_GRACE.as_secs());
        format!("stopping; {} queued", count_of(self.reporter.queue.figures().queued, "datagram"))
    }

    async fn stop(self) -> Result<(), DaemonError> {
        let is_all_spooled = stop_threads(self.threads, self.stop_uplink, self.uplink).await;
        if is_all_spooled && !self.reporter.queue.spool().is_run_recorded() {
            // Without the record, the next start would know neither the numbering nor that nothing is
            // missing.
            tracing::warn!(
                "cannot record this stop in the spool: the next start recovers the positions from the \
                 receive journal"
            );
        } else {
            settle_journal(self.reporter.journal.path(), is_all_spooled);
        }
        self.answers.abort();
        self.losses.finish(&self.reporter.counters);
        Ok(())
    }
}

/// Leaves the receive journal to the next start if it holds datagrams; removes it otherwise.
fn settle_journal(location: Option<&Path>, is_all_spooled: bool) {
    match location {
        Some(location) if is_all_spooled => {
            if let Err(error) = journal::remove(location) {
                tracing::debug!("cannot remove the receive journal {}: {error}", location.display());
            }
        }
        Some(location) => tracing::error!(
            "not everything could be written to the spool: the rest stays in {} for the next start",
            location.display()
        ),
        None if is_all_spooled => {}
        None => {
            tracing::error!(
                "not everything could be written to the spool: the rest was in memory only and is lost"
            );
        }
    }
}

/// Opens the spool and recovers the previous run in a blocking task, as it may take a while.
async fn open_spool(
    spool: &SpoolSettings,
    runtime_directory: Option<&Path>,
) -> Result<RecoveredRun, DaemonError> {
    let (spool, runtime_directory) = (spool.clone(), runtime_directory.map(Path::to_owned));
    let opening = tokio::task::spawn_blocking(move || {
        let keys = Arc::new(spool_keys(&spool.encryption)?);
        Ok(recover(&spool.directory, runtime_directory.as_deref(), spool.policy, &keys)?)
    });
    opening.await.map_err(DaemonError::system)?
}

fn make_uplink(reporter: &Reporter, reloader: &SenderReloader, pulse: Pulse, stop: Shutdown) -> Uplink {
    Uplink {
        queue: reporter.queue.clone(),
        connection: Arc::default(),
        settings: reloader.uplink(),
        view: reporter.view.clone(),
        retry: reloader.retry(),
        redial: reloader.redial(),
        failure: None,
        pulse,
        stop,
    }
}

fn start_threads(
    listeners: Vec<Listener>,
    recovered: RecoveredRun,
    connection: Arc<SharedConnection>,
    counters: Arc<IngestCounters>,
    reloader: &SenderReloader,
    watchdog: &mut Watchdog,
) -> Result<Threads, DaemonError> {
    let system_error = |error| DaemonError::system(format_args!("cannot start a thread: {error}"));
    let stop_ingest = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| system_error(error.into()))?;
    let stop = stop_ingest.try_clone().map_err(system_error)?;
    let queue = recovered.queue.clone();
    let flusher =
        Flusher::new(queue.clone(), reloader.flusher(), counters.clone(), watchdog.running("flusher"));
    let flusher =
        thread::Builder::new().name("flusher".to_owned()).spawn(|| flusher.run()).map_err(system_error)?;
    let ingest = Ingest::new(
        listeners,
        stop,
        recovered,
        connection,
        counters,
        reloader.ingest(),
        watchdog.running("ingest"),
    );
    let (ended, ingest_ended) = oneshot::channel();
    let run = move || {
        ingest.run();
        // The daemon may have stopped waiting.
        let _nobody = ended.send(());
    };
    thread::Builder::new().name("ingest".to_owned()).spawn(run).map_err(system_error)?;
    Ok(Threads { queue, stop_ingest, ingest_ended, flusher })
}

/// Ends ingest, lets the uplink send for a while, and writes the rest to disk. Returns `true` if all of it is
/// there.
async fn stop_threads(threads: Threads, stop_uplink: ShutdownTrigger, uplink: JoinHandle<()>) -> bool {
    let Threads { queue, stop_ingest, ingest_ended, flusher } = threads;
    queue.advance_to(ShutdownStage::Draining);
    if let Err(error) = rustix::io::write(&stop_ingest, &1_u64.to_ne_bytes()) {
        tracing::error!(%error, "cannot stop the ingest thread: {error}");
    }
    // If ingest ended by itself, the main loop has seen it: the rest of its datagrams is in the receive
    // journal.
    let ingest_ended =
        !ingest_ended.is_terminated() && matches!(timeout(STOP_GRACE, ingest_ended).await, Ok(Ok(())));
    stop_uplink.request();
    if !uplink.is_finished() && timeout(STOP_GRACE * 2, uplink).await.is_err() {
        tracing::warn!("the uplink did not end in time");
    }
    queue.advance_to(ShutdownStage::Stopped);
    let flusher = tokio::task::spawn_blocking(move || flusher.join());
    let flusher_ended = matches!(timeout(STOP_GRACE * 2, flusher).await, Ok(Ok(Ok(()))));
    ingest_ended && flusher_ended && queue.is_all_spooled()
}

fn answer(
    reporter: Reporter,
    reloader: Arc<SenderReloader>,
) -> impl Fn(Request) -> Reply + Clone + Send + 'static {
    move |request| match request {
        Request::Status => match serde_json::to_value(reporter.status()) {
            Ok(status) => Reply::Ok(status),
            Err(error) => Reply::Error(error.to_string()),
        },
        Request::Configuration => Reply::Ok(reloader.file().to_string_lossy().into()),
        Request::Reconnect => match reloader.reconnect() {
            Ok(()) => Reply::Ok(serde_json::Value::Null),
            Err(error) => Reply::Error(error),
        },
        Request::Reload => match reloader.reload() {
            Ok(()) => Reply::Ok(serde_json::Value::Null),
            Err(error) => Reply::Error(error.to_string()),
        },
    }
}

//! The daemon: sets up ingest, flusher and uplink, and stops them in order.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use nf_transport_core::spool;
use rustix::event::{EventfdFlags, eventfd};
use tokio::signal::unix::SignalKind;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::config::{Loaded, SENDER, SenderSettings, SpoolSettings};
use crate::host::process::logging;
use crate::host::systemd::messages::sender;
use crate::host::systemd::{notify, sockets};
use crate::host::{
    DaemonError, DirectoryLock, Expiry, ExpiryWatch, InternalErrorLog, Pulse, ROUND, Shutdown,
    ShutdownTrigger, Watchdog, abort_on_panic, allow_open_files, open_private_directory, shutdown_channel,
    watch_for,
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
    let _lock = DirectoryLock::take(&settings.spool.directory, &spool::SUBDIRECTORIES)?;
    // The receive journal is in there.
    if let Some(directory) = settings.runtime_directory.as_deref().filter(|directory| directory.exists()) {
        open_private_directory(directory)?;
    }
    let listeners = listen(&settings.listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| DaemonError::system(format_args!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(supervise(settings, listeners, Arc::new(reloader)));
    // A blocking task that still reads the spool need not finish.
    runtime.shutdown_background();
    outcome
}

/// Returns listeners on the sockets from systemd, or else on those of the settings.
fn listen(addresses: &[SocketAddr]) -> Result<Vec<Listener>, DaemonError> {
    let inherited = sockets::inherited_udp()?;
    let outlives_us = !inherited.is_empty();
    let sockets = if outlives_us {
        inherited
    } else {
        addresses.iter().map(|address| sockets::bind_udp(*address)).collect::<Result<_, _>>()?
    };
    let mut smallest = usize::MAX;
    let mut listeners = Vec::new();
    for socket in sockets {
        let system_error = |error| DaemonError::system(format_args!("cannot set up a UDP socket: {error}"));
        smallest =
            smallest.min(sockets::ensure_receive_buffer(&socket, RECEIVE_BUFFER).map_err(system_error)?);
        let address = socket.local_addr().map_err(system_error)?;
        tracing::info!(
            %address,
            from_systemd = outlives_us,
            "listening for datagrams on {address}{}",
            sockets::origin(outlives_us)
        );
        listeners.push(Listener::new(socket, outlives_us).map_err(system_error)?);
    }
    if let Some(advice) = sockets::receive_buffer_advice(RECEIVE_BUFFER, smallest) {
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

async fn supervise(
    settings: SenderSettings,
    listeners: Vec<Listener>,
    reloader: Arc<SenderReloader>,
) -> Result<(), DaemonError> {
    let mut terminate = watch_for(SignalKind::terminate())?;
    let mut interrupt = watch_for(SignalKind::interrupt())?;
    let mut hangup = watch_for(SignalKind::hangup())?;
    let control = ControlSocket::bind(&settings.control).map_err(DaemonError::cannot_create)?;
    let runtime_directory = settings.runtime_directory.as_deref();
    let spool = &settings.spool;
    let recovered = notify::with_patience(open_spool(spool, runtime_directory)).await?;

    let location = recovered.location.clone();
    let counters = Arc::new(IngestCounters::new(listeners.iter().map(Listener::address)));
    let reporter = Reporter {
        settings: reloader.uplink(),
        queue: recovered.queue.clone(),
        directory: spool.directory.clone(),
        counters: counters.clone(),
        view: UplinkView::new(&settings.receivers),
        pace: Arc::default(),
        journal: location.clone(),
    };
    let (stop_uplink, stop) = shutdown_channel();
    let mut watchdog = Watchdog::new(SENDER, sender::LOOP_STUCK);
    let uplink = make_uplink(&reporter, &reloader, watchdog.pulse("uplink"), stop);
    let connection = uplink.connection.clone();
    let mut threads = start_threads(listeners, recovered, connection, counters, &reloader, &mut watchdog)?;
    if let Some(address) = settings.metrics {
        let reporter = reporter.clone();
        let listener = sockets::bind_metrics(address)?;
        tokio::spawn(serve_metrics(listener, move || sender_metrics(reporter.status())));
    }
    let answers = tokio::spawn(control.serve(answer(reporter.clone(), reloader.clone())));
    let mut uplink = tokio::spawn(uplink.run());
    notify::ready();

    let mut tick = interval(ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut expiry = ExpiryWatch::default();
    let mut room = RoomWatch::default();
    let mut losses = LossLog::new(&reporter.counters);
    let mut internal_errors =
        InternalErrorLog::new(sender::INTERNAL_ERROR, "lost datagrams are counted as corrupt");
    let mut exporters = ExporterLog::default();
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            // The cause is in the log, and the daemon continues.
            _ = hangup.recv() => drop(reloader.reload()),
            _ = tick.tick() => {
                watchdog.look();
                reporter.note_pace();
                room.poll(reporter.shortage());
                losses.poll(&reporter.counters);
                internal_errors.look();
                exporters.poll(&reporter.counters, Instant::now());
                notify::status(&reporter.line());
                if let Some(certificate) = reporter.settings.borrow().channel_mode.certificate() {
                    expiry.look_at(sender::CERTIFICATE_ENDS, &Expiry::of_certificate(certificate));
                }
            }
            _ = &mut threads.ingest_ended => break Err(DaemonError::system("the ingest thread ended: cannot \
             receive datagrams any more")),
            _ = &mut uplink => break Err(DaemonError::system("the uplink task ended")),
        }
    };
    notify::stopping();
    let queued = count_of(reporter.queue.figures().queued, "datagram");
    notify::status(&format!("stopping; {queued} queued"));
    tracing::info!("stopping: sending for up to {} s; the rest stays in the spool", STOP_GRACE.as_secs());
    let is_all_spooled = notify::with_patience(stop_threads(threads, stop_uplink, uplink)).await;
    if is_all_spooled && !reporter.queue.spool().is_run_recorded() {
        // Without the record, the next start would know neither the numbering nor that nothing is missing.
        tracing::warn!(
            "cannot record this stop in the spool: the next start recovers the positions from the receive \
             journal"
        );
    } else {
        settle_journal(location.path(), is_all_spooled);
    }
    answers.abort();
    losses.finish(&reporter.counters);
    internal_errors.finish();
    let figures = reporter.queue.figures();
    tracing::info!(queued = figures.queued, "stopped; {} in the spool", count_of(figures.queued, "datagram"));
    outcome
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
async fn stop_threads(
    threads: Threads,
    stop_uplink: ShutdownTrigger,
    uplink: tokio::task::JoinHandle<()>,
) -> bool {
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

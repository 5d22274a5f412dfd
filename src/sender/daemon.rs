//! The daemon: takes what it needs, joins ingest, keeper and link, and ends them in the right order.

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
use crate::sender::ingest::counters::Tally;
use crate::sender::ingest::exporter_log::ExporterLog;
use crate::sender::ingest::loss_log::LossLog;
use crate::sender::ingest::{Ingest, Listener};
use crate::sender::journal;
use crate::sender::queue::flusher::Keeper;
use crate::sender::queue::recovery::{Recovered, recover};
use crate::sender::queue::room::RoomWatch;
use crate::sender::queue::{Queue, Stage};
use crate::sender::reload::{Load, Reloader, spool_keys};
use crate::sender::report::Reporter;
use crate::sender::uplink::connection::Lent;
use crate::sender::uplink::{Link, LinkView};
use crate::status::{ControlSocket, Reply, Request, count_of, sender_metrics, serve_metrics};

/// Runs nf-sender until it is told to stop.
pub(crate) fn run(load: Load) -> Result<(), DaemonError> {
    let loaded = load()?;
    logging::start();
    abort_on_panic(sender::INTERNAL_ERROR);
    for warning in loaded.report.warnings() {
        tracing::warn!("{warning}");
    }
    let Loaded { file, settings, .. } = loaded;
    let reloader = Reloader::new(load, file, settings.clone())?;
    allow_open_files();
    let _lock = DirectoryLock::take(&settings.spool.directory, &spool::SUBDIRECTORIES)?;
    // The intake is in there.
    if let Some(directory) = settings.runtime_directory.as_deref().filter(|directory| directory.exists()) {
        open_private_directory(directory)?;
    }
    let listeners = listen(&settings.listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| DaemonError::system(format_args!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(supervise(settings, listeners, Arc::new(reloader)));
    // A blocking task that still reads the spool has nothing to finish.
    runtime.shutdown_background();
    outcome
}

/// The sockets from systemd, else those of the settings.
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
        let told = |error| DaemonError::system(format_args!("cannot set up a UDP socket: {error}"));
        smallest = smallest.min(sockets::ensure_receive_buffer(&socket, RECEIVE_BUFFER).map_err(told)?);
        let address = socket.local_addr().map_err(told)?;
        tracing::info!(
            %address,
            from_systemd = outlives_us,
            "listening for datagrams on {address}{}",
            sockets::origin(outlives_us)
        );
        listeners.push(Listener::new(socket, outlives_us).map_err(told)?);
    }
    if let Some(advice) = sockets::receive_buffer_advice(RECEIVE_BUFFER, smallest) {
        tracing::warn!(message_id = sender::BUFFER_SMALL, "{advice}");
    }
    Ok(listeners)
}

/// The threads beside the runtime.
struct Threads {
    queue: Arc<Queue>,
    /// Writing to it ends ingest.
    stop_ingest: OwnedFd,
    ingest_ended: oneshot::Receiver<()>,
    keeper: thread::JoinHandle<()>,
}

async fn supervise(
    settings: SenderSettings,
    listeners: Vec<Listener>,
    reloader: Arc<Reloader>,
) -> Result<(), DaemonError> {
    let mut terminate = watch_for(SignalKind::terminate())?;
    let mut interrupt = watch_for(SignalKind::interrupt())?;
    let mut hangup = watch_for(SignalKind::hangup())?;
    let control = ControlSocket::bind(&settings.control).map_err(DaemonError::cannot_create)?;
    let runtime_directory = settings.runtime_directory.as_deref();
    let spool = &settings.spool;
    let recovered = notify::with_patience(open_spool(spool, runtime_directory)).await?;

    let intake = recovered.intake.clone();
    let tally = Arc::new(Tally::new(listeners.iter().map(Listener::address)));
    let reporter = Reporter {
        settings: reloader.link(),
        queue: recovered.queue.clone(),
        directory: spool.directory.clone(),
        tally: tally.clone(),
        view: LinkView::new(&settings.receivers),
        pace: Arc::default(),
        intake: intake.clone(),
    };
    let (stop_link, stop) = shutdown_channel();
    let mut watchdog = Watchdog::new(SENDER, sender::LOOP_STUCK);
    let link = make_link(&reporter, &reloader, watchdog.pulse("link"), stop);
    let lent = link.lent.clone();
    let mut threads = start_threads(listeners, recovered, lent, tally, &reloader, &mut watchdog)?;
    if let Some(address) = settings.metrics {
        let reporter = reporter.clone();
        let listener = sockets::bind_metrics(address)?;
        tokio::spawn(serve_metrics(listener, move || sender_metrics(reporter.status())));
    }
    let answers = tokio::spawn(control.serve(answer(reporter.clone(), reloader.clone())));
    let mut link = tokio::spawn(link.run());
    notify::ready();

    let mut tick = interval(ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut expiry = ExpiryWatch::default();
    let mut room = RoomWatch::default();
    let mut losses = LossLog::new(&reporter.tally);
    let mut internal_errors =
        InternalErrorLog::new(sender::INTERNAL_ERROR, "lost datagrams are counted as corrupt");
    let mut exporters = ExporterLog::default();
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            // What is wrong with the settings is in the log; the daemon goes on.
            _ = hangup.recv() => drop(reloader.reload()),
            _ = tick.tick() => {
                watchdog.look();
                reporter.note_pace();
                room.look(&reporter);
                losses.look(&reporter.tally);
                internal_errors.look();
                exporters.look(&reporter.tally, Instant::now());
                notify::status(&reporter.line());
                if let Some(certificate) = reporter.settings.borrow().speech.certificate() {
                    expiry.look_at(sender::CERTIFICATE_ENDS, &Expiry::of_certificate(certificate));
                }
            }
            _ = &mut threads.ingest_ended => break Err(DaemonError::system("cannot take datagrams any more")),
            _ = &mut link => break Err(DaemonError::system("the link's task ended")),
        }
    };
    notify::stopping();
    let queued = count_of(reporter.queue.figures().queued, "datagram");
    notify::status(&format!("stopping; {queued} queued"));
    tracing::info!("stopping: what the link does not take in {} s stays in the spool", STOP_GRACE.as_secs());
    let everything_spooled = notify::with_patience(stop_threads(threads, stop_link, link)).await;
    if everything_spooled && !reporter.queue.spool().is_run_recorded() {
        // Without it the next start would know neither where the numbering stands nor that nothing is missing.
        tracing::warn!("the spool takes no record of this stop: the next start works it out from the intake");
    } else {
        leave(intake.path(), everything_spooled);
    }
    answers.abort();
    losses.finish(&reporter.tally);
    internal_errors.finish();
    let figures = reporter.queue.figures();
    tracing::info!(queued = figures.queued, "stopped; {} in the spool", count_of(figures.queued, "datagram"));
    outcome
}

/// Leaves the intake to the next start if something is in it, or removes it.
fn leave(intake: Option<&Path>, everything_spooled: bool) {
    match intake {
        Some(intake) if everything_spooled => {
            if let Err(error) = journal::remove(intake) {
                tracing::debug!("cannot remove the intake: {error}");
            }
        }
        Some(intake) => tracing::error!(
            "the spool did not take everything: what is left stays in {} for the next start",
            intake.display()
        ),
        None if everything_spooled => {}
        None => {
            tracing::error!(
                "the spool did not take everything: what is left was in memory only, and is lost"
            );
        }
    }
}

/// Opens the spool and takes up what the last run left, in a thread of its own: it may take a while.
async fn open_spool(
    spool: &SpoolSettings,
    runtime_directory: Option<&Path>,
) -> Result<Recovered, DaemonError> {
    let (spool, runtime_directory) = (spool.clone(), runtime_directory.map(Path::to_owned));
    let opening = tokio::task::spawn_blocking(move || {
        let keys = Arc::new(spool_keys(&spool.encryption)?);
        Ok(recover(&spool.directory, runtime_directory.as_deref(), spool.policy, &keys)?)
    });
    opening.await.map_err(DaemonError::system)?
}

fn make_link(reporter: &Reporter, reloader: &Reloader, pulse: Pulse, stop: Shutdown) -> Link {
    Link {
        queue: reporter.queue.clone(),
        lent: Arc::default(),
        settings: reloader.link(),
        view: reporter.view.clone(),
        retry: reloader.retry(),
        redial: reloader.redial(),
        doubt: None,
        pulse,
        stop,
    }
}

fn start_threads(
    listeners: Vec<Listener>,
    recovered: Recovered,
    lent: Arc<Lent>,
    tally: Arc<Tally>,
    reloader: &Reloader,
    watchdog: &mut Watchdog,
) -> Result<Threads, DaemonError> {
    let told = |error| DaemonError::system(format_args!("cannot start a thread: {error}"));
    let stop_ingest = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| told(error.into()))?;
    let stop = stop_ingest.try_clone().map_err(told)?;
    let queue = recovered.queue.clone();
    let keeper = Keeper::new(queue.clone(), reloader.keeper(), tally.clone(), watchdog.running("flusher"));
    let keeper = thread::Builder::new().name("flusher".to_owned()).spawn(|| keeper.run()).map_err(told)?;
    let ingest =
        Ingest::new(listeners, stop, recovered, lent, tally, reloader.ingest(), watchdog.running("ingest"));
    let (ended, ingest_ended) = oneshot::channel();
    let run = move || {
        ingest.run();
        // Nobody listens once the daemon has stopped waiting.
        let _nobody = ended.send(());
    };
    thread::Builder::new().name("ingest".to_owned()).spawn(run).map_err(told)?;
    Ok(Threads { queue, stop_ingest, ingest_ended, keeper })
}

/// Ends ingest, lets the link send what it can, and puts the rest on disk. Says whether all of it is there.
async fn stop_threads(
    threads: Threads,
    stop_link: ShutdownTrigger,
    link: tokio::task::JoinHandle<()>,
) -> bool {
    let Threads { queue, stop_ingest, ingest_ended, keeper } = threads;
    queue.go_on_to(Stage::Draining);
    if let Err(error) = rustix::io::write(&stop_ingest, &1_u64.to_ne_bytes()) {
        tracing::error!(%error, "cannot stop taking datagrams: {error}");
    }
    // If ingest ended by itself, that was heard already: what it still had is in the intake.
    let ingest_ended =
        !ingest_ended.is_terminated() && matches!(timeout(STOP_GRACE, ingest_ended).await, Ok(Ok(())));
    stop_link.request();
    if !link.is_finished() && timeout(STOP_GRACE * 2, link).await.is_err() {
        tracing::warn!("the link did not end in time");
    }
    queue.go_on_to(Stage::Stopped);
    let keeper = tokio::task::spawn_blocking(move || keeper.join());
    let keeper_ended = matches!(timeout(STOP_GRACE * 2, keeper).await, Ok(Ok(Ok(()))));
    ingest_ended && keeper_ended && queue.state().tail.is_empty()
}

fn answer(reporter: Reporter, reloader: Arc<Reloader>) -> impl Fn(Request) -> Reply + Clone + Send + 'static {
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

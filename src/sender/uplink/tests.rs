//! An uplink and a receiver of the test, over real sockets on loopback and in virtual time.

use std::sync::{Arc, Mutex};

use nf_transport_core::batch::{Batch, BatchBuilder, Compression};
use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::framing::RefusalCode;
use nf_transport_core::secure::{AccessPolicy, Credential, Key, ReceiverHandshake, Secret, Suite};
use nf_transport_core::sequence::{Position, RunId, StreamId};
use nf_transport_core::session::{ReceiverEvent, ReceiverSession, ResumePoint};
use nf_transport_core::spool::{MinFree, Policy};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::*;
use crate::config::Reconnect;
use crate::host::secure_stream::{Received, SecureStream, run_handshake};
use crate::host::{Pulse, shutdown_channel};
use crate::limits::CHANNEL_AGE_MAX;
use crate::sender::journal::Ring;
use crate::sender::queue::Queue;
use crate::sender::queue::recovery::{RecoveredRun, recover};
use crate::sender::uplink::connection::SharedConnection;
use crate::sender::uplink::dial::ChannelMode;
use crate::sender::uplink::state::UplinkView;

/// One session that the receiver had.
#[derive(Debug)]
struct SeenSession {
    began: Instant,
    credential: Credential,
    /// The sender sent GOODBYE before it closed.
    is_orderly: bool,
}

/// Serves senders with one of `keys`, one connection after the other, and reports each when it has ended.
async fn receive(
    listener: TcpListener,
    keys: Vec<Key>,
    seen: mpsc::UnboundedSender<SeenSession>,
    supersedes: bool,
) {
    let suites = Suite::NAMED.map(|(_, suite)| suite).into();
    let policy = Arc::new(AccessPolicy { suites, shared: keys, ..AccessPolicy::default() });
    while let Ok((mut tcp, _)) = listener.accept().await {
        let handshake = ReceiverHandshake::new(policy.clone(), true);
        let Ok(accepted) = run_handshake(&mut tcp, handshake).await else { continue };
        let began = Instant::now();
        let is_orderly = serve(SecureStream::new(tcp, accepted.channel), supersedes).await;
        seen.send(SeenSession { began, credential: accepted.credential, is_orderly }).unwrap();
    }
}

/// Serves a session until it ends. If `supersedes`, ends it at once, as if a newer connection had come.
async fn serve(mut stream: SecureStream, supersedes: bool) -> bool {
    let mut session = ReceiverSession::new();
    loop {
        let now = || Instant::now().into_std();
        while let Some(event) = session.poll_event().unwrap() {
            match event {
                ReceiverEvent::Hello(_) => {
                    let nothing =
                        ResumePoint { delivered: Position(0), received: Position(0), run: RunId::NONE };
                    session.welcome(nothing, now());
                    if supersedes {
                        session.reject(RefusalCode::Superseded, "a newer connection took over");
                    }
                }
                ReceiverEvent::Goodbye => return true,
                ReceiverEvent::Batch { batch, .. } => {
                    session.acknowledge(batch.end(), now());
                    session.resume_reading(now());
                }
                other => panic!("{other:?}"),
            }
        }
        let timeout =
            session.poll_timeout().map_or_else(|| Instant::now() + CHANNEL_AGE_MAX, Instant::from_std);
        let has_output = !session.outbox().is_empty();
        tokio::select! {
            ready = stream.ready(true, has_output) => {
                ready.unwrap();
                match stream.receive(&mut [0; 4096], |bytes| session.handle_bytes(bytes, now())).unwrap() {
                    Received::Bytes => {}
                    Received::Nothing => stream.send(session.outbox()).unwrap(),
                    Received::End => return false,
                }
            }
            () = sleep_until(timeout) => session.handle_timeout(now()),
        }
    }
}

/// A running uplink with its settings, and the sessions that its receiver saw.
struct RunningUplink {
    settings: watch::Sender<UplinkSettings>,
    seen: mpsc::UnboundedReceiver<SeenSession>,
    view: Arc<Mutex<UplinkView>>,
    stream: StreamId,
    queue: Arc<Queue>,
    shared: Arc<SharedConnection>,
    ring: Ring,
    _stopper: crate::host::ShutdownTrigger,
    _directory: tempfile::TempDir,
}

impl RunningUplink {
    /// Starts an uplink with `key` to a receiver that accepts `known`.
    async fn start(key: Key, known: Vec<Key>) -> Self {
        Self::with(key, known, false).await
    }

    async fn with(key: Key, known: Vec<Key>, supersedes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receivers = vec![listener.local_addr().unwrap().to_string().parse().unwrap()];
        let (reports, seen) = mpsc::unbounded_channel();
        tokio::spawn(receive(listener, known, reports, supersedes));
        Self { seen, ..Self::uplink(receivers, ChannelMode::Keyed(Secret::Key(key), Suite::Aes256Gcm)) }
    }

    /// Starts an uplink to these receivers.
    fn uplink(receivers: Vec<HostPort>, speech: ChannelMode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let policy = Policy { min_free: MinFree::Bytes(0), ..Policy::default() };
        let recovered = recover(directory.path(), None, policy, &Arc::default()).unwrap();
        let (stopper, stop) = shutdown_channel();
        let view = UplinkView::new(&receivers);
        let settings = watch::Sender::new(UplinkSettings {
            id: "edge".parse().unwrap(),
            receivers,
            channel_mode: speech,
            heartbeat: Duration::from_secs(3600),
            reconnect: Reconnect {
                first: Duration::from_secs(1),
                factor: 3,
                longest: Duration::from_secs(243),
                jitter: 0.0,
            },
        });
        let (queue, shared) = (recovered.queue.clone(), Arc::<SharedConnection>::default());
        let link = Uplink {
            pulse: Pulse::default(),
            queue: queue.clone(),
            connection: shared.clone(),
            settings: settings.subscribe(),
            view: view.clone(),
            retry: watch::channel(()).1,
            redial: watch::channel(()).1,
            failure: None,
            stop,
        };
        tokio::spawn(link.run());
        let RecoveredRun { stream, ring, .. } = recovered;
        let seen = mpsc::unbounded_channel().1;
        Self { settings, seen, view, stream, queue, shared, ring, _stopper: stopper, _directory: directory }
    }

    /// Returns a batch of one datagram for the queue.
    fn batch(&self) -> Batch {
        let address = "192.0.2.7:1".parse().unwrap();
        let datagram =
            Datagram { exporter: address, local: address, arrival: Timestamp(5), payload: b"flow" };
        let mut builder = BatchBuilder::new(self.stream, Compression::None);
        builder.push(&datagram).unwrap();
        builder.finish(self.queue.next_position()).unwrap()
    }

    /// Queues a datagram without waking the uplink.
    fn push(&mut self) {
        let batch = self.batch();
        self.queue.push(batch, &mut self.ring, &Pulse::default());
    }

    async fn acknowledged(&self, position: Position) {
        while self.queue.acknowledged() < position {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn connected(&self) {
        while self.view.lock().unwrap().state != UplinkState::Connected {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_replaced_after_24_hours() {
    let key = Key::generate().unwrap();
    let mut running = RunningUplink::start(key.clone(), vec![key]).await;
    let first = running.seen.recv().await.unwrap();
    assert!(first.is_orderly);
    running.connected().await;
    let age = Instant::now().duration_since(first.began);
    assert!((CHANNEL_AGE_MAX..CHANNEL_AGE_MAX + Duration::from_secs(1)).contains(&age), "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_replaces_the_connection_in_order() {
    let keys = [Key::generate().unwrap(), Key::generate().unwrap()];
    let mut running = RunningUplink::start(keys[0].clone(), keys.to_vec()).await;
    running.connected().await;
    let began = Instant::now();
    running.settings.send_modify(|settings| {
        settings.channel_mode = ChannelMode::Keyed(Secret::Key(keys[1].clone()), Suite::ChaCha20Poly1305);
    });
    let first = running.seen.recv().await.unwrap();
    assert_eq!(first.credential, Credential::Key { id: keys[0].id(), suite: Suite::Aes256Gcm });
    assert!(first.is_orderly);
    running.connected().await;
    running.settings.send_modify(|settings| settings.receivers.clear());
    let second = running.seen.recv().await.unwrap();
    assert_eq!(second.credential, Credential::Key { id: keys[1].id(), suite: Suite::ChaCha20Poly1305 });
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_corrected_key_is_tried_without_delay() {
    let keys = [Key::generate().unwrap(), Key::generate().unwrap()];
    let running = RunningUplink::start(keys[0].clone(), vec![keys[1].clone()]).await;
    let is_long = |at: Instant| at > Instant::now() + Duration::from_secs(200);
    while !matches!(running.view.lock().unwrap().state, UplinkState::Refused(at) if is_long(at)) {
        sleep(Duration::from_millis(100)).await;
    }
    let reason = running.view.lock().unwrap().reason.clone().unwrap();
    assert!(reason.contains("does not know this sender's key"), "{reason}");
    let corrected = Instant::now();
    running.settings.send_modify(|settings| {
        settings.channel_mode = ChannelMode::Keyed(Secret::Key(keys[1].clone()), Suite::Aes256Gcm);
    });
    running.connected().await;
    assert!(corrected.elapsed() < Duration::from_secs(1), "{:?}", corrected.elapsed());
}

#[tokio::test(start_paused = true)]
async fn ingest_sends_over_the_agreed_connection() {
    let key = Key::generate().unwrap();
    let mut running = RunningUplink::start(key.clone(), vec![key]).await;
    running.push();
    assert!(!running.shared.send_pending(&running.queue), "nobody is connected yet");
    running.connected().await;
    running.acknowledged(Position(1)).await;
    running.push();
    assert!(running.shared.send_pending(&running.queue));
    running.acknowledged(Position(2)).await;
    running.settings.send_modify(|settings| settings.receivers.clear());
    running.seen.recv().await.unwrap();
    running.push();
    assert!(!running.shared.send_pending(&running.queue), "the session has ended");
}

#[tokio::test(start_paused = true)]
async fn a_lone_datagram_locks_the_queue_twice() {
    let key = Key::generate().unwrap();
    let mut running = RunningUplink::start(key.clone(), vec![key]).await;
    running.connected().await;
    running.push();
    assert!(running.shared.send_pending(&running.queue));
    running.acknowledged(Position(1)).await;
    let batch = running.batch();
    let before = running.queue.state_locks();
    running.queue.push(batch, &mut running.ring, &Pulse::default());
    assert!(running.shared.send_pending(&running.queue));
    assert_eq!(running.queue.state_locks() - before, 2, "one to push, one to send");
}

#[tokio::test(start_paused = true)]
async fn the_uplink_sends_while_it_lends_nothing() {
    let key = Key::generate().unwrap();
    let mut running = RunningUplink::start(key.clone(), vec![key]).await;
    running.connected().await;
    let connection = running.shared.take_back().unwrap();
    running.push();
    assert!(!running.shared.send_pending(&running.queue), "the uplink task has the connection");
    running.queue.announce();
    running.shared.lend(connection);
    running.acknowledged(Position(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_superseded_sender_waits_longer_each_time() {
    let key = Key::generate().unwrap();
    let mut link = RunningUplink::with(key.clone(), vec![key], true).await;
    let mut began = Vec::new();
    for _ in 0..5 {
        began.push(link.seen.recv().await.unwrap().began);
    }
    let waits: Vec<u64> = began.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(waits, [1, 3, 9, 27]);
}

mod backoff;

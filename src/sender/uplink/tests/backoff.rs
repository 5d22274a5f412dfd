//! The order and the delays of connection attempts.

use super::*;

/// The behavior of a test receiver in each session.
#[derive(Clone, Copy, Debug)]
enum SessionManner {
    /// Agrees and closes when the first batch has arrived, without an acknowledgement.
    EndsAtBatch,
    /// Agrees, acknowledges the first batch and closes.
    Acknowledges,
    /// Agrees and closes after this time.
    EndsAfter(Duration),
    /// Rejects the session for this reason.
    Refuses(RefusalCode),
}

/// The place of a receiver without data of the stream.
const NOTHING: ResumePoint = ResumePoint { delivered: Position(0), received: Position(0), run: RunId::NONE };

/// Serves one connection after the other in clear text; reports when each began.
async fn receive_by(listener: TcpListener, manner: SessionManner, began: mpsc::UnboundedSender<Instant>) {
    let policy = Arc::new(AccessPolicy { plaintext: true, ..AccessPolicy::default() });
    while let Ok((mut tcp, _)) = listener.accept().await {
        began.send(Instant::now()).unwrap();
        let Ok(admitted) = run_handshake(&mut tcp, ReceiverHandshake::new(policy.clone(), true)).await else {
            continue;
        };
        serve_by(SecureStream::new(tcp, admitted.channel), manner).await;
    }
}

async fn serve_by(mut stream: SecureStream, manner: SessionManner) {
    let mut session = ReceiverSession::new();
    let mut end_at = Instant::now() + CHANNEL_AGE_MAX;
    loop {
        let now = Instant::now().into_std();
        while let Some(event) = session.poll_event().unwrap() {
            match (event, manner) {
                (ReceiverEvent::Hello(_), SessionManner::Refuses(code)) => {
                    session.reject(code, "no room");
                }
                (ReceiverEvent::Hello(_), SessionManner::EndsAfter(time)) => {
                    session.welcome(NOTHING, now);
                    end_at = Instant::now() + time;
                }
                (ReceiverEvent::Hello(_), _) => session.welcome(NOTHING, now),
                (ReceiverEvent::Batch { batch, .. }, SessionManner::Acknowledges) => {
                    session.acknowledge(batch.end(), now);
                    session.goodbye();
                }
                (_, _) => end_at = Instant::now(),
            }
        }
        if stream.flush(session.outbox()).await.is_err() || end_at <= Instant::now() {
            return;
        }
        tokio::select! {
            ready = stream.ready(true, false) => drop(ready.unwrap()),
            () = sleep_until(end_at) => return,
        }
        let take = |bytes: &[u8]| session.handle_bytes(bytes, now);
        if !matches!(stream.receive(&mut [0; 4096], take), Ok(Received::Bytes | Received::Nothing)) {
            return;
        }
    }
}

/// Starts an uplink in clear text to receivers of these manners. Returns the start times of the connections
/// to each.
async fn uplink_to(manners: &[SessionManner]) -> (RunningUplink, Vec<mpsc::UnboundedReceiver<Instant>>) {
    let mut receivers = Vec::new();
    let mut began = Vec::new();
    for manner in manners {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        receivers.push(listener.local_addr().unwrap().to_string().parse().unwrap());
        let (report, reports) = mpsc::unbounded_channel();
        tokio::spawn(receive_by(listener, *manner, report));
        began.push(reports);
    }
    (RunningUplink::uplink(receivers, ChannelMode::LoopbackOnly), began)
}

/// Whole seconds between the first `count` connections.
async fn pauses(began: &mut mpsc::UnboundedReceiver<Instant>, count: usize) -> Vec<u64> {
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(began.recv().await.unwrap());
    }
    times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs()).collect()
}

#[tokio::test(start_paused = true)]
async fn sessions_without_acknowledgement_back_off() {
    let (mut running, mut began) = uplink_to(&[SessionManner::EndsAtBatch]).await;
    running.push();
    assert_eq!(pauses(&mut began[0], 5).await, [1, 3, 9, 27]);
}

#[tokio::test(start_paused = true)]
async fn idle_sessions_restart_the_schedule() {
    let (_running, mut began) = uplink_to(&[SessionManner::EndsAfter(Duration::from_secs(10))]).await;
    assert_eq!(pauses(&mut began[0], 4).await, [11, 11, 11]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ending_with_data_has_worked() {
    let (mut running, mut began) = uplink_to(&[SessionManner::EndsAtBatch]).await;
    for _ in 0..3 {
        began[0].recv().await.unwrap();
        running.connected().await;
        let connected = Instant::now();
        sleep(Duration::from_secs(60)).await;
        running.push();
        running.queue.announce();
        let next = began[0].recv().await.unwrap();
        assert!(next.duration_since(connected) < Duration::from_secs(64));
        running.queue.acknowledge(running.queue.next_position(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_session_fails_over_at_once() {
    let (mut running, mut began) =
        uplink_to(&[SessionManner::Refuses(RefusalCode::StorageFailed), SessionManner::Acknowledges]).await;
    running.push();
    let started = Instant::now();
    began[0].recv().await.unwrap();
    began[1].recv().await.unwrap();
    running.acknowledged(Position(1)).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn refusals_for_now_delay_10_seconds_at_most() {
    let refuses = SessionManner::Refuses(RefusalCode::TooManyStreams);
    for refuses in [refuses, SessionManner::Refuses(RefusalCode::IdInUse)] {
        let (_running, mut began) = uplink_to(&[refuses]).await;
        assert_eq!(pauses(&mut began[0], 7).await, [1, 3, 9, 10, 10, 10]);
    }
    // The receiver that would soon begin the stream is not the last one.
    let (_running, mut began) =
        uplink_to(&[refuses, SessionManner::Refuses(RefusalCode::StorageFailed)]).await;
    assert_eq!(pauses(&mut began[0], 6).await, [1, 3, 9, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_used_before_the_backoff() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receivers = vec![listener.local_addr().unwrap().to_string().parse().unwrap()];
    let mut running = RunningUplink::uplink(receivers, ChannelMode::LoopbackOnly);
    running.push();
    // The kernel accepts for a receiver that does not run. Three attempts fail; the next one is 27 s away.
    let is_long = |at: Instant| at > Instant::now() + Duration::from_secs(20);
    while !matches!(running.view.lock().unwrap().state, UplinkState::Waiting(Some(at)) if is_long(at)) {
        sleep(Duration::from_millis(100)).await;
    }
    let runs = Instant::now();
    let (began, _reports) = mpsc::unbounded_channel();
    tokio::spawn(receive_by(listener, SessionManner::Acknowledges, began));
    running.acknowledged(Position(1)).await;
    assert!(runs.elapsed() < Duration::from_secs(1), "{:?}", runs.elapsed());
}

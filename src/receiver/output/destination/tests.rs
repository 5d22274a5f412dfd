use core::num::NonZeroUsize;
use std::io;

use nf_transport_core::datagram::Timestamp;

use super::*;
use crate::receiver::output::destination::obstacle::may_be_left_behind;
use crate::receiver::state::templates::{Templates, netflow_9};

fn datagrams<'a>(payloads: &[&'a [u8]]) -> Vec<Datagram<'a>> {
    let address = "192.0.2.1:2055".parse().unwrap();
    let datagram = |payload| Datagram { exporter: address, local: address, arrival: Timestamp(0), payload };
    payloads.iter().copied().map(datagram).collect()
}

fn sockets(each: usize) -> Arc<SocketBudget> {
    SocketBudget::new(NonZeroUsize::new(each).unwrap(), usize::MAX)
}

/// A destination, and the templates that its collector has seen of one sender's exporters.
struct Tested {
    destination: Destination,
    learner: Arc<TemplateLearner>,
    _templates: Arc<Templates>,
}

impl core::ops::Deref for Tested {
    type Target = Destination;

    fn deref(&self) -> &Destination {
        &self.destination
    }
}

impl Tested {
    /// Opens a destination with room for `each` exporter sockets, which knows the templates that `known`
    /// defines.
    fn open(settings: &CollectorSettings, each: usize, known: &[Datagram<'_>]) -> Self {
        let address = settings.address.to_string().parse().unwrap();
        let destination = Destination::open(address, settings, &sockets(each), None);
        let (templates, learner) = Templates::learned(address, known);
        Self { destination, learner, _templates: templates }
    }

    /// See [`Destination::deliver`]; the delivered datagrams are also learned.
    async fn take(&self, datagrams: &[Datagram<'_>], is_late: bool) -> RunOutcome {
        let run = ExporterRun { datagrams, is_late, place: 0, learner: &self.learner };
        let taken = self.destination.deliver(&run).await;
        self.learner.learn(&datagrams[..taken.count], taken.recipient.as_ref());
        taken
    }

    /// Repeats before `datagram` for a collector that has no templates.
    fn repeats(&self, datagram: &Datagram<'_>) -> Vec<Vec<u8>> {
        let recipient = Recipient { place: 1, generation: 1, socket: 1, has_moved: false };
        let repeats = self.learner.before(&[*datagram], &recipient, Instant::now().into_std());
        repeats.map_or_else(Vec::new, |(_, repeats)| repeats.payloads)
    }
}

fn destination(address: SocketAddr, settings: &CollectorSettings) -> Tested {
    assert_eq!(settings.address.to_string(), address.to_string());
    Tested::open(settings, 8, &[])
}

/// Tolerated deviation from the schedule of a rate limit.
const BUCKET_TOLERANCE: Duration = Duration::from_millis(50);

/// A destination with room for two exporter sockets that knows the templates that `datagram` defines.
fn with_templates(address: SocketAddr, datagram: &Datagram<'_>) -> Tested {
    Tested::open(&CollectorSettings::at(&address), 2, &[*datagram])
}

fn holding(address: SocketAddr) -> Tested {
    destination(address, &CollectorSettings::at(&address))
}

/// Delivers the datagrams from index `done` on, and advances `done`.
async fn deliver(destination: &Tested, datagrams: &[Datagram<'_>], done: &mut usize) {
    while let Some(waiting) = datagrams.get(*done..).filter(|waiting| !waiting.is_empty()) {
        *done += destination.take(waiting, false).await.count;
    }
}

fn state(destination: &Destination) -> CollectorState {
    destination.refreshed_figures().0
}

fn received(listener: &std::net::UdpSocket) -> Vec<Vec<u8>> {
    listener.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 65_536];
    std::iter::from_fn(|| listener.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
}

/// Time is paused, so the last look at the collector's socket stays valid after the socket closed.
#[tokio::test(start_paused = true)]
async fn a_socket_that_just_closed_holds_datagrams() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        for waiting in 1..4 {
            let listener = std::net::UdpSocket::bind(listen).unwrap();
            let address = listener.local_addr().unwrap();
            let output = holding(address);
            assert_eq!(state(&output), CollectorState::Up);
            drop(listener);

            let payloads = [b"one".as_slice(), b"", b"three"];
            let datagrams = datagrams(&payloads[..waiting]);
            let mut done = 0;
            let held = tokio::time::timeout(Duration::from_secs(5), deliver(&output, &datagrams, &mut done));
            held.await.unwrap_err();
            assert_eq!(done, 0);
            assert_eq!(state(&output), CollectorState::Down);

            let listener = std::net::UdpSocket::bind(address).unwrap();
            deliver(&output, &datagrams, &mut done).await;
            assert_eq!(received(&listener), payloads[..waiting]);
            let (state, counts, _) = output.refreshed_figures();
            assert_eq!((state, counts.unread), (CollectorState::Up, 0));
            assert_eq!(counts.datagrams, u64::try_from(waiting).unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_held_while_nothing_listens() {
    let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = holding(address);
    let datagrams = datagrams(&[b"x"]);
    let mut done = 0;
    {
        let mut delivery = Box::pin(deliver(&output, &datagrams, &mut done));
        tokio::time::timeout(Duration::from_secs(60), &mut delivery).await.unwrap_err();
        let (state, _, held_s) = output.refreshed_figures();
        assert_eq!((state, held_s), (CollectorState::Down, 60));
    }
    tokio::time::advance(HELD_EXPIRES).await;
    let (state, _, held_s) = output.refreshed_figures();
    assert_eq!((state, held_s), (CollectorState::Down, 0));
}

#[tokio::test(start_paused = true)]
async fn a_resumed_delivery_keeps_its_hold_time() {
    let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = holding(address);
    let datagrams = datagrams(&[b"x"]);
    let mut done = 0;
    for round in 1..12 {
        let delivery = deliver(&output, &datagrams, &mut done);
        tokio::time::timeout(Duration::from_secs(5), delivery).await.unwrap_err();
        assert_eq!(output.refreshed_figures().2, 5 * round, "asked while nobody tries");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unread_queue_stays_half_empty() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = holding(listener.local_addr().unwrap());
    let payloads = [[7; 1464].as_slice(); 1000];
    let datagrams = datagrams(&payloads);
    let mut done = 0;
    let held = tokio::time::timeout(Duration::from_secs(60), deliver(&output, &datagrams, &mut done));
    held.await.unwrap_err();
    let queue = output.sending.lock().await.queue.look().unwrap().unwrap();
    assert!(queue.queued < queue.limit / 2, "{queue:?}");
    assert!(queue.queued > queue.limit / 3, "{queue:?}");
    assert_eq!((queue.drops, state(&output)), (0, CollectorState::Up));
    assert_eq!(received(&listener), payloads[..done]);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_collector_is_down() {
    // The kernel refuses the broadcast address (EACCES) with any routes.
    let output = holding("255.255.255.255:9".parse().unwrap());
    assert_eq!(state(&output), CollectorState::Unknown);
    let mut done = 0;
    let held = tokio::time::timeout(Duration::from_secs(5), async {
        deliver(&output, &datagrams(&[b"x"]), &mut done).await;
    });
    held.await.unwrap_err();
    assert_eq!((done, state(&output)), (0, CollectorState::Down));
}

#[test]
fn errors_of_earlier_datagrams_are_recognized() {
    for (errno, expected) in [
        (libc::EMSGSIZE, [true, true]),
        (libc::ECONNREFUSED, [true, false]),
        (libc::EHOSTUNREACH, [true, false]),
        (libc::EAGAIN, [false, false]),
        (libc::ENOBUFS, [false, false]),
    ] {
        let error = io::Error::from_raw_os_error(errno);
        let found = [true, false].map(|is_watching| may_be_left_behind(&error, is_watching));
        assert_eq!(found, expected, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_down_collector_set_to_skip_skips() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let settings = CollectorSettings { when_down: WhenDown::Skip, ..CollectorSettings::at(&address) };
    let output = destination(address, &settings);
    let datagrams = datagrams(&[b"one", b"two", b"three"]);
    let began = Instant::now();
    let mut done = 0;
    deliver(&output, &datagrams, &mut done).await;
    let (state, counts, held_s) = output.refreshed_figures();
    assert_eq!((state, counts.skipped, counts.datagrams, held_s), (CollectorState::Down, 3, 0, 0));
    let listener = std::net::UdpSocket::bind(address).unwrap();
    deliver(&output, &datagrams, &mut 1).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(received(&listener), [b"two".as_slice(), b"three"]);
    assert_eq!(output.refreshed_figures().1.skipped, 3);
}

#[tokio::test(start_paused = true)]
async fn only_unread_datagrams_count_as_unread() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = holding(listener.local_addr().unwrap());
    let payloads = [[7; 1464].as_slice(); 30];
    deliver(&output, &datagrams(&payloads[..20]), &mut 0).await;
    assert_eq!(received(&listener).len(), 20);
    assert_eq!(state(&output), CollectorState::Up);
    deliver(&output, &datagrams(&payloads[..10]), &mut 0).await;
    drop(listener);
    let (state, counts, _) = output.refreshed_figures();
    assert_eq!((state, counts.unread), (CollectorState::Down, 10));
}

#[tokio::test(start_paused = true)]
async fn skipped_templates_are_repeated() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (defining, data) = (netflow_9(true), netflow_9(false));
    let mut redefining = defining.clone();
    *redefining.last_mut().unwrap() = 8;
    let output = with_templates(listener.local_addr().unwrap(), &datagrams(&[&defining])[0]);
    let mut expected = 0;
    for (skipped, is_repeated) in [
        (None, true),
        (None, false),
        (Some(&data), false),
        (Some(&defining), false),
        (Some(&redefining), true),
    ] {
        if let Some(skipped) = skipped {
            output.learner.learn(&datagrams(&[skipped]), None);
        }
        let repeats = output.repeats(&datagrams(&[&data])[0]);
        deliver(&output, &datagrams(&[&data]), &mut 0).await;
        let wanted = if is_repeated { [repeats, vec![data.clone()]].concat() } else { vec![data.clone()] };
        assert_eq!(received(&listener), wanted, "{skipped:?}");
        expected += u64::from(is_repeated);
    }
    assert_eq!(output.refreshed_figures().1.templates, expected);
}

/// A NetFlow v9 datagram of the same source as `netflow_9`, with templates that need ten datagrams to repeat.
fn many_templates() -> Vec<u8> {
    let mut payload = netflow_9(true)[..20].to_vec();
    payload.extend([0, 0]);
    payload.extend((4 + 10 * 1204u16).to_be_bytes());
    for id in 256..266u16 {
        payload.extend(id.to_be_bytes());
        payload.extend(300u16.to_be_bytes());
        payload.extend([0, 1, 0, 4].repeat(300));
    }
    payload
}

/// Continues a delivery for `time`, then cancels it.
async fn deliver_for(time: Duration, destination: &Tested, datagrams: &[Datagram<'_>]) {
    drop(tokio::time::timeout(time, deliver(destination, datagrams, &mut 0)).await);
}

#[tokio::test(start_paused = true)]
async fn repeats_resume_after_a_full_queue() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(1).unwrap();
    let data = netflow_9(false);
    let data = &datagrams(&[&data])[0];
    let output = with_templates(listener.local_addr().unwrap(), &datagrams(&[&many_templates()])[0]);
    let mut expected = output.repeats(data);
    expected.push(data.payload.to_vec());
    assert_eq!(expected.len(), 11);
    for payload in &expected {
        deliver_for(QUEUE_PAUSE * 3, &output, &[*data]).await;
        assert_eq!(received(&listener), [payload.as_slice()]);
    }
    assert_eq!(output.refreshed_figures().1.templates, 10);
}

#[tokio::test(start_paused = true)]
async fn repeats_count_for_the_rate_limit() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let settings = CollectorSettings { rate_limit: NonZeroU32::new(10), ..CollectorSettings::at(&address) };
    let output = Tested::open(&settings, 2, &datagrams(&[&many_templates()]));
    let (began, data) = (Instant::now(), netflow_9(false));
    deliver(&output, &datagrams(&[&data]), &mut 0).await;
    assert_eq!(received(&listener).len(), 11);
    assert!(began.elapsed().abs_diff(Duration::from_secs(1)) < BUCKET_TOLERANCE, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn each_probe_follows_its_templates() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (defining, data) = (netflow_9(true), netflow_9(false));
    let output = with_templates(listener.local_addr().unwrap(), &datagrams(&[&defining])[0]);
    let waiting = datagrams(&[&data]);
    let told = output.repeats(&waiting[0]).remove(0);
    let both = [told, data.clone()];
    deliver(&output, &waiting, &mut 0).await;
    assert_eq!(received(&listener), both);
    for _ in 0..3 {
        output.sending.lock().await.reachability.note_failure("refused".to_owned(), Instant::now());
        deliver_for(Duration::from_secs(2), &output, &waiting).await;
        assert_eq!(received(&listener), both, "the probe");
    }
    deliver(&output, &waiting, &mut 0).await;
    assert!(received(&listener).is_empty(), "the probe has arrived");
    deliver(&output, &waiting, &mut 0).await;
    assert_eq!(received(&listener), [data.as_slice()]);
}

/// Number of datagrams that the collector gets when the exporter sends data again after others have sent
/// some.
async fn received_after(others: u8, output: &Tested, listener: &std::net::UdpSocket) -> usize {
    for other in 0..others {
        let exporter = SocketAddr::from(([192, 0, 2, 100 + other], 1));
        deliver(output, &[Datagram { exporter, ..datagrams(&[b"x"])[0] }], &mut 0).await;
    }
    received(listener);
    let data = netflow_9(false);
    deliver(output, &datagrams(&[data.as_slice()]), &mut 0).await;
    received(listener).len()
}

#[tokio::test(start_paused = true)]
async fn a_reopened_socket_keeps_its_port() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = with_templates(listener.local_addr().unwrap(), &datagrams(&[&netflow_9(true)])[0]);
    assert_eq!(received_after(0, &output, &listener).await, 2);
    let before = output.seen_as()[0];
    for others in [1, 2, 2] {
        assert_eq!(received_after(others, &output, &listener).await, 1, "after {others} others");
        assert_eq!(output.seen_as()[0], before);
    }
}

#[tokio::test(start_paused = true)]
async fn templates_are_repeated_from_another_port() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = with_templates(listener.local_addr().unwrap(), &datagrams(&[&netflow_9(true)])[0]);
    assert_eq!(received_after(0, &output, &listener).await, 2);
    let (_, seen_as) = output.seen_as()[0];
    for other in [1, 2] {
        let exporter = SocketAddr::from(([192, 0, 2, other], 9));
        deliver(&output, &[Datagram { exporter, ..datagrams(&[b"x"])[0] }], &mut 0).await;
    }
    let _taken = std::net::UdpSocket::bind(SocketAddr::from(([0; 4], seen_as.port()))).unwrap();
    received(&listener);
    assert_eq!(received_after(0, &output, &listener).await, 2);
    assert_eq!(received_after(0, &output, &listener).await, 1);
}

#[tokio::test(start_paused = true)]
async fn new_limits_keep_port_and_templates() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut output = with_templates(address, &datagrams(&[&netflow_9(true)])[0]);
    assert_eq!(received_after(0, &output, &listener).await, 2);
    let before = output.seen_as();
    let settings = CollectorSettings { rate_limit: NonZeroU32::new(1000), ..CollectorSettings::at(&address) };
    output.destination = Destination::open(address, &settings, &sockets(2), Some(&output.destination));
    assert_eq!(received_after(0, &output, &listener).await, 1);
    assert_eq!(output.seen_as(), before);
    drop(listener);
    let listener = std::net::UdpSocket::bind(address).unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(received_after(0, &output, &listener).await, 2, "to another collector");
}

#[tokio::test(start_paused = true)]
async fn the_catch_up_limit_applies_to_late_datagrams() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let limit = NonZeroU32::new;
    let settings = CollectorSettings {
        rate_limit: limit(1000),
        catch_up_limit: Some(limit(100)),
        ..CollectorSettings::at(&address)
    };
    let payloads = [b"x".as_slice(); 100];
    for (is_late, expected) in [(false, 100), (true, 1000)] {
        let output = destination(address, &settings);
        let began = Instant::now();
        let (datagrams, mut done) = (datagrams(&payloads), 0);
        while done < datagrams.len() {
            done += output.take(&datagrams[done..], is_late).await.count;
        }
        let expected = Duration::from_millis(expected);
        assert!(began.elapsed().abs_diff(expected) <= expected / 8, "{:?}", began.elapsed());
        assert_eq!(received(&listener).len(), 100);
    }
}

#[tokio::test(start_paused = true)]
async fn paced_late_datagrams_do_not_delay_others() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let settings =
        CollectorSettings { catch_up_limit: Some(NonZeroU32::new(1)), ..CollectorSettings::at(&address) };
    let output = destination(address, &settings);
    let (late, live) = (datagrams(&[b"late"]), datagrams(&[b"live"]));
    output.take(&late, true).await;
    let began = Instant::now();
    let live = async {
        tokio::task::yield_now().await;
        output.take(&live, false).await;
        began.elapsed()
    };
    let (_, waited) = tokio::join!(output.take(&late, true), live);
    assert_eq!(waited, Duration::ZERO);
    assert_eq!(received(&listener), [b"late", b"live", b"late"]);
}

/// A payload that is too long for UDP: the kernel always refuses it.
fn unsendable() -> Vec<u8> {
    vec![0; nf_transport_core::limits::PAYLOAD_MAX + 1]
}

/// A collector with room for such a payload in addition to others.
fn roomy_listener() -> std::net::UdpSocket {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(1 << 20).unwrap();
    listener
}

#[tokio::test(start_paused = true)]
async fn a_refused_datagram_is_dropped_and_counted() {
    let listener = roomy_listener();
    let output = holding(listener.local_addr().unwrap());
    let (refused, began) = (unsendable(), Instant::now());
    let payloads = [b"one".as_slice(), &refused, b"two", &refused, &refused, b"three"];
    deliver(&output, &datagrams(&payloads), &mut 0).await;
    assert_eq!(received(&listener), [b"one".as_slice(), b"two", b"three"]);
    let (state, counts, held_s) = output.refreshed_figures();
    assert_eq!((counts.datagrams, counts.refused, counts.skipped), (3, 3, 0));
    assert_eq!((state, held_s), (CollectorState::Up, 0));
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn refused_datagrams_do_not_delay_other_senders() {
    let listener = roomy_listener();
    let output = holding(listener.local_addr().unwrap());
    let refused = unsendable();
    let stuck = vec![refused.as_slice(); 1000];
    let stuck = datagrams(&stuck);
    deliver_for(Duration::from_secs(5), &output, &stuck).await;
    assert_eq!(state(&output), CollectorState::Down, "everything is refused");
    let other = Datagram { exporter: "192.0.2.9:1".parse().unwrap(), ..datagrams(&[b"other"])[0] };
    let others = async {
        let began = Instant::now();
        for _ in 0..100 {
            deliver(&output, &[other], &mut 0).await;
        }
        began.elapsed()
    };
    let mut done = 0;
    let (waited, ()) = tokio::join!(others, deliver(&output, &stuck, &mut done));
    assert_eq!(waited, Duration::ZERO);
    assert_eq!((done, received(&listener).len()), (1000, 100));
    assert_eq!(state(&output), CollectorState::Up);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_task_holds_no_lock() {
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let output = holding(address);
    let waiting = datagrams(&[b"waits"]);
    let is_free = async {
        for _ in 0..10 {
            sleep(DOWN_PAUSE / 3).await;
            assert!(output.sending.try_lock().is_ok());
        }
    };
    tokio::select! {
        _ = output.take(&waiting, false) => panic!("nobody listens"),
        () = is_free => {}
    }
}

mod pacing;
mod repeats;
mod unsendable;

use core::num::NonZeroUsize;
use std::io;

use nf_transport_core::datagram::{Datagram, Timestamp};
use nf_transport_core::netflow::Recipient;

use super::*;
use crate::receiver::output::destination::obstacle::may_be_left_behind;
use crate::receiver::state::templates::{TemplateLearner, Templates};

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
        let (templates, learner) = Templates::learned(address.into(), known);
        Self { destination, learner, _templates: templates }
    }

    /// See [`Destination::deliver`]; the delivered datagrams are also learned.
    async fn deliver_and_learn(&self, datagrams: &[Datagram<'_>], is_late: bool) -> RunOutcome {
        let first = datagrams.first().unwrap();
        let run = ExporterRun { first, datagrams, is_late, place: 0, learner: &self.learner };
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

fn holding(address: SocketAddr) -> Tested {
    destination(address, &CollectorSettings::at(&address))
}

/// Delivers the datagrams from index `done` on, and advances `done`.
async fn deliver(destination: &Tested, datagrams: &[Datagram<'_>], done: &mut usize) {
    while let Some(waiting) = datagrams.get(*done..).filter(|waiting| !waiting.is_empty()) {
        *done += destination.deliver_and_learn(waiting, false).await.count;
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

/// Continues a delivery for `time`, then cancels it.
async fn deliver_for(time: Duration, destination: &Tested, datagrams: &[Datagram<'_>]) {
    drop(tokio::time::timeout(time, deliver(destination, datagrams, &mut 0)).await);
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
        _ = output.deliver_and_learn(&waiting, false) => panic!("nobody listens"),
        () = is_free => {}
    }
}

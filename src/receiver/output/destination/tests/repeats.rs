//! Templates that are repeated for the collector.

use super::*;
use crate::receiver::state::templates::netflow_9;

/// Tolerated deviation from the schedule of a rate limit.
const BUCKET_TOLERANCE: Duration = Duration::from_millis(50);

/// A destination with room for two exporter sockets that knows the templates that `datagram` defines.
fn with_templates(address: SocketAddr, datagram: &Datagram<'_>) -> Tested {
    Tested::open(&CollectorSettings::at(&address), 2, &[*datagram])
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
        let refused = SystemError::Number(rustix::io::Errno::CONNREFUSED);
        output.sending.lock().await.reachability.note_failure(refused, Instant::now());
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

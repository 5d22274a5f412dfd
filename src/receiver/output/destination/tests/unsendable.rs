//! Datagrams that the kernel refuses to send.

use super::*;

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

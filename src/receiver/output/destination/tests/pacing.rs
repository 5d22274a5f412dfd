//! The catch-up limit for late datagrams.

use super::*;

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
            done += output.deliver_and_learn(&datagrams[done..], is_late).await.count;
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
    output.deliver_and_learn(&late, true).await;
    let began = Instant::now();
    let live = async {
        tokio::task::yield_now().await;
        output.deliver_and_learn(&live, false).await;
        began.elapsed()
    };
    let (_, waited) = tokio::join!(output.deliver_and_learn(&late, true), live);
    assert_eq!(waited, Duration::ZERO);
    assert_eq!(received(&listener), [b"late", b"live", b"late"]);
}

//! Templates that change while a collector is down.

use super::*;
use crate::receiver::state::templates::netflow_9;

/// A datagram that defines template 256 with one field of this length.
fn defining(length: u8) -> Vec<u8> {
    let mut payload = netflow_9(true);
    *payload.last_mut().unwrap() = length;
    payload
}

/// All datagrams that `socket` has received.
fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2048];
    core::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
}

/// The lengths of the field of template 256, as these payloads define it; `None` for others.
fn definitions(payloads: &[Vec<u8>]) -> Vec<Option<u8>> {
    payloads.iter().map(|payload| (payload[20..22] == [0, 0]).then(|| payload[31])).collect()
}

/// Two collectors get a definition. Then one of them is down while it changes, and back afterwards. Returns
/// the definitions that each one gets after that.
async fn redefined_while_away(when_down: [WhenDown; 2]) -> [Vec<Option<u8>>; 2] {
    let [stays, leaves] = ["127.0.0.1:0", "127.0.0.1:0"].map(collector);
    let addresses = [&stays, &leaves].map(|socket| socket.local_addr().unwrap());
    let mut resolved = addresses.map(|address| ResolvedCollector::at(&address));
    for (resolved, when_down) in resolved.iter_mut().zip(when_down) {
        resolved.settings.when_down = when_down;
    }
    let outputs = Outputs::to(&[]).changed_to(&resolved);
    let mut delivery = begun(0, &outputs);
    push(&mut delivery, batches(&[defining(4)]).remove(0));
    run_to_the_end(&mut delivery).await;
    assert_eq!([&stays, &leaves].map(|socket| received(socket).len()), [1, 1]);
    drop(leaves);
    let data = netflow_9(false);
    push(&mut delivery, batches(&[data.clone(), defining(8), data]).remove(0));
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_millis(200), delivery.run()).await.ok();
    }
    let back = collector(&addresses[1].to_string());
    run_to_the_end(&mut delivery).await;
    [&back, &stays].map(|socket| definitions(&received(socket)))
}

#[tokio::test]
async fn a_returning_collector_gets_its_own_templates() {
    for when_down in [[WhenDown::Hold; 2], [WhenDown::Skip, WhenDown::Hold]] {
        let [back, stayed] = redefined_while_away(when_down).await;
        assert_eq!(back, [Some(4), None, Some(8), None], "{when_down:?}");
        assert_eq!(stayed, [None, Some(8), None], "{when_down:?}: no repeats");
    }
}

#[tokio::test]
async fn an_unrelated_collector_teaches_nothing() {
    let [stays, leaves] = ["127.0.0.1:0", "127.0.0.1:0"].map(collector);
    let [stays_at, leaves_at] = [&stays, &leaves].map(|socket| socket.local_addr().unwrap());
    let mut others = ResolvedCollector::at(&stays_at);
    others.settings.exporters = vec!["198.51.100.0/24".parse().unwrap()];
    let outputs = Outputs::to(&[]).changed_to(&[others, ResolvedCollector::at(&leaves_at)]);
    let mut delivery = begun(0, &outputs);
    push(&mut delivery, batches(&[defining(4)]).remove(0));
    run_to_the_end(&mut delivery).await;
    drop(leaves);
    let data = netflow_9(false);
    push(&mut delivery, batches(&[data.clone(), defining(8), data]).remove(0));
    tokio::time::timeout(Duration::from_millis(300), delivery.run()).await.unwrap_err();
    let back = collector(&leaves_at.to_string());
    run_to_the_end(&mut delivery).await;
    assert_eq!(definitions(&received(&back)), [Some(4), None, Some(8), None]);
    assert!(received(&stays).is_empty());
}

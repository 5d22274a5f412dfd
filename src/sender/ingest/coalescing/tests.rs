//! The delay of a piece over simulated time.

use super::*;

const MAX_DELAY: Duration = Duration::from_millis(10);

/// The receive buffer of the package's socket unit, as the kernel counts it.
const PACKAGE_CAPACITY: usize = 128 * 1024 * 1024;

/// The memory of a datagram of 1,464 bytes in a socket queue.
const MEMORY: u64 = 2304;

/// The time in which ingest receives a piece.
const RECEIVING: Duration = Duration::from_micros(20);

/// The result of a simulation.
#[derive(Debug, Default)]
struct Reception {
    /// Ends of waits for a datagram, and of sleeps.
    wake_ups: u32,
    /// Received pieces with datagrams.
    pieces: u32,
    /// The longest wait of a datagram.
    longest: Duration,
    /// The most bytes of kernel memory in the socket.
    fullest: u64,
}

/// Lets datagrams of 1,464 bytes arrive at these times, in ascending order, and receives them as ingest does.
fn simulate(max_delay: Duration, capacity: usize, arrivals: &[Duration]) -> Reception {
    let epoch = Instant::now();
    let mut coalescing = Coalescing::new(max_delay, capacity, epoch);
    let (mut now, mut received, mut reception) = (Duration::ZERO, 0, Reception::default());
    let arrived = |now: Duration| arrivals.partition_point(|arrival| *arrival <= now);
    while received < arrivals.len() {
        if !coalescing.is_ticking() {
            reception.wake_ups += u32::from(arrivals[received] > now);
            now = now.max(arrivals[received]);
            coalescing.note_arrival(epoch + now);
        }
        let began = now;
        let queued = |now| u64::try_from(arrived(now) - received).unwrap() * MEMORY;
        while let Some(sleep) = coalescing.next_sleep(now.saturating_sub(began), || queued(now)) {
            now += sleep;
            reception.wake_ups += 1;
            reception.fullest = reception.fullest.max(queued(now));
        }
        let count = arrived(now) - received;
        if count > 0 {
            reception.pieces += 1;
            reception.longest = reception.longest.max(now.saturating_sub(arrivals[received]));
        }
        received += count;
        let datagrams = u64::try_from(count).unwrap();
        coalescing.note_received(datagrams, datagrams * 1464, epoch + now);
        now += RECEIVING;
    }
    reception
}

/// Returns arrivals at this rate per second for `time`.
fn even(rate: u32, from: Duration, time: Duration) -> impl Iterator<Item = Duration> {
    let gap = Duration::from_secs(1) / rate;
    (1..).map(move |number| from + gap * number).take_while(move |at| *at <= from + time)
}

fn seconds(rate: u32, count: u64) -> Vec<Duration> {
    even(rate, Duration::ZERO, Duration::from_secs(count)).collect()
}

#[test]
fn an_even_stream_wakes_up_once_in_max_delay() {
    for rate in [20, 45, 70, 90, 110, 150, 1000, 5000] {
        let reception = simulate(MAX_DELAY, PACKAGE_CAPACITY, &seconds(rate, 2));
        // One more at each of the first pieces.
        assert!(reception.wake_ups <= 204, "{rate}: {reception:?}");
        assert!(reception.longest <= MAX_DELAY + Duration::from_millis(1), "{rate}: {reception:?}");
    }
}

#[test]
fn bursts_are_received_as_one_piece() {
    for gap in [30, 100, 1000] {
        let bursts = (1..=20).map(|number| Duration::from_millis(gap) * number);
        let arrivals: Vec<_> = bursts
            .flat_map(|at| (0..20).map(move |number| at + Duration::from_micros(10) * number))
            .collect();
        let reception = simulate(MAX_DELAY, PACKAGE_CAPACITY, &arrivals);
        assert_eq!(reception.pieces, 20, "{gap}: {reception:?}");
        assert!(reception.wake_ups <= 44, "{gap}: {reception:?}");
    }
}

#[test]
fn a_fast_stream_is_received_in_large_pieces() {
    let reception = simulate(MAX_DELAY, PACKAGE_CAPACITY, &seconds(100_000, 1));
    let bytes = 100_000.0 * 1464.0 / f64::from(reception.pieces);
    assert!((200_000.0..300_000.0).contains(&bytes), "{reception:?}");
}

#[test]
fn a_sudden_flood_fills_a_quarter_of_the_socket() {
    // 10 Gbit/s of 1,464 bytes.
    let flood_rate = 853_825;
    for capacity in [425_984, 8 << 20, 32 << 20, PACKAGE_CAPACITY] {
        for max_delay in [Duration::ZERO, MAX_DELAY, Duration::from_millis(200), Duration::from_secs(1)] {
            for before in [15, 50, 1000, 20_000] {
                let begins = Duration::from_millis(1003);
                let quiet = even(before, Duration::ZERO, begins);
                let arrivals: Vec<_> =
                    quiet.chain(even(flood_rate, begins, Duration::from_millis(200))).collect();
                let reception = simulate(max_delay, capacity, &arrivals);
                let while_receiving = 17 * MEMORY;
                let limit = u64::try_from(capacity / 4).unwrap() + while_receiving;
                assert!(
                    reception.fullest <= limit,
                    "{capacity} at {max_delay:?} after {before}: {reception:?}"
                );
            }
        }
    }
}

#[test]
fn a_small_socket_is_received_at_least_each_millisecond() {
    let reception = simulate(MAX_DELAY, 425_984, &seconds(5000, 1));
    assert!(reception.longest <= Duration::from_millis(1), "{reception:?}");
}

#[test]
fn a_medium_socket_sleeps_several_times_for_one_piece() {
    let reception = simulate(MAX_DELAY, 8 << 20, &seconds(1000, 1));
    assert!((95..=105).contains(&reception.pieces), "{reception:?}");
    assert!(reception.wake_ups <= 11 * 105, "{reception:?}");
}

#[test]
fn a_changed_max_delay_applies_to_the_next_piece() {
    let now = Instant::now();
    let mut coalescing = Coalescing::new(MAX_DELAY, PACKAGE_CAPACITY, now);
    coalescing.note_arrival(now);
    assert_eq!(coalescing.next_sleep(Duration::ZERO, || 0), Some(MAX_DELAY));
    coalescing.set_max_delay(Duration::from_millis(3));
    assert_eq!(coalescing.next_sleep(Duration::ZERO, || 0), Some(Duration::from_millis(3)));
    coalescing.set_max_delay(Duration::ZERO);
    assert_eq!((coalescing.is_ticking(), coalescing.next_sleep(Duration::ZERO, || 0)), (false, None));
}

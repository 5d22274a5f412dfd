//! The repeats that each recipient gets, and their time.

use core::time::Duration;
use std::time::Instant;

use super::memory::{collector, deliver, due, learn, memory_of};
use super::*;
use crate::limits::{REPEAT_EVERY, REPEATS_AT_ONCE};
use crate::netflow::{Recipient, TemplateMemory};

fn defining(ids: &[u16]) -> Vec<u8> {
    let templates: Vec<_> = ids.iter().flat_map(|id| template(*id, &[4])).collect();
    v9(7, 1, &[set(0, &templates)])
}

fn flows() -> Vec<u8> {
    v9(7, 9, &[set(256, &[1; 8])])
}

/// The number of templates that the recipient gets before flows.
fn lacking(memory: &TemplateMemory, recipient: &Recipient) -> usize {
    let payloads = due(memory, &datagram(1, &flows()), recipient);
    let mut collector = TemplateMemory::default();
    for payload in &payloads {
        learn(&mut collector, datagram(1, payload));
    }
    collector.kept_templates().map(|kept| kept.templates.len()).sum()
}

fn late() -> Recipient {
    Recipient { place: 1, ..collector(1) }
}

#[test]
fn a_complete_collector_gets_no_repeats() {
    let (mut memory, now) = (TemplateMemory::default(), Instant::now());
    let payloads =
        [defining(&[256, 257]), flows(), defining(&[256, 257]), flows(), defining(&[258]), flows()];
    for payload in &payloads {
        assert_eq!(deliver(&mut memory, &datagram(1, payload), &collector(1), now), 0);
    }
}

#[test]
fn a_restarted_collector_gets_everything_once() {
    let (mut memory, now) = (memory_of(&[defining(&[256, 257])]), Instant::now());
    for generation in [1, 5] {
        assert_eq!(lacking(&memory, &collector(generation)), 2);
        assert_eq!(deliver(&mut memory, &datagram(1, &flows()), &collector(generation), now), 1);
        assert_eq!(lacking(&memory, &collector(generation)), 0);
    }
}

#[test]
fn a_refresh_that_went_elsewhere_needs_no_repeat() {
    let (mut memory, now) = (TemplateMemory::default(), Instant::now());
    deliver(&mut memory, &datagram(1, &defining(&[256])), &collector(1), now);
    deliver(&mut memory, &datagram(1, &flows()), &late(), now);
    for _ in 0..3 {
        deliver(&mut memory, &datagram(1, &defining(&[256])), &late(), now);
        assert_eq!(lacking(&memory, &collector(1)), 0);
        deliver(&mut memory, &datagram(1, &defining(&[256])), &collector(1), now);
        assert_eq!(lacking(&memory, &late()), 0);
    }
}

#[test]
fn what_went_elsewhere_is_all_that_is_repeated() {
    let (mut memory, now) = (TemplateMemory::default(), Instant::now());
    deliver(&mut memory, &datagram(1, &defining(&[256, 257])), &collector(1), now);
    deliver(&mut memory, &datagram(1, &defining(&[258])), &late(), now);
    assert_eq!(lacking(&memory, &collector(1)), 1);
    assert_eq!(lacking(&memory, &late()), 0);
}

#[test]
fn a_skipped_definition_is_repeated() {
    let (mut memory, now) = (TemplateMemory::default(), Instant::now());
    deliver(&mut memory, &datagram(1, &defining(&[256])), &collector(1), now);
    learn(&mut memory, datagram(1, &defining(&[256])));
    assert_eq!(lacking(&memory, &collector(1)), 0, "it has that");
    learn(&mut memory, datagram(1, &v9(7, 2, &[set(0, &template(256, &[8]))])));
    assert_eq!(lacking(&memory, &collector(1)), 1);
}

#[test]
fn templates_of_a_skipped_datagram_are_repeated() {
    let (mut memory, now) = (memory_of(&[defining(&[256, 257])]), Instant::now());
    let own = defining(&[256]);
    let (_, repeats) = memory.before(&[datagram(1, &own)], &collector(1), now).unwrap();
    memory.note_repeated(&repeats, 1, &collector(1), now);
    learn(&mut memory, datagram(1, &own));
    assert_eq!(lacking(&memory, &collector(1)), 2);

    assert_eq!(deliver(&mut memory, &datagram(1, &own), &collector(1), now), 1);
    assert_eq!(lacking(&memory, &collector(1)), 0);
}

#[test]
fn interrupted_repeats_go_on_where_they_were() {
    let ids: Vec<u16> = (256..456).collect();
    let (mut memory, now) = (memory_of(&[defining(&ids)]), Instant::now());
    let flows = flows();
    let run = [datagram(1, &flows)];
    let (place, repeats) = memory.before(&run, &collector(1), now).unwrap();
    assert!(place == 0 && repeats.payloads.len() > 1 && repeats.sent == 0);
    memory.note_repeated(&repeats, 1, &collector(1), now);
    assert_eq!(memory.before(&run, &collector(1), now).unwrap().1.sent, 1);
    let other = v9(7, 10, &[set(256, &[1; 8])]);
    let other = [datagram(1, &other)];
    assert_eq!(memory.before(&other, &collector(1), now).unwrap().1.sent, 0, "other repeats than those");
    assert_eq!(memory.before(&run, &collector(2), now).unwrap().1.sent, 0, "another collector");
}

#[test]
fn the_first_datagram_that_lacks_any_is_found() {
    let (mut memory, now) = (memory_of(&[defining(&[256])]), Instant::now());
    learn(&mut memory, datagram(1, &v9(8, 1, &[set(0, &template(256, &[4]))])));
    let payloads = [flows(), flows(), v9(8, 2, &[set(256, &[1; 8])])];
    let run: Vec<_> = payloads.iter().map(|payload| datagram(1, payload)).collect();
    assert_eq!(memory.before(&run, &collector(1), now).unwrap().0, 0);
    deliver(&mut memory, &run[0], &collector(1), now);
    assert_eq!(memory.before(&run, &collector(1), now).unwrap().0, 2);
}

/// The memory, once a collector has got everything through the first of these sockets.
fn complete(sockets: &[u64], generation: u64, now: Instant) -> (TemplateMemory, Vec<Recipient>) {
    let mut memory = memory_of(&[defining(&[256])]);
    let recipient = |socket: &u64| Recipient { socket: *socket, ..collector(generation) };
    let recipients: Vec<_> = sockets.iter().map(recipient).collect();
    assert_eq!(deliver(&mut memory, &datagram(1, &flows()), &recipients[0], now), 1);
    (memory, recipients)
}

#[test]
fn a_socket_from_before_a_restart_repeats_once() {
    let now = Instant::now();
    let (mut memory, recipients) = complete(&[3, 4, 11], 10, now);
    let mut counts = || {
        let flows = flows();
        let mut count = |recipient| deliver(&mut memory, &datagram(1, &flows), recipient, now);
        [count(&recipients[0]), count(&recipients[1]), count(&recipients[2])]
    };
    assert_eq!(counts(), [0, 1, 0], "the last one is that of a new port");
    assert_eq!(counts(), [0, 0, 0]);
}

#[test]
fn repeats_for_changing_ports_are_rate_limited() {
    let now = Instant::now();
    let (mut memory, recipients) = complete(&(10..30).collect::<Vec<_>>(), 5, now);
    let mut move_on = |place: usize, now| {
        let recipient = Recipient { has_moved: true, ..recipients[place] };
        deliver(&mut memory, &datagram(1, &flows()), &recipient, now)
    };
    let at_once: usize = (1..20).map(|place| move_on(place, now)).sum();
    assert_eq!(at_once, REPEATS_AT_ONCE - 1);
    assert_eq!(move_on(19, now + REPEAT_EVERY.saturating_sub(Duration::from_millis(1))), 0);
    assert_eq!(move_on(19, now + REPEAT_EVERY), 1);
    assert_eq!(move_on(18, now + REPEAT_EVERY), 0);
}

#[test]
fn a_copied_memory_has_no_progress() {
    let (memory, recipients) = complete(&[3], 1, Instant::now());
    assert_eq!((lacking(&memory, &recipients[0]), lacking(&memory.copied(), &recipients[0])), (0, 1));
}

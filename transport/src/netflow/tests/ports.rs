//! Exporters that send from many ports, and exporters that share an address.

use std::time::Instant;

use super::memory::{before, collector, deliver, learn};
use super::*;
use crate::limits::PORTS_PER_DOMAIN;
use crate::netflow::{Recipient, TemplateMemory};

fn defining(length: u16) -> Vec<u8> {
    v9(7, 1, &[set(0, &template(256, &[length]))])
}

fn flows() -> Vec<u8> {
    v9(7, 9, &[set(256, &[1; 8])])
}

/// The repeats before flows from this port to a collector that has nothing.
fn repeated(memory: &TemplateMemory, port: u16) -> Vec<Vec<u8>> {
    before(memory, &datagram(port, &flows()))
}

#[test]
fn templates_hold_for_all_ports_of_an_exporter() {
    let mut memory = TemplateMemory::default();
    learn(&mut memory, datagram(1, &defining(4)));
    assert_eq!(repeated(&memory, 2), repeated(&memory, 1));
    assert_eq!(repeated(&memory, 2), [v9(7, 8, &[set(0, &template(256, &[4]))])]);
}

#[test]
fn a_new_port_for_each_datagram_repeats_nothing() {
    let (mut memory, now) = (TemplateMemory::default(), Instant::now());
    let mut repeats = 0;
    for port in (1..=1060).cycle().take(5000) {
        let payload = if port % 20 == 1 { defining(4) } else { flows() };
        let recipient = Recipient { socket: u64::from(port) + 1, ..collector(1) };
        repeats += deliver(&mut memory, &datagram(port, &payload), &recipient, now);
    }
    assert_eq!((repeats, memory.len()), (0, 1));
}

#[test]
fn a_redefinition_applies_to_all_ports() {
    let mut memory = TemplateMemory::default();
    for (port, length) in [(1, 4), (2, 4), (3, 8), (1, 8), (2, 2)] {
        learn(&mut memory, datagram(port, &defining(length)));
    }
    assert_eq!(memory.len(), 1);
    for port in 1..4 {
        assert_eq!(repeated(&memory, port), [v9(7, 8, &[set(0, &template(256, &[2]))])]);
    }
}

#[test]
fn two_exporters_at_one_address_are_separated() {
    let mut memory = TemplateMemory::default();
    for (port, length) in [(1, 4), (2, 8), (1, 4), (2, 8)] {
        learn(&mut memory, datagram(port, &defining(length)));
    }
    for (port, length) in [(1, 4), (2, 8)] {
        assert_eq!(repeated(&memory, port), [v9(7, 8, &[set(0, &template(256, &[length]))])], "port {port}");
    }
    assert!(repeated(&memory, 3).is_empty(), "nobody knows whose templates these are");
}

#[test]
fn port_0_stands_for_itself_alone() {
    let mut memory = TemplateMemory::default();
    for (port, length) in [(0, 4), (2, 8), (0, 4), (2, 8)] {
        learn(&mut memory, datagram(port, &defining(length)));
    }
    for (port, length) in [(0, 4), (2, 8)] {
        assert_eq!(repeated(&memory, port), [v9(7, 8, &[set(0, &template(256, &[length]))])], "port {port}");
    }
}

#[test]
fn separated_exporters_keep_restored_templates() {
    let mut memory = TemplateMemory::default();
    learn(&mut memory, datagram(1, &v9(7, 1, &[set(0, &template(256, &[4])), set(0, &template(257, &[2]))])));
    let mut restored = TemplateMemory::default();
    memory.kept_templates().for_each(|kept| restored.restore_templates(&kept));
    for (port, length) in [(2, 8), (1, 4)] {
        learn(&mut memory, datagram(port, &defining(length)));
        learn(&mut restored, datagram(port, &defining(length)));
    }
    assert_eq!([1, 2].map(|port| repeated(&restored, port)), [1, 2].map(|port| repeated(&memory, port)));
    assert_eq!(repeated(&restored, 1).len(), 1, "the templates of port 1 are repeated");
}

#[test]
fn a_restart_keeps_exporters_separate() {
    let mut memory = TemplateMemory::default();
    for (port, length) in [(1, 4), (2, 8), (1, 4)] {
        learn(&mut memory, datagram(port, &defining(length)));
    }
    let mut restored = TemplateMemory::default();
    memory.kept_templates().for_each(|kept| restored.restore_templates(&kept));
    assert_eq!([1, 2].map(|port| repeated(&restored, port)), [1, 2].map(|port| repeated(&memory, port)));
    assert!(repeated(&restored, 3).is_empty());
}

#[test]
fn exporters_behind_one_address_are_bounded() {
    let mut memory = TemplateMemory::default();
    let last = u16::try_from(PORTS_PER_DOMAIN).unwrap() + 10;
    for port in (1..=last).chain(1..=last) {
        learn(&mut memory, datagram(port, &defining(port)));
        learn(&mut memory, datagram(1, &defining(1)));
    }
    assert!(memory.len() <= PORTS_PER_DOMAIN, "{}", memory.len());
    assert_eq!(repeated(&memory, last).len(), 1);
    while memory.forget_oldest() {}
    assert_eq!(memory.bytes(), (0, 0));
}

#[test]
fn link_local_exporters_differ_by_interface() {
    let mut memory = TemplateMemory::default();
    let [first, second, flows] = [defining(4), defining(8), flows()];
    let of = |scope: u32, payload| {
        let exporter = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 0, scope).into();
        Datagram { exporter, ..datagram(1, payload) }
    };
    learn(&mut memory, of(2, &first));
    learn(&mut memory, of(3, &second));
    for (scope, length) in [(2, 4), (3, 8)] {
        assert_eq!(before(&memory, &of(scope, &flows)), [v9(7, 8, &[set(0, &template(256, &[length]))])]);
    }
}

//! The exporters that a collector confuses.

use crate::netflow::{Kept, KeptTemplate, SharedDomain, shared_domains};

/// An exporter's domain with templates of these ids and definitions.
fn domain(version: u16, source_id: u32, templates: &[(u16, &[u8])]) -> Kept {
    let template = |(template_id, definition): &(u16, &[u8])| KeptTemplate {
        template_id: *template_id,
        is_options: false,
        port: 0,
        definition: definition.to_vec(),
    };
    Kept {
        exporter: "192.0.2.1".parse().unwrap(),
        scope: 0,
        port: None,
        version,
        source_id,
        templates: templates.iter().map(template).collect(),
        options: Vec::new(),
    }
}

/// The pairs among exporters 0, 1, 2 …, each with the address at which the collector sees it.
fn pairs(domains: &[(char, Kept)]) -> Vec<([usize; 2], u16)> {
    let all = domains.iter().enumerate().map(|(exporter, (address, kept))| (exporter, *address, kept));
    shared_domains(all).into_iter().map(|shared| (shared.exporters, shared.template_id)).collect()
}

#[test]
fn different_templates_in_a_domain_are_confused() {
    let one = domain(9, 0, &[(256, b"one"), (257, b"same")]);
    let two = domain(9, 0, &[(257, b"same"), (256, b"two")]);
    assert_eq!(pairs(&[('a', one.clone()), ('a', two.clone())]), [([0, 1], 256)]);
    let shared = shared_domains([("x", 'a', &one), ("y", 'a', &two)]);
    let expected = SharedDomain { exporters: ["x", "y"], version: 9, source_id: 0, template_id: 256 };
    assert_eq!(shared, [expected]);
}

#[test]
fn what_a_collector_keeps_apart_is_not_confused() {
    let one = domain(9, 0, &[(256, b"one")]);
    for (address, other) in [
        ('b', domain(9, 0, &[(256, b"two")])),
        ('a', domain(9, 1, &[(256, b"two")])),
        ('a', domain(10, 0, &[(256, b"two")])),
        ('a', domain(9, 0, &[(257, b"two")])),
        ('a', domain(9, 0, &[(256, b"one")])),
    ] {
        assert_eq!(pairs(&[('a', one.clone()), (address, other)]), []);
    }
}

#[test]
fn an_options_template_differs_from_a_template() {
    let one = domain(9, 0, &[(256, b"same")]);
    let mut two = one.clone();
    two.templates[0].is_options = true;
    assert_eq!(pairs(&[('a', one), ('a', two)]), [([0, 1], 256)]);
}

#[test]
fn each_confused_exporter_is_named() {
    let of = |definition: &'static [u8]| ('a', domain(9, 0, &[(256, definition)]));
    let all = [of(b"one"), of(b"one"), of(b"two"), of(b"two"), of(b"one")];
    assert_eq!(pairs(&all), [([0, 2], 256), ([0, 3], 256), ([2, 4], 256)]);
}

#[test]
fn one_exporter_does_not_confuse_itself() {
    let [one, two] = [b"one".as_slice(), b"two"].map(|bytes| domain(9, 0, &[(256, bytes)]));
    assert_eq!(shared_domains([("x", 'a', &one), ("x", 'a', &two)]), []);
}

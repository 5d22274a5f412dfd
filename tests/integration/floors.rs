//! The structure of the source: modules import only from floors below their own, and no files import each
//! other in a circle. ARCHITECTURE.md has the table of floors. Cargo and clippy.toml keep sockets, runtime
//! and clock out of the shared crate.

pub(crate) mod imports;
mod type_names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use imports::{Crate, Module};

/// Modules of the shared crate by floor, lowest first.
const SHARED: &[&[&str]] = &[
    &["datagram", "flow_layout", "internal_error", "limits", "prefixes", "sequence"],
    &["batch", "clock", "framing", "netflow"],
    &["secure", "session", "spool"],
];

/// Modules of the daemons by floor, lowest first.
const DAEMONS: &[&[&str]] =
    &[&["limits"], &["cli", "config"], &["host"], &["status"], &["receiver", "sender"]];

/// Modules of the daemons that read settings only: they open no socket and read no clock.
const SETTINGS: [&str; 3] = ["cli", "config", "limits"];

/// Names that such a module must not use. Addresses of `core::net` are values, not sockets.
const OUTSIDE: [&str; 12] = [
    "tokio",
    "socket2",
    "listenfd",
    "sd_notify",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "ToSocketAddrs",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "Instant",
];

fn shared() -> Crate {
    Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("transport/src"))
}

fn daemons() -> Crate {
    Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// The imports of `source` that lead upward or sideways, and modules without a floor.
fn offences(source: &Crate, floors: &[&[&str]]) -> Vec<String> {
    let floor = |module: &Module| {
        let top = module.first()?;
        floors.iter().position(|floor| floor.contains(&top.as_str()))
    };
    let mut offences = Vec::new();
    for (from, uses) in source.uses() {
        let Some(top) = from.first() else { continue };
        let Some(own) = floor(from) else {
            offences.push(format!("{top} has no floor"));
            continue;
        };
        let is_allowed = |to: &Module| to.first() == Some(top) || floor(to).is_some_and(|below| below < own);
        let upward = uses.iter().filter(|to| !to.is_empty() && !is_allowed(to));
        offences.extend(upward.map(|to| format!("{} imports {}", from.join("::"), to.join("::"))));
    }
    offences
}

/// The groups of files of which each leads back to itself by imports.
fn circles(uses: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<String>> {
    let reach = |start: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(module) = open.pop() {
            open.extend(uses.get(module).into_iter().flatten().filter(|to| seen.insert((*to).clone())));
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = uses.keys().map(|from| (from, reach(from))).collect();
    let mut found = BTreeSet::new();
    for (from, to) in &reached {
        let is_mutual = |other: &&Module| to.contains(*other) && reached[*other].contains(*from);
        let circle: Vec<String> = uses.keys().filter(is_mutual).map(|module| module.join("::")).collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

#[test]
fn modules_import_only_from_floors_below() {
    assert_eq!(offences(&shared(), SHARED), [""; 0]);
    assert_eq!(offences(&daemons(), DAEMONS), [""; 0]);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for source in [shared(), daemons()] {
        let circles = circles(source.uses());
        let lines: Vec<String> = circles.iter().map(|circle| circle.join(", ")).collect();
        assert!(circles.is_empty(), "circles:\n{}", lines.join("\n"));
    }
}

#[test]
fn settings_know_no_socket_and_no_clock() {
    let source = daemons();
    for (module, names) in source.names() {
        if module.first().is_some_and(|top| SETTINGS.contains(&top.as_str())) {
            let found: Vec<&&str> = OUTSIDE.iter().filter(|name| names.contains(**name)).collect();
            assert!(found.is_empty(), "{} uses {found:?}", module.join("::"));
        }
    }
}

#[test]
fn the_shared_crate_has_no_runtime_and_no_socket() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "nf-transport-core", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("nf-transport-core"), "{tree}");
    for name in ["tokio", "mio", "socket2", "clap", "hyper", "nix"] {
        assert!(!tree.lines().any(|line| line.split(' ').next() == Some(name)), "{name} in {tree}");
    }
}

/// A crate of these files, of which each is a path and its text.
fn made_of(files: &[(&str, &str)]) -> Crate {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Crate::read(directory.path())
}

#[test]
fn imports_upward_and_sideways_are_found() {
    let source = made_of(&[
        ("lib.rs", "mod low; mod left; mod right;"),
        ("low.rs", "use crate::left::Left; pub struct Low;"),
        ("left.rs", "pub struct Left; fn f() { crate::right::f() }"),
        ("right/mod.rs", "mod part; pub fn f(low: crate::low::Low) {}"),
        ("right/part.rs", "use super::super::left::{Left as Other};"),
        ("attic.rs", ""),
    ]);
    let found = offences(&source, &[&["low"], &["left", "right"]]);
    let expected =
        ["attic has no floor", "left imports right", "low imports left", "right::part imports left"];
    assert_eq!(found, expected);
}

#[test]
fn circles_are_found_through_other_files() {
    let source = made_of(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::c; pub struct B; fn f() { c::f() }"),
        ("c.rs", "use crate::a::A; pub fn f() {}"),
        ("d.rs", "use crate::a::A;"),
    ]);
    assert_eq!(circles(source.uses()), [["a", "b", "c"]]);
}

#[test]
fn a_list_of_exports_is_no_import() {
    let source = made_of(&[
        ("lib.rs", "pub mod folder;"),
        ("folder/mod.rs", "mod one; mod two; pub use one::One; pub use two::Two;"),
        ("folder/one.rs", "use crate::folder::Two; pub struct One;"),
        ("folder/two.rs", "pub struct Two;\n#[cfg(test)]\nmod tests { use crate::folder::One; }"),
    ]);
    assert_eq!(circles(source.uses()), [[""; 0]; 0]);
    let two = vec!["folder".to_owned(), "two".to_owned()];
    assert!(source.uses()[&vec!["folder".to_owned(), "one".to_owned()]].contains(&two));
}

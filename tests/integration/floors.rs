//! The floors of the house: a room imports only from floors below its own. ARCHITECTURE.md has the table.

use std::fmt;
use std::path::{Path, PathBuf};

/// The rooms of each floor, from below.
const FLOORS: [&[&str]; 7] = [
    &["datagram", "flow_layout", "prefixes", "sequence", "limits", "internal_error"],
    &["batch", "clock", "framing", "netflow"],
    &["spool", "secure", "session"],
    &["config", "cli"],
    &["service"],
    &["status"],
    &["sender", "receiver"],
];

/// Test modules may look at the clock: virtual time has to start somewhere.
const TESTS: &str = "tests";

/// The highest floor that knows neither sockets nor runtime nor clock.
const HIGHEST_PURE: usize = 3;

/// What no pure room may name. Addresses of `core::net` and `std::net` are words, not sockets.
const IMPURE: [&str; 16] = [
    "tokio",
    "mio",
    "socket2",
    "listenfd",
    "sd_notify",
    "rustix::net",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "ToSocketAddrs",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "Instant::now",
    "SystemTime::now",
    "thread::sleep",
];

/// One offence against the floors.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offence {
    room: String,
    names: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` must not name `{}`", self.room, self.names)
    }
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The offences of one source text that lies `depth` modules below the crate's root, in `room`.
fn offences(room: &str, depth: usize, text: &str) -> Vec<Offence> {
    let offence = |names: &str| Offence { room: room.to_owned(), names: names.to_owned() };
    let Some(own) = floor(room) else { return vec![offence("anything before it has a floor")] };
    let code = without_comments_and_strings(text);
    let allowed = |target: &str| target == room || floor(target).is_some_and(|floor| floor < own);
    let upward = rooms_named(&code, depth).into_iter().filter(|target| !allowed(target));
    let shipped = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let impure = IMPURE.iter().filter(|name| own <= HIGHEST_PURE && names(shipped, name));
    upward.map(|target| offence(&target)).chain(impure.map(|name| offence(name))).collect()
}

/// The rooms that code names by `crate::` or by enough `super::` to leave its own.
fn rooms_named(code: &str, depth: usize) -> Vec<String> {
    let code: String =
        code.split_whitespace().collect::<Vec<_>>().join(" ").replace(" ::", "::").replace(":: ", "::");
    let climb = "super::".repeat(depth);
    let paths = code.match_indices("crate::").map(|(at, _)| &code[at + "crate::".len()..]);
    let climbs = code.match_indices(&climb).map(|(at, _)| &code[at + climb.len()..]);
    let known = |name: &String| floor(name).is_some();
    let from_root = paths.flat_map(first_names);
    from_root.chain(climbs.flat_map(first_names).filter(known)).collect()
}

/// The first name of a path, or of each path in a group in braces.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let mut open = 1;
    let mut names = vec![name(group.trim_start())];
    for (at, c) in group.char_indices() {
        open += i32::from(c == '{') - i32::from(c == '}');
        if open == 0 {
            break;
        }
        if open == 1 && c == ',' {
            names.push(name(group[at + 1..].trim_start()));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Whether code holds `name` as words of its own.
fn names(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name)
        .any(|(at, _)| !code[..at].ends_with(word) && !code[at + name.len()..].starts_with(word))
}

fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let mut in_string = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_string => drop(chars.next()),
                '\'' if !in_string && chars.peek() == Some(&'"') => drop(chars.next()),
                '"' => in_string = !in_string,
                '/' if !in_string && chars.peek() == Some(&'/') => break,
                _ if in_string => {}
                _ => code.push(c),
            }
        }
        code.push('\n');
    }
    code
}

/// Every source file below `directory`.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|kind| kind == "rs")).collect()
}

/// The room of a file and how many modules deep it lies; nothing for the crate's root and the binaries.
fn place(file: &Path) -> Option<(String, usize)> {
    let mut parts: Vec<_> = file.iter().map(|part| part.to_str().unwrap().trim_end_matches(".rs")).collect();
    parts.pop_if(|last| *last == "mod");
    let outside = matches!(parts.first(), None | Some(&"lib" | &"bin"));
    (!outside).then(|| (parts[0].to_owned(), parts.len()))
}

#[test]
fn every_room_imports_only_from_floors_below_and_the_pure_ones_know_no_socket_and_no_clock() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in sources(&source) {
        let name = file.strip_prefix(&source).unwrap();
        let Some((room, depth)) = place(name) else { continue };
        let tests = name.iter().any(|part| part.to_str().unwrap().trim_end_matches(".rs") == TESTS);
        let told = offences(&room, depth, &std::fs::read_to_string(&file).unwrap()).into_iter();
        let told = told.filter(|offence| !tests || floor(&offence.names).is_some());
        found.extend(told.map(|offence| format!("{}: {offence}", name.display())));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn told(room: &str, depth: usize, text: &str) -> Vec<String> {
    offences(room, depth, text).into_iter().map(|offence| offence.names).collect()
}

#[test]
fn imports_upward_and_sideways_are_offences() {
    assert_eq!(told("session", 1, "use crate::sender::Link;"), ["sender"]);
    assert_eq!(told("session", 2, "use crate::{batch::Batch, spool::{Spool, Segment}, limits};"), ["spool"]);
    assert_eq!(told("batch", 2, "fn f() { crate::spool::open() }"), ["spool"]);
    assert_eq!(told("datagram", 1, "pub use crate::sequence::Position;"), ["sequence"]);
    assert_eq!(told("spool", 2, "use super::super::session::Session;"), ["session"]);
    assert_eq!(told("batch", 1, "use super::spool;"), ["spool"]);
    assert_eq!(told("batch", 1, "use crate::\n    spool;"), ["spool"]);
}

#[test]
fn sockets_runtime_and_clock_are_offences_in_pure_rooms_only() {
    let text = "use std::net::UdpSocket; async fn f() { tokio::spawn(g()); let now = Instant::now(); }\n\
                #[cfg(test)]\nmod tests { fn g() { SystemTime::now(); } }";
    assert_eq!(told("config", 1, text), ["tokio", "UdpSocket", "Instant::now"]);
    assert_eq!(told("service", 1, text), [""; 0]);
}

#[test]
fn a_room_without_a_floor_is_an_offence() {
    assert_eq!(told("attic", 1, "").len(), 1);
}

#[test]
fn imports_downward_addresses_comments_and_strings_are_fine() {
    let text = r#"
        //! Nothing of [`crate::sender`] or tokio.
        use core::net::SocketAddr;
        use std::time::Instant;

        use crate::{batch::{Batch, BatchBuilder}, limits::PAYLOAD_MAX};
        use super::policy::Policy;
        fn f(now: Instant) { log("crate::sender \" tokio"); let quote = '"'; let tokio_like = 1; }
        mod tests { use super::*; use super::super::spool::open; }
    "#;
    assert_eq!(told("spool", 2, text), [""; 0]);
}

//! A full standard error that nobody reads blocks neither delivery nor the exit. Dropped lines are reported.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nf_transport::limits::LOG_QUEUE_MAX;
use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::daemon::{Daemon, Launch, Program};
use nf_transport_kit::hosts::QUICK_SENDER;
use nf_transport_kit::pair::{Pair, STALL};

use crate::isolation::shared;

/// More lines than the log queue and the pipe hold together.
const LINES: usize = LOG_QUEUE_MAX + 500;

/// Starts both daemons with a blocked standard error and waits until they are connected.
fn stuck_pair() -> Pair {
    let mut pair = Pair::new(2, Pattern::new(MIXED), QUICK_SENDER);
    pair.receiver.start_with_stuck_stderr();
    pair.sender.start_with_stuck_stderr();
    pair.sender.wait_state("connected", STALL);
    pair
}

/// Makes a daemon log `count` lines.
fn reload(control: &Path, count: usize) {
    for _ in 0..count {
        let mut stream = UnixStream::connect(control).unwrap();
        stream.write_all(b"reload\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("ok"), "{answer}");
    }
}

/// Reads the blocked standard error and compares the reported number of dropped lines with the missing ones.
fn assert_dropped_lines_are_reported(daemon: &mut Daemon) {
    daemon.read_stderr();
    daemon.wait_for_log(&["stderr was blocked", "log lines dropped"], STALL);
    let written = daemon.logged(&["reloaded: "]).len();
    let reports = daemon.logged(&["stderr was blocked: "]);
    let count = |line: &String| {
        let words = line.split("blocked: ").nth(1).unwrap();
        words.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let reported: usize = reports.iter().map(count).sum();
    // A cut and a new connection logged some more lines.
    assert!((LINES - written..LINES - written + 20).contains(&reported), "{written} written, {reports:?}");
}

#[test]
fn a_full_stderr_blocks_no_delivery_and_no_exit() {
    let _running = shared();
    let mut pair = stuck_pair();
    let mut exporters = pair.exporters();
    exporters.send(100);
    pair.assert_all_arrive(&exporters, true);
    for control in [pair.sender.control(), pair.receiver.control()] {
        reload(&control, LINES);
    }
    pair.link.cut();
    pair.sender.wait_state("waiting", STALL);
    pair.link.restore();
    pair.sender.wait_state("connected", STALL);
    exporters.send(100);
    pair.assert_all_arrive(&exporters, true);
    assert!(pair.sender.take_daemon().terminate_unread().success());
    assert!(pair.receiver.take_daemon().terminate_unread().success());
}

#[test]
fn dropped_log_lines_are_reported() {
    let _running = shared();
    let mut pair = stuck_pair();
    reload(&pair.sender.control(), LINES);
    reload(&pair.receiver.control(), LINES);
    assert_dropped_lines_are_reported(pair.sender.daemon_mut());
    assert_dropped_lines_are_reported(pair.receiver.daemon_mut());
    assert!(pair.sender.take_daemon().terminate().success());
    assert!(pair.receiver.take_daemon().terminate().success());
}

#[test]
fn a_failed_start_with_a_full_stderr_exits() {
    let _running = shared();
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("settings.toml");
    std::fs::write(&settings, "lisen = 1\n").unwrap();
    for program in [Program::Sender, Program::Receiver] {
        let launch = Launch::new(program).args(["-c", settings.to_str().unwrap()]).with_stuck_stderr();
        assert_eq!(launch.spawn().wait_exit_unread(STALL).code(), Some(78));
    }
}

#[test]
fn the_last_log_lines_are_written() {
    let _running = shared();
    let mut pair = Pair::connected(1, Pattern::new(MIXED), QUICK_SENDER);
    for daemon in [pair.sender.take_daemon(), pair.receiver.take_daemon()] {
        daemon.signal(rustix::process::Signal::TERM);
        let (status, log) = daemon.wait_exit(STALL);
        assert!(status.success() && log.lines().last().unwrap().contains("stop"), "{log}");
    }
}

//! `status --watch` in a real terminal.

use std::io::Read;
use std::process::{Command, Stdio};

use nf_transport_kit::chatter::{MIXED, Pattern};
use nf_transport_kit::daemon::Program;
use nf_transport_kit::hosts::{QUICK_SENDER, SenderHost};
use nf_transport_kit::pair::STALL;
use nf_transport_kit::samples::count;

use crate::isolation::shared;

/// Number of exporters, far more than a terminal has rows.
const EXPORTERS: u16 = 200;

#[test]
fn many_exporters_do_not_hide_the_state() {
    let _running = shared();
    let mut sender = SenderHost::new("edge", &"127.0.0.1:1", QUICK_SENDER);
    sender.start();
    sender.exporters(EXPORTERS, Pattern::new(MIXED)).send(u64::from(EXPORTERS));
    sender.wait_status(STALL, |status| count(status, "/received/datagrams") == u64::from(EXPORTERS));

    for (rows, columns) in [(24, 80), (50, 140)] {
        let watch = format!(
            "stty rows {rows} cols {columns}; exec {} status --watch --control {}",
            Program::Sender.path().display(),
            sender.control().display()
        );
        let mut terminal = Command::new("script")
            .args(["--quiet", "--flush", "--command", &watch, "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let screen = second_screen(terminal.stdout.as_mut().unwrap());
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        let lines: Vec<&str> = screen.lines().collect();
        let taken: usize = lines.iter().map(|line| line.chars().count().div_ceil(columns).max(1)).sum();
        assert!((rows - 2..rows).contains(&taken), "{taken} rows:\n{screen}");
        assert!(lines[0].starts_with("nf-sender edge: "), "{screen}");
        assert!(screen.contains("\nqueued "), "{screen}");
        let rest: usize =
            usize::from(EXPORTERS) - lines.iter().filter(|line| line.starts_with("127.")).count();
        assert!(screen.contains(&format!("... and {rest} more (status --json lists all)")), "{screen}");
    }
}

/// Returns the terminal's output after it was cleared for the second time.
fn second_screen(output: &mut impl Read) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while text.matches("\x1b[J").count() < 3 {
        let count = output.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "the watch ended:\n{text}");
        text += &String::from_utf8_lossy(&buffer[..count]);
    }
    text.split("\x1b[H\x1b[J").nth(2).unwrap().replace('\r', "")
}

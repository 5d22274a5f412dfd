//! What is installed beside the programs says what they say: completions, manual pages, the journal's catalog, versions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap_complete::{Shell, generate};
use nf_transport::cli::{receiver_command, sender_command};
use nf_transport::service::messages;

use crate::support::daemon::Program;

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(source(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn command_of(program: Program) -> clap::Command {
    match program {
        Program::Sender => sender_command(),
        Program::Receiver => receiver_command(),
    }
}

/// The command and all of its subcommands.
fn with_subcommands(command: &clap::Command) -> Vec<clap::Command> {
    [command.clone()].into_iter().chain(command.get_subcommands().flat_map(with_subcommands)).collect()
}

/// The keys of a shipped configuration, where every key stands, most of them in comments.
fn keys(program: Program) -> BTreeSet<String> {
    let text = read(&format!("etc/{}.toml", program.name()));
    let is_key = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let mut keys = BTreeSet::new();
    for piece in text.split(['#', '\n', ':', ',']).flat_map(|line| line.split(" and ")) {
        if let Some((key, _)) = piece.split_once(" = ")
            && is_key(key.trim())
        {
            keys.insert(key.trim().to_owned());
        }
    }
    keys
}

#[test]
fn completions_are_those_of_the_command_lines() {
    for program in [Program::Sender, Program::Receiver] {
        let name = program.name();
        let files = [
            (Shell::Bash, format!("{name}.bash")),
            (Shell::Zsh, format!("_{name}")),
            (Shell::Fish, format!("{name}.fish")),
        ];
        for (shell, file) in files {
            let mut wanted = Vec::new();
            generate(shell, &mut command_of(program), name, &mut wanted);
            let path = format!("completions/{file}");
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(source(&path), &wanted).unwrap();
            }
            assert!(
                read(&path).as_bytes() == wanted,
                "{path} is not what the command line says: UPDATE=1 cargo test completions_are"
            );
        }
    }
}

#[test]
fn manual_pages_have_every_option_command_and_variable() {
    for program in [Program::Sender, Program::Receiver] {
        let name = program.name();
        let page = rendered(&format!("man/{name}.8"));
        for command in with_subcommands(&command_of(program)) {
            assert!(page.contains(command.get_name()), "{name}(8) lacks the command {}", command.get_name());
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                let words = [
                    argument.get_long().map(|long| format!("--{long}")),
                    argument.get_short().map(|short| format!("-{short}")),
                    argument.get_env().map(|variable| variable.to_string_lossy().into_owned()),
                ];
                for word in words.into_iter().flatten() {
                    assert!(page.contains(&word), "{name}(8) lacks {word}");
                }
            }
        }
    }
}

#[test]
fn manual_pages_have_every_key() {
    for program in [Program::Sender, Program::Receiver] {
        let page = rendered(&format!("man/{}.toml.5", program.name()));
        let keys = keys(program);
        assert!(keys.len() > 10, "{keys:?}");
        let words: BTreeSet<&str> = page.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
        for key in &keys {
            assert!(words.contains(key.as_str()), "{}.toml(5) lacks {key}", program.name());
        }
    }
}

/// A page as a reader without colours sees it.
fn rendered(page: &str) -> String {
    let formatted = Command::new("mandoc").args(["-T", "utf8", "-O", "width=100"]).arg(source(page)).output();
    let Ok(formatted) = formatted else { return read(page).replace(r"\-", "-") };
    let text = String::from_utf8(formatted.stdout).unwrap();
    // Bold and underlined characters are overstruck.
    let mut plain = String::new();
    for character in text.chars() {
        if character == '\u{8}' {
            plain.pop();
        } else {
            plain.push(character);
        }
    }
    plain.replace(['\u{2010}', '\u{2212}'], "-")
}

/// The numbers of the messages in `messages.rs`, by the module that they stand in.
fn numbers(module: &str) -> BTreeSet<String> {
    let text = read("src/service/messages.rs");
    let body = text.split(&format!("pub mod {module} {{")).nth(1).unwrap().split("\n}").next().unwrap();
    body.split('"').filter(|word| word.len() == 32).map(str::to_owned).collect()
}

#[test]
fn the_catalogs_explain_every_message_that_has_a_number_and_no_other() {
    assert!(numbers("sender").contains(messages::sender::CONNECTED));
    for (program, module) in [(Program::Sender, "sender"), (Program::Receiver, "receiver")] {
        let catalog = read(&format!("catalog/{}.catalog", program.name()));
        let explained: Vec<String> =
            catalog.lines().filter_map(|line| line.strip_prefix("-- ")).map(str::to_owned).collect();
        let unique: BTreeSet<String> = explained.iter().cloned().collect();
        assert_eq!(explained.len(), unique.len(), "a number stands twice");
        assert_eq!(unique, numbers(module), "{}", program.name());
        for entry in catalog.split("\n-- ").skip(1) {
            let lines: Vec<&str> = entry.lines().skip(1).collect();
            assert!(lines[0].starts_with("Subject: ") && lines[1] == "Defined-By: nf-transport", "{entry}");
            assert!(lines[2].starts_with("Documentation: man:") && lines[3].is_empty(), "{entry}");
        }
    }
}

#[test]
fn versions_agree_wherever_they_stand() {
    let version = env!("CARGO_PKG_VERSION");
    let debian = read("debian/changelog");
    assert!(debian.starts_with(&format!("nf-transport ({version}) ")), "{}", debian.lines().next().unwrap());
    let spec = read("rpm/nf-transport.spec");
    let stated = spec.lines().find_map(|line| line.strip_prefix("Version:")).map(str::trim);
    assert_eq!(stated, Some(version), "rpm/nf-transport.spec");
    let logged = spec.split("%changelog").nth(1).unwrap().lines().nth(1).unwrap();
    assert!(logged.ends_with(&format!(" - {version}-1")), "{logged}");
    for entry in std::fs::read_dir(source("man")).unwrap() {
        let path = entry.unwrap().path();
        let page = std::fs::read_to_string(&path).unwrap();
        assert!(page.contains(&format!(".Os nf-transport {version}\n")), "{}", path.display());
    }
}

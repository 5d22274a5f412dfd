//! Installed files that must match the programs: completions, manual pages, the journal's catalog, versions.

mod log_fields;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap_complete::{Shell, generate};
use nf_transport::cli::{receiver_command, sender_command};
use nf_transport::host::systemd::messages;
use nf_transport_kit::daemon::Program;

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

/// Returns the command and all its subcommands.
fn with_subcommands(command: &clap::Command) -> Vec<clap::Command> {
    [command.clone()].into_iter().chain(command.get_subcommands().flat_map(with_subcommands)).collect()
}

/// Returns the keys that a program knows, as `table.key`. Its message about an unknown key lists them.
fn known_keys(program: Program) -> BTreeSet<String> {
    let tables: &[&str] = match program {
        Program::Sender => &["", "[tls]", "[metrics]", "[reconnect]", "[spool]"],
        Program::Receiver => &["", "[tls]", "[metrics]", "[limits]", "[[collector]]", "[[sender]]"],
    };
    let text: String = tables.iter().flat_map(|table| [table, "\nzz = 1\n"]).collect();
    // Some keys of this table are only checked if these are present.
    let text = text.replace("[tls]\n", "[tls]\nauthority = \"/a\"\ncertificate = \"/c\"\nkey = \"/k\"\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let output = program.command().args(["-c", file.path().to_str().unwrap(), "check"]).output().unwrap();
    let refused = String::from_utf8(output.stderr).unwrap();
    let mut keys = BTreeSet::new();
    let mut listed = 0;
    for line in refused.lines() {
        let Some((before, names)) = line.split_once("'; known keys here: ") else { continue };
        let table = before.rsplit('\'').next().unwrap().trim_end_matches("zz");
        listed += 1;
        keys.extend(names.split(", ").map(|name| format!("{table}{name}")));
    }
    assert_eq!(listed, tables.len(), "{refused}");
    // Tables are listed among the keys above them. The key `key` never occurs in a file.
    let is_table =
        |key: &str| key == "key" || tables.iter().any(|table| table.trim_matches(['[', ']']) == key);
    keys.into_iter().filter(|key| !is_table(key)).collect()
}

/// Returns the keys that a manual page explains, as `table.key`.
fn explained_keys(page: &str) -> BTreeSet<String> {
    let mut table = String::new();
    let mut keys = BTreeSet::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix(".Ss ") {
            let name = heading.trim_matches(['[', ']']);
            table = if heading.starts_with('[') { format!("{name}.") } else { String::new() };
        } else if let Some(key) = line.strip_prefix(".It Ic ") {
            keys.insert(format!("{table}{key}"));
        }
    }
    keys
}

/// Returns the options that a manual page names in their command-line form.
fn named_options(page: &str) -> BTreeSet<String> {
    let words: Vec<&str> =
        page.lines().filter(|line| line.starts_with('.')).flat_map(str::split_whitespace).collect();
    let after_flag = words.windows(2).filter(|pair| pair[0] == "Fl" || pair[0] == ".Fl").map(|pair| pair[1]);
    let is_option = |word: &&str| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '-');
    after_flag.filter(is_option).map(|word| format!("-{word}")).collect()
}

/// Returns the options of a command line with its subcommands, including those that clap adds.
fn options(program: Program) -> BTreeSet<String> {
    let mut options = BTreeSet::from(["-h", "--help", "-V", "--version"].map(str::to_owned));
    for command in with_subcommands(&command_of(program)) {
        for argument in command.get_arguments() {
            options.extend(argument.get_long().map(|long| format!("--{long}")));
            options.extend(argument.get_short().map(|short| format!("-{short}")));
        }
    }
    options
}

#[test]
fn completions_match_the_command_lines() {
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
                "{path} differs from the command line: UPDATE=1 cargo test completions_match"
            );
        }
    }
}

#[test]
fn manual_pages_name_exactly_the_options() {
    for program in [Program::Sender, Program::Receiver] {
        let page = read(&format!("man/{}.8", program.name()));
        assert_eq!(named_options(&page), options(program), "{}(8)", program.name());
    }
}

#[test]
fn manual_pages_name_every_command_and_variable() {
    for program in [Program::Sender, Program::Receiver] {
        let page = read(&format!("man/{}.8", program.name()));
        for command in command_of(program).get_subcommands() {
            let entry = format!(".It Cm {}", command.get_name());
            assert!(page.lines().any(|line| line.starts_with(&entry)), "{}(8) lacks {entry}", program.name());
        }
        for argument in command_of(program).get_arguments() {
            let Some(variable) = argument.get_env() else { continue };
            let entry = format!(".It Ev {}", variable.to_string_lossy());
            assert!(page.lines().any(|line| line == entry), "{}(8) lacks {entry}", program.name());
        }
    }
}

#[test]
fn manual_pages_explain_exactly_the_keys() {
    for program in [Program::Sender, Program::Receiver] {
        let page = read(&format!("man/{}.toml.5", program.name()));
        assert_eq!(explained_keys(&page), known_keys(program), "{}.toml(5)", program.name());
    }
}

/// Returns the lines of a socket unit or drop-in that listen on a specific address.
fn listens_on_an_address(text: &str) -> Vec<&str> {
    let value = |line: &str| {
        let value =
            line.trim().strip_prefix("ListenStream=").or(line.trim().strip_prefix("ListenDatagram="))?;
        Some(value.contains(['.', '[']))
    };
    text.lines().filter(|line| value(line) == Some(true)).collect()
}

#[test]
fn socket_units_with_an_address_use_free_bind() {
    let directory = |path: &str| -> Vec<PathBuf> {
        std::fs::read_dir(source(path)).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let mut with_address = 0;
    for path in ["units", "units/examples", "docs", "man", "."].into_iter().flat_map(directory) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if !listens_on_an_address(&text).is_empty() {
            assert!(text.contains("FreeBind=yes"), "{} lacks FreeBind=yes", path.display());
            with_address += 1;
        }
    }
    assert_eq!(with_address, 2, "the examples of both services");
    for unit in ["units/nf-sender.socket", "units/nf-receiver.socket"] {
        let text = read(unit);
        for line in ["FreeBind=yes", "BindIPv6Only=both"] {
            assert!(text.lines().any(|set| set == line), "{unit} lacks {line}");
        }
    }
}

/// Returns the message numbers of `messages.rs` by their module.
fn numbers(module: &str) -> BTreeSet<String> {
    let text = read("src/host/systemd/messages.rs");
    let body = text.split(&format!("pub mod {module} {{")).nth(1).unwrap().split("\n}").next().unwrap();
    body.split('"').filter(|word| word.len() == 32).map(str::to_owned).collect()
}

#[test]
fn the_catalogs_do_not_promise_zero_loss() {
    for program in [Program::Sender, Program::Receiver] {
        let path = format!("catalog/{}.catalog", program.name());
        let text = read(&path).split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        for promise in ["nothing is lost", "none is lost", "no datagram is lost"] {
            assert!(!text.contains(promise), "{path}: whether {promise} depends on the spool's room");
        }
    }
}

#[test]
fn the_catalogs_explain_exactly_the_messages() {
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
fn versions_agree_in_all_files() {
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

/// Returns the targets of the links from a Markdown page to other files.
fn links(page: &str) -> Vec<&str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let files = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
    files.filter(|file| !file.is_empty() && !file.contains("://")).collect()
}

#[test]
fn links_of_installed_pages_are_installed() {
    let directory = tempfile::tempdir().unwrap();
    // Any file can stand for the programs, whose contents are not checked.
    let binaries = directory.path().join("built");
    std::fs::create_dir(&binaries).unwrap();
    for program in ["nf-sender", "nf-receiver"] {
        std::fs::write(binaries.join(program), "").unwrap();
    }
    let root = directory.path().join("root");
    let make = std::process::Command::new("make")
        .args(["--no-print-directory", "install", "prefix=/usr"])
        .arg(format!("DESTDIR={}", root.display()))
        .arg(format!("BINARIES={}", binaries.display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(make.status.success(), "{make:?}");
    for service in ["nf-sender", "nf-receiver"] {
        let documents = root.join("usr/share/doc").join(service);
        for place in [documents.clone(), documents.join("docs")] {
            let entries = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path());
            for page in entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
                let text = std::fs::read_to_string(&page).unwrap();
                let broken: Vec<&str> =
                    links(&text).into_iter().filter(|link| !place.join(link).exists()).collect();
                assert!(broken.is_empty(), "{}: {broken:?}", page.display());
            }
        }
    }
}

#[test]
fn a_panic_ends_a_daemon_and_systemd_restarts_it() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(manifest["profile"]["release"]["panic"].as_str(), Some("abort"));
    for program in [Program::Sender, Program::Receiver] {
        let role = program.name().trim_start_matches("nf-");
        let daemon = read(&format!("src/{role}/daemon.rs"));
        let run = daemon.split("pub(crate) fn run(").nth(1).unwrap().split("\n}").next().unwrap();
        assert!(run.contains("abort_on_panic("), "{role}");
        let unit = read(&format!("units/{}.service.in", program.name()));
        assert!(unit.lines().any(|line| line == "Restart=on-failure"), "{role}: SIGABRT is a failure");
    }
}

use super::*;

fn sender(line: &str) -> Result<Invocation<SenderAction>, clap::Error> {
    parse_sender(line.split(' ').map(OsString::from))
}

#[test]
fn a_bare_command_runs_the_service() {
    let invocation = sender("nf-sender").unwrap();
    assert_eq!(invocation, Invocation { file: None, overrides: Vec::new(), action: SenderAction::Run });
}

#[test]
fn repeated_options_and_commas_give_lists() {
    let invocation = sender("nf-sender -r a:1 --receiver b:2,c:3 --plaintext --spool dir").unwrap();
    let given = |key, arguments: &[&str], option| Override {
        key,
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        source: OverrideSource::Option(option),
    };
    let expected = [
        given("receivers", &["a:1", "b:2", "c:3"], "receiver"),
        given("plaintext", &["true"], "plaintext"),
        given("spool.directory", &["dir"], "spool"),
    ];
    assert_eq!(invocation.overrides, expected);
}

#[test]
fn global_options_may_follow_the_subcommand() {
    for line in [
        "nf-sender -c f.toml --control c.sock status --json",
        "nf-sender status --json --control c.sock -c f.toml",
    ] {
        let invocation = sender(line).unwrap();
        assert_eq!(invocation.file, Some(PathBuf::from("f.toml")), "{line}");
        assert_eq!(invocation.overrides.len(), 1, "{line}");
        assert_eq!(invocation.action, SenderAction::Status { json: true, watch: false }, "{line}");
    }
}

#[test]
fn unknown_options_are_rejected() {
    for option in ["--metrics=x", "--encrypt"] {
        let error = sender(&format!("nf-sender {option}")).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{option}");
    }
    assert!(sender("nf-sender join one two").is_err());
    let receiver = |line: &str| parse_receiver(line.split(' ').map(OsString::from));
    assert!(receiver("nf-receiver --reconnect").is_err());
    assert!(receiver("nf-receiver reconnect").is_err());
    assert_eq!(receiver("nf-receiver check").unwrap().action, ReceiverAction::Check);
}

#[test]
fn join_reads_standard_input_by_default() {
    let SenderAction::Join { token } = sender("nf-sender join").unwrap().action else { panic!("no join") };
    assert_eq!(token.as_str(), "-");
}

#[test]
fn a_token_is_kept_unchanged_and_hidden() {
    for typed in ["nft1_c2VjcmV0", "-", "--odd"] {
        let invocation = sender(&format!("nf-sender -c f.toml join {typed}")).unwrap();
        let SenderAction::Join { token } = &invocation.action else { panic!("{invocation:?}") };
        assert_eq!(token.as_str(), typed);
        assert!(!format!("{invocation:?}").contains(typed) || typed == "-", "{invocation:?}");
    }
}

#[test]
fn invite_takes_one_name_and_one_change() {
    let receiver = |line: &str| parse_receiver(line.split(' ').map(OsString::from));
    let invite = |address: Option<&str>, renew, revoke| ReceiverAction::Invite {
        id: "brno-edge".parse().unwrap(),
        address: address.map(str::to_owned),
        renew,
        revoke,
    };
    for (line, action) in [
        ("invite brno-edge", invite(None, false, false)),
        ("invite --address a:1 brno-edge", invite(Some("a:1"), false, false)),
        ("invite --renew brno-edge", invite(None, true, false)),
        ("invite brno-edge --revoke", invite(None, false, true)),
    ] {
        assert_eq!(receiver(&format!("nf-receiver {line}")).unwrap().action, action, "{line}");
    }
    for line in [
        "invite",
        "invite a b",
        "invite ../a",
        "invite a --renew --revoke",
        "invite a --revoke --address b:1",
    ] {
        assert!(receiver(&format!("nf-receiver {line}")).is_err(), "{line}");
    }
}

#[test]
fn the_help_names_options_variables_and_files() {
    let help = sender("nf-sender --help").unwrap_err().to_string();
    for arguments in [
        "--listen",
        "NF_SENDER_LISTEN",
        "--plaintext",
        "--control",
        "reconnect",
        "/etc/nf-sender/nf-sender.toml",
    ] {
        assert!(help.contains(arguments), "{arguments} is not in:\n{help}");
    }
}

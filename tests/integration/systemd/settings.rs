//! Settings of administrators: drop-ins of units, reloads, and mistakes.

use std::time::Duration;

use nf_transport_kit::collector::Inbox;
use nf_transport_kit::exporter::Exporters;
use nf_transport_kit::samples::count;

use crate::isolation::shared;
use crate::systemd::machine::Parts;
use crate::systemd::{EXPORTERS, MachinePair, lone, pattern};

#[test]
fn a_drop_in_adds_a_port() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    let collector = site.collector();
    let example = site.edge.sh("cat /usr/share/doc/nf-sender/examples/nf-sender-ports.conf");
    site.edge.edit("nf-sender.socket", &example);
    site.edge.sh("systemctl restart nf-sender.socket");
    let mut exporters =
        site.edge.inside(|| Exporters::new(0..EXPORTERS, "127.0.0.1:4739".parse().unwrap(), pattern()));
    exporters.send(10);
    site.assert_all_arrive(&exporters, &collector, true);
}

#[test]
fn a_drop_in_changes_the_receivers_port() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::new(&parts);
    site.center.edit("nf-receiver.socket", "[Socket]\nListenStream=\nListenStream=10.77.0.2:9000\n");
    site.center.sh("systemctl enable --quiet --now nf-receiver.socket");
    let token = site.center.sh("nf-receiver invite edge --address 10.77.0.2:9000");
    site.edge.sh_with("nf-sender join -", &token);
    site.edge.sh("systemctl start nf-sender");
    let status = site.edge.wait_status("nf-sender", |status| status["state"] == "connected");
    assert_eq!(status["receiver"], "10.77.0.2:9000");
}

#[test]
fn drop_ins_limit_exporters_and_senders() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    let limit = |address: &str| format!("[Socket]\nIPAddressDeny=any\nIPAddressAllow={address}\n");
    // Only the first exporter sends from this address.
    site.edge.edit("nf-sender.socket", &limit("127.0.0.2"));
    site.edge.sh("systemctl restart nf-sender.socket; systemctl start nf-sender");
    site.wait_connected();
    site.exporters().send(4 * 5);
    let received = site.edge.wait_status("nf-sender", |status| count(status, "/received/datagrams") >= 5);
    assert_eq!(received["exporters"].as_array().unwrap().len(), 1, "{received:#}");
    assert_eq!(received["exporters"][0]["address"], "127.0.0.2");

    site.center.edit("nf-receiver.socket", &limit("10.77.0.3"));
    site.center.sh("systemctl restart nf-receiver.socket");
    site.edge.wait_status("nf-sender", |status| status["state"] != "connected");
    site.edge.wait_journal("nf-sender", &["not connected to 10.77.0.2:2055", "no answer"]);
    site.center.edit("nf-receiver.socket", &limit("10.77.0.1"));
    site.center.sh("systemctl restart nf-receiver.socket");
    site.edge.sh("nf-sender reconnect");
    site.wait_connected();
}

#[test]
fn a_socket_of_the_wrong_kind_is_not_retried() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let machine = lone("wrong", &parts);
    machine.edit("nf-sender.socket", "[Socket]\nListenDatagram=\nListenStream=2055\n");
    machine.sh("systemctl start nf-sender.socket");
    machine.sh_fails("systemctl start nf-sender");
    let line =
        machine.wait_journal("nf-sender", &["file descriptor 3 (netflow) from systemd is a TCP socket"]);
    assert!(line.contains("correct ListenDatagram= and ListenStream= in the socket unit"), "{line}");
    machine.wait_property("nf-sender", "ActiveState", "failed");
    assert_eq!(machine.property("nf-sender", "ExecMainStatus"), "78");
    assert_eq!(machine.property("nf-sender", "NRestarts"), "0");
}

#[test]
fn a_reload_applies_collectors_keys_and_limits() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    let first = site.collector();
    let mut exporters = site.exporters();
    exporters.send(100);
    first.wait_for(100, Duration::from_secs(20));

    // Another collector: the first one keeps its datagrams, the second gets all later ones.
    let second = site.center.inside(|| Inbox::start("127.0.0.1:0"));
    let collectors = format!("[[collector]]\naddress = \"{}\"\n", second.addr());
    site.center.write("/etc/nf-receiver/nf-receiver.toml.d/collector.toml", &collectors);
    site.center.sh("systemctl reload nf-receiver");
    site.center.wait_status("nf-receiver", |status| {
        status["collectors"].as_array().unwrap().len() == 1
            && status["collectors"][0]["address"] == second.addr().to_string()
    });
    exporters.send(100);
    second.wait_for(100, Duration::from_secs(20));
    assert_eq!(first.arrived(), 100);

    // Other limits of the spool.
    site.edge.write("/etc/nf-sender/nf-sender.toml.d/limits.toml", "[spool]\nmax-size = \"128MiB\"\n");
    site.edge.sh("systemctl reload nf-sender");
    site.edge.wait_journal("nf-sender", &["reloaded", "limits of the spool"]);
    assert!(site.edge.sh("nf-sender check").contains("128MiB"));
    let connections = || {
        let journal = site.edge.journal("nf-sender", "-o cat");
        journal.lines().filter(|line| line.starts_with("connected to ")).count()
    };
    assert_eq!(connections(), 1, "neither was a change that a connection depends on");

    // Another key: the receiver accepts both, the sender changes to the new one, and the old one is removed.
    let token = site.center.sh("nf-receiver invite edge --renew --address 10.77.0.2:2055");
    site.edge.sh_with("nf-sender join -", &token);
    exporters.send(100);
    second.wait_for(200, Duration::from_secs(20));
    site.edge.wait_journal("nf-sender", &["reloaded: receivers, keys and timing of the uplink"]);

    assert_eq!(site.edge.property("nf-sender", "NRestarts"), "0");
    assert_eq!(count(&site.edge.status("nf-sender").unwrap(), "/received/datagrams"), 300);
}

#[test]
fn an_unrelated_reload_keeps_the_session() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    site.exporters().send(1);
    site.wait_connected();
    let sessions = || site.center.journal("nf-receiver", "-o cat").matches(" connected from ").count();
    let before = sessions();
    site.edge.write("/etc/nf-sender/nf-sender.toml.d/limits.toml", "[spool]\nmax-age = \"1h\"\n");
    site.center
        .write("/etc/nf-receiver/nf-receiver.toml.d/ciphers.toml", "ciphers = [\"chacha20-poly1305\"]\n");
    site.edge.sh("systemctl reload nf-sender");
    site.center.sh("systemctl reload nf-receiver");
    site.edge.wait_journal("nf-sender", &["reloaded"]);
    site.center.wait_journal("nf-receiver", &["reloaded"]);
    site.wait_connected();
    assert_eq!(sessions(), before);
    for (machine, service) in site.services() {
        assert_eq!(machine.property(service, "ActiveState"), "active");
        assert_eq!(machine.property(service, "SubState"), "running");
    }
}

#[test]
fn a_reload_names_settings_that_need_a_restart() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    site.edge.sh("systemctl start nf-sender");
    site.edge.write("/etc/nf-sender/nf-sender.toml.d/m.toml", "[metrics]\nlisten = \"127.0.0.1:9255\"\n");
    site.edge.sh("systemctl reload nf-sender");
    site.edge.wait_journal("nf-sender", &["restart", "metrics.listen"]);
}

#[test]
fn a_failed_reload_keeps_the_old_settings() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    site.exporters().send(1);
    site.wait_connected();
    for (machine, service) in site.services() {
        let path = format!("/etc/{service}/{service}.toml.d/typo.toml");
        machine.write(&path, "lisen = [\"[::]:2055\"]\n");
        machine.sh_fails(&format!("systemctl reload {service}"));
        let line = machine.wait_journal(service, &[&path, "lisen"]);
        assert!(line.contains(&format!("{path}:1: unknown key 'lisen'")), "{line}");
        assert_eq!(machine.property(service, "ActiveState"), "active");
        machine.wait_journal(service, &["not reloaded, everything stays as it was"]);
        let explained = machine.journal(service, "-x");
        assert!(explained.contains("has rejected a changed configuration"), "{explained}");
        // A signal has the same effect.
        machine.sh(&format!("rm {path}; kill -HUP {}", machine.property(service, "MainPID")));
        machine.wait_journal(service, &["reloaded: "]);
    }
    site.wait_connected();
}

#[test]
fn an_invalid_configuration_is_not_retried() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let machine = lone("typo", &parts);
    for service in ["nf-sender", "nf-receiver"] {
        machine.write(&format!("/etc/{service}/{service}.toml.d/typo.toml"), "listen = [\"[::]:70000\"]\n");
        machine.sh(&format!("systemctl start {service}.socket"));
        machine.sh_fails(&format!("systemctl start {service}"));
        machine.wait_property(service, "ActiveState", "failed");
        assert_eq!(machine.property(service, "ExecMainStatus"), "78");
        assert_eq!(machine.property(service, "NRestarts"), "0");
        let explained = machine.journal(service, "-x");
        for word in
            ["typo.toml", "70000", "cannot start because of an invalid setting", &format!("{service} check")]
        {
            assert!(explained.contains(word), "no {word:?} in\n{explained}");
        }
        let entry = machine.journal(service, "-o json -p err");
        let entry: serde_json::Value = serde_json::from_str(entry.lines().next().unwrap()).unwrap();
        assert_eq!(entry["PRIORITY"], "3");
        assert_eq!(entry["SYSLOG_IDENTIFIER"], service);
        assert!(entry["MESSAGE_ID"].is_string(), "{entry}");
        machine.sh(&format!("rm /etc/{service}/{service}.toml.d/typo.toml; systemctl start {service}"));
    }
}

#[test]
fn datagrams_wait_during_an_invalid_configuration() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    let collector = site.collector();
    site.edge.write("/etc/nf-sender/nf-sender.toml.d/typo.toml", "lisen = []\n");
    let mut exporters = site.exporters();
    exporters.send(1000);
    site.edge.wait_journal("nf-sender", &["unknown key 'lisen'"]);
    // Long enough for hundreds of starts.
    std::thread::sleep(Duration::from_secs(15));
    let journal = site.edge.journal("nf-sender", "-o cat");
    let starts = journal.matches("unknown key 'lisen'").count();
    assert!((1..=3).contains(&starts), "{starts} starts\n{journal}");
    assert_eq!(site.edge.property("nf-sender.socket", "ActiveState"), "active");
    exporters.send(1000);
    site.edge.sh("rm /etc/nf-sender/nf-sender.toml.d/typo.toml");
    site.assert_all_arrive(&exporters, &collector, true);
    assert_eq!(site.socket().figures().dropped, 0);
}

#[test]
fn the_environment_file_sets_options() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let machine = lone("named", &parts);
    machine
        .write("/etc/default/nf-sender", "NF_SENDER_OPTS=\"--id from-default --receiver 127.0.0.1:2055\"\n");
    machine
        .sh("systemctl enable --quiet --now nf-sender.socket nf-receiver.socket; systemctl start nf_sender");
    let status = machine.wait_status("nf-sender", |status| status["state"] == "connected");
    assert_eq!(status["id"], "from-default");
    machine.sh("systemctl stop nf-sender.socket nf_sender nf-receiver.socket nf_receiver");
    assert_eq!(machine.property("nf-sender", "ActiveState"), "inactive");
}

#[test]
fn keys_come_as_credentials() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::new(&parts);
    let key = site.center.sh("nf-receiver keygen");
    site.center.write("/etc/credstore/nf-receiver.key", &key);
    site.edge.write("/etc/credstore/nf-sender.key", &key);
    site.edge.write("/etc/credstore/nf-sender.spool-key", &site.edge.sh("nf-sender keygen"));
    let settings = "receivers = [\"10.77.0.2:2055\"]\n[spool]\nencrypt = true\n";
    site.edge.write("/etc/nf-sender/nf-sender.toml.d/here.toml", settings);
    for (machine, service) in [(&site.center, "nf-receiver"), (&site.edge, "nf-sender")] {
        machine.sh(&format!("systemd-tmpfiles --create {service}.conf; systemctl start {service}"));
        let mode = machine.sh(&format!("stat -c '%a %U' /etc/credstore/{service}.key"));
        assert_eq!(mode, "600 root\n");
    }
    let status = site.edge.wait_status("nf-sender", |status| status["state"] == "connected");
    assert_eq!(status["cipher"], "blowfish");
    // An administrator's commands find the entries, too.
    for (machine, service) in [(&site.center, "nf-receiver"), (&site.edge, "nf-sender")] {
        machine.sh(&format!("{service} check; systemctl reload {service}"));
        machine.wait_journal(service, &["reloaded: "]);
        machine.sh(&format!("systemctl stop {service}.socket {service}; {service} check"));
    }
}

#[test]
fn a_key_can_be_an_encrypted_credential() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::new(&parts);
    let key = site.center.sh("nf-receiver keygen");
    for (machine, service) in [(&site.center, "nf-receiver"), (&site.edge, "nf-sender")] {
        let encrypt = "systemd-creds encrypt --quiet --name=key -";
        let stored = format!("/etc/credstore.encrypted/{service}.key");
        machine.sh_with(&format!("mkdir -p /etc/credstore.encrypted; {encrypt} {stored}"), &key);
        let example = format!("/usr/share/doc/{service}/examples/{service}-encrypted-key.conf");
        machine.edit(&format!("{service}.service"), &machine.sh(&format!("cat {example}")));
    }
    site.edge.write("/etc/nf-sender/nf-sender.toml.d/here.toml", "receivers = [\"10.77.0.2:2055\"]\n");
    site.center.sh("systemctl start nf-receiver");
    site.edge.sh("systemctl start nf-sender");
    let status = site.edge.wait_status("nf-sender", |status| status["state"] == "connected");
    assert_eq!(status["cipher"], "blowfish");
}

#[test]
fn the_cap_net_raw_example_grants_nothing_else() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let machine = lone("raw", &parts);
    let example = "/usr/share/doc/nf-receiver/examples/nf-receiver-source-address.conf";
    machine.edit("nf-receiver.service", &machine.sh(&format!("cat {example}")));
    machine.sh("systemctl start nf-receiver");
    let pid = machine.property("nf-receiver", "MainPID");
    let process = machine.sh(&format!("cat /proc/{pid}/status"));
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        // CAP_NET_RAW is number 13, capabilities(7).
        assert!(process.contains(&format!("{set}:\t{:016x}", 1 << 13)), "{process}");
    }
}

#[test]
fn an_absent_receiver_never_stops_the_service() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let machine = lone("lonely", &parts);
    machine.write(
        "/etc/nf-sender/nf-sender.toml.d/here.toml",
        "receivers = [\"10.77.0.200:2055\", \"nowhere.invalid:2055\"]\nplaintext = true\n\
         [reconnect]\nfirst = \"100ms\"\nlongest = \"100ms\"\n",
    );
    machine.sh("systemctl start nf-sender");
    let began = machine.property("nf-sender", "MainPID");
    machine.wait_status("nf-sender", |status| status["state"] == "waiting");
    machine.wait_journal("nf-sender", &["not connected", "none of 2 receivers accepts the connection"]);
    assert_eq!(machine.property("nf-sender", "ActiveState"), "active");
    assert_eq!(machine.property("nf-sender", "MainPID"), began);
}

#[test]
fn journal_entries_have_search_fields() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let site = MachinePair::paired(&parts);
    site.exporters().send(1);
    site.wait_connected();
    site.center.wait_journal("nf-receiver", &["sender edge connected from"]);
    let found = site.center.journal("nf-receiver", "-o json SENDER=edge");
    let entry: serde_json::Value = serde_json::from_str(found.lines().next().unwrap()).unwrap();
    assert!(
        entry["MESSAGE"].as_str().unwrap().starts_with("sender edge connected from 10.77.0.1:"),
        "{entry}"
    );
    assert_eq!(entry["CIPHER"], "chacha20-poly1305");
    assert_eq!(entry["PRIORITY"], "5");
    let fields: Vec<&str> = entry.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(fields.contains(&"MESSAGE_ID") && fields.contains(&"_SYSTEMD_UNIT"), "{fields:?}");
}

#[test]
fn check_as_root_sees_what_the_service_sees() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let machine = lone("checked", &parts);
    for service in ["nf-sender", "nf-receiver"] {
        let good = machine.sh(&format!("{service} check"));
        assert!(
            good.contains(&format!(
                "the user {service} of {service}.service has access to all files and directories"
            )),
            "{good}"
        );

        machine.sh(&format!("{service} keygen /etc/{service}/root-key"));
        let drop_in = format!("/etc/{service}/{service}.toml.d/10.toml");
        machine.sh(&format!("mkdir -p /etc/{service}/{service}.toml.d"));
        machine.write(&drop_in, &format!("key-file = \"/etc/{service}/root-key\"\n"));
        let unreadable = machine.sh_fails(&format!("{service} check 2>&1"));
        assert!(unreadable.contains(&format!("cannot read it: Permission denied (os error 13): change its owner (chown {service} /etc/{service}/root-key)")), "{unreadable}");
        machine.sh(&format!("chown {service} /etc/{service}/root-key && {service} check"));

        machine.sh(&format!("install -d -o {service} -m 700 /srv/{service}"));
        let key = if service == "nf-sender" { "[spool]\ndirectory" } else { "state" };
        machine.write(&drop_in, &format!("{key} = \"/srv/{service}\"\n"));
        let forbidden = machine.sh_fails(&format!("{service} check 2>&1"));
        let remedy = format!("ReadWritePaths=/srv/{service}");
        assert!(forbidden.contains("cannot write there") && forbidden.contains(&remedy), "{forbidden}");
        machine.edit(&format!("{service}.service"), &format!("[Service]\n{remedy}\n"));
        machine.sh(&format!("{service} check"));
        machine.sh(&format!("chown root /srv/{service}"));
        let not_its_own = machine.sh_fails(&format!("{service} check 2>&1"));
        assert!(
            not_its_own.contains(&format!("cannot write to /srv/{service}: Permission denied")),
            "{not_its_own}"
        );
    }
}

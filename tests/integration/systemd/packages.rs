//! The packages: results of their checkers, installed files, and leftovers.

use std::path::Path;
use std::process::Command;

use crate::isolation::shared;
use crate::systemd::lone;
use crate::systemd::machine::{Machine, Network, Parts};

/// Files of both packages except documentation.
fn files(service: &str, options: &str, units: &str, zsh: &str) -> Vec<String> {
    [
        format!("/etc/{service}/{service}.toml"),
        format!("/etc/{options}/{service}"),
        format!("{units}/{service}.service"),
        format!("{units}/{service}.socket"),
        format!("/usr/lib/systemd/catalog/{service}.catalog"),
        format!("/usr/lib/sysusers.d/{service}.conf"),
        format!("/usr/lib/tmpfiles.d/{service}.conf"),
        format!("/usr/sbin/{service}"),
        format!("/usr/share/bash-completion/completions/{service}"),
        format!("/usr/share/fish/vendor_completions.d/{service}.fish"),
        format!("/usr/share/zsh/{zsh}/_{service}"),
        format!("/usr/share/man/man8/{service}.8"),
        format!("/usr/share/man/man5/{service}.toml.5"),
        format!("/usr/share/man/man7/nf-transport.7{service}"),
        format!("/usr/share/doc/{service}/docs/install.md"),
    ]
    .into()
}

/// Returns the inode of the socket that nf-sender.socket holds.
const SOCKET: &str = "ss --udp --listening --no-header --extended 'sport = :2055' | grep -o 'ino:[0-9]*'";

fn checker(program: &str, args: &[&str], files: &[&Path]) {
    let output = Command::new(program).args(args).args(files).output().unwrap();
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program}:\n{printed}");
}

#[test]
fn lintian_and_rpmlint_are_satisfied() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let changes = parts.files("deb", ".changes");
    checker("lintian", &["--fail-on", "error,warning", "--allow-root"], &[&changes[0]]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = source.join("rpm/rpmlint.toml");
    let rpms = [parts.rpms(), parts.files("rpm/SRPMS", ".rpm")].concat();
    let spec = source.join("rpm/nf-transport.spec");
    let files: Vec<&Path> = rpms.iter().map(AsRef::as_ref).chain([spec.as_path()]).collect();
    checker("rpmlint", &["--strict", "--config", config.to_str().unwrap()], &files);
}

/// Asserts that nothing runs, listens or fails without being enabled, and that the users exist.
fn assert_installed_and_asleep(machine: &Machine, files: &[String]) {
    for file in files {
        machine.sh(&format!("test -e {file} || test -e {file}.gz || {{ echo no {file} >&2; exit 1; }}"));
    }
    for service in ["nf-sender", "nf-receiver"] {
        for unit in [format!("{service}.socket"), format!("{service}.service")] {
            assert_eq!(machine.property(&unit, "LoadState"), "loaded", "{unit}");
            assert_eq!(machine.property(&unit, "ActiveState"), "inactive", "{unit}");
            assert_eq!(machine.property(&unit, "UnitFileState"), "disabled", "{unit}");
        }
        let user = machine.sh(&format!("getent passwd {service}"));
        assert!(user.contains(&format!(":/var/lib/{service}:/usr/sbin/nologin")), "{user}");
        let printed = machine.sh(&format!("{service} check"));
        assert!(printed.contains(&format!("/etc/{service}/{service}.toml")), "{printed}");
    }
}

#[test]
fn debian_packages_install_and_purge() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let mut machine = Machine::fresh("fresh", "10.77.0.9/24", &Network::new(), &parts.root);
    machine.boot();
    let failed_before = machine.sh("systemctl --failed --plain --no-legend");
    machine.install(&parts.debs());
    let all = ["nf-sender", "nf-receiver"]
        .map(|service| files(service, "default", "/lib/systemd/system", "vendor-completions"));
    assert_installed_and_asleep(&machine, &all.concat());
    assert_eq!(machine.sh("systemctl --failed --plain --no-legend"), failed_before);

    machine.sh("systemctl enable --now nf-sender.socket nf-receiver.socket");
    for service in ["nf-sender", "nf-receiver"] {
        assert_eq!(machine.property(&format!("{service}.service"), "UnitFileState"), "enabled");
        assert_eq!(machine.property(&format!("{service}.socket"), "ActiveState"), "active");
    }
    // A datagram that is spooled and never delivered.
    machine.sh("echo unsent > /root/datagram; nc -u -N -w 1 127.0.0.1 2055 < /root/datagram");
    machine.wait_status("nf-sender", |status| status["queued"]["datagrams"] == 1);
    machine.sh("systemctl start nf-receiver");

    machine.sh("dpkg --remove nf-sender nf-receiver");
    for service in ["nf-sender", "nf-receiver"] {
        machine.sh_fails(&format!("pgrep {service}"));
        assert_eq!(machine.property(&format!("{service}.socket"), "ActiveState"), "inactive");
    }
    let printed = machine.sh("dpkg --purge nf-sender nf-receiver 2>&1");
    assert!(
        printed.contains("datagrams that were never delivered") && printed.contains("rm -r"),
        "{printed}"
    );
    machine.sh("ls /var/lib/nf-sender/*.segment; test ! -e /var/lib/nf-receiver; test ! -e /etc/nf-receiver");
    assert_eq!(machine.sh("find /etc/systemd -name 'nf[-_]*'"), "", "links are left");

    // After a new installation the service recovers the kept spool. Once the spool is empty, a purge leaves
    // nothing.
    machine.install(&parts.debs());
    machine.sh("systemctl start nf-sender");
    assert_eq!(machine.status("nf-sender").unwrap()["recovered"]["datagrams"], 1);
    machine.sh("systemctl stop nf-sender.socket nf-sender; rm /var/lib/nf-sender/*.segment");
    machine.sh("dpkg --purge nf-sender");
    machine.sh("test ! -e /var/lib/nf-sender; test ! -e /etc/nf-sender");
}

#[test]
fn rpms_install_and_keep_data_when_erased() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let mut machine = Machine::fresh("fedora", "10.77.0.9/24", &Network::new(), &parts.root);
    machine.boot();
    // As usual on distributions with RPM, installation enables nothing.
    machine.write("/etc/systemd/system-preset/99-default.preset", "disable *\n");
    let rpms: Vec<String> = parts.rpms().iter().map(|path| machine.put(path)).collect();
    // The machine's own packages come from Debian, and rpm does not know them.
    machine.sh(&format!("rpm --install --nodeps {}", rpms.join(" ")));
    let units = "/usr/lib/systemd/system";
    let all =
        ["nf-sender", "nf-receiver"].map(|service| files(service, "sysconfig", units, "site-functions"));
    assert_installed_and_asleep(&machine, &all.concat());
    machine.sh("rpm --verify --nodeps nf-sender nf-receiver");
    let marked = machine.sh("rpm -q --configfiles nf-sender");
    assert_eq!(marked, "/etc/nf-sender/nf-sender.toml\n/etc/sysconfig/nf-sender\n");

    machine.write("/etc/sysconfig/nf-sender", "NF_SENDER_OPTS=\"--id from-sysconfig\"\n");
    machine.sh("systemctl enable --now nf-sender.socket; systemctl start nf_sender");
    assert_eq!(machine.status("nf-sender").unwrap()["id"], "from-sysconfig");
    machine.sh("echo unsent > /root/datagram; nc -u -N -w 1 127.0.0.1 2055 < /root/datagram");
    machine.wait_status("nf-sender", |status| status["queued"]["datagrams"] == 1);

    // An upgrade (here to the same version) restarts the service and keeps the socket.
    let (process, socket) = (machine.property("nf-sender", "MainPID"), machine.sh(SOCKET));
    machine.sh(&format!("rpm --upgrade --force --nodeps {}", rpms.join(" ")));
    assert_ne!(machine.property("nf-sender", "MainPID"), process);
    assert_eq!(machine.sh(SOCKET), socket);
    let status = machine.wait_status("nf-sender", |status| status["queued"]["datagrams"] == 1);
    assert_eq!((&status["id"], &status["recovered"]["datagrams"]), (&"from-sysconfig".into(), &1.into()));
    assert_eq!(machine.property("nf-sender.socket", "UnitFileState"), "enabled");

    machine.sh("rpm --erase --nodeps nf-sender nf-receiver");
    machine.sh_fails("pgrep nf-sender");
    machine.sh("ls /var/lib/nf-sender/*.segment; test ! -e /usr/sbin/nf-sender");
    assert_eq!(machine.sh("find /etc/systemd -name 'nf[-_]*'"), "", "links are left");
}

#[test]
fn the_debian_packages_own_test_passes() {
    let _running = shared();
    let Some(parts) = Parts::find() else { return };
    let machine = lone("tested", &parts);
    let script = machine.put(&Path::new(env!("CARGO_MANIFEST_DIR")).join("debian/tests/pair"));
    let printed = machine.sh(&format!("sh {script}"));
    assert!(printed.contains("192.0.2.1:1111"), "{printed}");
}

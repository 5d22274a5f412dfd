//! `make deny` checks advisories whenever their database can be reached.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Writes an executable shell script to `path`.
fn program(path: &Path, script: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs `make deny` with these scripts for `cargo deny fetch` and `git ls-remote`. Returns whether it
/// succeeds, and its output.
fn deny(fetch: &str, ls_remote: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let (cargo, git) = (directory.path().join("cargo"), directory.path().join("git"));
    program(&cargo, &format!("case \"$2 $3\" in 'fetch db') {fetch};; *) echo \"ran $*\";; esac"));
    program(&git, ls_remote);
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new("make")
        .args(["--no-print-directory", "-C", env!("CARGO_MANIFEST_DIR"), "deny"])
        .arg(format!("CARGO={}", cargo.display()))
        .env("PATH", path)
        .env_remove("MAKEFLAGS")
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn fetched_advisories_are_checked() {
    let (is_good, output_text) = deny("true", "false");
    assert!(is_good && output_text.contains("ran deny check advisories"), "{output_text}");
    assert!(!output_text.contains("not checked"), "{output_text}");
}

#[test]
fn reachable_advisories_must_be_fetched() {
    let (is_good, output_text) = deny("echo 'broken index'; exit 1", "echo abc HEAD");
    assert!(
        !is_good && output_text.contains("broken index") && output_text.contains("could not be fetched"),
        "{output_text}"
    );
}

#[test]
fn unreachable_advisories_are_reported() {
    let (is_good, output_text) = deny("exit 1", "echo 'fatal: Could not resolve host' >&2; exit 128");
    assert!(is_good, "{output_text}");
    let line = output_text.lines().last().unwrap();
    assert!(
        line.starts_with("deny: advisories not checked: ") && line.ends_with("Could not resolve host"),
        "{line}"
    );
}

//! Scheduling of tests: most run in parallel, those that load the machine run alone, and some need their own
//! network namespace.
#![expect(clippy::disallowed_types, reason = "a failed test panics without a daemon's abort")]

use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// Returns a guard for a test that runs in parallel with others.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a guard for a test that needs the whole machine.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the ignored `test` in a new network namespace that the shell command `setup` configures. Needs root.
/// Otherwise it prints that the test is skipped, or fails in continuous integration (`CI=true`).
pub(crate) fn in_a_network(setup: &str, test: &str) {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "needs root to create a network namespace");
        eprintln!("skipped: needs root to create a network namespace");
        return;
    }
    let script = format!("{setup}; exec \"$0\" --exact --ignored --nocapture \"$1\"");
    let inside = Command::new("unshare")
        .args(["--net", "sh", "-ec", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .output()
        .unwrap();
    let [stdout, stderr] =
        [&inside.stdout, &inside.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(inside.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
    eprint!("{stderr}");
}

//! Where and when tests run: most may run beside each other, those that load the machine run alone, and some need a
//! network of their own.

use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// For a test that other tests may run beside.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that needs the machine for itself.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the ignored `test` in a network namespace of its own, which the shell command `setup` sets up. Takes root; without
/// it, says that the test is skipped, or fails where continuous integration runs (`CI=true`).
pub(crate) fn in_a_network(setup: &str, test: &str) {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "needs root to make a network namespace");
        eprintln!("skipped: needs root to make a network namespace");
        return;
    }
    let script = format!("{setup}; exec \"$0\" --exact --ignored --nocapture \"$1\"");
    let inside = Command::new("unshare")
        .args(["--net", "sh", "-ec", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .output()
        .unwrap();
    let [said, remarks] =
        [&inside.stdout, &inside.stderr].map(|said| String::from_utf8_lossy(said).into_owned());
    assert!(inside.status.success() && said.contains("1 passed"), "{said}{remarks}");
    eprint!("{remarks}");
}

//! Helpers on the host: control groups, user namespaces, commands, waits and leftovers of earlier runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Finds the unified control group hierarchy.
pub(super) fn cgroups() -> PathBuf {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if unified.is_dir() { unified } else { "/sys/fs/cgroup".into() }
}

/// Removes control groups from the leaves up. Those in use stay.
pub(super) fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    drop(fs::remove_dir(group));
}

/// Maps all users and groups into the user namespace that a process is about to create.
pub(super) fn map_users(process: u32) {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).unwrap();
    let process = process.to_string();
    wait_for("a user namespace", || (namespace(&process) != namespace("self")).then_some(()));
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{process}/{map}"), "0 0 4294967295").unwrap();
    }
}

pub(super) fn call(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(super) fn wait_for<T>(name: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_for_or(name, PATIENCE, String::new, look)
}

/// Polls until a value is available. Panics with `picture` after `patience`.
pub(super) fn wait_for_or<T>(
    name: &str,
    patience: Duration,
    picture: impl Fn() -> String,
    look: impl FnMut() -> Option<T>,
) -> T {
    look_for(patience, look).unwrap_or_else(|| panic!("no {name} within {patience:?}\n{}", picture()))
}

/// Polls until a value is available, for at most `patience`.
pub(super) fn look_for<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Removes the leftovers of killed runs: networks and disks named after the process.
pub(super) fn sweep() {
    let is_left = |name: &str| {
        let process = name.strip_prefix("nf-")?.split('-').next()?;
        process.parse::<u32>().ok()?;
        (!Path::new("/proc").join(process).exists()).then_some(())
    };
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| is_left(name).is_some()).collect()
    };
    for name in names(Path::new("/run/netns")) {
        drop(Command::new("ip").args(["netns", "del", &name]).output());
    }
    let disks = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for name in names(disks) {
        drop(Command::new("umount").arg("-l").arg(disks.join(&name)).output());
        drop(fs::remove_dir(disks.join(&name)));
    }
    for name in names(&cgroups()) {
        remove_group(&cgroups().join(name));
    }
}

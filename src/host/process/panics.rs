//! Ends the process when any thread panics. Both daemons are designed to survive a kill. Without one of its
//! threads, a daemon would lose datagrams uncounted.

use std::backtrace::Backtrace;
use std::{panic, process};

use crate::host::process::logging;

/// Makes each panic log its message and place, and end the process (SIGABRT), in all builds. `message_id` is
/// the id in the journal's catalog.
pub fn abort_on_panic(message_id: &'static str) {
    panic::set_hook(Box::new(move |info| {
        let backtrace = Backtrace::force_capture();
        tracing::error!(
            message_id,
            %backtrace,
            "{info}; this is a bug: the process aborts, and the service manager restarts it; please report \
             this bug"
        );
        logging::finish();
        process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::thread;

    use super::*;

    const INSIDE: &str = "host::process::panics::tests::inside_a_process_with_a_thread_that_panics";

    #[test]
    fn a_panic_is_logged_and_ends_the_process() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", INSIDE, "--nocapture"]).env("PANICS", "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(log.contains("ERROR") && log.contains("a thread fell"), "{log}");
        assert!(log.contains("this is a bug") && !log.contains("went on"), "{log}");
    }

    #[test]
    fn inside_a_process_with_a_thread_that_panics() {
        if std::env::var_os("PANICS").is_none() {
            return;
        }
        logging::start();
        abort_on_panic("");
        let _fell = thread::spawn(|| panic!("a thread fell")).join();
        tracing::error!("the process went on");
        logging::finish();
    }
}

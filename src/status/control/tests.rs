use std::thread;

use serde_json::json;
use tempfile::TempDir;

use super::*;

fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("run/control.sock");
    (directory, path)
}

/// Runs `ask` while a service listens on `path`, in a runtime that ends with the reply.
fn asked(path: &Path, ask: impl FnOnce(&Path) -> Result<serde_json::Value, ControlError> + Send) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let socket = ControlSocket::bind(path).unwrap();
    runtime.spawn(socket.serve(|request| match request {
        Request::Status => Reply::Ok(json!({"service": "test"})),
        Request::Configuration => Reply::Ok(json!("/etc/test.toml")),
        Request::Reconnect => Reply::Error("there is nothing to connect to".to_owned()),
        Request::Reload => Reply::Ok(json!(null)),
    }));
    let answer = thread::scope(|scope| scope.spawn(|| ask(path)).join().unwrap());
    answer.map_or_else(|error| error.to_string(), |value| value.to_string())
}

#[test]
fn a_request_gets_its_reply() {
    let (_directory, path) = place();
    assert_eq!(asked(&path, |path| request(path, Request::Status)), r#"{"service":"test"}"#);
    assert!(!path.exists());
    assert_eq!(asked(&path, |path| request(path, Request::Reload)), "null");
    assert_eq!(
        asked(&path, |path| request(path, Request::Reconnect)),
        "request rejected: there is nothing to connect to"
    );
}

#[test]
fn invalid_requests_get_an_error() {
    for sent in ["restart\n".to_owned(), "x".repeat(5_000)] {
        let (_directory, path) = place();
        let answer = asked(&path, |path| {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(sent.as_bytes()).unwrap();
            let mut reply = String::new();
            BufReader::new(stream).read_line(&mut reply).unwrap();
            Ok(serde_json::from_str(&reply).unwrap())
        });
        assert_eq!(
            answer,
            r#"{"error":"unknown request; known requests: status, configuration, reconnect, reload"}"#
        );
    }
}

#[test]
fn the_socket_is_for_its_user_and_group_only() {
    let (_directory, path) = place();
    let _socket = ControlSocket::bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn a_missing_socket_names_the_remedy() {
    let (_directory, path) = place();
    assert_eq!(
        request(&path, Request::Status).unwrap_err().to_string(),
        format!(
            "{}: no control socket: start the service, or name another socket with --control",
            path.display()
        )
    );
}

#[test]
fn a_stale_socket_is_detected_and_replaced() {
    let (_directory, path) = place();
    fs::create_dir(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    let refused = request(&path, Request::Status).unwrap_err();
    assert!(matches!(refused, ControlError::NotListening { .. }), "{refused}");
    ControlSocket::bind(&path).unwrap();
}

#[test]
fn a_socket_in_use_is_not_replaced() {
    let (_directory, path) = place();
    let _first = ControlSocket::bind(&path).unwrap();
    let refused = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(refused, ControlError::Taken { .. }), "{refused}");
    assert!(path.exists());
}

#[test]
fn a_file_in_place_of_the_socket_is_kept() {
    let (directory, _) = place();
    let path = directory.path().join("file");
    fs::write(&path, "precious").unwrap();
    let refused = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(refused, ControlError::NotASocket { .. }), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn an_invalid_reply_is_rejected() {
    for (answer, expected) in [("", "EOF while parsing"), ("HTTP/1.1 400\n", "expected value")] {
        let (_directory, path) = place();
        fs::create_dir(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let refused = request(&path, Request::Status).unwrap_err().to_string();
        served.join().unwrap();
        assert!(refused.contains("invalid reply, from another program"), "{refused}");
        assert!(refused.contains(expected), "{refused}");
    }
}

fn group_name(group: u32) -> String {
    Group::from_gid(Gid::from_raw(group)).unwrap().unwrap().name
}

#[test]
fn a_service_that_does_not_answer_is_named() {
    let (_directory, path) = place();
    let _socket = ControlSocket::bind(&path).unwrap();
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(
        explained(&path, io::ErrorKind::WouldBlock.into()).to_string(),
        format!(
            "{} (pid {}) does not answer: its systemd unit restarts it within 30 s if it stays hung",
            name.trim_end(),
            std::process::id()
        )
    );
}

#[test]
fn a_denied_socket_names_its_group() {
    let refused = explained(Path::new("/run/c.sock"), io::ErrorKind::PermissionDenied.into());
    assert_eq!(refused.to_string(), "/run/c.sock: permission denied: run as root");
    let (_directory, path) = place();
    let _socket = ControlSocket::bind(&path).unwrap();
    if std::os::unix::fs::chown(&path, None, Some(1)).is_ok() {
        let (group, user) = (group_name(1), User::from_uid(Uid::effective()).unwrap().unwrap().name);
        assert_eq!(
            explained(&path, io::ErrorKind::PermissionDenied.into()).to_string(),
            format!(
                "{}: permission denied: run as root, or join group {group} (usermod -aG {group} {user})",
                path.display()
            )
        );
    }
}

#[test]
fn status_is_printed_as_a_table_or_as_json() {
    use std::sync::Mutex;

    use crate::status::{StatusFormat, Tally, show};

    let (_directory, path) = place();
    let shown = |json| {
        let printed = Mutex::new(String::new());
        let answer = asked(&path, |path| {
            show(
                path,
                StatusFormat { json, watch: false },
                |tally: &Tally, _| tally.datagrams.to_string(),
                |text| {
                    printed.lock().unwrap().push_str(text);
                    Ok(())
                },
                |error| error,
            )?;
            Ok(serde_json::Value::Null)
        });
        (answer, printed.into_inner().unwrap())
    };
    assert_eq!(shown(true), ("null".to_owned(), "{\"service\":\"test\"}\n".to_owned()));
    let (refused, printed) = shown(false);
    assert!(refused.contains("missing field `datagrams`") && printed.is_empty(), "{refused}");
}

#[test]
fn the_process_that_listens_is_known() {
    let (_directory, path) = place();
    assert_eq!(serving_process(&path), None);
    let socket = ControlSocket::bind(&path).unwrap();
    assert_eq!(serving_process(&path), Some(std::process::id()));
    drop(socket);
    assert_eq!(serving_process(&path), None);
}

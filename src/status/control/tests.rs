use std::thread;

use serde_json::json;
use tempfile::TempDir;

use super::*;

fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("run/control.sock");
    (directory, path)
}

/// Asks while a service serves at `path`, in a runtime that ends with the answer.
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
        "the service refused: there is nothing to connect to"
    );
}

#[test]
fn what_is_no_request_is_answered_with_an_error_and_its_length_is_bounded() {
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
            r#"{"error":"unknown request; known are: status, configuration, reconnect, reload"}"#
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
fn a_socket_that_is_not_there_says_what_to_do() {
    let (_directory, path) = place();
    assert_eq!(
        request(&path, Request::Status).unwrap_err().to_string(),
        format!(
            "{}: no control socket is there: is the service running? --control names another socket",
            path.display()
        )
    );
}

#[test]
fn a_socket_left_behind_is_told_apart_and_replaced() {
    let (_directory, path) = place();
    fs::create_dir(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    let refused = request(&path, Request::Status).unwrap_err();
    assert!(matches!(refused, ControlError::NobodyAnswers { .. }), "{refused}");
    ControlSocket::bind(&path).unwrap();
}

#[test]
fn a_socket_that_somebody_serves_is_not_taken_away() {
    let (_directory, path) = place();
    let _first = ControlSocket::bind(&path).unwrap();
    let refused = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(refused, ControlError::Taken { .. }), "{refused}");
    assert!(path.exists());
}

#[test]
fn a_file_in_the_way_is_left_alone() {
    let (directory, _) = place();
    let path = directory.path().join("file");
    fs::write(&path, "precious").unwrap();
    let refused = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(refused, ControlError::InTheWay { .. }), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn an_answer_that_is_none_is_refused() {
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
        assert!(refused.contains("what answers there is not this service"), "{refused}");
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn a_socket_that_is_not_permitted_says_who_may() {
    let refused = explained(Path::new("/run/c.sock"), io::ErrorKind::PermissionDenied.into());
    assert_eq!(
        refused.to_string(),
        "/run/c.sock: this user may not use the control socket: ask as root or as a member of the group \
         that owns it"
    );
}

#[test]
fn status_is_shown_as_a_table_or_as_json_and_what_has_another_shape_is_refused() {
    use std::sync::Mutex;

    use crate::status::{Manner, Tally, show};

    let (_directory, path) = place();
    let shown = |json| {
        let printed = Mutex::new(String::new());
        let answer = asked(&path, |path| {
            show(
                path,
                Manner { json, watch: false },
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
fn the_process_that_serves_the_socket_is_known_while_it_does() {
    let (_directory, path) = place();
    assert_eq!(serving_process(&path), None);
    let socket = ControlSocket::bind(&path).unwrap();
    assert_eq!(serving_process(&path), Some(std::process::id()));
    drop(socket);
    assert_eq!(serving_process(&path), None);
}

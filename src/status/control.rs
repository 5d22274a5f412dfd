//! The control socket: a Unix stream socket that answers one request line with one line of JSON.
//!
//! A request is `status`, `configuration`, `reconnect` or `reload`; a reply is `{"ok": …}` or `{"error": "…"}`. Length and time of both are
//! bounded on both sides, so neither can hold the other up. Each process has one request at a time, and the newest of all are
//! answered: idle connections keep nobody out.

pub(crate) mod apply;

use core::str::FromStr;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::host::{Choice, Places};
use crate::limits::{
    ACCEPT_REST, CONTROL_CONNECTIONS, CONTROL_REPLY_MAX, CONTROL_REQUEST_MAX, CONTROL_TIMEOUT,
};

/// What a service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Its status.
    Status,
    /// The path of its configuration file.
    Configuration,
    /// To connect now.
    Reconnect,
    /// To take up its configuration as it is now.
    Reload,
}

impl Request {
    fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Configuration => "configuration",
            Self::Reconnect => "reconnect",
            Self::Reload => "reload",
        }
    }
}

impl FromStr for Request {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Status, Self::Configuration, Self::Reconnect, Self::Reload]
            .into_iter()
            .find(|request| request.word() == word)
            .ok_or_else(|| "unknown request; known are: status, configuration, reconnect, reload".to_owned())
    }
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// It was done; with what was asked for, if anything was.
    Ok(serde_json::Value),
    /// It was not done, and why.
    Error(String),
}

/// What goes wrong at a control socket, on either side.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no socket.
    #[error(
        "{}: no control socket is there: is the service running? --control names another socket",
        path.display()
    )]
    NotThere {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is one, but nobody behind it.
    #[error("{}: nobody answers at this control socket: the service is not running", path.display())]
    NobodyAnswers {
        /// Where it is.
        path: PathBuf,
    },
    /// Its permissions keep this user out.
    #[error(
        "{}: this user may not use the control socket: ask as root or as a member of the group that owns it",
        path.display()
    )]
    NotPermitted {
        /// Where it is.
        path: PathBuf,
    },
    /// The answer is none.
    #[error("{}: what answers there is not this service, or of another version: {reason}", path.display())]
    Nonsense {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The service runs, but does not do it.
    #[error("the service refused: {0}")]
    Refused(String),
    /// Another process serves this path already.
    #[error("{}: another process answers at this control socket: is the service running already?", path.display())]
    Taken {
        /// Where it is.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("{}: this is no socket: remove it, or name another path for the control socket", path.display())]
    InTheWay {
        /// Where it is.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{}: the control socket cannot be {operation}: {source}: --control names another one", path.display())]
    Io {
        /// Where it is, or should be.
        path: PathBuf,
        /// What failed.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A control socket that this process serves. Its file goes when it goes.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ControlSocket {
    /// Takes `path`, with mode 0660. Its directory is created if it is missing; a socket that nobody answers at
    /// is replaced.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |operation| move |source| ControlError::Io { path: path.to_owned(), operation, source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("given a directory"))?;
        }
        make_way(path)?;
        let listener = UnixListener::bind(path).map_err(failed("created"))?;
        let socket = Self { path: path.to_owned(), listener };
        fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("given its mode"))?;
        socket.listener.set_nonblocking(true).map_err(failed("served"))?;
        Ok(socket)
    }

    /// Answers requests by `handler` until dropped. To be called within a tokio runtime.
    pub async fn serve(
        self,
        handler: impl Fn(Request) -> Reply + Clone + Send + 'static,
    ) -> Result<(), ControlError> {
        let failed = |source| ControlError::Io { path: self.path.clone(), operation: "served", source };
        let listener =
            self.listener.try_clone().and_then(tokio::net::UnixListener::from_std).map_err(failed)?;
        let places = Places::new(CONTROL_CONNECTIONS, 1, Choice::Oldest);
        let mut is_failing = false;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => {
                    is_failing = false;
                    stream
                }
                Err(error) => {
                    if !core::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "the control socket cannot accept connections: {error}");
                    }
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let mut place = places.enter(process_of(&stream), ());
            let handler = handler.clone();
            tokio::spawn(async move {
                let outcome = tokio::select! {
                    outcome = timeout(CONTROL_TIMEOUT, answer(stream, handler)) => outcome,
                    () = place.lost() => {
                        tracing::debug!("a control request made room for a newer one");
                        return;
                    }
                };
                match outcome {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!("a control request was not answered: {error}"),
                    Err(_) => tracing::debug!("a control request took too long"),
                }
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("the control socket was not removed: {error}");
        }
    }
}

/// Removes the socket of a service that is gone.
fn make_way(path: &Path) -> Result<(), ControlError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(ControlError::InTheWay { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|source| ControlError::Io { path: path.to_owned(), operation: "replaced", source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(ControlError::Taken { path: path.to_owned() }),
    }
}

/// The user and the process that connected, as far as the kernel names them.
fn process_of(stream: &tokio::net::UnixStream) -> Option<(u32, Option<i32>)> {
    stream.peer_cred().ok().map(|peer| (peer.uid(), peer.pid()))
}

async fn answer(mut stream: tokio::net::UnixStream, handler: impl Fn(Request) -> Reply) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    tokio::io::BufReader::new(reader.take(CONTROL_REQUEST_MAX)).read_until(b'\n', &mut line).await?;
    let request = str::from_utf8(&line).unwrap_or_default().trim_end().parse();
    let reply = request.map_or_else(Reply::Error, handler);
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// Asks the service whose control socket is at `path`. Blocks until it has answered, for at most some seconds.
pub fn request(path: &Path, request: Request) -> Result<serde_json::Value, ControlError> {
    let mut reply = String::new();
    exchange(path, request, &mut reply).map_err(|source| explained(path, source))?;
    let nonsense = |reason: String| ControlError::Nonsense { path: path.to_owned(), reason };
    match serde_json::from_str(&reply).map_err(|error| nonsense(error.to_string()))? {
        Reply::Ok(value) => Ok(value),
        Reply::Error(reason) => Err(ControlError::Refused(reason)),
    }
}

fn exchange(path: &Path, request: Request, reply: &mut String) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(CONTROL_TIMEOUT))?;
    stream.set_write_timeout(Some(CONTROL_TIMEOUT))?;
    writeln!(stream, "{}", request.word())?;
    BufReader::new(stream.take(CONTROL_REPLY_MAX)).read_line(reply).map(drop)
}

/// The process that serves the control socket at `path`; `None` if there is none, or none that can be seen from here. It is
/// asked nothing.
pub fn serving_process(path: &Path) -> Option<u32> {
    let stream = UnixStream::connect(path).ok()?;
    // The process that began to listen; 0 if it is in another pid namespace.
    let process = getsockopt(&stream, PeerCredentials).ok()?.pid();
    u32::try_from(process).ok().filter(|process| *process > 0)
}

fn explained(path: &Path, source: io::Error) -> ControlError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => ControlError::NotThere { path },
        io::ErrorKind::ConnectionRefused => ControlError::NobodyAnswers { path },
        io::ErrorKind::PermissionDenied => ControlError::NotPermitted { path },
        io::ErrorKind::InvalidData => ControlError::Nonsense { path, reason: source.to_string() },
        _ => ControlError::Io { path, operation: "asked", source },
    }
}

#[cfg(test)]
mod tests;

//! The control socket: a Unix stream socket that answers one request line with one line of JSON.
//!
//! A request is `status`, `configuration`, `reconnect` or `reload`. A reply is `{"ok": …}` or `{"error": "…"}`.
//! Length and time of both are bounded on both sides, so neither can block the other. Each process has one
//! request at a time. A new connection evicts the oldest, so idle connections block no other process.

pub(crate) mod apply;

use core::str::FromStr;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::host::{Eviction, Places};
use crate::limits::{
    ACCEPT_PAUSE, CONTROL_CONNECTIONS, CONTROL_REPLY_MAX, CONTROL_REQUEST_MAX, CONTROL_TIMEOUT,
};

/// A request to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Return the status.
    Status,
    /// Return the path of the configuration file.
    Configuration,
    /// Reconnect now.
    Reconnect,
    /// Reload the configuration.
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
            .ok_or_else(|| {
                "unknown request; known requests: status, configuration, reconnect, reload".to_owned()
            })
    }
}

/// The reply of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// Success, with the requested value, if any.
    Ok(serde_json::Value),
    /// Failure, with the reason.
    Error(String),
}

/// Errors at a control socket, on either side.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket does not exist.
    #[error(
        "{}: no control socket: start the service, or name another socket with --control",
        path.display()
    )]
    Missing {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The socket exists, but no process listens on it.
    #[error("{}: no process listens on this control socket: the service is not running", path.display())]
    NotListening {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The permissions of the socket deny this user access.
    #[error("{}: permission denied: {remedy}", path.display())]
    NotPermitted {
        /// The path of the socket.
        path: PathBuf,
        /// The ways to get access, for this user and the group of the socket.
        remedy: String,
    },
    /// The service accepted the connection and does not answer in time.
    #[error("{service} does not answer: its systemd unit restarts it within 30 s if it stays hung")]
    NotResponding {
        /// The name and the process id of the service, as far as they are known, else its socket.
        service: String,
    },
    /// The reply is invalid.
    #[error("{}: invalid reply, from another program or another version of the service: \
             {reason}", path.display())]
    InvalidReply {
        /// The path of the socket.
        path: PathBuf,
        /// The problem of the reply.
        reason: String,
    },
    /// The service rejected the request.
    #[error("request rejected: {0}")]
    Rejected(String),
    /// Another process already listens on the path.
    #[error("{}: another process listens on this control socket: is the service running \
             already?", path.display())]
    Taken {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The path exists and is not a socket.
    #[error("{}: not a socket: remove it, or name another path for the control socket", path.display())]
    NotASocket {
        /// The path of the socket.
        path: PathBuf,
    },
    /// Another error.
    #[error("cannot {operation} control socket {}: {source}: name another one with \
             --control", path.display())]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// The failed operation.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// The control socket of this process. Dropping it removes the socket file.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ControlSocket {
    /// Listens on `path`, with mode 0660. Creates its directory if it is missing, and replaces a socket on
    /// which no process listens.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |operation| move |source| ControlError::Io { path: path.to_owned(), operation, source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("create the directory of"))?;
        }
        remove_stale_socket(path)?;
        let listener = UnixListener::bind(path).map_err(failed("create"))?;
        let socket = Self { path: path.to_owned(), listener };
        fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("set the mode of"))?;
        socket.listener.set_nonblocking(true).map_err(failed("serve"))?;
        Ok(socket)
    }

    /// Answers requests with `handler` until dropped. Requires a tokio runtime.
    pub async fn serve(
        self,
        handler: impl Fn(Request) -> Reply + Clone + Send + 'static,
    ) -> Result<(), ControlError> {
        let failed = |source| ControlError::Io { path: self.path.clone(), operation: "serve", source };
        let listener =
            self.listener.try_clone().and_then(tokio::net::UnixListener::from_std).map_err(failed)?;
        let places = Places::new(CONTROL_CONNECTIONS, 1, Eviction::Oldest);
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
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let mut place = places.enter(process_of(&stream), ());
            let handler = handler.clone();
            tokio::spawn(async move {
                let outcome = tokio::select! {
                    outcome = timeout(CONTROL_TIMEOUT, answer(stream, handler)) => outcome,
                    () = place.evicted() => {
                        tracing::debug!("a newer control request replaced this one");
                        return;
                    }
                };
                match outcome {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!("cannot answer a control request: {error}"),
                    Err(_) => tracing::debug!("a control request timed out"),
                }
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("cannot remove the control socket: {error}");
        }
    }
}

/// Removes a socket on which no process listens.
fn remove_stale_socket(path: &Path) -> Result<(), ControlError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(ControlError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|source| ControlError::Io { path: path.to_owned(), operation: "replace", source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(ControlError::Taken { path: path.to_owned() }),
    }
}

/// Returns user and process of the peer, as far as the kernel knows them.
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

/// Sends a request to the service whose control socket is at `path`. Blocks until the reply, at most for
/// `CONTROL_TIMEOUT` per step.
pub fn request(path: &Path, request: Request) -> Result<serde_json::Value, ControlError> {
    let mut reply = String::new();
    exchange(path, request, &mut reply).map_err(|source| explained(path, source))?;
    let invalid = |reason: String| ControlError::InvalidReply { path: path.to_owned(), reason };
    match serde_json::from_str(&reply).map_err(|error| invalid(error.to_string()))? {
        Reply::Ok(value) => Ok(value),
        Reply::Error(reason) => Err(ControlError::Rejected(reason)),
    }
}

fn exchange(path: &Path, request: Request, reply: &mut String) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(CONTROL_TIMEOUT))?;
    stream.set_write_timeout(Some(CONTROL_TIMEOUT))?;
    writeln!(stream, "{}", request.word())?;
    BufReader::new(stream.take(CONTROL_REPLY_MAX)).read_line(reply).map(drop)
}

/// Returns the process that listens on the control socket at `path`, without a request; `None` if there is
/// none, or if it is in another pid namespace.
pub fn serving_process(path: &Path) -> Option<u32> {
    let stream = UnixStream::connect(path).ok()?;
    // The process that called listen(2); 0 if it is in another pid namespace.
    let process = getsockopt(&stream, PeerCredentials).ok()?.pid();
    u32::try_from(process).ok().filter(|process| *process > 0)
}

fn explained(path: &Path, source: io::Error) -> ControlError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => ControlError::Missing { path },
        io::ErrorKind::ConnectionRefused => ControlError::NotListening { path },
        io::ErrorKind::PermissionDenied => {
            let remedy = access_remedy(&path);
            ControlError::NotPermitted { path, remedy }
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            ControlError::NotResponding { service: describe_service(&path) }
        }
        io::ErrorKind::InvalidData => ControlError::InvalidReply { path, reason: source.to_string() },
        _ => ControlError::Io { path, operation: "use", source },
    }
}

/// Names the ways to get access to the socket at `path`: root, or its group if it has one other than root's.
fn access_remedy(path: &Path) -> String {
    let group = fs::metadata(path).ok().map(|metadata| Gid::from_raw(metadata.gid()));
    let group = group.filter(|group| group.as_raw() != 0);
    let group = group.and_then(|group| Group::from_gid(group).ok().flatten());
    let user = User::from_uid(Uid::effective()).ok().flatten();
    match group.zip(user) {
        Some((group, user)) => {
            format!("run as root, or join group {0} (usermod -aG {0} {1})", group.name, user.name)
        }
        None => "run as root".to_owned(),
    }
}

/// Names the service behind the socket at `path`, as in `nf-sender (pid 7369)`.
fn describe_service(path: &Path) -> String {
    let Some(process) = serving_process(path) else { return format!("the service at {}", path.display()) };
    let name = fs::read_to_string(format!("/proc/{process}/comm"));
    format!("{} (pid {process})", name.as_deref().map_or("the service", str::trim_end))
}

#[cfg(test)]
mod tests;

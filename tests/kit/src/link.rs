//! The network between sender and receiver: a TCP proxy that can be cut, frozen and restored.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// State of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkState {
    /// The link forwards.
    Up,
    /// Existing connections are reset and new ones are refused.
    Cut,
    /// Connections stay open but nothing is forwarded, as with a half-open connection. New ones get no
    /// answer.
    Frozen,
}

/// A link from its own fixed address to a target.
///
/// A socket that never listens holds the address, so that no other process gets it while the link is cut.
pub struct Link {
    addr: SocketAddr,
    state: watch::Sender<NetworkState>,
    forwarded: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    sockets: Arc<OpenSockets>,
    runtime: Option<Runtime>,
    _place: Socket,
}

impl Link {
    /// Creates a link that is up.
    pub fn to(target: SocketAddr) -> Self {
        Self::with_round_trip(target, Duration::ZERO)
    }

    /// Creates a link that is up and delays each piece towards the client by `delay`.
    pub fn with_round_trip(target: SocketAddr, delay: Duration) -> Self {
        let place = bound((Ipv4Addr::LOCALHOST, 0).into());
        let addr = place.local_addr().unwrap().as_socket().unwrap();
        let (state, states) = watch::channel(NetworkState::Cut);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let proxy = Proxy {
            addr,
            target,
            delay,
            states,
            forwarded: Arc::default(),
            connections: Arc::default(),
            sockets: Arc::default(),
        };
        runtime.spawn(proxy.clone().run());
        let Proxy { forwarded, connections, sockets, .. } = proxy;
        let link =
            Self { addr, state, forwarded, connections, sockets, runtime: Some(runtime), _place: place };
        link.restore();
        link
    }

    /// Returns the address for the sender.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Resets all connections and refuses new ones. Returns once both have happened.
    pub fn cut(&self) {
        self.state.send_replace(NetworkState::Cut);
        self.sockets.wait_until(|open| !open.listener && open.connections == 0);
    }

    /// Keeps all connections open but forwards nothing.
    pub fn freeze(&self) {
        self.state.send_replace(NetworkState::Frozen);
        self.sockets.wait_until(|open| open.frozen == open.connections);
    }

    /// Forwards again and accepts new connections. Returns once they are no longer refused.
    pub fn restore(&self) {
        self.state.send_replace(NetworkState::Up);
        self.sockets.wait_until(|open| open.listener);
    }

    pub fn state(&self) -> NetworkState {
        *self.state.borrow()
    }

    /// Returns the number of forwarded bytes, both directions together.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::SeqCst)
    }

    /// Returns the number of connections forwarded so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

#[derive(Clone)]
struct Proxy {
    addr: SocketAddr,
    target: SocketAddr,
    /// Delay of each piece towards the client.
    delay: Duration,
    states: watch::Receiver<NetworkState>,
    forwarded: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    sockets: Arc<OpenSockets>,
}

impl Proxy {
    /// Listens unless the link is cut. Ends with the link.
    async fn run(mut self) {
        while self.states.wait_for(|state| *state != NetworkState::Cut).await.is_ok() {
            let listener = listening(self.addr);
            self.sockets.update(|open| open.listener = true);
            let mut states = self.states.clone();
            tokio::select! {
                _ = states.wait_for(|state| *state == NetworkState::Cut) => {}
                () = self.accept(listener) => {}
            }
            self.sockets.update(|open| open.listener = false);
        }
    }

    async fn accept(&self, listener: TcpListener) {
        let mut states = self.states.clone();
        while states.wait_for(|state| *state == NetworkState::Up).await.is_ok() {
            let Ok((client, _)) = listener.accept().await else { return };
            self.sockets.update(|open| open.connections += 1);
            let proxy = self.clone();
            tokio::spawn(async move {
                let sockets = Arc::clone(&proxy.sockets);
                proxy.forward_connection(client).await;
                sockets.update(|open| open.connections -= 1);
            });
        }
    }

    /// Forwards one connection until it ends or the link is cut.
    async fn forward_connection(mut self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(self.target).await else {
            drop(client.set_zero_linger()); // the target refused, so the link resets
            return;
        };
        self.connections.fetch_add(1, Ordering::Relaxed);
        for stream in [&client, &server] {
            drop(stream.set_nodelay(true));
        }
        if self.forward(&mut client, &mut server).await.is_err() {
            for stream in [&client, &server] {
                drop(stream.set_zero_linger()); // closing sends a reset
            }
        }
    }

    /// Forwards in both directions while the link is up. An error means that the connection must be reset.
    async fn forward(&mut self, client: &mut TcpStream, server: &mut TcpStream) -> std::io::Result<()> {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let (forwarded, delay) = (Arc::clone(&self.forwarded), self.delay);
        let both = async {
            tokio::try_join!(
                pump(&mut from_client, &mut to_server, &forwarded, Duration::ZERO),
                pump(&mut from_server, &mut to_client, &forwarded, delay)
            )
        };
        tokio::pin!(both);
        loop {
            let state = *self.states.borrow_and_update();
            let change = async { self.states.changed().await.map_err(std::io::Error::other) };
            match state {
                NetworkState::Cut => return Err(std::io::ErrorKind::ConnectionReset.into()),
                NetworkState::Frozen => {
                    self.sockets.update(|open| open.frozen += 1);
                    let changed = change.await;
                    self.sockets.update(|open| open.frozen -= 1);
                    changed?;
                }
                NetworkState::Up => tokio::select! {
                    changed = change => changed?,
                    ended = &mut both => return ended.map(drop),
                },
            }
        }
    }
}

/// Open sockets of the proxy, with a way to wait for changes.
#[derive(Default)]
struct OpenSockets {
    open: Mutex<OpenCounts>,
    changed: Condvar,
}

#[derive(Default)]
struct OpenCounts {
    listener: bool,
    connections: u64,
    /// Connections that forward nothing until the state of the link changes.
    frozen: u64,
}

impl OpenSockets {
    fn update(&self, change: impl FnOnce(&mut OpenCounts)) {
        change(&mut self.open.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_until(&self, wanted: impl Fn(&OpenCounts) -> bool) {
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_while(open, |open| !wanted(open)).unwrap());
    }
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    forwarded: &AtomicU64,
    delay: Duration,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // Count first: the reader of these bytes may check the count at once.
        forwarded.fetch_add(u64::try_from(length).unwrap(), Ordering::SeqCst);
        to.write_all(&buffer[..length]).await?;
    }
}

fn bound(addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket
}

fn listening(addr: SocketAddr) -> TcpListener {
    let socket = bound(addr);
    socket.listen(16).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

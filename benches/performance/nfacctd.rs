//! pmacct's nfacctd with its tee plugin, which replicates datagrams. It is a common relay in practice.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use nf_transport_kit::hosts::directory;
use nf_transport_kit::kernel_socket::KernelSocket;
use nf_transport_kit::netflow_tools::{find, free_port};
use tempfile::TempDir;

use crate::process::Process;

/// The program from Debian's package pmacct.
pub(crate) const PROGRAM: &str = "nfacctd";

/// Size in bytes of the pipe between nfacctd's two processes, so that the pipe loses nothing that the socket
/// buffer could hold.
///
/// Each datagram is passed separately, which is the default. `plugin_buffer_size` would cut the cost to a
/// third, but leave datagrams in an unfilled buffer until more arrive.
const PIPE: u64 = 64 << 20;

/// A running nfacctd. Dropping it ends it.
pub(crate) struct NfacctdTee {
    child: Child,
    addr: SocketAddr,
    _directory: TempDir,
}

impl NfacctdTee {
    /// Starts nfacctd with this target and receive buffer in bytes.
    pub(crate) fn start(target: SocketAddr, buffer: u64) -> Self {
        let directory = directory();
        let addr = free_port(Ipv4Addr::LOCALHOST.into());
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("receivers"), format!("id=1 ip={target}\n")).unwrap();
        let settings = format!(
            "daemonize: false\nnfacctd_ip: {}\nnfacctd_port: {}\nnfacctd_pipe_size: {buffer}\n\
             nfacctd_disable_checks: true\n\
             plugins: tee[a]\ntee_receivers[a]: {}\ntee_transparent[a]: false\ntee_pipe_size[a]: {buffer}\n\
             plugin_pipe_size[a]: {PIPE}\n",
            addr.ip(),
            addr.port(),
            path("receivers")
        );
        fs::write(path("nfacctd.conf"), settings).unwrap();
        let log = File::create(path("log")).unwrap();
        let child = Command::new(find(PROGRAM).unwrap())
            .args(["-f", &path("nfacctd.conf")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        KernelSocket::wait_for(addr);
        Self { child, addr, _directory: directory }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for NfacctdTee {
    /// nfacctd ignores SIGTERM. Killed alone it would leave its plugin running.
    fn drop(&mut self) {
        Process { name: PROGRAM, pid: self.pid() }.kill();
        drop(self.child.wait());
    }
}

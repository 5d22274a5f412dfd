//! Sockets: bound by this process, their receive buffer, and the kernel's view of a TCP connection.

pub(crate) mod bind;
pub(crate) mod receive_buffer;
pub(crate) mod tcp_info;

//! Socket options of connections of clients and peers.

use std::io;

use tokio::net::TcpStream;

/// Most unsent data that the kernel buffers for a connection, beyond what is in flight.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// Sends small writes without delay, and keeps the kernel's buffer of unsent data small. The kernel
/// reports room in a full buffer only after a good part of it is gone; with a large one a slow
/// reader would look like one that has stalled.
pub(crate) fn prepare(socket: &TcpStream) -> io::Result<()> {
    // If this fails, connections to the slowest readers are closed sooner.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    socket.set_nodelay(true)
}

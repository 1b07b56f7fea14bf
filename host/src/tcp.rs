//! How TCP connections are set up, those of clients and those of peers.

use std::io;

use tokio::net::TcpStream;

/// What the system keeps of what is sent beyond what is on its way.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// What is to be taken is not kept waiting, and little of it waits in the system: there, room shows
/// only when a good part of what waits is gone, and who reads slowly would look like one who reads
/// nothing.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Without it, the slowest are given up sooner.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    stream.set_nodelay(true)
}

//! A simulated network whose failures a test controls. Each node runs in its own network namespace
//! with one TUN device. This process forwards the packets from device to device, and can drop and
//! delay them.

use std::fs::File;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use tun_rs::{AsyncDevice, DeviceBuilder};

const PACKET_BYTES_MAX: usize = 1_500;

/// Byte offsets in an IPv4 header (RFC 791, section 3.1).
const PROTOCOL: usize = 9;
const DESTINATION_END: usize = 19;

const TCP: u8 = 6;

/// The network between the nodes. Nodes count from 1; 0 is the test itself, whose paths always stay
/// open.
pub(crate) struct Wire {
    places: Vec<Arc<Place>>,
    paths: Paths,
    /// Forwards the packets on a runtime of its own, so that they flow whatever the test is doing.
    /// `Some` until the drop.
    carrier: Option<Runtime>,
}

/// A network namespace. It exists as long as this value or a process in it.
pub(crate) struct Place {
    pub(crate) addr: Ipv4Addr,
    namespace: File,
}

/// What happens to packets from one node to another.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Path {
    #[default]
    Open,
    Cut,
    /// Drops TCP and lets everything else through: gossip uses UDP.
    CutForTcp,
    Bad {
        percent_lost: u8,
        delay: Duration,
    },
}

/// Indexed by sender, then by receiver.
type Paths = Arc<Mutex<Vec<Vec<Path>>>>;

type Queue = UnboundedSender<(Instant, Vec<u8>)>;

impl Wire {
    /// Connects this many nodes and the test. Moves the calling thread to a network namespace of
    /// its own, from which only this network can be reached.
    pub(crate) fn lay(nodes: usize) -> Self {
        let carrier = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let paths: Paths = Arc::new(Mutex::new(vec![vec![Path::Open; nodes + 1]; nodes + 1]));
        let addr = |number: usize| Ipv4Addr::new(10, 9, 1, number as u8);
        let handle = carrier.handle().clone();
        let _entered = handle.enter();
        let mut devices = vec![new_device(addr(0))];
        let mut places = Vec::new();
        for number in 1..=nodes {
            let (device, namespace) = thread::scope(|scope| {
                let made = scope.spawn(|| {
                    let _entered = handle.enter();
                    (
                        new_device(addr(number)),
                        File::open("/proc/thread-self/ns/net").unwrap(),
                    )
                });
                made.join().unwrap()
            });
            devices.push(device);
            places.push(Arc::new(Place {
                addr: addr(number),
                namespace,
            }));
        }
        for (from, device) in devices.iter().enumerate() {
            let queues = devices
                .iter()
                .map(|device| start_queue(device.clone()))
                .collect();
            carrier.spawn(carry(from, device.clone(), queues, paths.clone()));
        }
        Self {
            places,
            paths,
            carrier: Some(carrier),
        }
    }

    /// The network namespace of a node.
    pub(crate) fn place(&self, number: usize) -> Arc<Place> {
        self.places[number - 1].clone()
    }

    /// Sets the path from one node to another, but not the path back.
    pub(crate) fn one_way(&self, from: usize, to: usize, path: Path) {
        self.paths.lock().unwrap()[from][to] = path;
    }

    /// Sets the paths between each of `some` and each of `others`, in both directions.
    pub(crate) fn between(&self, some: &[usize], others: &[usize], path: Path) {
        for (one, other) in some
            .iter()
            .flat_map(|one| others.iter().map(move |other| (*one, *other)))
        {
            self.one_way(one, other, path);
            self.one_way(other, one, path);
        }
    }

    /// Opens all paths.
    pub(crate) fn heal(&self) {
        self.paths
            .lock()
            .unwrap()
            .iter_mut()
            .flatten()
            .for_each(|path| *path = Path::Open);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(carrier) = self.carrier.take() {
            carrier.shutdown_background();
        }
    }
}

impl Place {
    /// Runs `act` on a thread in this namespace. A process that it starts stays in it.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let runtime = tokio::runtime::Handle::current();
        let inside = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let _entered = runtime.enter();
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

/// Moves this thread to a new network namespace. Its only device has this address, and leads to all
/// others of the network.
fn new_device(addr: Ipv4Addr) -> Arc<AsyncDevice> {
    let needs = "networks that fail need Linux, with root or as root of a user namespace (`unshare --user --map-root-user`), \
                 and /dev/net/tun";
    unshare(CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|error| panic!("no network namespace: {error}; {needs}"));
    let device = DeviceBuilder::new()
        .ipv4(addr, 16, None)
        .mtu(PACKET_BYTES_MAX as u16)
        .build_async();
    Arc::new(device.unwrap_or_else(|error| panic!("no TUN device: {error}; {needs}")))
}

/// Reads the packets that a node sends, and queues each for its receiver or drops it.
async fn carry(from: usize, device: Arc<AsyncDevice>, queues: Vec<Queue>, paths: Paths) {
    let mut buffer = [0; PACKET_BYTES_MAX];
    // Fails once the device is closed.
    while let Ok(bytes) = device.recv(&mut buffer).await {
        let packet = &buffer[..bytes];
        let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
        let Some(to) = packet.get(DESTINATION_END).map(|to| usize::from(*to)) else {
            continue;
        };
        let Some(queue) = queues.get(to).filter(|_| is_ipv4) else {
            continue;
        };
        let path = paths.lock().unwrap()[from][to];
        let (is_lost, delay) = match path {
            Path::Open => (false, Duration::ZERO),
            Path::Cut => (true, Duration::ZERO),
            Path::CutForTcp => (packet[PROTOCOL] == TCP, Duration::ZERO),
            Path::Bad {
                percent_lost,
                delay,
            } => (fastrand::u8(..100) < percent_lost, delay),
        };
        if !is_lost {
            // Fails only if the receiver has ended, and with it the whole network.
            let _ = queue.send((Instant::now() + delay, packet.to_owned()));
        }
    }
}

fn start_queue(device: Arc<AsyncDevice>) -> Queue {
    let (queue, packets) = unbounded_channel();
    tokio::spawn(deliver(device, packets));
    queue
}

/// Delivers packets in the order in which they were sent, each when it is due.
async fn deliver(device: Arc<AsyncDevice>, mut packets: UnboundedReceiver<(Instant, Vec<u8>)>) {
    while let Some((due, packet)) = packets.recv().await {
        sleep_until(due).await;
        // A packet that the device rejects counts as lost.
        let _ = device.send(&packet).await;
    }
}

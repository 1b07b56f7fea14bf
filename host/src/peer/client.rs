//! The peers of a node: links to each, of up to four lanes while the mesh is small, which are
//! connected for as long as the peer is in the view. Messages use the link as it is; none of them
//! is spent on finding out whether a peer is there.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use metrics::counter;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout_at};
use tracing::{error, info, warn};

use super::breaker::{Breaker, BreakerState, Event};
use super::connection::{Called, ConnectError, Connection, Life, Siblings};
use super::liveness::Health;
use super::outbox::Closed;
use super::stream::TlsNow;
use super::wire::Hello;
use crate::bodies::Bodies;
use crate::lanes::{self, Lanes};
use crate::message::{Fault, Message, NodeId, Refusal};
use crate::telemetry::names;

/// How long a message waits for a connection, new or suspect. On one network it takes a
/// millisecond; past this the next in rank answers sooner.
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(300);

/// Connections that a call tries when one closes just before it is sent.
const CONNECTIONS_TRIED_MAX: usize = 2;

/// Links to one peer at most.
const LINKS_MAX: usize = 4;

/// Links to all peers together, unless there are more peers.
const LINKS_USUAL: usize = 256;

/// Every other node of the view.
pub struct Peers {
    own: Arc<Hello>,
    tls: TlsNow,
    bodies: &'static Bodies,
    lanes: Lanes,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
    /// The lane of the next peer's first link.
    next_lane: AtomicUsize,
    departures: Arc<Notify>,
}

/// One other node, in one of its lives.
pub struct Peer {
    life: Life,
    /// At least one. Messages use that of the lane on which they are sent, as far as there is one.
    links: Box<[KeptLink]>,
    spread: Spread,
    siblings: Arc<Siblings>,
}

/// On which lanes the links to one peer are: on one after the other, and where those of the peer
/// before ended.
#[derive(Debug, Clone, Copy)]
struct Spread {
    first: usize,
    links: usize,
    lanes: usize,
}

impl Spread {
    fn lane_of(self, link: usize) -> usize {
        (self.first + link) % self.lanes
    }

    /// The link of a lane, or, if it has none, one that it shares with others.
    fn link_of(self, lane: usize) -> usize {
        (lane % self.lanes + self.lanes - self.first) % self.lanes % self.links
    }
}

struct KeptLink {
    link: Arc<Link>,
    keeping: AbortHandle,
}

/// The way to a peer, as its keeper last left it.
struct Link {
    node_id: NodeId,
    connection: ArcSwapOption<Connection>,
    state: watch::Sender<LinkState>,
    siblings: Arc<Siblings>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Breaker(BreakerState),
    /// The peer has said goodbye; its next life is another peer.
    Left,
}

impl Peers {
    /// `bodies` are those of the node: replies take their room among them.
    pub fn new(own: Hello, tls: TlsNow, bodies: &'static Bodies, lanes: Lanes) -> Self {
        let next_lane = AtomicUsize::new(0);
        Self {
            own: Arc::new(own),
            tls,
            bodies,
            lanes,
            peers: Mutex::default(),
            next_lane,
            departures: Arc::default(),
        }
    }

    /// Takes on the nodes of a new view, and returns them. Those that stay keep their links; those
    /// that are gone, or live anew, lose theirs once the calls on them have ended.
    pub fn update(
        &self,
        nodes: impl IntoIterator<Item = (NodeId, u64, SocketAddr)>,
    ) -> HashMap<NodeId, Arc<Peer>> {
        let mut peers = self.lock();
        let nodes: Vec<_> = nodes.into_iter().collect();
        let links_max = LINKS_MAX.min(LINKS_USUAL / nodes.len().max(1)).max(1);
        *peers = nodes
            .into_iter()
            .map(|(node_id, generation, addr)| {
                let life = Life {
                    node_id: node_id.clone(),
                    generation,
                    addr,
                };
                let peer = match peers.get(&node_id) {
                    Some(peer) if peer.life == life => peer.clone(),
                    _ => Arc::new(self.meet(life, links_max)),
                };
                (node_id, peer)
            })
            .collect();
        peers.clone()
    }

    /// A new peer, to which connections are under way.
    fn meet(&self, life: Life, links_max: usize) -> Peer {
        let lanes = self.lanes.all();
        let links = links_max.min(lanes.len());
        let first = self.next_lane.fetch_add(links, Ordering::Relaxed) % lanes.len();
        let spread = Spread {
            first,
            links,
            lanes: lanes.len(),
        };
        let siblings: Arc<Siblings> = Arc::default();
        let links = (0..links).map(|link| {
            let lane = &lanes[spread.lane_of(link)];
            let breaker = Breaker::new();
            let state = watch::Sender::new(LinkState::Breaker(breaker.state()));
            let (node_id, siblings) = (life.node_id.clone(), siblings.clone());
            let link = Arc::new(Link {
                node_id,
                connection: ArcSwapOption::empty(),
                state,
                siblings,
            });
            let (own, tls, departures) =
                (self.own.clone(), self.tls.clone(), self.departures.clone());
            let (life, link_kept) = (life.clone(), link.clone());
            let keeper = Keeper {
                own,
                tls,
                bodies: self.bodies,
                life,
                link: link_kept,
                breaker,
                departures,
            };
            KeptLink {
                link,
                keeping: lane.spawn(keeper.keep_on()).abort_handle(),
            }
        });
        let links = links.collect();
        Peer {
            life,
            links,
            spread,
            siblings,
        }
    }

    /// Resolves when a peer has said goodbye, before gossip says so.
    pub async fn departure(&self) {
        self.departures.notified().await;
    }

    /// The breaker of each peer.
    pub fn breakers(&self) -> BTreeMap<NodeId, BreakerState> {
        self.lock()
            .iter()
            .map(|(node_id, peer)| (node_id.clone(), peer.breaker()))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Runs a message on the peer. Dropping the call cancels it there. Room for a reply of so many
    /// bytes is had before.
    pub async fn call(
        &self,
        message: &Message,
        deadline: Instant,
        reply_bytes_expected: usize,
    ) -> Called {
        let mut give_up = None;
        for _ in 0..CONNECTIONS_TRIED_MAX {
            let (link, connection) = match self.connection(deadline, &mut give_up).await {
                Ok(found) => found,
                Err(fault) => return fault.into(),
            };
            match connection
                .call(message, deadline, reply_bytes_expected)
                .await
            {
                Ok(called) => return called,
                Err(Closed) => link.forget(&connection),
            }
        }
        Fault::Unreachable.into()
    }

    /// A connection that answers. If there is none, but there may be one in a moment, waits for
    /// that until `give_up`, which is one for all that a message tries.
    async fn connection(
        &self,
        deadline: Instant,
        give_up: &mut Option<Instant>,
    ) -> Result<(&Link, Arc<Connection>), Fault> {
        loop {
            // Before the look, so that no change is missed in between.
            let changed = self.siblings.changed();
            if let Some(found) = self.look()? {
                return Ok(found);
            }
            let give_up = *give_up.get_or_insert_with(|| Instant::now() + CONNECT_WAIT_MAX);
            if timeout_at(deadline.min(give_up).into(), changed)
                .await
                .is_err()
            {
                let is_late = deadline <= give_up;
                return Err(if is_late {
                    Fault::Refused(Refusal::WaitedTooLong)
                } else {
                    Fault::Unreachable
                });
            }
        }
    }

    /// The connection of this lane, or else of another: what lives on one lane lives on all. `None`
    /// if it is to be known in a moment.
    fn look(&self) -> Result<Option<(&Link, Arc<Connection>)>, Fault> {
        let (others, own) = self.links.split_at(self.spread.link_of(lanes::number()));
        let (mut is_leaving, mut is_silent, mut may_come) = (false, false, false);
        for KeptLink { link, .. } in own.iter().chain(others) {
            let connection = link.connection.load_full();
            match (
                connection.as_ref().map(|connection| connection.health()),
                connection,
            ) {
                (Some(Health::Answering), Some(connection)) => return Ok(Some((link, connection))),
                (Some(Health::Suspect), _) => may_come = true,
                (Some(Health::Silent), _) => is_silent = true,
                (Some(Health::Leaving), _) => is_leaving = true,
                (Some(Health::Ended | Health::Answering) | None, _) => match *link.state.borrow() {
                    LinkState::Left => is_leaving = true,
                    LinkState::Breaker(BreakerState::Open) => {}
                    // Or its keeper has not noticed yet that it has ended.
                    LinkState::Breaker(BreakerState::HalfOpen | BreakerState::Closed) => {
                        may_come = true
                    }
                },
            }
        }
        match (is_leaving, is_silent, may_come) {
            (true, ..) => Err(Fault::Refused(Refusal::Leaving)),
            (false, false, true) => Ok(None),
            // Silence on one of them says that the peer hangs.
            _ => Err(Fault::Unreachable),
        }
    }

    /// Whether it has said goodbye: it takes no new messages.
    pub fn has_left(&self) -> bool {
        self.links.iter().any(|kept| kept.link.has_left())
    }

    /// Of its links, that which is worst off counts.
    fn breaker(&self) -> BreakerState {
        let state = |kept: &KeptLink| match *kept.link.state.borrow() {
            LinkState::Breaker(state) => state,
            LinkState::Left => BreakerState::Open,
        };
        self.links
            .iter()
            .map(state)
            .max()
            .unwrap_or(BreakerState::Open)
    }
}

impl Drop for KeptLink {
    fn drop(&mut self) {
        self.keeping.abort();
        // In this order: a keeper that is just storing a connection sees that nobody wants it.
        self.link.show(LinkState::Left);
        if let Some(connection) = self.link.connection.load_full() {
            connection.close();
        }
    }
}

impl Link {
    /// Stops using a closed connection, unless another has taken its place. Its keeper will say
    /// what follows.
    fn forget(&self, closed: &Arc<Connection>) {
        self.connection.rcu(|current| match current {
            Some(current) if Arc::ptr_eq(current, closed) => None,
            other => other.clone(),
        });
    }

    /// Publishes a state. A peer that has left stays so.
    fn show(&self, state: LinkState) {
        self.state.send_if_modified(|shown| {
            *shown != LinkState::Left && std::mem::replace(shown, state) != state
        });
        self.siblings.tell_changed();
    }

    fn has_left(&self) -> bool {
        *self.state.borrow() == LinkState::Left
    }
}

/// Keeps one link: connects, watches, and connects again, for as long as the peer is in the view.
struct Keeper {
    own: Arc<Hello>,
    tls: TlsNow,
    bodies: &'static Bodies,
    life: Life,
    link: Arc<Link>,
    breaker: Breaker,
    departures: Arc<Notify>,
}

/// How a connection ended.
#[derive(PartialEq, Eq)]
enum Parting {
    /// The peer takes no new messages; it answers those that it has.
    Goodbye,
    Lost,
}

impl Keeper {
    /// Keeps the link whatever happens: a link that nobody keeps would be one to nowhere.
    async fn keep_on(mut self) {
        while AssertUnwindSafe(self.keep()).catch_unwind().await.is_err() {
            error!(event = "peer-keeper-crashed", peer = %self.link.node_id, "what keeps the link to a peer crashed, which is a bug; it begins anew");
            self.note(Event::AttemptFailed, "its keeper crashed");
        }
    }

    async fn keep(&mut self) {
        loop {
            sleep(self.breaker.backoff()).await;
            match Connection::open(
                &self.life,
                &self.tls,
                &self.own,
                self.bodies,
                &self.link.siblings,
            )
            .await
            {
                Ok(connection) => {
                    if self.watch(&connection).await == Parting::Goodbye {
                        info!(event = "peer-leaves", peer = %self.link.node_id, "peer leaves");
                        self.link.show(LinkState::Left);
                        self.departures.notify_one();
                        return;
                    }
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Offers the connection to messages until it ends.
    async fn watch(&mut self, connection: &Arc<Connection>) -> Parting {
        let since = Instant::now();
        self.link.connection.store(Some(connection.clone()));
        if self.link.has_left() {
            connection.close();
            return Parting::Goodbye;
        }
        self.note(Event::Connected, "connected");
        let mut health = connection.watch_health();
        loop {
            // Looked at before it is waited for: a goodbye may have come with the hello.
            let now = *health.borrow_and_update();
            match now {
                Health::Answering => self.note(Event::Heard, "it answers again"),
                // In a moment it will have answered, or have ended.
                Health::Suspect => {}
                Health::Silent => self.note(Event::Silent, "it left pings unanswered"),
                Health::Leaving => {
                    self.link.forget(connection);
                    return Parting::Goodbye;
                }
                Health::Ended => {
                    self.link.forget(connection);
                    self.note(Event::Lost(since.elapsed()), "its connection was lost");
                    return Parting::Lost;
                }
            }
            // The connection holds the sender, and this function the connection.
            let _ = health.changed().await;
        }
    }

    fn failed(&mut self, error: &ConnectError) {
        if self.breaker.backoff().is_zero() {
            let cause = match error {
                ConnectError::Io(cause) => Some(cause.to_string()),
                _ => None,
            };
            warn!(event = "peer-unreachable", peer = %self.link.node_id, addr = %self.life.addr, %error, cause, "no connection to a peer; trying again and again");
        }
        self.note(Event::AttemptFailed, "it cannot be connected to");
    }

    /// Takes in what has happened; a change of the breaker is told.
    fn note(&mut self, event: Event, because: &'static str) {
        let before = self.breaker.state();
        self.breaker.note(event);
        let state = self.breaker.state();
        self.link.show(LinkState::Breaker(state));
        if state != before {
            let peer = &self.link.node_id;
            info!(event = "breaker-changed", %peer, ?state, because, "breaker changed");
            let name = match state {
                BreakerState::Closed => "closed",
                BreakerState::HalfOpen => "half-open",
                BreakerState::Open => "open",
            };
            counter!(names::BREAKER_CHANGES, "state" => name).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures_util::StreamExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

    use super::super::wire::{self, Frame};
    use super::*;
    use crate::bodies::Room;
    use crate::message::Reply;

    fn hello(node_id: &str) -> Hello {
        Hello::new("c", NodeId::try_from(node_id).unwrap(), 1)
    }

    /// A connection to a peer that is made by hand: the greetings are over.
    async fn greeted(stream: TcpStream) -> FramedRead<TcpStream, LengthDelimitedCodec> {
        let mut frames = FramedRead::new(stream, wire::framing());
        frames.next().await.unwrap().unwrap();
        let mut greeting = BytesMut::new();
        wire::put_hello(&mut greeting, &hello("n2"));
        frames.get_mut().write_all(&greeting).await.unwrap();
        frames
    }

    /// Answers pings, and calls with an empty reply.
    async fn answer(mut frames: FramedRead<TcpStream, LengthDelimitedCodec>) {
        let (headers, body, room) = (http::HeaderMap::new(), bytes::Bytes::new(), Room::default());
        let reply = Reply {
            status: http::StatusCode::OK,
            headers,
            body,
            room,
        };
        while let Some(Ok(frame)) = frames.next().await {
            let mut answer = BytesMut::new();
            match wire::decode(frame.freeze()).unwrap() {
                Frame::Ping => wire::put_pong(&mut answer),
                Frame::Call { id, .. } => drop(wire::put_reply(&mut answer, id, &reply)),
                other => panic!("unexpected: {other:?}"),
            }
            if frames.get_mut().write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn when_one_connection_is_lost_the_others_answer_a_ping_before_they_get_messages() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = Peers::new(
            hello("n1"),
            None,
            Bodies::new(1 << 20),
            Lanes::start().unwrap(),
        );
        let n2 = hello("n2").node_id;
        let peer = peers
            .update([(n2.clone(), 1, listener.local_addr().unwrap())])
            .remove(&n2)
            .unwrap();
        let mut connections = Vec::new();
        for _ in &peer.links {
            connections.push(greeted(listener.accept().await.unwrap().0).await);
        }
        for kept in &peer.links {
            let mut state = kept.link.state.subscribe();
            state
                .wait_for(|state| *state == LinkState::Breaker(BreakerState::Closed))
                .await
                .unwrap();
        }
        // On one core there is but one.
        drop(connections.remove(0));
        for connection in peer
            .links
            .iter()
            .filter_map(|kept| kept.link.connection.load_full())
        {
            // Silent it is after a second or more without an answer.
            let health = *connection
                .watch_health()
                .wait_for(|health| *health != Health::Answering)
                .await
                .unwrap();
            assert!(
                matches!(health, Health::Suspect | Health::Ended),
                "{health:?}"
            );
        }
        let message = wire::tests::message(1);
        let called = peer
            .call(&message, Instant::now() + Duration::from_millis(50), 0)
            .await;
        let is_refused = matches!(
            called.outcome,
            Err(Fault::Refused(Refusal::WaitedTooLong) | Fault::Unreachable)
        );
        assert!(is_refused && !called.was_sent, "{called:?}");
        connections
            .into_iter()
            .for_each(|frames| drop(tokio::spawn(answer(frames))));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async { answer(greeted(stream).await).await });
            }
        });
        let outcome = async {
            loop {
                // Should this machine stand still for long, they are silent before they answer.
                match peer
                    .call(&message, Instant::now() + Duration::from_secs(30), 0)
                    .await
                    .outcome
                {
                    Ok(reply) => return reply.status,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        assert_eq!(outcome.await, http::StatusCode::OK);
    }

    #[track_caller]
    fn check_spread(peers: usize, links: usize, lanes: usize) {
        let mut links_of = vec![0; lanes];
        for peer in 0..peers {
            let spread = Spread {
                first: peer * links % lanes,
                links,
                lanes,
            };
            let on_lanes: Vec<usize> = (0..links).map(|link| spread.lane_of(link)).collect();
            for lane in 0..lanes {
                let link = spread.link_of(lane);
                if on_lanes.contains(&lane) {
                    assert_eq!(
                        on_lanes[link], lane,
                        "a lane with a link of its own uses another"
                    );
                }
            }
            on_lanes.iter().for_each(|lane| links_of[*lane] += 1);
        }
        let (fewest, most) = (
            links_of.iter().min().unwrap(),
            links_of.iter().max().unwrap(),
        );
        assert!(
            most - fewest <= 1,
            "{peers} peers, {links} links to each: {links_of:?}"
        );
    }

    #[test]
    fn links_are_spread_over_all_lanes() {
        check_spread(300, 1, 2);
        check_spread(100, 2, 2);
        check_spread(10, 4, 16);
        check_spread(7, 3, 8);
        check_spread(1, 1, 1);
    }
}

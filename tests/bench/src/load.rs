//! A load generator: HTTP/1.1 on one thread, to take little of the machine from the server.
//!
//! In a closed loop each connection sends its next request when it has its answer. In an open loop
//! requests are due at a fixed rate, whatever the answers do, and latency counts from when a
//! request was due: a server that stalls is charged for the requests that it delays (no coordinated
//! omission).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::net::sockopt::set_socket_linger;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// What one run sends.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) addr: SocketAddr,
    /// Complete requests, sent round robin.
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// Opens a new connection for each request.
    pub(crate) connect_each: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Pace {
    Closed,
    /// Requests a second.
    Open(f64),
}

/// Results of a run.
pub(crate) struct Outcome {
    pub(crate) answered: u64,
    /// Answers other than 200, and connections that broke.
    pub(crate) failed: u64,
    pub(crate) elapsed: Duration,
    /// CPU time of the client.
    pub(crate) cpu: Duration,
    /// Latencies in nanoseconds.
    pub(crate) times: Histogram<u64>,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1e6
    }
}

const TIMER: Token = Token(usize::MAX);

/// Requests still unanswered this long after the end of an open loop count as failed.
const GRACE: Duration = Duration::from_secs(5);

/// Sends for `duration`, after a warm-up that is not counted; calls `warm` when that is over.
pub(crate) fn run(
    load: &Load,
    warm_up: Duration,
    duration: Duration,
    warm: impl FnOnce(),
) -> Result<Outcome> {
    let mut worker = Worker::new(load)?;
    worker.go(warm_up)?;
    warm();
    worker.start_counting();
    worker.go(duration)?;
    Ok(worker.finish())
}

/// Sends `count` requests over one connection, each after the answer to the one before.
pub(crate) fn send_in_turn(addr: SocketAddr, requests: &[Vec<u8>], count: usize) -> Result<()> {
    let mut stream = std::net::TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let (mut received, mut buffer) = (Vec::new(), [0; 64 * 1024]);
    for request in requests.iter().cycle().take(count) {
        stream.write_all(request)?;
        received.clear();
        let status = loop {
            let bytes = stream.read(&mut buffer)?;
            ensure!(bytes > 0, "{addr} closed the connection");
            received.extend_from_slice(&buffer[..bytes]);
            if let Some(status) = answer(&received)? {
                break status;
            }
        };
        ensure!(status == 200, "{addr} answered {status}");
    }
    Ok(())
}

struct Worker<'a> {
    load: &'a Load,
    poll: Poll,
    connections: Vec<Connection>,
    next_request: usize,
    /// Connections without a request in flight.
    idle: Vec<usize>,
    /// When the requests were due that wait for an idle connection, in an open loop.
    waiting: VecDeque<Instant>,
    outcome: Outcome,
    began: Instant,
}

struct Connection {
    stream: TcpStream,
    /// Index of the request, and how many of its bytes are sent.
    sending: Option<(usize, usize)>,
    since: Instant,
    received: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(load: &'a Load) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for index in 0..load.connections {
            connections.push(Connection::open(load.addr, &poll, index)?);
        }
        let outcome = Outcome {
            answered: 0,
            failed: 0,
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            times: Histogram::new(3)?,
        };
        let idle = (0..load.connections).collect();
        let waiting = VecDeque::new();
        Ok(Self {
            load,
            poll,
            connections,
            next_request: 0,
            idle,
            waiting,
            outcome,
            began: Instant::now(),
        })
    }

    fn start_counting(&mut self) {
        (self.outcome.answered, self.outcome.failed) = (0, 0);
        self.outcome.times.reset();
        self.outcome.cpu = thread_cpu();
        self.began = Instant::now();
    }

    fn finish(mut self) -> Outcome {
        self.outcome.elapsed = self.began.elapsed();
        self.outcome.cpu = thread_cpu() - self.outcome.cpu;
        self.outcome
    }

    fn go(&mut self, duration: Duration) -> Result<()> {
        match self.load.pace {
            Pace::Closed => self.go_closed(duration),
            Pace::Open(rate) => self.go_open(rate, duration),
        }
    }

    fn go_closed(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while let Some(index) = self.idle.pop() {
            self.send(index, Instant::now())?;
        }
        let mut events = Events::with_capacity(1024);
        while Instant::now() < end {
            self.poll(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                self.ready(event.token().0)?;
            }
            while let Some(index) = self.idle.pop() {
                self.send(index, Instant::now())?;
            }
        }
        Ok(())
    }

    fn go_open(&mut self, rate: f64, duration: Duration) -> Result<()> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        self.poll.registry().register(
            &mut SourceFd(&std::os::fd::AsRawFd::as_raw_fd(&timer)),
            TIMER,
            Interest::READABLE,
        )?;
        let began = Instant::now();
        let total = (rate * duration.as_secs_f64()) as u64;
        let due_at = |number: u64| began + Duration::from_secs_f64(number as f64 / rate);
        let (mut next, mut events) = (0, Events::with_capacity(1024));
        while next < total || self.idle.len() < self.connections.len() || !self.waiting.is_empty() {
            let now = Instant::now();
            while next < total && due_at(next) <= now {
                self.waiting.push_back(due_at(next));
                next += 1;
            }
            while let Some(due) = self.waiting.front().copied()
                && let Some(index) = self.idle.pop()
            {
                self.waiting.pop_front();
                self.send(index, due)?;
            }
            if now > began + duration + GRACE {
                self.outcome.failed +=
                    (self.waiting.len() + self.connections.len() - self.idle.len()) as u64;
                self.waiting.clear();
                break;
            }
            if next < total {
                set(
                    &timer,
                    due_at(next).saturating_duration_since(Instant::now()),
                )?;
            }
            self.poll(&mut events, Some(Duration::from_millis(100)))?;
            for event in events.iter().filter(|event| event.token() != TIMER) {
                self.ready(event.token().0)?;
            }
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Events, timeout: Option<Duration>) -> Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn send(&mut self, index: usize, since: Instant) -> Result<()> {
        let request = self.next_request % self.load.requests.len();
        self.next_request += 1;
        let connection = &mut self.connections[index];
        (connection.sending, connection.since) = (Some((request, 0)), since);
        connection.received.clear();
        self.write(index)
    }

    fn write(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        while let Some((request, sent)) = connection.sending {
            let bytes = &self.load.requests[request];
            match connection.stream.write(&bytes[sent..]) {
                Ok(written) if sent + written == bytes.len() => connection.sending = None,
                Ok(written) => connection.sending = Some((request, sent + written)),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    break;
                }
                Err(_) => return self.broken(index),
            }
        }
        Ok(())
    }

    /// Writes and reads as much as possible without blocking.
    fn ready(&mut self, index: usize) -> Result<()> {
        self.write(index)?;
        let mut buffer = [0; 64 * 1024];
        loop {
            let connection = &mut self.connections[index];
            match connection.stream.read(&mut buffer) {
                Ok(0) => return self.broken(index),
                Ok(bytes) => connection.received.extend_from_slice(&buffer[..bytes]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    return Ok(());
                }
                Err(_) => return self.broken(index),
            }
            let Some(answer) = answer(&connection.received)? else {
                continue;
            };
            self.outcome
                .times
                .record(connection.since.elapsed().as_nanos() as u64)?;
            if answer == 200 {
                self.outcome.answered += 1;
            } else {
                self.outcome.failed += 1;
            }
            if self.load.connect_each {
                self.connections[index] = Connection::open(self.load.addr, &self.poll, index)?;
            }
            self.idle.push(index);
            return Ok(());
        }
    }

    fn broken(&mut self, index: usize) -> Result<()> {
        self.outcome.failed += 1;
        ensure!(
            self.outcome.failed < 10_000,
            "{} does not answer",
            self.load.addr
        );
        self.connections[index] = Connection::open(self.load.addr, &self.poll, index)?;
        self.idle.push(index);
        Ok(())
    }
}

impl Connection {
    fn open(addr: SocketAddr, poll: &Poll, index: usize) -> Result<Self> {
        let mut stream =
            TcpStream::connect(addr).with_context(|| format!("cannot connect to {addr}"))?;
        stream.set_nodelay(true)?;
        // Closes by a reset: in TIME_WAIT, closed connections would use up the ports.
        set_socket_linger(stream.as_fd(), Some(Duration::ZERO))?;
        poll.registry().register(
            &mut stream,
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        Ok(Self {
            stream,
            sending: None,
            since: Instant::now(),
            received: Vec::new(),
        })
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn set(timer: impl AsFd, after: Duration) -> Result<()> {
    // Zero would disarm the timer.
    let after = after.max(Duration::from_nanos(1));
    let value = Timespec {
        tv_sec: after.as_secs() as i64,
        tv_nsec: i64::from(after.subsec_nanos()),
    };
    let once = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: value,
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

/// The status of an answer; `None` while it is incomplete.
fn answer(received: &[u8]) -> Result<Option<u16>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(received)? else {
        return Ok(None);
    };
    let header = |name: &str| {
        response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
    };
    let is_whole = match header("content-length") {
        Some(length) => received.len() - head >= std::str::from_utf8(length.value)?.parse()?,
        None => received.ends_with(b"0\r\n\r\n"),
    };
    Ok(is_whole.then_some(response.code.unwrap_or_default()))
}

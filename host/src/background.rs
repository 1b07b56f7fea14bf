//! Work that may wait: it takes what the processors have left over, so that no message is late because of it.

use std::any::Any;
use std::fs;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

/// What work on many bytes does at a time: some ten microseconds' worth.
const STEP_BYTES: usize = 16 << 10;

/// Work on fewer bytes than this is over before anybody could be late.
const FEW_BYTES: usize = 1 << 20;

/// How long such a step waits for a processor that has nothing better to do: the work gets on on a busy machine, too.
const STEP_WAIT_MAX: Duration = Duration::from_micros(500);

/// The same for a step that takes longer.
const TURN_WAIT_MAX: Duration = Duration::from_millis(2);

/// Work that has no steps waits if messages take this much time of a processor within so long.
const MESSAGES: Duration = Duration::from_micros(200);
const MESSAGES_WITHIN: Duration = Duration::from_millis(20);

/// And if the processors leave over this much time of one within so long.
const ROOM: Duration = Duration::from_millis(2);
const ROOM_WITHIN: Duration = Duration::from_millis(100);

/// How often it is seen whether that work gets on, and how much time of a processor it needs meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const PROGRESS_MIN: Duration = Duration::from_millis(3);

/// How long such work may take until it no longer waits for others: another node of this host that waits for a component
/// to be compiled gives up after 30 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// The threads that run messages.
static LANES: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Whether there are messages that could be late.
static SERVES: AtomicBool = AtomicBool::new(false);

static THREADS: LazyLock<Option<Threads>> = LazyLock::new(Threads::start);

/// From now on, work has to wait: the node serves.
pub(crate) fn begin() {
    SERVES.store(true, Ordering::Relaxed);
}

/// This thread runs messages: while it is busy, work has to wait.
pub(crate) fn yields_to_this_thread() {
    add_this_thread(&LANES);
}

/// Waits until a processor has nothing better to do, though not for long: before a step of work that has many.
pub(crate) async fn turn() {
    if let Some(threads) = threads() {
        threads.turn().await;
    }
}

/// The same for a short step, on a thread that may block.
fn wait_for_step() {
    if let Some(threads) = threads() {
        threads.wait_for_step();
    }
}

/// These bytes in steps, for work that goes through all of them. It blocks before each.
pub(crate) fn steps(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let waits = bytes.len() > FEW_BYTES;
    bytes.chunks(STEP_BYTES).inspect(move |_| {
        if waits {
            wait_for_step();
        }
    })
}

/// Reads to the end, in steps. `expected` is how many bytes that probably are.
///
/// # Errors
/// Those of the file.
pub(crate) fn read_to_end(mut file: impl Read, expected: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(expected);
    loop {
        if expected > FEW_BYTES {
            wait_for_step();
        }
        let step = file.by_ref().take(STEP_BYTES as u64);
        if { step }.read_to_end(&mut bytes)? == 0 {
            return Ok(bytes);
        }
    }
}

/// Does work that has no steps, and blocks this thread until it is done. If no messages run, or the processors have nothing
/// left over, this thread does it; if that only shows later, it does it as well, and the work is done twice.
///
/// # Panics
/// If the work does.
pub(crate) fn run<T: Send + 'static>(work: impl Fn() -> T + Send + Sync + 'static) -> T {
    match messages_run().then(threads).flatten() {
        Some(threads) => threads.run(work),
        None => work(),
    }
}

/// Whether messages run. It blocks a moment.
fn messages_run() -> bool {
    if !SERVES.load(Ordering::Relaxed) {
        return false;
    }
    let before = used_by(&LANES);
    sleep(MESSAGES_WITHIN);
    used_by(&LANES).saturating_sub(before) >= MESSAGES
}

fn threads() -> Option<&'static Threads> {
    match SERVES.load(Ordering::Relaxed) {
        true => THREADS.as_ref(),
        false => None,
    }
}

/// Threads that run when no other thread wants to.
struct Threads {
    pool: ThreadPool,
    ids: Arc<Mutex<Vec<Pid>>>,
}

impl Threads {
    /// `None`: there can be none.
    fn start() -> Option<Self> {
        let ids = Arc::new(Mutex::new(Vec::new()));
        let started = ids.clone();
        let pool = ThreadPoolBuilder::new()
            .thread_name(|_| "background".into())
            .start_handler(move |_| {
                yield_to_others();
                add_this_thread(&started);
            })
            .build();
        let pool = pool.inspect_err(|error| {
            debug!(event = "no-background-threads", %error, "plugins are loaded at the priority of messages");
        });
        Some(Self {
            pool: pool.ok()?,
            ids,
        })
    }

    async fn turn(&self) {
        let (turn, came) = oneshot::channel();
        self.pool.spawn(move || {
            let _ = turn.send(());
        });
        let _ = timeout(TURN_WAIT_MAX, came).await;
    }

    fn wait_for_step(&self) {
        let (turn, came) = mpsc::sync_channel(1);
        self.pool.spawn(move || {
            let _ = turn.send(());
        });
        let _ = came.recv_timeout(STEP_WAIT_MAX);
    }

    fn run<T: Send + 'static>(&self, work: impl Fn() -> T + Send + Sync + 'static) -> T {
        if !self.has_room() {
            debug!(
                event = "background-work-here",
                "the processors have nothing left over: a plugin is loaded at the priority of messages"
            );
            return work();
        }
        let (result, results) = mpsc::sync_channel::<Result<T, Box<dyn Any + Send>>>(1);
        let work = Arc::new(work);
        let same_work = work.clone();
        self.pool.spawn(move || {
            let done = catch_unwind(AssertUnwindSafe(|| same_work()));
            // What the work holds is freed before its result is there.
            drop(same_work);
            // If the receiver is gone, the result is not needed.
            let _ = result.send(done);
        });
        let until = Instant::now() + PATIENCE;
        let mut before = used_by(&self.ids);
        loop {
            match results.recv_timeout(LOOK_INTERVAL) {
                Ok(Ok(done)) => return done,
                Ok(Err(panic)) => resume_unwind(panic),
                Err(RecvTimeoutError::Disconnected) => return work(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = used_by(&self.ids);
            if now.saturating_sub(before) < PROGRESS_MIN || Instant::now() > until {
                debug!(
                    event = "background-work-late",
                    "the processors have nothing left over for loading plugins: it no longer waits"
                );
                return work();
            }
            before = now;
        }
    }

    /// Whether the processors have something left over.
    fn has_room(&self) -> bool {
        let (room, has_room) = mpsc::sync_channel(1);
        self.pool.spawn(move || {
            let until = used_here() + ROOM;
            while used_here() < until {}
            let _ = room.send(());
        });
        has_room.recv_timeout(ROOM_WITHIN).is_ok()
    }
}

fn add_this_thread(threads: &Mutex<Vec<Pid>>) {
    let mut threads = threads.lock().unwrap_or_else(PoisonError::into_inner);
    threads.extend(this_thread());
}

#[cfg(target_os = "linux")]
fn this_thread() -> Option<Pid> {
    Some(rustix::thread::gettid())
}

#[cfg(not(target_os = "linux"))]
fn this_thread() -> Option<Pid> {
    None
}

/// How much these threads of this process have had of the processors.
fn used_by(threads: &Mutex<Vec<Pid>>) -> Duration {
    let threads = threads.lock().unwrap_or_else(PoisonError::into_inner);
    let used = threads
        .iter()
        .map(|id| used_by_one(*id).unwrap_or_default());
    used.sum()
}

/// How much this thread has had of the processors.
fn used_here() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

fn used_by_one(thread: Pid) -> Option<Duration> {
    let id = thread.as_raw_nonzero();
    let text = fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Has this thread run when no other wants to: the system takes it off its core at once when one does.
#[cfg(target_os = "linux")]
fn yield_to_others() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };

    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    if let Err(error) = set {
        debug!(
            event = "no-idle-priority",
            ?error,
            "plugins are loaded at the priority of messages"
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn yield_to_others() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads() -> Threads {
        Threads::start().unwrap()
    }

    #[test]
    fn the_result_of_work_arrives_and_its_panic_does() {
        let threads = threads();
        let panics = catch_unwind(AssertUnwindSafe(|| threads.run(|| panic!("it panics"))));
        assert_eq!(panics.unwrap_err().downcast_ref(), Some(&"it panics"));
        // The thread has survived that.
        assert_eq!(threads.run(|| 7), 7);
    }

    #[test]
    fn work_that_does_not_get_on_is_done_here() {
        let threads = threads();
        let here = std::thread::current().id();
        let (go_on, stands) = mpsc::channel::<()>();
        let stands = Mutex::new(stands);
        let done = threads.run(move || {
            let thread = std::thread::current().id();
            if thread != here {
                let _ = stands.lock().unwrap().recv();
            }
            thread
        });
        assert_eq!(done, here);
        drop(go_on);
    }

    /// Has all these threads stand until the sender is gone.
    fn occupy(threads: &Threads) -> mpsc::Sender<()> {
        let (go_on, stands) = mpsc::channel::<()>();
        let stands = Arc::new(Mutex::new(stands));
        for _ in 0..threads.pool.current_num_threads() {
            let stands = stands.clone();
            threads.pool.spawn(move || {
                let _ = stands.lock().unwrap().recv();
            });
        }
        go_on
    }

    #[test]
    fn with_nothing_left_over_work_is_done_here_and_once() {
        let threads = threads();
        let occupied = occupy(&threads);
        let times = Arc::new(Mutex::new(0));
        let counted = times.clone();
        let here = std::thread::current().id();
        let thread = threads.run(move || {
            *counted.lock().unwrap() += 1;
            std::thread::current().id()
        });
        assert_eq!(thread, here);
        drop(occupied);
        threads.pool.install(|| {});
        assert_eq!(*times.lock().unwrap(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn its_threads_yield_to_all_others() {
        /// `SCHED_IDLE`.
        const IDLE: &str = "5";

        let threads = threads();
        threads.pool.install(|| {});
        let ids = threads.ids.lock().unwrap().clone();
        assert!(!ids.is_empty());
        for id in ids {
            let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", id.as_raw_nonzero()));
            let stat = stat.unwrap();
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            // The policy is the field 41, and the first of these is the third.
            assert_eq!(fields.split(' ').nth(38), Some(IDLE), "{stat}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn messages_run_while_a_thread_that_runs_them_is_busy() {
        let (busy, is_busy) = mpsc::channel();
        let (go_on, stands) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            yields_to_this_thread();
            busy.send(()).unwrap();
            while stands.try_recv().is_err() {}
        });
        is_busy.recv().unwrap();
        // It may have to wait for a processor.
        begin();
        while !messages_run() {}
        go_on.send(()).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn steps_go_through_all_bytes() {
        for length in [0, 1, STEP_BYTES, FEW_BYTES + STEP_BYTES + 1] {
            let bytes: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            assert_eq!(steps(&bytes).collect::<Vec<_>>().concat(), bytes);
            for expected in [0, length, 2 * length + 1] {
                assert_eq!(read_to_end(&*bytes, expected).unwrap(), bytes);
            }
        }
    }

    #[tokio::test]
    async fn a_turn_comes_though_the_threads_are_busy() {
        let threads = threads();
        threads.turn().await;
        threads.wait_for_step();
        let _occupied = occupy(&threads);
        threads.turn().await;
        threads.wait_for_step();
    }
}

//! A lane that has much to do lets others have their turn on its core. Linux gives a core to a thread that wakes up, if it
//! has run less than the thread that runs: with a client or another node on the core, that ends their turn with each message
//! that they send, when soon they would have had more for the lane. With the policy `SCHED_BATCH` (sched(7)) a lane
//! waits for the end of their time slices instead, and then finds more to do.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::policy::{self, Policy};

thread_local! {
    static COURTESY: Cell<Option<Courtesy>> = const { Cell::new(None) };
}

/// To be called by a lane before it begins. Does nothing if the system lets it set no policy, or an operator has chosen one.
pub(super) fn begin() {
    if policy::is(Policy::Normal) && policy::set(Policy::Normal).is_ok() {
        COURTESY.set(Some(Courtesy::new(Instant::now(), worked())));
    }
}

/// To be called before a lane goes to sleep.
pub(super) fn look() {
    let Some(mut courtesy) = COURTESY.get() else { return };
    let before = courtesy.policy;
    if courtesy.is_due(Instant::now) {
        courtesy.note(Instant::now(), worked());
    }
    // What an operator has chosen since then stays.
    let is_set = courtesy.policy == before || policy::is(before) && policy::set(courtesy.policy).is_ok();
    COURTESY.set(is_set.then_some(courtesy));
}

/// The time that this thread has had a core.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A lane with little to do goes to sleep this often from one look at the clock to the next: then it costs a message next to
/// nothing.
const SLEEPS: u32 = 8;

/// Long enough to know how busy a lane is, and short enough for what has changed.
const PERIOD: Duration = Duration::from_millis(10);

/// Shares of a core from which, and down to which, a lane has much to do. Of two lanes and a client on two cores, at saturation
/// one lane gets a quarter to a third of the core that it shares with the client, the other lane most of its own.
/// The less a lane has to do, the more others could delay it: beside endless loops on each core, 3,000 messages a
/// second had a p99 of 2.9 ms with this policy, and of 0.2 ms with the normal one; from 10,000 on it made no difference.
const MUCH: f64 = 0.3;
const LITTLE: f64 = 0.2;

/// How busy a lane is, and what follows from it. Pure.
#[derive(Debug, Clone, Copy)]
struct Courtesy {
    policy: Policy,
    sleeps: u32,
    since: Instant,
    worked: Duration,
}

impl Courtesy {
    fn new(now: Instant, worked: Duration) -> Self {
        Self { policy: Policy::Normal, sleeps: 0, since: now, worked }
    }

    /// Whether it is time to see how busy the lane was. One that has less to do now should know it with the first message.
    fn is_due(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.sleeps = (self.sleeps + 1) % SLEEPS;
        let may_look = self.sleeps == 0 || self.policy == Policy::Batch;
        may_look && now().saturating_duration_since(self.since) >= PERIOD
    }

    /// By now the lane has had a core for that long since it began.
    fn note(&mut self, now: Instant, worked: Duration) {
        let period = now.saturating_duration_since(self.since);
        let share = worked.saturating_sub(self.worked).as_secs_f64() / period.as_secs_f64();
        (self.since, self.worked) = (now, worked);
        self.policy = match self.policy {
            Policy::Normal if share >= MUCH => Policy::Batch,
            Policy::Batch if share <= LITTLE => Policy::Normal,
            same => same,
        };
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::super::Lanes;
    use super::*;

    #[test]
    fn only_a_lane_with_much_to_do_lets_others_have_their_turn() {
        let (mut now, mut worked) = (Instant::now(), Duration::ZERO);
        let mut courtesy = Courtesy::new(now, worked);
        let mut after_a_share = |share: f64| {
            now += PERIOD;
            worked += PERIOD.mul_f64(share);
            courtesy.note(now, worked);
            courtesy.policy
        };
        let between = (LITTLE + MUCH) / 2.0;
        assert_eq!(after_a_share(between), Policy::Normal);
        assert_eq!(after_a_share(1.1 * MUCH), Policy::Batch);
        assert_eq!(after_a_share(between), Policy::Batch);
        assert_eq!(after_a_share(0.9 * LITTLE), Policy::Normal);
        assert_eq!(after_a_share(between), Policy::Normal);
    }

    #[test]
    fn the_clock_is_looked_at_now_and_then() {
        let start = Instant::now();
        let mut courtesy = Courtesy::new(start, Duration::ZERO);
        let looks = Cell::new(0);
        let too_soon = || {
            looks.set(looks.get() + 1);
            start + PERIOD / 2
        };
        assert!((0..10 * SLEEPS).all(|_| !courtesy.is_due(too_soon)), "so soon says little");
        assert_eq!(looks.get(), 10);
        assert_eq!((0..SLEEPS).filter(|_| courtesy.is_due(|| start + PERIOD)).count(), 1);
        courtesy.policy = Policy::Batch;
        assert_eq!((0..SLEEPS).filter(|_| courtesy.is_due(|| start + PERIOD)).count(), SLEEPS as usize);
    }

    /// Bounds a hang.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Gives a lane work of this length, again and again, until the work finds that the lane has the policy. Returns the
    /// lane's nice value.
    async fn work_until(lane: &tokio::runtime::Handle, policy: Policy, work: Duration, rest: Duration) -> i32 {
        let began = Instant::now();
        loop {
            let work = async move {
                let began = worked();
                while worked() - began < work {}
                policy::is(policy).then(|| getpriority_process(None).unwrap())
            };
            if let Some(nice) = lane.spawn(work).await.unwrap() {
                return nice;
            }
            assert!(began.elapsed() < PATIENCE, "the lane does not get the policy {policy:?}");
            tokio::time::sleep(rest).await;
        }
    }

    /// Runs this in a thread of its own, for which an operator has chosen the policy that the system would not.
    fn in_a_thread_of_an_operator(check: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| match policy::set(Policy::Batch) {
            Ok(()) => check(),
            Err(error) => eprintln!("left out: here, threads keep the policy that they were given ({error})"),
        });
        thread.join().unwrap();
    }

    #[test]
    fn what_an_operator_has_chosen_stays() {
        in_a_thread_of_an_operator(|| {
            begin();
            assert!(COURTESY.get().is_none());
        });
        in_a_thread_of_an_operator(|| {
            let began = Instant::now();
            // It was begun with the normal policy.
            COURTESY.set(Some(Courtesy::new(began, worked())));
            while COURTESY.get().is_some() {
                look();
                assert!(began.elapsed() < PATIENCE, "the choice is not noticed");
            }
            assert!(policy::is(Policy::Batch));
        });
    }

    #[tokio::test]
    async fn a_lane_has_the_policy_for_what_it_has_to_do() {
        if !policy::is(Policy::Normal) || policy::set(Policy::Normal).is_err() {
            return eprintln!("left out: here, threads keep the policy that they were given");
        }
        let nice = getpriority_process(None).unwrap();
        let lanes = Lanes::start().unwrap();
        let lane = &lanes.all()[0];
        let long = PERIOD / 2;
        assert_eq!(work_until(lane, Policy::Batch, long, Duration::ZERO).await, nice);
        assert!(policy::is(Policy::Normal), "this thread is no lane");
        assert_eq!(work_until(lane, Policy::Normal, Duration::ZERO, PERIOD).await, nice);
        work_until(lane, Policy::Batch, long, Duration::ZERO).await;
    }
}

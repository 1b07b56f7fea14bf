//! Debouncing: a change of a source is acted upon once it has stayed for a while, and a failure is
//! logged once it has lasted. Pure: times and findings come in, steps go out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::source::{Found, Version};

/// A version that has stayed for this long is taken to be whole. A slower writer costs a failed load,
/// and another one when it goes on.
const SETTLED: Duration = Duration::from_millis(50);

/// A plugin that has been missing for this long is taken to be removed: tools delete a file before
/// they write it.
const REMOVED: Duration = Duration::from_millis(400);

/// A failure is logged once its version has stayed for this long: a slow copy fails with each piece,
/// and none of these failures matters.
const LOGGED_AFTER: Duration = Duration::from_secs(1);

/// What has been seen and done, for each plugin by its name.
#[derive(Default)]
pub(super) struct Debounce(BTreeMap<String, Seen>);

struct Seen {
    /// `None`: it is missing.
    version: Option<Version>,
    since: Instant,
    /// What was last loaded, or tried to be.
    loaded: Option<Version>,
    is_loading: bool,
    /// Why the last load that said something failed.
    failure: Option<Failure>,
}

struct Failure {
    version: Option<Version>,
    error: String,
    at: Instant,
    is_logged: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Load {
        name: String,
        version: Version,
    },
    Remove {
        name: String,
    },
    /// Log that a plugin failed, and why.
    LogFailure {
        name: String,
        error: String,
    },
}

/// How a load came to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// The files are those of a version that runs.
    Well,
    /// The files changed meanwhile: it says nothing, and is made again.
    Unsettled,
    Failed {
        error: String,
        /// When the same files are tried again; `None`: it would be in vain.
        retry_after: Option<Duration>,
    },
}

impl Debounce {
    /// Takes what a scan has found, and says what to do now.
    pub(super) fn observe(&mut self, now: Instant, found: &Found) -> Vec<Step> {
        for (name, version) in found {
            let seen = self.0.entry(name.clone()).or_insert_with(|| Seen {
                version: None,
                since: now,
                loaded: None,
                is_loading: false,
                failure: None,
            });
            if seen.version != Some(*version) {
                (seen.version, seen.since) = (Some(*version), now);
            }
        }
        for (name, seen) in &mut self.0 {
            if seen.version.is_some() && !found.contains_key(name) {
                (seen.version, seen.since) = (None, now);
            }
        }
        let mut steps = self.ripe(now);
        steps.extend(self.log(now));
        steps
    }

    /// The first look at the source: nothing is waited for.
    pub(super) fn begin(&mut self, now: Instant, found: &Found) -> Vec<Step> {
        self.observe(now, found);
        self.ripe(now + SETTLED)
    }

    /// The failures of the first loads are logged at once: whoever starts a node looks at its log
    /// then.
    pub(super) fn begun(&mut self, now: Instant) -> Vec<Step> {
        self.log(now + LOGGED_AFTER)
    }

    fn ripe(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        self.0.retain(|name, seen| {
            if seen.due().is_none_or(|due| now < due) {
                return true;
            }
            match seen.version {
                Some(version) => {
                    (seen.loaded, seen.is_loading) = (Some(version), true);
                    steps.push(Step::Load {
                        name: name.clone(),
                        version,
                    });
                    true
                }
                None => {
                    steps.push(Step::Remove { name: name.clone() });
                    false
                }
            }
        });
        steps
    }

    fn log(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        for (name, seen) in &mut self.0 {
            let is_due = seen.log_due().is_some_and(|due| due <= now);
            if let Some(failure) = seen.failure.as_mut().filter(|_| is_due) {
                failure.is_logged = true;
                steps.push(Step::LogFailure {
                    name: name.clone(),
                    error: failure.error.clone(),
                });
            }
        }
        steps
    }

    /// A load has come to its end.
    pub(super) fn loaded(&mut self, name: &str, now: Instant, ended: Ended) {
        let Some(seen) = self.0.get_mut(name) else {
            return;
        };
        seen.is_loading = false;
        match ended {
            Ended::Well => seen.failure = None,
            // Not at once: a source that contradicts itself must not keep a core busy.
            Ended::Unsettled => (seen.loaded, seen.since) = (None, now),
            Ended::Failed { error, retry_after } => {
                let version = seen.loaded;
                // What fails again in the same way is told once.
                let is_known = |known: &Failure| known.version == version && known.error == error;
                if !seen.failure.as_ref().is_some_and(is_known) {
                    seen.failure = Some(Failure {
                        version,
                        error,
                        at: now,
                        is_logged: false,
                    });
                }
                // Those that have changed meanwhile are not the same.
                if let Some(pause) = retry_after.filter(|_| seen.version == version) {
                    (seen.loaded, seen.since) = (None, now + pause);
                }
            }
        }
    }

    /// The source was away: what was missing then gets its time anew.
    pub(super) fn look_anew(&mut self, now: Instant) {
        for seen in self.0.values_mut().filter(|seen| seen.version.is_none()) {
            seen.since = now;
        }
    }

    /// When the next step is ripe, if nothing changes until then.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0
            .values()
            .flat_map(|seen| [seen.due(), seen.log_due()])
            .flatten()
            .min()
    }
}

impl Seen {
    fn due(&self) -> Option<Instant> {
        match self.version {
            _ if self.is_loading => None,
            Some(version) if self.loaded == Some(version) => None,
            // A manifest that is gone may be about to be written, too.
            Some(version)
                if self
                    .loaded
                    .is_some_and(|loaded| loaded.has_manifest && !version.has_manifest) =>
            {
                Some(self.since + REMOVED)
            }
            Some(_) => Some(self.since + SETTLED),
            None => Some(self.since + REMOVED),
        }
    }

    fn log_due(&self) -> Option<Instant> {
        let failure = self
            .failure
            .as_ref()
            .filter(|failure| !failure.is_logged && failure.version == self.version)?;
        (!self.is_loading).then(|| failure.at + LOGGED_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: u64) -> Version {
        Version {
            id,
            has_manifest: false,
        }
    }

    fn found(bytes: u64) -> Found {
        Found::from([("echo".into(), version(bytes))])
    }

    fn load(bytes: u64) -> Vec<Step> {
        vec![Step::Load {
            name: "echo".into(),
            version: version(bytes),
        }]
    }

    fn failed(error: &str, retry_after: Option<Duration>) -> Ended {
        Ended::Failed {
            error: error.into(),
            retry_after,
        }
    }

    fn tell(error: &str) -> Vec<Step> {
        vec![Step::LogFailure {
            name: "echo".into(),
            error: error.into(),
        }]
    }

    #[test]
    fn a_file_is_loaded_once_it_stays_as_it_is() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(debounce.observe(at(0), &found(1)), []);
        assert_eq!(debounce.observe(at(40), &found(2)), []);
        assert_eq!(debounce.due(), Some(at(90)));
        assert_eq!(debounce.observe(at(89), &found(2)), []);
        assert_eq!(debounce.observe(at(90), &found(2)), load(2));
        debounce.loaded("echo", start, Ended::Well);
        assert_eq!(debounce.due(), None);
        assert_eq!(debounce.observe(at(1000), &found(2)), []);
    }

    #[test]
    fn what_changes_during_a_load_is_loaded_after_it() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(debounce.begin(at(0), &found(1)), load(1));
        assert_eq!(debounce.observe(at(10), &found(2)), []);
        assert_eq!(
            debounce.observe(at(100), &found(2)),
            [],
            "one load at a time"
        );
        debounce.loaded("echo", start, Ended::Well);
        assert_eq!(debounce.observe(at(101), &found(2)), load(2));
        // Without a pause, if that was for what it was before.
        assert_eq!(debounce.observe(at(200), &found(3)), []);
        debounce.loaded(
            "echo",
            at(210),
            failed("no room", Some(Duration::from_secs(5))),
        );
        assert_eq!(debounce.observe(at(250), &found(3)), load(3));
    }

    #[test]
    fn an_attempt_that_says_nothing_is_made_again() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        assert_eq!(debounce.begin(start, &found(1)), load(1));
        debounce.loaded("echo", start, Ended::Unsettled);
        assert_eq!(debounce.observe(start + SETTLED, &found(1)), load(1));
        debounce.loaded(
            "echo",
            start,
            failed("no room", Some(Duration::from_secs(5))),
        );
        assert_eq!(
            debounce.observe(start + Duration::from_secs(5), &found(1)),
            tell("no room")
        );
        assert_eq!(
            debounce.observe(start + Duration::from_secs(5) + SETTLED, &found(1)),
            load(1)
        );
    }

    #[test]
    fn what_was_missing_before_the_directory_was_away_gets_its_time() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        debounce.begin(at(0), &found(1));
        debounce.loaded("echo", at(0), Ended::Well);
        assert_eq!(debounce.observe(at(10), &Found::new()), []);
        debounce.look_anew(at(5_000));
        assert_eq!(debounce.observe(at(5_000), &Found::new()), []);
        assert_eq!(
            debounce.observe(at(5_400), &Found::new()),
            [Step::Remove {
                name: "echo".into()
            }]
        );
    }

    #[test]
    fn a_file_is_removed_when_it_stays_away() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        debounce.begin(at(0), &found(1));
        debounce.loaded("echo", start, Ended::Well);
        assert_eq!(debounce.observe(at(10), &Found::new()), []);
        // It is replaced the way editors do, and it is the same: nothing happens.
        assert_eq!(debounce.observe(at(100), &found(1)), []);
        assert_eq!(debounce.observe(at(200), &Found::new()), []);
        assert_eq!(debounce.observe(at(599), &Found::new()), []);
        assert_eq!(
            debounce.observe(at(600), &Found::new()),
            [Step::Remove {
                name: "echo".into()
            }]
        );
        assert_eq!(debounce.due(), None);
        // When it comes back it is loaded, whatever was loaded of it before.
        assert_eq!(debounce.observe(at(700), &found(1)), []);
        assert_eq!(debounce.observe(at(750), &found(1)), load(1));
    }

    #[test]
    fn a_slow_copy_is_logged_of_no_piece() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for piece in 0..10 {
            let arrives = piece * 900;
            assert_eq!(debounce.observe(at(arrives), &found(piece)), []);
            assert_eq!(
                debounce.observe(at(arrives + 50), &found(piece)),
                load(piece)
            );
            debounce.loaded("echo", at(arrives + 60), failed("cut off", None));
            assert_eq!(debounce.observe(at(arrives + 890), &found(piece)), []);
        }
        assert_eq!(debounce.observe(at(9_000), &found(10)), []);
        assert_eq!(debounce.observe(at(9_050), &found(10)), load(10));
        assert_eq!(debounce.due(), None, "it is being loaded");
        debounce.loaded("echo", at(9_060), Ended::Well);
        assert_eq!(debounce.observe(at(20_000), &found(10)), []);
    }

    #[test]
    fn a_file_that_stays_broken_is_logged_once() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        debounce.observe(at(0), &found(1));
        assert_eq!(debounce.observe(at(50), &found(1)), load(1));
        debounce.loaded("echo", at(60), failed("broken", None));
        assert_eq!(debounce.due(), Some(at(1_060)));
        assert_eq!(debounce.observe(at(1_059), &found(1)), []);
        assert_eq!(debounce.observe(at(1_060), &found(1)), tell("broken"));
        assert_eq!(debounce.observe(at(5_000), &found(1)), []);
        assert_eq!(debounce.due(), None);
        // Another file that is broken in the same way is another failure.
        debounce.observe(at(6_000), &found(2));
        assert_eq!(debounce.observe(at(6_050), &found(2)), load(2));
        debounce.loaded("echo", at(6_060), failed("broken", None));
        assert_eq!(debounce.observe(at(7_060), &found(2)), tell("broken"));
        // What is removed before it was told is told no more.
        debounce.observe(at(8_000), &found(3));
        assert_eq!(debounce.observe(at(8_050), &found(3)), load(3));
        debounce.loaded("echo", at(8_060), failed("broken", None));
        assert_eq!(debounce.observe(at(8_100), &Found::new()), []);
        assert_eq!(
            debounce.observe(at(9_500), &Found::new()),
            [Step::Remove {
                name: "echo".into()
            }]
        );
    }

    #[test]
    fn attempts_that_fail_in_the_same_way_are_told_once() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let pause = Some(Duration::from_secs(5));
        assert_eq!(debounce.begin(at(0), &found(1)), load(1));
        debounce.loaded("echo", at(10), failed("no room", pause));
        assert_eq!(debounce.observe(at(1_010), &found(1)), tell("no room"));
        assert_eq!(debounce.observe(at(5_060), &found(1)), load(1));
        debounce.loaded("echo", at(5_070), failed("no room", pause));
        assert_eq!(debounce.observe(at(7_000), &found(1)), []);
        assert_eq!(debounce.observe(at(10_120), &found(1)), load(1));
        debounce.loaded("echo", at(10_130), failed("broken", None));
        assert_eq!(debounce.observe(at(11_130), &found(1)), tell("broken"));
    }

    #[test]
    fn what_fails_at_the_start_is_logged_at_once() {
        let (mut debounce, start) = (Debounce::default(), Instant::now());
        assert_eq!(debounce.begin(start, &found(1)), load(1));
        debounce.loaded("echo", start, failed("broken", None));
        assert_eq!(debounce.begun(start), tell("broken"));
        assert_eq!(debounce.begun(start), []);
        assert_eq!(debounce.observe(start + LOGGED_AFTER, &found(1)), []);
    }
}

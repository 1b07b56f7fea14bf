//! Debouncing: a change in the source is acted upon once it has been stable for a while, and a
//! failure is logged once it has lasted. Pure: times and scan results in, steps out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::source::{Found, Version};

/// A version that has not changed for this long is assumed to be complete. A slower writer costs a
/// failed load, and another load when it continues.
const SETTLED: Duration = Duration::from_millis(50);

/// A plugin that has been missing for this long is assumed to be removed: tools delete a file
/// before they write it anew.
const REMOVED: Duration = Duration::from_millis(400);

/// A failure is logged once its version has been unchanged for this long: a slow copy fails at
/// every partial state, and none of those failures matters.
const LOGGED_AFTER: Duration = Duration::from_secs(1);

/// The observed and the loaded state of each plugin, by name.
#[derive(Default)]
pub(super) struct Debounce(BTreeMap<String, Seen>);

struct Seen {
    /// `None`: the file is missing.
    version: Option<Version>,
    since: Instant,
    /// The last version that was loaded or failed to load.
    loaded: Option<Version>,
    is_loading: bool,
    /// Why the last load with a definite result failed, if it did.
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

/// The result of a load.
#[derive(Debug)]
pub(super) enum LoadOutcome {
    /// The plugin runs in this version.
    Loaded,
    /// The files changed during the load: no result, so it is repeated.
    ChangedMeanwhile,
    Failed {
        error: String,
        /// Delay before the same files are tried again; `None`: a retry is pointless.
        retry_after: Option<Duration>,
    },
}

impl Debounce {
    /// Takes the result of a scan, and returns the steps that are due now.
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

    /// Takes the result of the first scan, without debouncing.
    pub(super) fn begin(&mut self, now: Instant, found: &Found) -> Vec<Step> {
        let mut steps = self.observe(now, found);
        steps.extend(self.ripe(now + SETTLED));
        steps
    }

    /// Logs the failures of the first loads at once: operators look at the log when they start a
    /// node.
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

    /// Takes the result of a load.
    pub(super) fn loaded(&mut self, name: &str, now: Instant, ended: LoadOutcome) {
        let Some(seen) = self.0.get_mut(name) else {
            return;
        };
        seen.is_loading = false;
        match ended {
            LoadOutcome::Loaded => seen.failure = None,
            // Not at once: a source whose scans and reads disagree must not keep a core busy.
            LoadOutcome::ChangedMeanwhile => {
                let is_whole = seen.version.is_some_and(|version| version.is_whole);
                let pause = if is_whole { SETTLED } else { Duration::ZERO };
                (seen.loaded, seen.since) = (None, now + pause);
            }
            LoadOutcome::Failed { error, retry_after } => {
                let version = seen.loaded;
                // A repeated identical failure is logged once.
                let is_known = |known: &Failure| known.version == version && known.error == error;
                if !seen.failure.as_ref().is_some_and(is_known) {
                    seen.failure = Some(Failure {
                        version,
                        error,
                        at: now,
                        is_logged: false,
                    });
                }
                // Only if the files have not changed since.
                if let Some(pause) = retry_after.filter(|_| seen.version == version) {
                    (seen.loaded, seen.since) = (None, now + pause);
                }
            }
        }
    }

    /// The source was unreadable: restarts the removal timeout of plugins that were missing.
    pub(super) fn look_anew(&mut self, now: Instant) {
        for seen in self.0.values_mut().filter(|seen| seen.version.is_none()) {
            seen.since = now;
        }
    }

    /// When the next step is due, if nothing changes until then.
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
            Some(version) if version.is_whole => Some(self.since),
            // A deleted manifest may also be about to be rewritten.
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
            is_whole: false,
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

    fn failed(error: &str, retry_after: Option<Duration>) -> LoadOutcome {
        LoadOutcome::Failed {
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
        debounce.loaded("echo", start, LoadOutcome::Loaded);
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
        debounce.loaded("echo", start, LoadOutcome::Loaded);
        assert_eq!(debounce.observe(at(101), &found(2)), load(2));
        // No retry delay, as it applied to the earlier files.
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
        debounce.loaded("echo", start, LoadOutcome::ChangedMeanwhile);
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
        debounce.loaded("echo", at(0), LoadOutcome::Loaded);
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
        debounce.loaded("echo", start, LoadOutcome::Loaded);
        assert_eq!(debounce.observe(at(10), &Found::new()), []);
        // It is deleted and rewritten as editors do, with the same version: nothing happens.
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
        // When it comes back it is loaded, even in the version that was loaded before.
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
        debounce.loaded("echo", at(9_060), LoadOutcome::Loaded);
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
        // Another version that is broken in the same way is a new failure.
        debounce.observe(at(6_000), &found(2));
        assert_eq!(debounce.observe(at(6_050), &found(2)), load(2));
        debounce.loaded("echo", at(6_060), failed("broken", None));
        assert_eq!(debounce.observe(at(7_060), &found(2)), tell("broken"));
        // A failure is not logged if its plugin is removed before that is due.
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

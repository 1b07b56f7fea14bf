//! Settling: when a change of the directory is ripe to be acted upon. Pure: time and findings come in,
//! steps go out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::scan::{Found, Stamp};

/// Files that have not changed for so long are taken to be whole. A slower writer costs a failed attempt,
/// and another one when it goes on.
const SETTLED: Duration = Duration::from_millis(50);

/// A file that has been missing for so long is taken to be removed: tools delete before they write.
const REMOVED: Duration = Duration::from_millis(400);

/// What has been seen and done, for each plugin by its name.
#[derive(Default)]
pub(super) struct Settling(BTreeMap<String, Seen>);

struct Seen {
    file: PathBuf,
    /// `None`: it is missing.
    stamp: Option<Stamp>,
    since: Instant,
    /// What was last loaded, or tried to be.
    loaded: Option<Stamp>,
    is_loading: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Load { name: String, file: PathBuf, stamp: Stamp },
    Remove { name: String },
}

/// When the same files are loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    WhenChanged,
    AtOnce,
    After(Duration),
}

impl Settling {
    /// Takes what a scan has found, and says what to do now.
    pub(super) fn observe(&mut self, now: Instant, found: &Found) -> Vec<Step> {
        for (name, (file, stamp)) in found {
            let seen = self.0.entry(name.clone()).or_insert_with(|| Seen {
                file: file.clone(),
                stamp: None,
                since: now,
                loaded: None,
                is_loading: false,
            });
            if seen.stamp != Some(*stamp) {
                (seen.stamp, seen.since) = (Some(*stamp), now);
            }
        }
        for (name, seen) in &mut self.0 {
            if seen.stamp.is_some() && !found.contains_key(name) {
                (seen.stamp, seen.since) = (None, now);
            }
        }
        self.ripe(now)
    }

    /// The first look at the directory: nothing is waited for.
    pub(super) fn begin(&mut self, now: Instant, found: &Found) -> Vec<Step> {
        self.observe(now, found);
        self.ripe(now + SETTLED)
    }

    fn ripe(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        self.0.retain(|name, seen| {
            if seen.due().is_none_or(|due| now < due) {
                return true;
            }
            match seen.stamp {
                Some(stamp) => {
                    (seen.loaded, seen.is_loading) = (Some(stamp), true);
                    steps.push(Step::Load { name: name.clone(), file: seen.file.clone(), stamp });
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

    /// A load has come to its end.
    pub(super) fn loaded(&mut self, name: &str, now: Instant, next: Next) {
        let Some(seen) = self.0.get_mut(name) else { return };
        seen.is_loading = false;
        match next {
            Next::WhenChanged => {}
            Next::AtOnce => seen.loaded = None,
            Next::After(pause) => (seen.loaded, seen.since) = (None, now + pause),
        }
    }

    /// The directory was away, and so was what it says of missing files.
    pub(super) fn look_anew(&mut self, now: Instant) {
        for seen in self.0.values_mut().filter(|seen| seen.stamp.is_none()) {
            seen.since = now;
        }
    }

    /// When the next step is ripe, if nothing changes until then.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(Seen::due).min()
    }
}

impl Seen {
    fn due(&self) -> Option<Instant> {
        match self.stamp {
            _ if self.is_loading => None,
            Some(stamp) if self.loaded == Some(stamp) => None,
            // A manifest that is gone may be about to be written, too.
            Some(stamp) if self.loaded.is_some_and(|loaded| loaded.has_manifest() && !stamp.has_manifest()) => {
                Some(self.since + REMOVED)
            }
            Some(_) => Some(self.since + SETTLED),
            None => Some(self.since + REMOVED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: u64) -> Found {
        Found::from([("echo".into(), ("echo.wasm".into(), Stamp::test(bytes)))])
    }

    fn load(bytes: u64) -> Vec<Step> {
        vec![Step::Load { name: "echo".into(), file: "echo.wasm".into(), stamp: Stamp::test(bytes) }]
    }

    #[test]
    fn a_file_is_loaded_once_it_stays_as_it_is() {
        let (mut settling, start) = (Settling::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(settling.observe(at(0), &found(1)), []);
        assert_eq!(settling.observe(at(40), &found(2)), []);
        assert_eq!(settling.due(), Some(at(90)));
        assert_eq!(settling.observe(at(89), &found(2)), []);
        assert_eq!(settling.observe(at(90), &found(2)), load(2));
        settling.loaded("echo", start, Next::WhenChanged);
        assert_eq!(settling.due(), None);
        assert_eq!(settling.observe(at(1000), &found(2)), []);
    }

    #[test]
    fn what_changes_during_a_load_is_loaded_after_it() {
        let (mut settling, start) = (Settling::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(settling.begin(at(0), &found(1)), load(1));
        assert_eq!(settling.observe(at(10), &found(2)), []);
        assert_eq!(settling.observe(at(100), &found(2)), [], "one load at a time");
        settling.loaded("echo", start, Next::WhenChanged);
        assert_eq!(settling.observe(at(101), &found(2)), load(2));
    }

    #[test]
    fn an_attempt_that_says_nothing_is_made_again() {
        let (mut settling, start) = (Settling::default(), Instant::now());
        assert_eq!(settling.begin(start, &found(1)), load(1));
        settling.loaded("echo", start, Next::AtOnce);
        assert_eq!(settling.observe(start + SETTLED, &found(1)), load(1));
        settling.loaded("echo", start, Next::After(Duration::from_secs(5)));
        assert_eq!(settling.observe(start + Duration::from_secs(5), &found(1)), []);
        assert_eq!(settling.observe(start + Duration::from_secs(5) + SETTLED, &found(1)), load(1));
    }

    #[test]
    fn what_was_missing_before_the_directory_was_away_gets_its_time() {
        let (mut settling, start) = (Settling::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        settling.begin(at(0), &found(1));
        settling.loaded("echo", at(0), Next::WhenChanged);
        assert_eq!(settling.observe(at(10), &Found::new()), []);
        settling.look_anew(at(5_000));
        assert_eq!(settling.observe(at(5_000), &Found::new()), []);
        assert_eq!(settling.observe(at(5_400), &Found::new()), [Step::Remove { name: "echo".into() }]);
    }

    #[test]
    fn a_file_is_removed_when_it_stays_away() {
        let (mut settling, start) = (Settling::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        settling.begin(at(0), &found(1));
        settling.loaded("echo", start, Next::WhenChanged);
        assert_eq!(settling.observe(at(10), &Found::new()), []);
        // It is replaced the way editors do, and it is the same: nothing happens.
        assert_eq!(settling.observe(at(100), &found(1)), []);
        assert_eq!(settling.observe(at(200), &Found::new()), []);
        assert_eq!(settling.observe(at(599), &Found::new()), []);
        assert_eq!(settling.observe(at(600), &Found::new()), [Step::Remove { name: "echo".into() }]);
        assert_eq!(settling.due(), None);
        // When it comes back it is loaded, whatever was loaded of it before.
        assert_eq!(settling.observe(at(700), &found(1)), []);
        assert_eq!(settling.observe(at(750), &found(1)), load(1));
    }
}

//! State of the seeds: what their names resolve to, whether gossip could be sent to them, and
//! whether they answer. Pure: the time is an argument, and nothing is sent from here.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::seed::Seed;

/// How long to wait for a seed to answer before going on alone. Seeds may be down for good, and a
/// mesh that was stopped as a whole must be able to start again.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// How long a start waits for a name to resolve. A resolver that can be reached answers within a
/// second; for one that cannot the system times out after 5 s for each server, and retries. The
/// start then goes on without that name: the mesh may be found through other seeds, or later.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// A seed counts as silent when this many requests, the first of them this long ago, have brought
/// no answer: a lost datagram, or a node that starts at the same time, is ruled out.
const ASKED_MIN: u32 = 5;
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Consecutive failures to send that count as a problem, not as a hiccup.
const NOT_SENT_MIN: u32 = 5;

/// Most addresses of a silent name that are logged.
const ADDRESSES_TOLD_MAX: usize = 8;

/// Every seed, and the results of contacting it.
#[derive(Debug)]
pub(super) struct Contacts {
    seeds: Vec<Whereabouts>,
    /// The addresses of all seeds.
    addresses: HashMap<SocketAddr, Contact>,
}

/// One seed, and what is known of its addresses.
#[derive(Debug)]
struct Whereabouts {
    seed: String,
    addresses: Vec<SocketAddr>,
    /// Its name resolves to this node, too.
    is_this_node: bool,
    /// Start of the lookup that is in progress, if one is.
    lookup_began: Option<Instant>,
    /// Why the last lookup failed.
    unresolved: Option<String>,
    /// Until then a starting node waits for this seed.
    decided_at: Instant,
    has_been_looked_up: bool,
}

/// The results of contacting one address.
#[derive(Debug, Default)]
struct Contact {
    was_heard: bool,
    /// Requests sent since it was last heard; `asked_since` is when the first of them was sent.
    asked: u32,
    asked_since: Option<Instant>,
    /// Failures to send since the last success.
    not_sent: u32,
    never_to_be_sent: bool,
    error: String,
}

/// Why a seed cannot be used at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    NotResolved { error: String },
    NotSent { to: SocketAddr, error: String },
    Silent { addresses: Vec<SocketAddr> },
}

impl Contacts {
    /// The seeds before any is contacted. Contacting them must begin at once, as the deadlines
    /// count from `now`.
    pub(super) fn new(seeds: &[Seed], now: Instant) -> Self {
        let whereabouts = |seed: &Seed| Whereabouts {
            seed: seed.to_string(),
            addresses: seed.address().map(canonical).into_iter().collect(),
            is_this_node: false,
            lookup_began: None,
            unresolved: None,
            decided_at: now
                + if seed.address().is_some() {
                    ANSWER_MAX
                } else {
                    LOOKUP_MAX
                },
            has_been_looked_up: seed.address().is_some(),
        };
        let mut contacts = Self {
            seeds: seeds.iter().map(whereabouts).collect(),
            addresses: HashMap::new(),
        };
        contacts.meet();
        contacts
    }

    /// A lookup of the seed with this index begins.
    pub(super) fn lookup_begins(&mut self, index: usize, now: Instant) {
        self.seeds[index].lookup_began = Some(now);
    }

    /// The seed's name resolves to these addresses, which are contacted now, and with
    /// `is_this_node` also to this node itself.
    pub(super) fn resolved(
        &mut self,
        index: usize,
        others: &[SocketAddr],
        is_this_node: bool,
        now: Instant,
    ) {
        let seed = &mut self.seeds[index];
        seed.addresses = others.iter().copied().map(canonical).collect();
        seed.is_this_node = is_this_node;
        seed.unresolved = None;
        seed.looked_up(
            now + if others.is_empty() {
                Duration::ZERO
            } else {
                ANSWER_MAX
            },
            now,
        );
        self.meet();
    }

    /// The seed's name does not resolve at present. Its earlier addresses are kept, as it may still
    /// be there.
    pub(super) fn unresolved(&mut self, index: usize, error: String, now: Instant) {
        let seed = &mut self.seeds[index];
        seed.unresolved = Some(error);
        seed.looked_up(now, now);
    }

    /// Gossip was sent to an address; with `is_question` an answer is due.
    pub(super) fn sent(&mut self, to: SocketAddr, is_question: bool, now: Instant) {
        let Some(contact) = self.addresses.get_mut(&canonical(to)) else {
            return;
        };
        contact.not_sent = 0;
        contact.never_to_be_sent = false;
        if is_question {
            contact.asked = contact.asked.saturating_add(1);
            contact.asked_since.get_or_insert(now);
        }
    }

    /// Gossip could not be sent to an address; with `for_good` no retry can succeed.
    pub(super) fn not_sent(&mut self, to: SocketAddr, error: impl ToString, for_good: bool) {
        let Some(contact) = self.addresses.get_mut(&canonical(to)) else {
            return;
        };
        contact.not_sent = contact.not_sent.saturating_add(1);
        contact.never_to_be_sent = for_good;
        contact.error = error.to_string();
    }

    /// Gossip arrived from an address.
    pub(super) fn heard(&mut self, from: SocketAddr) {
        let Some(contact) = self.addresses.get_mut(&canonical(from)) else {
            return;
        };
        contact.was_heard = true;
        contact.asked = 0;
        contact.asked_since = None;
    }

    /// The deadline by which every seed has had its time to answer a starting node. `None` if there
    /// are no seeds.
    pub(super) fn decided_at(&self) -> Option<Instant> {
        self.seeds.iter().map(|seed| seed.decided_at).max()
    }

    /// The seeds that cannot be used, each with the reason. An address that is `alive` according to
    /// other nodes need not be heard directly.
    pub(super) fn problems(
        &self,
        alive: &HashSet<SocketAddr>,
        now: Instant,
    ) -> Vec<(String, Problem)> {
        let problems = self
            .seeds
            .iter()
            .filter_map(|seed| Some((seed.seed.clone(), self.problem(seed, alive, now)?)));
        problems.collect()
    }

    fn problem(
        &self,
        seed: &Whereabouts,
        alive: &HashSet<SocketAddr>,
        now: Instant,
    ) -> Option<Problem> {
        if let Some(error) = seed.lookup_error(now) {
            return Some(Problem::NotResolved { error });
        }
        let contacts = || {
            seed.addresses
                .iter()
                .filter_map(move |address| Some((*address, self.addresses.get(address)?)))
        };
        if contacts().any(|(address, contact)| alive.contains(&address) || contact.is_well(now)) {
            return None;
        }
        let silent = contacts()
            .filter(|(_, contact)| contact.is_silent(now))
            .map(|(address, _)| address);
        let silent: Vec<SocketAddr> = silent.take(ADDRESSES_TOLD_MAX).collect();
        if !silent.is_empty() {
            return Some(Problem::Silent { addresses: silent });
        }
        if seed.is_this_node || !contacts().all(|(_, contact)| contact.is_not_sent()) {
            return None;
        }
        let (to, contact) = contacts().next()?;
        Some(Problem::NotSent {
            to,
            error: contact.error.clone(),
        })
    }

    /// Updates the tracked addresses to exactly those of all seeds, and keeps the state of those
    /// that stay.
    fn meet(&mut self) {
        let all: HashSet<SocketAddr> = self
            .seeds
            .iter()
            .flat_map(|seed| &seed.addresses)
            .copied()
            .collect();
        self.addresses.retain(|address, _| all.contains(address));
        for address in all {
            self.addresses.entry(address).or_default();
        }
    }
}

impl Whereabouts {
    /// Only the resolver's first answer moves the deadline of the start, and only if it is in time.
    fn looked_up(&mut self, decided_at: Instant, now: Instant) {
        self.lookup_began = None;
        if !self.has_been_looked_up && now < self.decided_at {
            self.decided_at = decided_at;
        }
        self.has_been_looked_up = true;
    }

    fn lookup_error(&self, now: Instant) -> Option<String> {
        let has_hung = self
            .lookup_began
            .is_some_and(|began| now.saturating_duration_since(began) >= LOOKUP_MAX);
        if has_hung {
            Some("the resolver does not answer".to_owned())
        } else {
            self.unresolved.clone()
        }
    }
}

impl Contact {
    fn is_silent(&self, now: Instant) -> bool {
        let since = self
            .asked_since
            .map(|since| now.saturating_duration_since(since));
        self.asked >= ASKED_MIN && since.is_some_and(|since| since >= SILENT_AFTER)
    }

    fn is_not_sent(&self) -> bool {
        self.never_to_be_sent || self.not_sent >= NOT_SENT_MIN
    }

    fn is_well(&self, now: Instant) -> bool {
        self.was_heard && !self.is_silent(now) && !self.is_not_sent()
    }
}

impl Problem {
    /// The reason as a label of metrics and logs.
    pub(super) fn because(&self) -> &'static str {
        match self {
            Self::NotResolved { .. } => "not-resolved",
            Self::NotSent { .. } => "not-sent",
            Self::Silent { .. } => "silent",
        }
    }
}

/// One form for each address: a dual-stack socket reports IPv4 addresses as IPv4-mapped IPv6, and
/// some IPv6 addresses come with a scope id.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn name(name: &str) -> Seed {
        Seed::Name(name.to_owned())
    }

    /// The seeds' contacts, and their start time.
    fn contacts(seeds: &[Seed]) -> (Contacts, Instant) {
        let start = Instant::now();
        (Contacts::new(seeds, start), start)
    }

    /// The only problem among the seeds, if there is one.
    fn problem(contacts: &Contacts, alive: &[SocketAddr], now: Instant) -> Option<Problem> {
        let alive: HashSet<SocketAddr> = alive.iter().copied().collect();
        let mut problems = contacts.problems(&alive, now);
        assert!(problems.len() <= 1, "{problems:?}");
        problems.pop().map(|(_, problem)| problem)
    }

    fn ask(contacts: &mut Contacts, to: SocketAddr, times: u32, now: Instant) {
        (0..times).for_each(|_| contacts.sent(to, true, now));
    }

    #[test]
    fn a_start_waits_until_every_seed_has_had_its_chance() {
        let seeds = [
            Seed::Address(addr(1)),
            name("slow"),
            name("fails"),
            name("good"),
        ];
        let (mut contacts, start) = contacts(&seeds);
        assert_eq!(contacts.decided_at(), Some(start + LOOKUP_MAX));
        contacts.unresolved(2, "no such name".into(), start + SECOND);
        contacts.resolved(3, &[addr(2)], false, start + SECOND * 4);
        assert_eq!(
            contacts.decided_at(),
            Some(start + SECOND * 4 + ANSWER_MAX),
            "it was asked after four seconds"
        );
        contacts.resolved(1, &[addr(3)], false, start + SECOND * 5);
        assert_eq!(
            contacts.decided_at(),
            Some(start + SECOND * 4 + ANSWER_MAX),
            "it came too late"
        );
        contacts.resolved(3, &[addr(4)], false, start + SECOND * 6);
        assert_eq!(
            contacts.decided_at(),
            Some(start + SECOND * 4 + ANSWER_MAX),
            "it has had its chance"
        );
    }

    #[test]
    fn a_start_waits_for_nobody_who_cannot_be_asked() {
        let (mut contacts, start) = contacts(&[name("fails"), name("self")]);
        contacts.unresolved(0, "no such name".into(), start);
        contacts.resolved(1, &[], true, start + SECOND);
        assert_eq!(contacts.decided_at(), Some(start + SECOND));
        assert_eq!(Contacts::new(&[], start).decided_at(), None);
        assert_eq!(
            Contacts::new(&[Seed::Address(addr(1))], start).decided_at(),
            Some(start + ANSWER_MAX)
        );
    }

    #[test]
    fn a_seed_that_does_not_answer_is_silent_after_a_while() {
        let (mut contacts, start) = contacts(&[Seed::Address(addr(1))]);
        ask(&mut contacts, addr(1), ASKED_MIN - 1, start);
        let late = start + SILENT_AFTER;
        assert_eq!(
            problem(&contacts, &[], late),
            None,
            "it was not asked often enough"
        );
        ask(&mut contacts, addr(1), 1, late - SECOND);
        assert_eq!(
            problem(&contacts, &[], late - SECOND),
            None,
            "not long enough ago"
        );
        assert_eq!(
            problem(&contacts, &[], late),
            Some(Problem::Silent {
                addresses: vec![addr(1)]
            })
        );
        assert_eq!(problem(&contacts, &[addr(1)], late), None, "others hear it");
        contacts.heard(addr(2));
        assert_ne!(problem(&contacts, &[], late), None, "another was heard");
        contacts.heard(addr(1));
        assert_eq!(problem(&contacts, &[], late), None);
        ask(&mut contacts, addr(1), ASKED_MIN, late + SECOND);
        assert_eq!(problem(&contacts, &[], late + SECOND), None);
        assert_ne!(
            problem(&contacts, &[], late + SECOND + SILENT_AFTER),
            None,
            "silent again"
        );
    }

    #[test]
    fn what_cannot_be_sent_is_told() {
        let (mut contacts, start) = contacts(&[Seed::Address(addr(1))]);
        let not_sent = Some(Problem::NotSent {
            to: addr(1),
            error: "unreachable".into(),
        });
        contacts.not_sent(addr(1), "unreachable", false);
        assert_eq!(problem(&contacts, &[], start), None, "once is nothing");
        (1..NOT_SENT_MIN).for_each(|_| contacts.not_sent(addr(1), "unreachable", false));
        assert_eq!(problem(&contacts, &[], start), not_sent);
        contacts.sent(addr(1), false, start);
        assert_eq!(problem(&contacts, &[], start), None);
        contacts.not_sent(addr(1), "unreachable", true);
        assert_eq!(problem(&contacts, &[], start), not_sent, "it never will be");
    }

    #[test]
    fn a_name_is_as_good_as_the_best_of_its_addresses() {
        let (mut contacts, start) = contacts(&[name("many")]);
        let late = start + SILENT_AFTER;
        contacts.resolved(0, &[addr(1), addr(2), addr(3)], false, start);
        contacts.not_sent(addr(1), "unreachable", true);
        assert_eq!(
            problem(&contacts, &[], late),
            None,
            "the others are still to be asked"
        );
        ask(&mut contacts, addr(2), ASKED_MIN, start);
        assert_eq!(
            problem(&contacts, &[], late),
            Some(Problem::Silent {
                addresses: vec![addr(2)]
            })
        );
        contacts.heard(addr(3));
        assert_eq!(problem(&contacts, &[], late), None);
        // Addresses that the name no longer resolves to are dropped.
        contacts.resolved(0, &[addr(1)], false, late);
        assert_eq!(contacts.addresses.len(), 1);
        assert_ne!(problem(&contacts, &[], late), None);
        contacts.resolved(0, &[addr(1)], true, late);
        assert_eq!(
            problem(&contacts, &[], late),
            None,
            "it means this node, too"
        );
    }

    #[test]
    fn a_name_that_does_not_resolve_is_told() {
        let (mut contacts, start) = contacts(&[name("one")]);
        let not_resolved = |error: &str| {
            Some(Problem::NotResolved {
                error: error.to_owned(),
            })
        };
        contacts.lookup_begins(0, start);
        assert_eq!(problem(&contacts, &[], start), None);
        assert_eq!(
            problem(&contacts, &[], start + LOOKUP_MAX),
            not_resolved("the resolver does not answer")
        );
        contacts.unresolved(0, "no such name".into(), start + LOOKUP_MAX);
        contacts.lookup_begins(0, start + LOOKUP_MAX + SECOND);
        assert_eq!(
            problem(&contacts, &[], start + LOOKUP_MAX + SECOND),
            not_resolved("no such name")
        );
        contacts.resolved(0, &[addr(1)], false, start + LOOKUP_MAX + SECOND);
        assert_eq!(problem(&contacts, &[], start + LOOKUP_MAX + SECOND), None);
    }

    #[test]
    fn an_address_is_one_in_either_family() {
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:1".parse().unwrap();
        let (mut contacts, start) = contacts(&[Seed::Address(addr(1))]);
        ask(&mut contacts, addr(1), ASKED_MIN, start);
        contacts.heard(mapped);
        assert_eq!(problem(&contacts, &[], start + SILENT_AFTER), None);
    }
}

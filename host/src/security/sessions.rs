//! Logins of browsers: a person gives a token once, and gets a session, which may read.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;
use sha2::{Digest as _, Sha256};

use super::tokens::{TokenHash, Tokens};

/// How long a session lasts.
pub const SESSION_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// There are few operators. The oldest session gives way.
const SESSIONS_MAX: usize = 256;

/// Wrong tokens from one address in one window, after which nobody there may try until it ends.
const WRONG_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered. The one whose window ends first gives way.
const ADDRESSES_MAX: usize = 1_024;

/// What the names of the cookies with sessions begin with.
pub const SESSION_COOKIES: &str = "meshage-";

const ID_BYTES: usize = 32;

/// The sessions of a node, in memory: they end with the process.
#[derive(Default)]
pub struct Sessions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// By the hash of their ids, so that looking one up takes no longer for an id that is nearly right.
    open: HashMap<[u8; 32], Session>,
    wrong: HashMap<IpAddr, Wrong>,
}

/// Wrong tokens from one address.
struct Wrong {
    times: u32,
    window_ends: Instant,
}

struct Session {
    token: TokenHash,
    expires: Instant,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    WrongToken,
    /// Too many were wrong; after so long the next may be tried.
    TooManyTries(Duration),
}

impl Sessions {
    /// Opens a session for who has a token, at this address; returns its id.
    ///
    /// # Errors
    /// If the token is none of these, or too many were wrong.
    pub fn open(
        &self,
        tokens: &Tokens,
        token: &str,
        from: IpAddr,
        now: Instant,
    ) -> Result<String, Denied> {
        let mut inner = self.lock();
        let from = site(from);
        if let Some(wrong) = inner.wrong.get(&from)
            && wrong.times >= WRONG_MAX
            && wrong.window_ends > now
        {
            return Err(Denied::TooManyTries(wrong.window_ends - now));
        }
        let Some(token) = tokens.find(token.as_bytes()) else {
            inner.note_wrong(from, now);
            return Err(Denied::WrongToken);
        };
        inner.open.retain(|_, session| session.expires > now);
        if inner.open.len() >= SESSIONS_MAX {
            let oldest = inner.open.iter().min_by_key(|(_, session)| session.expires);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                inner.open.remove(&oldest);
            }
        }
        let mut id = [0; ID_BYTES];
        OsRng.fill_bytes(&mut id);
        let id = URL_SAFE_NO_PAD.encode(id);
        let session = Session {
            token,
            expires: now + SESSION_MAX,
        };
        inner.open.insert(hash(&id), session);
        Ok(id)
    }

    /// Whether this is the id of an open session, whose token is still one of these.
    pub fn has(&self, tokens: &Tokens, id: &str, now: Instant) -> bool {
        let (mut inner, id) = (self.lock(), hash(id));
        let Some(session) = inner.open.get(&id) else {
            return false;
        };
        let is_good = session.expires > now && tokens.have(&session.token);
        if !is_good {
            // A token that comes back brings no session back.
            inner.open.remove(&id);
        }
        is_good
    }

    pub fn close(&self, id: &str) {
        self.lock().open.remove(&hash(id));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note_wrong(&mut self, from: IpAddr, now: Instant) {
        self.wrong.retain(|_, wrong| wrong.window_ends > now);
        if self.wrong.len() >= ADDRESSES_MAX && !self.wrong.contains_key(&from) {
            let first = self.wrong.iter().min_by_key(|(_, wrong)| wrong.window_ends);
            if let Some(first) = first.map(|(address, _)| *address) {
                self.wrong.remove(&first);
            }
        }
        let window_ends = now + WINDOW;
        let wrong = self.wrong.entry(from).or_insert(Wrong {
            times: 0,
            window_ends,
        });
        wrong.times += 1;
    }
}

/// Whoever has one address of IPv6 mostly has all with the same first half.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

fn hash(id: &str) -> [u8; 32] {
    Sha256::digest(id).into()
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tokens;
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_session_ends_with_its_time_its_token_and_its_logout() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let both = tokens(&["first-token-of-all", "second-token-of-all"]);
        let id = sessions
            .open(&both, "first-token-of-all", HERE, now)
            .unwrap();
        assert!(sessions.has(&both, &id, now));
        assert!(!sessions.has(&both, &format!("{id}x"), now));
        let other = sessions
            .open(&both, "second-token-of-all", HERE, now)
            .unwrap();
        assert_ne!(id, other);
        let gone = tokens(&["second-token-of-all"]);
        assert!(!sessions.has(&gone, &id, now) && sessions.has(&gone, &other, now));
        assert!(!sessions.has(&both, &id, now) && sessions.has(&both, &other, now));
        sessions.close(&other);
        assert!(!sessions.has(&both, &other, now));
    }

    #[test]
    fn guessing_is_slow() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let tokens = tokens(&["the-token-of-the-node"]);
        let open =
            |token, from: &str, now| sessions.open(&tokens, token, from.parse().unwrap(), now);
        let right = |from, now| open("the-token-of-the-node", from, now);
        for host in 0..WRONG_MAX {
            let wrong = open("wrong", &format!("2001:db8::{host}"), now);
            assert_eq!(wrong, Err(Denied::WrongToken));
        }
        let denied = Err(Denied::TooManyTries(WINDOW));
        assert_eq!(right("2001:db8::ffff", now), denied);
        assert!(right("2001:db8::ffff", now + WINDOW).is_ok());
        // Nobody locks out those elsewhere.
        assert!(right("2001:db8:0:1::1", now).is_ok() && right("10.0.0.1", now).is_ok());
    }

    #[test]
    fn addresses_are_bounded() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let tokens = tokens(&["the-token-of-the-node"]);
        for host in 0..2 * ADDRESSES_MAX as u32 {
            let _ = sessions.open(&tokens, "wrong", IpAddr::V4(host.into()), now);
        }
        assert_eq!(sessions.lock().wrong.len(), ADDRESSES_MAX);
    }

    #[test]
    fn sessions_are_bounded() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let tokens = tokens(&["the-token-of-the-node"]);
        let open = |at| {
            sessions
                .open(&tokens, "the-token-of-the-node", HERE, at)
                .unwrap()
        };
        let first = open(now);
        let later = now + Duration::from_secs(1);
        let others: Vec<_> = (0..SESSIONS_MAX).map(|_| open(later)).collect();
        assert!(!sessions.has(&tokens, &first, later));
        assert!(!sessions.has(&tokens, &others[0], later + SESSION_MAX));
        assert!(
            others[1..]
                .iter()
                .all(|id| sessions.has(&tokens, id, later))
        );
    }
}

//! Sealed datagrams: only holders of the cluster secret can make them, and replays are rejected.
//! Does no I/O; the time is an argument.
//!
//! A datagram is a version (1 byte), the id of the key (4), a random nonce (24), then, encrypted
//! with XChaCha20-Poly1305, the time in ms since 1970 (8, big-endian) and the message, and last the
//! tag (16). The key is derived for one cluster id.

use std::collections::HashSet;

use chacha20poly1305::aead::{AeadInPlace, KeyInit, OsRng};
use chacha20poly1305::{AeadCore, Tag, XChaCha20Poly1305, XNonce};

use super::secret::Keyring;

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES;
const TIME_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// Bytes that sealing adds to a message.
pub const SEAL_BYTES: usize = HEAD_BYTES + TIME_BYTES + TAG_BYTES;

/// How old a datagram may be, and how far apart the clocks of two nodes may be.
const AGE_MS_MAX: u64 = 30_000;

/// Most nonces remembered in each generation of `Seen`, so that a datagram cannot be replayed while
/// it would still be accepted. In a mesh of a thousand nodes 60 datagrams a second arrive.
const REMEMBERED_MAX: usize = 100_000;

/// Why a datagram is not accepted as gossip of this mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    #[error("it is not sealed, or by a version of meshage that this one does not know")]
    NotSealed,
    #[error("it is sealed with a secret that this node does not have")]
    UnknownKey,
    #[error("it is forged or damaged")]
    Forged,
    #[error(
        "it is more than 30 s old, or from the future: it was recorded, or the clocks of the nodes differ"
    )]
    NotNow,
    #[error("it came twice")]
    Replayed,
    #[error("it is sealed, and this node has no secret")]
    Sealed,
    #[error("it is no gossip")]
    NoGossip,
}

impl Rejected {
    /// The reason for a datagram that cannot be decoded: sealed although this node has no secret,
    /// or no gossip.
    pub fn senseless(datagram: &[u8], has_secret: bool) -> Self {
        if !has_secret && looks_sealed(datagram) {
            Self::Sealed
        } else {
            Self::NoGossip
        }
    }

    /// The reason as a label of metrics and logs.
    pub fn kind(self) -> &'static str {
        match self {
            Self::NotSealed => "not-sealed",
            Self::UnknownKey => "unknown-key",
            Self::Forged => "forged",
            Self::NotNow => "not-now",
            Self::Replayed => "replayed",
            Self::Sealed => "sealed",
            Self::NoGossip => "no-gossip",
        }
    }
}

fn looks_sealed(datagram: &[u8]) -> bool {
    datagram.len() >= SEAL_BYTES && datagram[0] == VERSION
}

struct Key {
    id: [u8; KEY_ID_BYTES],
    cipher: XChaCha20Poly1305,
}

fn keys(keyring: &Keyring, cluster_id: &str) -> Vec<Key> {
    let key = |secret: &super::secret::Secret| Key {
        id: secret.derive("gossip key id", cluster_id),
        cipher: XChaCha20Poly1305::new(&secret.derive::<32>("gossip key", cluster_id).into()),
    };
    keyring.secrets().iter().map(key).collect()
}

/// Seals messages with the first key.
pub struct Sealer(Key);

impl Sealer {
    pub fn new(keyring: &Keyring, cluster_id: &str) -> Self {
        Self(keys(keyring, cluster_id).swap_remove(0))
    }

    /// Appends the sealed message to `datagram`.
    pub fn seal(&self, now_ms: u64, message: &[u8], datagram: &mut Vec<u8>) {
        let Key { id, cipher } = &self.0;
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let start = datagram.len();
        datagram.push(VERSION);
        datagram.extend_from_slice(id);
        datagram.extend_from_slice(&nonce);
        datagram.extend_from_slice(&now_ms.to_be_bytes());
        datagram.extend_from_slice(message);
        let (head, sealed) = datagram[start..].split_at_mut(HEAD_BYTES);
        let tag = cipher.encrypt_in_place_detached(&nonce, &head[..1 + KEY_ID_BYTES], sealed);
        datagram.extend_from_slice(&tag.expect("a datagram is shorter than the cipher allows"));
    }
}

/// Opens datagrams with any of the keys, and each datagram only once.
pub struct Opener {
    keys: Vec<Key>,
    seen: Seen,
}

impl Opener {
    pub fn new(keyring: &Keyring, cluster_id: &str) -> Self {
        Self {
            keys: keys(keyring, cluster_id),
            seen: Seen::default(),
        }
    }

    /// Replaces the keys. The nonces seen so far are kept, so that replays are still rejected.
    pub fn use_keys(&mut self, keyring: &Keyring, cluster_id: &str) {
        self.keys = keys(keyring, cluster_id);
    }

    /// Decrypts a datagram in place, and returns its message.
    ///
    /// # Errors
    /// Why it is rejected. An unsealed datagram costs next to nothing, a forged one a single
    /// attempt to decrypt it.
    pub fn open<'a>(&mut self, now_ms: u64, datagram: &'a mut [u8]) -> Result<&'a [u8], Rejected> {
        if !looks_sealed(datagram) {
            return Err(Rejected::NotSealed);
        }
        let (head, sealed) = datagram.split_at_mut(HEAD_BYTES);
        let (associated, nonce) = head.split_at(1 + KEY_ID_BYTES);
        let key = self
            .keys
            .iter()
            .find(|key| key.id == associated[1..])
            .ok_or(Rejected::UnknownKey)?;
        let (text, tag) = sealed.split_at_mut(sealed.len() - TAG_BYTES);
        key.cipher
            .decrypt_in_place_detached(
                XNonce::from_slice(nonce),
                associated,
                text,
                Tag::from_slice(tag),
            )
            .map_err(|_| Rejected::Forged)?;
        let (time, message) = text.split_at(TIME_BYTES);
        let sent_ms = time
            .iter()
            .fold(0, |time, byte| time << 8 | u64::from(*byte));
        if now_ms.abs_diff(sent_ms) > AGE_MS_MAX {
            return Err(Rejected::NotNow);
        }
        // Only datagrams sealed with a known secret get here: strangers cannot fill the memory.
        if !self.seen.is_new(now_ms, nonce) {
            return Err(Rejected::Replayed);
        }
        Ok(message)
    }
}

/// The nonces of recently opened datagrams, in two generations. The older one is dropped when its
/// datagrams are too old to be accepted anyway, or when the newer one is full.
#[derive(Default)]
struct Seen {
    current: HashSet<[u8; NONCE_BYTES]>,
    previous: HashSet<[u8; NONCE_BYTES]>,
    current_since_ms: u64,
}

impl Seen {
    fn is_new(&mut self, now_ms: u64, nonce: &[u8]) -> bool {
        // A datagram is accepted from `AGE_MS_MAX` before its timestamp to `AGE_MS_MAX` after it.
        let is_over = now_ms.saturating_sub(self.current_since_ms) > 2 * AGE_MS_MAX;
        if is_over || self.current.len() >= REMEMBERED_MAX {
            self.previous = std::mem::take(&mut self.current);
            self.current_since_ms = now_ms;
        }
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().expect("a nonce has its length");
        !self.previous.contains(&nonce) && self.current.insert(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret::keyring;
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn sealed(secret: u8, cluster_id: &str, message: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        Sealer::new(&keyring(&[secret]), cluster_id).seal(NOW, message, &mut datagram);
        datagram
    }

    fn open(opener: &mut Opener, now_ms: u64, datagram: &[u8]) -> Result<Vec<u8>, Rejected> {
        opener
            .open(now_ms, &mut datagram.to_vec())
            .map(<[u8]>::to_vec)
    }

    #[test]
    fn what_was_sealed_with_any_of_the_secrets_opens() {
        let mut opener = Opener::new(&keyring(&[1, 2]), "mesh");
        for secret in [1, 2] {
            let datagram = sealed(secret, "mesh", b"hello");
            assert_eq!(datagram.len(), 5 + SEAL_BYTES);
            assert_eq!(open(&mut opener, NOW, &datagram).unwrap(), b"hello");
        }
        assert_eq!(
            open(&mut opener, NOW, &sealed(3, "mesh", b"hello")),
            Err(Rejected::UnknownKey)
        );
        assert_eq!(
            open(&mut opener, NOW, &sealed(1, "other", b"hello")),
            Err(Rejected::UnknownKey)
        );
        opener.use_keys(&keyring(&[3]), "mesh");
        assert_eq!(
            open(&mut opener, NOW, &sealed(1, "mesh", b"hello")),
            Err(Rejected::UnknownKey)
        );
    }

    #[test]
    fn whatever_is_changed_does_not_open() {
        let mut opener = Opener::new(&keyring(&[1]), "mesh");
        let datagram = sealed(1, "mesh", b"hello");
        for index in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[index] ^= 1;
            assert!(open(&mut opener, NOW, &changed).is_err(), "byte {index}");
        }
        for length in 0..datagram.len() {
            assert!(
                open(&mut opener, NOW, &datagram[..length]).is_err(),
                "the first {length} bytes"
            );
        }
        assert_eq!(
            open(
                &mut opener,
                NOW,
                b"plain gossip that is long enough to be sealed, but is not"
            ),
            Err(Rejected::NotSealed)
        );
        assert!(open(&mut opener, NOW, &datagram).is_ok());
    }

    #[test]
    fn none_is_taken_twice_or_late() {
        let mut opener = Opener::new(&keyring(&[1]), "mesh");
        let datagram = sealed(1, "mesh", b"hello");
        assert!(open(&mut opener, NOW - AGE_MS_MAX, &datagram).is_ok());
        // It is remembered for as long as it would be accepted, whatever else arrives.
        for now in (NOW - AGE_MS_MAX..=NOW + AGE_MS_MAX).step_by(1_000) {
            let mut other = Vec::new();
            Sealer::new(&keyring(&[1]), "mesh").seal(now, b"", &mut other);
            assert!(open(&mut opener, now, &other).is_ok());
            assert_eq!(
                open(&mut opener, now, &datagram),
                Err(Rejected::Replayed),
                "{now}"
            );
        }
        assert_eq!(
            open(&mut opener, NOW + AGE_MS_MAX + 1, &datagram),
            Err(Rejected::NotNow)
        );
        assert_eq!(
            open(&mut opener, NOW - AGE_MS_MAX - 1, &datagram),
            Err(Rejected::NotNow)
        );
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut seen = Seen::default();
        for number in 0..3 * REMEMBERED_MAX as u64 {
            let mut nonce = [0; NONCE_BYTES];
            nonce[..8].copy_from_slice(&number.to_be_bytes());
            assert!(seen.is_new(NOW, &nonce));
        }
        assert!(seen.current.len() + seen.previous.len() <= 2 * REMEMBERED_MAX);
    }
}

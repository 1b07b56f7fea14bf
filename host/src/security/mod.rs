//! Security: keys derived from the one cluster secret (gossip, TLS between nodes), TLS and tokens
//! of the APIs, signatures of plugins, and protection against pages of other sites.

mod peer_tls;
mod pem;
mod private_file;
mod seal;
mod secret;
mod server_tls;
mod sessions;
mod signatures;
mod sites;
mod tokens;

pub use peer_tls::{PeerCertificates, PeerTls};
pub use pem::{PemError, TlsError, read_authorities};
pub use seal::{Opener, Rejected, SEAL_BYTES, Sealer};
#[cfg(any(test, fuzzing))]
pub(crate) use secret::keyring;
pub use secret::{Keyring, SecretError, new_secret};
pub use server_tls::{ServerCertificate, ServerTls};
pub use sessions::{Denied, SESSION_COOKIES, SESSION_MAX, Sessions};
pub use signatures::{SignatureError, SignedAs, TrustedKeys, TrustedKeysError};
pub use sites::{
    AllowedOrigin, HostTrust, NotAnOrigin, RequestSource, SEC_FETCH_SITE, Sites, answer_preflight,
    check_admin_request, is_of_own_page,
};
pub use tokens::{TokenError, Tokens};

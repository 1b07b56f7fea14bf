//! Who may reach the node, and how it shows who it is.

use std::path::PathBuf;

use super::files::{self, FromFiles};
use super::setting::{ConfigError, Default, Setting};
use super::written::Settings;
use crate::security::{
    Keyring, PeerCertificates, PeerTls, ServerCertificate, ServerTls, Sites, Tokens,
};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "secret_file",
        variables: &["MESHAGE_SECRET_FILE"],
        value: "FILE",
        help: "File with the secret of the mesh, one or several, one a line: the first is used, all are good; read again when it changes. `meshage-host secret` makes one",
        default: Default::Described("none"),
        expected: "a file of secrets",
        is_switch: false,
    },
    Setting {
        name: "insecure",
        variables: &["MESHAGE_INSECURE"],
        value: "true|false",
        help: "Go without a secret, or admin tokens, on a network: whoever reaches the ports can join, read and run anything",
        default: Default::Value("false"),
        expected: "true or false",
        is_switch: true,
    },
    Setting {
        name: "peer_cert",
        variables: &["MESHAGE_PEER_CERT"],
        value: "PEM FILE",
        help: "This node's certificate between nodes, instead of one made of the secret; its name is the node id; read again when it changes, as the two below",
        default: Default::Described("made of the secret"),
        expected: "this node's certificate in PEM form",
        is_switch: false,
    },
    Setting {
        name: "peer_key",
        variables: &["MESHAGE_PEER_KEY"],
        value: "PEM FILE",
        help: "The private key of that certificate",
        default: Default::Described("made of the secret"),
        expected: "the private key of peer_cert",
        is_switch: false,
    },
    Setting {
        name: "peer_ca",
        variables: &["MESHAGE_PEER_CA"],
        value: "PEM FILE",
        help: "The authorities that the certificates of the nodes are under",
        default: Default::Described("made of the secret"),
        expected: "certificates of authorities in PEM form",
        is_switch: false,
    },
    Setting {
        name: "tls_cert",
        variables: &["MESHAGE_TLS_CERT"],
        value: "PEM FILE",
        help: "Certificate of the public API, which then speaks HTTPS; read again when it changes, as its key",
        default: Default::Described("plain HTTP"),
        expected: "a certificate in PEM form",
        is_switch: false,
    },
    Setting {
        name: "tls_key",
        variables: &["MESHAGE_TLS_KEY"],
        value: "PEM FILE",
        help: "The private key of that certificate",
        default: Default::Described("plain HTTP"),
        expected: "the private key of tls_cert",
        is_switch: false,
    },
    Setting {
        name: "token_file",
        variables: &["MESHAGE_TOKEN_FILE"],
        value: "FILE",
        help: "File with tokens, one a line: `Authorization: Bearer` needs one, on both APIs; read again when it changes",
        default: Default::Described("none needed"),
        expected: "a file of tokens",
        is_switch: false,
    },
    Setting {
        name: "allowed_origins",
        variables: &["MESHAGE_ALLOWED_ORIGINS"],
        value: "ORIGIN,…",
        help: "Origins whose pages may use the public API in a browser, comma-separated, or `*` for all; also the names of proxies in front of a node on loopback",
        default: Default::Described("none"),
        expected: "origins, comma-separated, such as https://app.example.com or http://localhost:3000, or * for all",
        is_switch: false,
    },
];

#[derive(Debug, Clone)]
pub struct Access {
    /// The secrets of the mesh; `None`: the cluster port takes whoever reaches it.
    pub secret: Option<FromFiles<PathBuf, Keyring>>,
    /// Neither a secret nor tokens are needed on a network.
    pub is_insecure: bool,
    /// Certificates between nodes that are not made of the secret.
    pub peer_certificates: Option<FromFiles<PeerCertificates, PeerTls>>,
    /// `None`: the public API speaks plain HTTP.
    pub certificate: Option<FromFiles<ServerCertificate, ServerTls>>,
    /// `None`: whoever reaches the APIs may use them.
    pub tokens: Option<FromFiles<PathBuf, Tokens>>,
    /// Whose pages may use the public API.
    pub sites: Sites,
}

impl Access {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let secret = files::read(settings, "secret_file", Keyring::read)?;
        let has_secret = secret.is_some();
        Ok(Self {
            secret,
            is_insecure: settings.parse("insecure")?,
            peer_certificates: files::peer_certificates(settings, has_secret)?,
            certificate: files::certificate(settings)?,
            tokens: files::read(settings, "token_file", Tokens::read)?,
            sites: sites(settings)?,
        })
    }
}

fn sites(settings: &Settings) -> Result<Sites, ConfigError> {
    let origins = settings.optional("allowed_origins").unwrap_or_default();
    let origins = origins.split(',').map(str::trim);
    Sites::parse(origins.filter(|origin| !origin.is_empty()))
        .map_err(|_| settings.unexpected("allowed_origins"))
}

//! Access: who may reach the node, and how it authenticates itself.

use std::path::PathBuf;

use super::files::{self, FromFiles};
use super::mesh;
use super::setting::{ConfigError, DefaultValue, Setting};
use super::written::Settings;
use crate::message::NodeId;
use crate::security::{
    Keyring, PeerCertificates, PeerTls, ServerCertificate, ServerTls, Sites, TlsError, Tokens,
};

const SECRET_FILE: Setting = Setting {
    name: "secret_file",
    variables: &["MESHAGE_SECRET_FILE"],
    value: "FILE",
    help: "File with the secret of the mesh, one or several, one a line: the first is used, all are good; read again when it changes. `meshage-host secret` makes one",
    default: DefaultValue::None,
    expected: "a file of secrets",
    is_switch: false,
};

const INSECURE: Setting = Setting {
    name: "insecure",
    variables: &["MESHAGE_INSECURE"],
    value: "true|false",
    help: "Go without a secret, or admin tokens, on a network: whoever reaches the ports can join, read and run anything",
    default: DefaultValue::Value("false"),
    expected: "true or false",
    is_switch: true,
};

const PEER_CERT: Setting = Setting {
    name: "peer_cert",
    variables: &["MESHAGE_PEER_CERT"],
    value: "PEM FILE",
    help: "This node's certificate between nodes, instead of one made of the secret; its name is the node id; read again when it changes, as the two below",
    default: DefaultValue::Described("made of the secret"),
    expected: "this node's certificate in PEM form",
    is_switch: false,
};

const PEER_KEY: Setting = Setting {
    name: "peer_key",
    variables: &["MESHAGE_PEER_KEY"],
    value: "PEM FILE",
    help: "The private key of that certificate",
    default: DefaultValue::Described("made of the secret"),
    expected: "the private key of peer_cert",
    is_switch: false,
};

const PEER_CA: Setting = Setting {
    name: "peer_ca",
    variables: &["MESHAGE_PEER_CA"],
    value: "PEM FILE",
    help: "The authorities that the certificates of the nodes are under",
    default: DefaultValue::Described("made of the secret"),
    expected: "certificates of authorities in PEM form",
    is_switch: false,
};

const TLS_CERT: Setting = Setting {
    name: "tls_cert",
    variables: &["MESHAGE_TLS_CERT"],
    value: "PEM FILE",
    help: "Certificate of the public API, which then speaks HTTPS; read again when it changes, as its key",
    default: DefaultValue::Described("plain HTTP"),
    expected: "a certificate in PEM form",
    is_switch: false,
};

const TLS_KEY: Setting = Setting {
    name: "tls_key",
    variables: &["MESHAGE_TLS_KEY"],
    value: "PEM FILE",
    help: "The private key of that certificate",
    default: DefaultValue::Described("plain HTTP"),
    expected: "the private key of tls_cert",
    is_switch: false,
};

const TOKEN_FILE: Setting = Setting {
    name: "token_file",
    variables: &["MESHAGE_TOKEN_FILE"],
    value: "FILE",
    help: "File with tokens, one a line: `Authorization: Bearer` needs one, on both APIs; read again when it changes",
    default: DefaultValue::Described("none needed"),
    expected: "a file of tokens",
    is_switch: false,
};

const ALLOWED_ORIGINS: Setting = Setting {
    name: "allowed_origins",
    variables: &["MESHAGE_ALLOWED_ORIGINS"],
    value: "ORIGIN,…",
    help: "Origins whose pages may use the public API in a browser, comma-separated, or `*` for all; also the names of proxies in front of a node on loopback",
    default: DefaultValue::None,
    expected: "origins, comma-separated, such as https://app.example.com or http://localhost:3000, or * for all",
    is_switch: false,
};

pub(super) const SETTINGS: &[&Setting] = &[
    &SECRET_FILE,
    &INSECURE,
    &PEER_CERT,
    &PEER_KEY,
    &PEER_CA,
    &TLS_CERT,
    &TLS_KEY,
    &TOKEN_FILE,
    &ALLOWED_ORIGINS,
];

#[derive(Debug, Clone)]
pub struct Access {
    /// The secrets of the mesh; `None`: the cluster port accepts everybody.
    pub secret: Option<FromFiles<PathBuf, Keyring>>,
    /// Allows the node to listen on a network without a secret or tokens.
    pub is_insecure: bool,
    /// The operator's own certificates between nodes; `None`: made from the secret.
    pub peer_certificates: Option<FromFiles<PeerCertificates, PeerTls>>,
    /// `None`: the public API speaks plain HTTP.
    pub certificate: Option<FromFiles<ServerCertificate, ServerTls>>,
    /// `None`: the APIs require no token.
    pub tokens: Option<FromFiles<PathBuf, Tokens>>,
    /// The sites whose pages may use the public API.
    pub sites: Sites,
}

/// The first token, as the commands send it that ask a node.
pub(super) fn first_token(settings: &Settings) -> Result<Option<String>, ConfigError> {
    let token = files::read(settings, &TOKEN_FILE, Tokens::first)?;
    Ok(token.map(|token| token.first))
}

impl Access {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let secret = files::read(settings, &SECRET_FILE, Keyring::read)?;
        let has_secret = secret.is_some();
        Ok(Self {
            secret,
            is_insecure: settings.parse(&INSECURE)?,
            peer_certificates: peer_certificates(settings, has_secret)?,
            certificate: certificate(settings)?,
            tokens: files::read(settings, &TOKEN_FILE, Tokens::read)?,
            sites: sites(settings)?,
        })
    }
}

/// Requires both files or none.
fn certificate(
    settings: &Settings,
) -> Result<Option<FromFiles<ServerCertificate, ServerTls>>, ConfigError> {
    let files = match [&TLS_CERT, &TLS_KEY].map(|name| settings.optional(name).map(PathBuf::from)) {
        [None, None] => return Ok(None),
        [Some(certificate), Some(key)] => ServerCertificate { certificate, key },
        [Some(_), None] => return Err(settings.error(&TLS_CERT, "tls_key as well")),
        [None, Some(_)] => return Err(settings.error(&TLS_KEY, "tls_cert as well")),
    };
    match ServerTls::read(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error @ TlsError::Key(_)) => Err(files::wrong(&TLS_KEY, &files.key, &error)),
        Err(error) => Err(files::wrong(&TLS_CERT, &files.certificate, &error)),
    }
}

/// Requires all three files or none, and a secret, which encrypts gossip.
fn peer_certificates(
    settings: &Settings,
    has_secret: bool,
) -> Result<Option<FromFiles<PeerCertificates, PeerTls>>, ConfigError> {
    let names = [&PEER_CERT, &PEER_KEY, &PEER_CA];
    let files = names.map(|name| settings.optional(name).map(PathBuf::from));
    let files = match files {
        [None, None, None] => return Ok(None),
        [Some(certificate), Some(key), Some(authority)] if has_secret => PeerCertificates {
            certificate,
            key,
            authority,
        },
        _ => {
            let set = names
                .into_iter()
                .find(|name| settings.optional(name).is_some());
            let expected = "peer_cert, peer_key and peer_ca together, and secret_file, as gossip is sealed with the secret";
            return Err(settings.error(set.unwrap_or(&PEER_CERT), expected));
        }
    };
    match PeerTls::of_files(&files) {
        Ok(first) => Ok(Some(FromFiles { files, first })),
        Err(error @ TlsError::Key(_)) => Err(files::wrong(&PEER_KEY, &files.key, &error)),
        Err(error @ TlsError::Authority(_)) => {
            Err(files::wrong(&PEER_CA, &files.authority, &error))
        }
        Err(error) => Err(files::wrong(&PEER_CERT, &files.certificate, &error)),
    }
}

/// Checks that the certificate is that of the node with this id.
pub(super) fn check_certificate_of(
    node_id: &NodeId,
    certificates: &FromFiles<PeerCertificates, PeerTls>,
) -> Result<(), ConfigError> {
    let FromFiles { files, first } = certificates;
    first.check_own(node_id).map_err(|error| match error {
        TlsError::NodeId(_) => {
            let expected =
                "a name that its certificate (peer_cert) can have, of letters, digits, '-' and '.'";
            ConfigError::new(&mesh::NODE_ID, node_id.as_str(), expected)
        }
        error => {
            let file = files.certificate.display().to_string();
            let expected = format!("this node's certificate, but {error}");
            ConfigError::new(&PEER_CERT, &file, &expected)
        }
    })
}

fn sites(settings: &Settings) -> Result<Sites, ConfigError> {
    let origins = settings.optional(&ALLOWED_ORIGINS).unwrap_or_default();
    let origins = origins.split(',').map(str::trim);
    Sites::parse(origins.filter(|origin| !origin.is_empty()))
        .map_err(|_| settings.unexpected(&ALLOWED_ORIGINS))
}

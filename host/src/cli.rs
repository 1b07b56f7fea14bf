//! The command line, as it is written: what flags and variables there are. `config` makes sense of
//! it.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A node of a meshage mesh: serves each WebAssembly component of a directory as a stream.
///
/// Each setting is taken from its flag, else from its environment variable, else from the
/// configuration file, else it has its default.
#[derive(Debug, Default, Clone, Parser)]
#[command(name = "meshage-host", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Port of the public API, HTTP/1.1 and HTTP/2 [default: 8080]
    #[arg(long, env = "HTTP_PORT", value_name = "PORT")]
    pub http_port: Option<String>,

    /// The variable's older name.
    #[arg(long, env = "SERVICE_PORT", hide = true)]
    pub service_port: Option<String>,

    /// Port between nodes: UDP for gossip and TCP for messages [default: 9742]
    #[arg(long, env = "CLUSTER_PORT", value_name = "PORT")]
    pub cluster_port: Option<String>,

    /// Port of the admin API [default: HTTP port + 1000]
    #[arg(long, env = "ADMIN_PORT", value_name = "PORT")]
    pub admin_port: Option<String>,

    /// Address of the admin API [default: 127.0.0.1]
    #[arg(long, env = "MESHAGE_ADMIN_BIND", value_name = "IP")]
    pub admin_bind: Option<String>,

    /// Cluster addresses of other nodes, comma-separated; they may be down, and name this node
    #[arg(long, env = "SEEDS", value_name = "HOST:PORT,…")]
    pub seeds: Option<String>,

    /// Address of the public API and the cluster port [default: 127.0.0.1]
    #[arg(long, env = "MESHAGE_BIND", value_name = "IP")]
    pub bind: Option<String>,

    /// Address at which other nodes reach this one [default: the bound one, or if that is all, the
    /// host's one private address]
    #[arg(long, env = "MESHAGE_ADVERTISE", value_name = "IP")]
    pub advertise: Option<String>,

    /// Name of this node; it keeps its keys by it [default: host name + cluster port]
    #[arg(long, env = "MESHAGE_NODE_ID", value_name = "NAME")]
    pub node_id: Option<String>,

    /// Name of the mesh; nodes of another are ignored [default: meshage]
    #[arg(long, env = "MESHAGE_CLUSTER_ID", value_name = "NAME")]
    pub cluster_id: Option<String>,

    /// Directory of the plugins [default: ./plugins]
    #[arg(long, env = "MESHAGE_PLUGINS", value_name = "DIR")]
    pub plugins: Option<String>,

    /// Directory for what the node keeps, such as its compile cache [default: the platform's cache
    /// directory]
    #[arg(long, env = "MESHAGE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<String>,

    /// File with the secret of the mesh, one or several, the first of which is used;
    /// `meshage-host secret` makes one
    #[arg(long, env = "MESHAGE_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<String>,

    /// This node's certificate for the connections between nodes, instead of one made of the
    /// secret; its name is the node id
    #[arg(long, env = "MESHAGE_PEER_CERT", value_name = "PEM FILE")]
    pub peer_cert: Option<String>,

    /// The key of that certificate
    #[arg(long, env = "MESHAGE_PEER_KEY", value_name = "PEM FILE")]
    pub peer_key: Option<String>,

    /// The authorities that the certificates of the nodes are under
    #[arg(long, env = "MESHAGE_PEER_CA", value_name = "PEM FILE")]
    pub peer_ca: Option<String>,

    /// Go without a secret, or admin tokens, on a network: whoever reaches the ports can join, read
    /// and run anything
    #[arg(long, env = "MESHAGE_INSECURE", value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub insecure: Option<String>,

    /// Certificate of the public API, which then speaks HTTPS; read again when it changes
    #[arg(long, env = "MESHAGE_TLS_CERT", value_name = "PEM FILE")]
    pub tls_cert: Option<String>,

    /// The key of that certificate
    #[arg(long, env = "MESHAGE_TLS_KEY", value_name = "PEM FILE")]
    pub tls_key: Option<String>,

    /// File with tokens, one a line, of which clients and operators need one; read again when it
    /// changes
    #[arg(long, env = "MESHAGE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<String>,

    /// File with public keys of minisign, one a line: only plugins that one of them has signed are
    /// loaded
    #[arg(long, env = "MESHAGE_TRUSTED_KEYS", value_name = "FILE")]
    pub trusted_keys: Option<String>,

    /// Authorities that handlers trust in their HTTPS requests, besides the public ones
    #[arg(long, env = "MESHAGE_OUTBOUND_CA", value_name = "PEM FILE")]
    pub outbound_ca: Option<String>,

    /// Origins whose pages may use the public API in a browser, comma-separated, or * for all
    /// [default: none]
    #[arg(long, env = "MESHAGE_ALLOWED_ORIGINS", value_name = "ORIGIN,…")]
    pub allowed_origins: Option<String>,

    /// Longest body of a request, in bytes [default: 1048576]
    #[arg(long, env = "MESHAGE_MAX_BODY", value_name = "BYTES")]
    pub max_body: Option<String>,

    /// Connections of clients at once; later ones wait [default: 10000]
    #[arg(long, env = "MESHAGE_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub max_connections: Option<String>,

    /// Longest time for a request's head to arrive, and again for its body, and for a connection to
    /// be idle [default: 30s]
    #[arg(long, env = "MESHAGE_REQUEST_TIMEOUT", value_name = "DURATION")]
    pub request_timeout: Option<String>,

    /// Longest time for a message, in milliseconds or with a unit [default: 30s]
    #[arg(long, env = "MESHAGE_TIMEOUT", value_name = "DURATION")]
    pub timeout: Option<String>,

    /// Logs as text or json [default: text]
    #[arg(long, env = "MESHAGE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// What is logged: a level (error, warn, info, debug, trace), or directives as info,guest=debug
    /// [default: info]
    #[arg(long, env = "MESHAGE_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// A TOML file with any of these settings
    #[arg(long, env = "MESHAGE_CONFIG", value_name = "FILE")]
    pub config: Option<String>,
}

/// What else there is to do than to be a node.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Say whether these plugins would load, and if not, why; exit code 1 if any would not
    ///
    /// Looks at each component and at the manifest beside it, makes a first instance, and needs no
    /// mesh. Warns of a manifest that would not be read, such as one with a wrong name.
    Check {
        /// Components, <stream>.wasm, or directories of them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Make a secret for a mesh: 32 random bytes in base64, to be put into a file that only its
    /// owner, or its group, can read
    Secret,
}

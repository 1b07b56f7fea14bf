//! The command line: a flag for each setting that `config` describes, and the subcommands.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, FromArgMatches, Subcommand};
use clap_complete::Shell;
use uuid::Uuid;

use crate::config::{CONFIG, Setting, Values, settings};
use crate::project::Language;

/// The older name of the setting for the public API's port.
const SERVICE_PORT: &str = "service_port";
const HTTP_PORT: &str = "http_port";

/// The parsed command line.
#[derive(Debug)]
pub struct Cli {
    pub command: Option<Command>,
    /// The settings that were given as flags.
    pub flags: Values,
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
    /// Make a project with a handler of your own, in a new folder
    ///
    /// It has a handler, tests, a manifest, the SDK, and a README; the language's usual commands build and
    /// test it.
    New {
        /// The name of the folder, and of the stream
        name: String,
        /// What the handler is written in
        #[arg(long, value_enum, value_name = "LANGUAGE")]
        lang: Language,
        /// A handler of wasi:http, which other hosts serve, too
        #[arg(long)]
        http: bool,
    },
    /// Be a node, and build the handler in Rust of this folder on each saving
    ///
    /// Its component goes into the plugins directory. The flags are those of a node, before `dev`.
    Dev,
    /// Ask the node on this host whether it is ready: exit code 0, or 1 with what is missing
    ///
    /// For health checks that run a command. The flags are those of the node, before `health`.
    Health,
    /// Look after the plugins that a mesh shares (--share-plugins)
    ///
    /// Asks the node on this host. The flags are those of the node, before `plugins`; with --token-file the first
    /// token is sent.
    Plugins {
        #[command(subcommand)]
        command: PluginsCommand,
    },
    /// Copy, export or look after the state of entities
    State {
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Write what a shell needs to complete this command line
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Manual { folder: PathBuf },
}

/// What to do with the plugins that a mesh shares.
#[derive(Debug, Clone, Subcommand)]
pub enum PluginsCommand {
    /// Show each stream with its revisions, the current one first, and the nodes that have it
    List,
    /// Have the mesh run an earlier release again, or the file in this node's directory that does not run
    Use {
        stream: String,
        /// The number of an earlier revision, or the beginning of its release's name, as `plugins list` shows them; without it,
        /// the file
        revision: Option<String>,
    },
    /// Remove a stream from every node; files stay where they are, and do not run
    Remove { stream: String },
}

/// What to do with the state of entities.
#[derive(Debug, Clone, Subcommand)]
pub enum StateCommand {
    /// Copy everything to another store, which is made if there is none; the nodes that use either
    /// should be stopped
    ///
    /// An entity that is there already is left as it is, so that a copy can be repeated; exit code
    /// 1 if any is there with another last commit.
    Copy {
        /// Where the state is: as for --state, which is the default
        #[arg(long, value_name = "LOCATION")]
        from: Option<String>,
        /// Where to copy it: as for --state
        #[arg(long, value_name = "LOCATION")]
        to: String,
    },
    /// Write every entity as a line of JSON: stream, partitionKey, commitId, and values, each with
    /// name, bytes, and json, text or base64; what nodes write meanwhile may be missing
    Export {
        /// Where the state is: as for --state, which is the default
        #[arg(long, value_name = "LOCATION")]
        from: Option<String>,
        /// Only the entities of this stream
        #[arg(long, value_name = "NAME")]
        stream: Option<String>,
    },
    /// Write every message and timer that handlers sent and that has no answer yet as a line of JSON;
    /// nodes may be running
    Sends {
        /// Where the state is: as for --state, which is the default
        #[arg(long, value_name = "LOCATION")]
        from: Option<String>,
        /// Only those that were tried 20 times, and are not tried again by themselves
        #[arg(long)]
        stuck: bool,
    },
    /// Have messages that were tried before delivered again, by the nodes that are running
    Retry {
        /// Where the state is: as for --state, which is the default
        #[arg(long, value_name = "LOCATION")]
        from: Option<String>,
        /// Their ids, as `state sends` shows them; without any, all that are stuck
        #[arg(value_name = "ID")]
        ids: Vec<Uuid>,
    },
}

impl Cli {
    /// Parses a command line, which begins with the program's name.
    ///
    /// # Errors
    /// Why it is invalid, or the help or version text that it asks for.
    pub fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(arguments).map_err(advised)?;
        let command = match matches.subcommand() {
            Some(_) => Some(Command::from_arg_matches(&matches)?),
            None => None,
        };
        let flags = flags(&matches);
        Ok(Self { command, flags })
    }
}

/// Says where a flag of the node belongs, if it stands behind a command.
fn advised(mut error: clap::Error) -> clap::Error {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if error.kind() == ErrorKind::UnknownArgument => flag,
        _ => return error,
    };
    let is_it = |setting: &&Setting| flag.strip_prefix("--") == Some(&*setting.flag());
    if settings().iter().any(is_it) {
        let text = format!("{flag} is a flag of the node, and goes before the command");
        let tip = ContextValue::StyledStrs(vec![text.into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

/// What a shell needs to complete this command line.
#[must_use]
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    let mut command = command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// Writes a manual page for each command into a folder.
///
/// # Errors
/// The folder is not there, or cannot be written to.
pub fn write_manual(folder: &Path) -> io::Result<()> {
    clap_mangen::generate_to(command().disable_help_subcommand(true), folder)
}

fn command() -> clap::Command {
    let command = clap::Command::new("meshage-host")
        .version(env!("CARGO_PKG_VERSION"))
        .args(settings().into_iter().chain([&CONFIG]).map(argument))
        .arg(Arg::new(SERVICE_PORT).long("service-port").hide(true));
    // The texts come last: the comment on the subcommands would replace them.
    Command::augment_subcommands(command)
        .about("A node of a meshage mesh: serves each WebAssembly component of a directory as a stream")
        .long_about(
            "A node of a meshage mesh: serves each WebAssembly component of a directory as a stream.\n\n\
             Each setting is taken from its flag, else from its environment variable, else from the \
             configuration file, else it has its default.",
        )
}

fn argument(setting: &'static Setting) -> Arg {
    let argument = Arg::new(setting.name)
        .long(setting.flag())
        .value_name(setting.value)
        .help(setting.help_text());
    if setting.is_switch {
        argument.num_args(0..=1).default_missing_value("true")
    } else {
        // So that the error for a number that is too small names the setting.
        argument.allow_negative_numbers(true)
    }
}

fn flags(matches: &ArgMatches) -> Values {
    let written = |name: &str| matches.get_one::<String>(name).cloned();
    let mut flags: Values = settings()
        .into_iter()
        .chain([&CONFIG])
        .filter_map(|setting| Some((setting.name, written(setting.name)?)))
        .collect();
    let is_empty = |text: &String| text.trim().is_empty();
    if flags.get(HTTP_PORT).is_none_or(is_empty)
        && let Some(port) = written(SERVICE_PORT)
    {
        flags.insert(HTTP_PORT, port);
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_says_what_it_is_and_has_every_setting() {
        let help = command().render_long_help().to_string();
        assert!(help.starts_with("A node of a meshage mesh"), "{help}");
        for setting in settings() {
            assert!(help.contains(&format!("--{}", setting.flag())), "{help}");
            assert!(help.contains(setting.variables[0]), "{help}");
        }
        assert!(!help.contains("service-port"), "{help}");
    }

    #[test]
    fn a_flag_behind_the_command_is_told_where_it_goes() {
        let wrong = |arguments: &[&str]| Cli::parse(arguments).unwrap_err().to_string();
        let said = wrong(&["meshage-host", "health", "--admin-port", "9080"]);
        let tip = "tip: --admin-port is a flag of the node, and goes before the command";
        assert!(said.contains(tip), "{said}");
        let said = wrong(&["meshage-host", "health", "--nothing"]);
        assert!(!said.contains("flag of the node"), "{said}");
    }

    #[test]
    fn a_negative_number_is_a_value() {
        let cli = Cli::parse([
            "meshage-host",
            "--max-body",
            "-1",
            "--insecure",
            "--bind",
            "::",
        ]);
        let flags = cli.unwrap().flags;
        assert_eq!(flags["max_body"], "-1");
        assert_eq!((&*flags["insecure"], &*flags["bind"]), ("true", "::"));
    }
}

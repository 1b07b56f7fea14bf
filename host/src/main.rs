//! The process: start, signals, shutdown.

#![forbid(unsafe_code)]

mod signals;

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use meshage_host::cli::{self, Cli, Command, PluginsCommand, StateCommand};
use meshage_host::config::{
    AdminTerms, Config, ConfigError, HealthTerms, PluginTerms, StateTerms, Written,
};
use meshage_host::entities::{self, Copied, TransferError};
use meshage_host::message::StreamName;
use meshage_host::node::{self, NodeError};
use meshage_host::project::{self, Develop, Language};
use meshage_host::security::new_secret;
use meshage_host::telemetry::Logs;
use mimalloc::MiMalloc;
use tokio_util::sync::CancellationToken;

/// mimalloc, since a request makes some fifty small allocations, many of them freed on another
/// core.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The exit code for a wrong setting.
const WRONG_SETTING: u8 = 2;

/// How long to wait for remaining tasks after the node has left; none of them is worth more.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// How long an ending process waits for the reader of its log: for one that reads nothing, and for
/// one that reads slowly.
const LOG_STALLED_MAX: Duration = Duration::from_secs(2);
const LOG_FLUSH_MAX: Duration = Duration::from_secs(30);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Setting(#[from] ConfigError),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
    #[error("the system has no thread or event loop left for this process: {0}")]
    System(#[from] io::Error),
    #[error("what there is to say cannot be written: {0}")]
    Output(io::Error),
}

fn main() -> ExitCode {
    // The allocator requests huge pages, of which an idle node would use only a small part.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let Cli { command, flags } =
        Cli::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let written = Written::new(flags);
    let logs = match Logs::start(written.log_format) {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("meshage-host: {}", Failed::from(error));
            return ExitCode::FAILURE;
        }
    };
    let done = match command {
        Some(Command::Check { files }) => check(&files, written),
        Some(Command::Secret) => say(&new_secret()).map(|()| ExitCode::SUCCESS),
        Some(Command::State { command }) => state(command, written),
        Some(Command::Plugins { command }) => plugins(command, written),
        Some(Command::New { name, lang, http }) => new(&name, lang, http),
        Some(Command::Dev) => develop(written, &logs),
        Some(Command::Health) => health(written),
        Some(Command::Completions { shell }) => output(&cli::completions(shell)),
        Some(Command::Manual { folder }) => manual(&folder),
        None => Config::new(written)
            .map_err(Failed::from)
            .and_then(|config| run(config, &logs)),
    };
    let exit_code = done.unwrap_or_else(|failed| {
        logs.last_word(&failed);
        match failed {
            Failed::Setting(_) => ExitCode::from(WRONG_SETTING),
            Failed::Other(_) | Failed::System(_) | Failed::Output(_) => ExitCode::FAILURE,
        }
    });
    logs.flush(LOG_STALLED_MAX, LOG_FLUSH_MAX);
    exit_code
}

/// Reports for each plugin whether it would load.
fn check(files: &[PathBuf], written: Written) -> Result<ExitCode, Failed> {
    let terms = PluginTerms::new(written)?;
    let mut all_are_good = true;
    for verdict in tokio::runtime::Runtime::new()?
        .block_on(node::check(files, terms))
        .map_err(anyhow::Error::from)?
    {
        all_are_good &= verdict.is_ok();
        match verdict {
            Ok(good) => say(&good)?,
            Err(bad) => say(&bad)?,
        }
    }
    Ok(if all_are_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Asks the node on this host whether it is ready.
fn health(written: Written) -> Result<ExitCode, Failed> {
    let HealthTerms { admin } = HealthTerms::new(written)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match runtime.block_on(node::health(admin)) {
        Ok(()) => say(&"ready").map(|()| ExitCode::SUCCESS),
        Err(missing) => say(&missing).map(|()| ExitCode::FAILURE),
    }
}

/// Looks after the plugins that a mesh shares.
fn plugins(command: PluginsCommand, written: Written) -> Result<ExitCode, Failed> {
    let terms = AdminTerms::new(written)?;
    let named = |stream: String| {
        let stream = StreamName::try_from(stream);
        stream.map_err(|error| format!("the stream: {error}"))
    };
    let done = async {
        Ok::<_, String>(match command {
            PluginsCommand::List => node::list_releases(&terms).await?,
            PluginsCommand::Use {
                stream,
                revision: Some(wanted),
            } => {
                let stream = named(stream)?;
                let made = node::use_release(&terms, &stream, &wanted).await?;
                format!("{stream}: revision {} is that of {wanted}\n", made.number)
            }
            PluginsCommand::Use {
                stream,
                revision: None,
            } => {
                let stream = named(stream)?;
                node::use_file(&terms, &stream).await?;
                format!("{stream}: the file is tried, and is the next revision if it works\n")
            }
            PluginsCommand::Remove { stream } => {
                let stream = named(stream)?;
                let made = node::remove_release(&terms, &stream).await?;
                format!("{stream}: removed by revision {}\n", made.number)
            }
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match runtime.block_on(done) {
        Ok(text) => output(text.as_bytes()),
        Err(error) => Err(anyhow::anyhow!(error).into()),
    }
}

/// Copies, exports or looks after the state of entities.
fn state(command: StateCommand, written: Written) -> Result<ExitCode, Failed> {
    let runtime = tokio::runtime::Runtime::new()?;
    match command {
        StateCommand::Copy { from, to } => {
            let terms = StateTerms::new(written, from.as_deref(), Some(&to))?;
            runtime.block_on(copy(terms))
        }
        StateCommand::Export { from, stream } => {
            let terms = StateTerms::new(written, from.as_deref(), None)?;
            runtime.block_on(export(terms, stream))
        }
        StateCommand::Sends { from, stuck } => {
            let terms = StateTerms::new(written, from.as_deref(), None)?;
            runtime.block_on(list_sends(terms, stuck))
        }
        StateCommand::Retry { from, ids } => {
            let terms = StateTerms::new(written, from.as_deref(), None)?;
            let retried = entities::retry_sends(&terms.from, &terms.cluster_id, ids);
            let retried = runtime.block_on(retried).map_err(anyhow::Error::from)?;
            say(&format!("{retried} messages are delivered again"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn copy(terms: StateTerms) -> Result<ExitCode, Failed> {
    let StateTerms {
        cluster_id,
        from,
        to,
    } = terms;
    let to = to.expect("the command line requires it");
    let Copied {
        copied,
        there,
        differ,
        named,
        records,
        sends,
    } = entities::copy(&from, &to, &cluster_id)
        .await
        .map_err(anyhow::Error::from)?;
    say(&format!(
        "{copied} entities were copied; {there} were there already"
    ))?;
    say(&format!(
        "{records} kept replies, and {sends} messages and timers without an answer, were copied"
    ))?;
    if differ == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!(
        "{differ} are there with another last commit, and were left as they are: {}{}",
        named.join(", "),
        if named.len() < differ { ", …" } else { "" }
    ))?;
    Ok(ExitCode::FAILURE)
}

async fn export(terms: StateTerms, stream: Option<String>) -> Result<ExitCode, Failed> {
    let stream = stream.map(StreamName::try_from).transpose();
    let stream = stream.map_err(|error| anyhow::anyhow!("--stream: {error}"))?;
    let mut output = BufWriter::new(io::stdout().lock());
    let line = |line: &str| writeln!(output, "{line}");
    let done = entities::export(&terms.from, &terms.cluster_id, stream, line).await;
    written_out(done, output)
}

async fn list_sends(terms: StateTerms, stuck: bool) -> Result<ExitCode, Failed> {
    let mut output = BufWriter::new(io::stdout().lock());
    let line = |line: &str| writeln!(output, "{line}");
    let done = entities::list_sends(&terms.from, &terms.cluster_id, stuck, line).await;
    written_out(done, output)
}

fn written_out(
    done: Result<(), TransferError>,
    mut output: impl Write,
) -> Result<ExitCode, Failed> {
    match done {
        Err(TransferError::Output(error)) => ended_by_reader(error),
        Err(error) => Err(anyhow::Error::from(error).into()),
        Ok(()) => match output.flush() {
            Err(error) => ended_by_reader(error),
            Ok(()) => Ok(ExitCode::SUCCESS),
        },
    }
}

/// A closed pipe, as with `head`, is not an error.
fn ended_by_reader(error: io::Error) -> Result<ExitCode, Failed> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        _ => Err(Failed::Output(error)),
    }
}

/// Prints a line. A closed pipe, as with `head`, is not an error.
fn say(line: &impl Display) -> Result<(), Failed> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failed::Output(error)),
        _ => Ok(()),
    }
}

/// Writes to stdout.
fn output(bytes: &[u8]) -> Result<ExitCode, Failed> {
    match io::stdout().write_all(bytes) {
        Err(error) => ended_by_reader(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Writes the manual pages.
fn manual(folder: &Path) -> Result<ExitCode, Failed> {
    cli::write_manual(folder)
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| anyhow::anyhow!("cannot write to {}: {error}", folder.display()).into())
}

/// Makes a project.
fn new(name: &str, language: Language, is_http: bool) -> Result<ExitCode, Failed> {
    let next = project::new(Path::new(""), name, language, is_http);
    say(&next.map_err(anyhow::Error::from)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a node, and builds the handler of this folder on each saving.
fn develop(written: Written, logs: &Logs) -> Result<ExitCode, Failed> {
    let config = Config::new(written)?;
    let develop = Develop::new(Path::new("."), &config.plugins.directory);
    develop.map_err(anyhow::Error::from)?.start()?;
    run(config, logs)
}

/// Runs a node until a signal arrives or a vital task ends.
fn run(config: Config, logs: &Logs) -> Result<ExitCode, Failed> {
    logs.listen(&config.log.filter)
        .map_err(|_| config.log.filter_error())?;
    let leave = CancellationToken::new();
    signals::listen(leave.clone(), node::leave_max(&config), logs.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // As a task, so that a panic in it ends the process like any other error.
    let ended = runtime.block_on(runtime.spawn(node::run(config, logs.events(), leave)));
    // A blocking thread that hangs in the file system must not delay the exit.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    match ended.map_err(anyhow::Error::from)? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(NodeError::Setting(error)) => Err(error.into()),
        Err(error) => Err(anyhow::Error::from(error).into()),
    }
}

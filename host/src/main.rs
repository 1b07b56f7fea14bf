//! Start, signals, stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use meshage_host::cli::{Cli, Command};
use meshage_host::config::{Config, ConfigError, PluginTerms};
use meshage_host::node::NodeError;
use meshage_host::security::new_secret;
use meshage_host::{node, telemetry};
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// A request is some fifty small allocations, many of them freed on another core.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The exit code for a wrong setting.
const WRONG_SETTING: u8 = 2;

/// The exit code after a second signal: 128 + SIGINT, as shells have it.
const ENDED_AT_ONCE: i32 = 130;

/// What is left to do when the node has left: nothing that is worth more than this.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // The allocator asks for huge pages, of which an idle node would use little.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let mut cli = Cli::parse();
    let done = match cli.command.take() {
        Some(Command::Check { files }) => PluginTerms::new(cli).map(|terms| check(&files, terms)),
        Some(Command::Secret) => {
            println!("{}", new_secret());
            Ok(Ok(ExitCode::SUCCESS))
        }
        None => configure(cli).map(run),
    };
    match done {
        Ok(Ok(exit_code)) => exit_code,
        Ok(Err(error)) => {
            eprintln!("meshage-host: {error:#}");
            let is_setting = matches!(error.downcast_ref(), Some(NodeError::Setting(_)));
            if is_setting { ExitCode::from(WRONG_SETTING) } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("meshage-host: {error}");
            ExitCode::from(WRONG_SETTING)
        }
    }
}

/// Says of each plugin whether it would load.
#[tokio::main]
async fn check(files: &[PathBuf], terms: PluginTerms) -> anyhow::Result<ExitCode> {
    let mut all_are_good = true;
    for verdict in node::check(files, terms).await? {
        match verdict {
            Ok(good) => println!("{good}"),
            Err(bad) => {
                all_are_good = false;
                println!("{bad}");
            }
        }
    }
    Ok(if all_are_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn configure(cli: Cli) -> Result<Config, ConfigError> {
    let config = Config::new(cli)?;
    telemetry::init_logs(config.log_format, &config.log_filter).map_err(|_| config.log_filter_error())?;
    Ok(config)
}

fn run(config: Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run_until_signal(config));
    // A file system that does not answer holds nobody who has left.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    ended
}

async fn run_until_signal(config: Config) -> anyhow::Result<ExitCode> {
    let leave = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let on_signal = leave.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                on_signal.cancel();
            } else {
                warn!("ended at once by a second signal");
                std::process::exit(ENDED_AT_ONCE);
            }
        }
    });
    node::run(config, leave).await?;
    Ok(ExitCode::SUCCESS)
}

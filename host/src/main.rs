//! Start, signals, stop.

use std::process::ExitCode;

use clap::Parser;
use meshage_host::cli::Cli;
use meshage_host::config::{Config, ConfigError};
use meshage_host::{node, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The exit code for a wrong setting.
const WRONG_SETTING: u8 = 2;

/// The exit code after a second signal: 128 + SIGINT, as shells have it.
const ENDED_AT_ONCE: i32 = 130;

fn main() -> ExitCode {
    let config = match configure() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("meshage-host: {error}");
            return ExitCode::from(WRONG_SETTING);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshage-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn configure() -> Result<Config, ConfigError> {
    let config = Config::new(Cli::parse())?;
    telemetry::init_logs(config.log_format, &config.log_filter).map_err(|_| config.log_filter_error())?;
    Ok(config)
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
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
    Ok(node::run(config, leave).await?)
}

//! Measures servers in turns (A B A B …), so that drift of the machine affects all of them alike.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load::{self, Load, Pace};
use crate::servers::Server;

/// Length of each run, and number of rounds.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
}

/// One run against one server.
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    /// Per request.
    pub(crate) cpu: CpuUs,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
}

/// CPU time, in microseconds.
pub(crate) struct CpuUs {
    /// In the order in which a message passes through them.
    pub(crate) processes: Vec<f64>,
    pub(crate) client: f64,
}

impl CpuUs {
    /// CPU time per request: of each process of the server since `before`, and of the client.
    pub(crate) fn since(
        before: &[Duration],
        server: &Server,
        client: Duration,
        requests: u64,
    ) -> Result<Self> {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / requests as f64;
        let processes = server
            .cpu()?
            .iter()
            .zip(before)
            .map(|(now, before)| each(*now - *before))
            .collect();
        Ok(Self {
            processes,
            client: each(client),
        })
    }

    /// Sum over all processes of the server.
    pub(crate) fn total(&self) -> f64 {
        self.processes.iter().sum()
    }
}

impl Sample {
    /// Prints the sample, to show progress.
    pub(crate) fn tell(&self, server: &str) {
        let Self {
            per_second,
            cpu,
            p50_ms,
            p99_ms,
            p999_ms,
        } = self;
        let cpu_us = cpu.total();
        eprintln!(
            "  {server:<40} {per_second:>9.0} req/s  {cpu_us:>6.1} µs CPU  p50 {p50_ms:.2}  p99 {p99_ms:.2}  p99.9 {p999_ms:.2} ms"
        );
    }
}

/// The runs against one server, in the order of the rounds.
pub(crate) struct Samples(pub(crate) Vec<Sample>);

/// A value that was measured several times.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Self {
            median,
            min: values[0],
            max: values[values.len() - 1],
        }
    }
}

impl Samples {
    pub(crate) fn spread(&self, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.0.iter().map(value))
    }

    pub(crate) fn median(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        self.spread(value).median
    }

    /// Requests a second relative to a baseline, round by round.
    pub(crate) fn ratio(&self, baseline: &Self) -> Spread {
        Spread::of(
            self.0
                .iter()
                .zip(&baseline.0)
                .map(|(own, other)| own.per_second / other.per_second),
        )
    }
}

/// The shape of the load.
#[derive(Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) connections: usize,
    pub(crate) body_bytes: usize,
    pub(crate) connect_each: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            connections: 32,
            body_bytes: 16,
            connect_each: false,
        }
    }
}

impl Traffic {
    /// Complete requests, one for each of the server's paths.
    pub(crate) fn requests(self, server: &Server) -> Vec<Vec<u8>> {
        // JSON, as the handler `echo` expects it.
        let body = format!("\"{}\"", "x".repeat(self.body_bytes.saturating_sub(2)));
        let request = |path: &String| {
            let length = body.len();
            format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )
        };
        server
            .paths
            .iter()
            .map(|path| request(path).into_bytes())
            .collect()
    }

    fn load(self, server: &Server, pace: Pace) -> Load {
        let Self {
            connections,
            connect_each,
            ..
        } = self;
        Load {
            addr: server.addr,
            requests: self.requests(server),
            connections,
            pace,
            connect_each,
        }
    }
}

/// Measures each server in each round, in a closed loop.
pub(crate) fn in_turns(
    servers: &[&Server],
    traffic: Traffic,
    effort: Effort,
) -> Result<Vec<Samples>> {
    each_in_turns(servers, effort, |server| {
        once(server, traffic, Pace::Closed, effort.seconds)
    })
}

/// Like [`in_turns`], but in an open loop with a fixed rate for each.
pub(crate) fn at_rates(
    servers: &[(&Server, f64)],
    traffic: Traffic,
    effort: Effort,
) -> Result<Vec<Samples>> {
    each_in_turns(servers, effort, |(server, rate)| {
        once(server, traffic, Pace::Open(*rate), effort.seconds)
    })
}

fn each_in_turns<T>(
    subjects: &[T],
    effort: Effort,
    measure: impl Fn(&T) -> Result<Sample>,
) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> = subjects.iter().map(|_| Samples(Vec::new())).collect();
    for round in 0..effort.rounds {
        for turn in 0..subjects.len() {
            // Each round starts with another server.
            let index = (turn + round) % subjects.len();
            samples[index].0.push(measure(&subjects[index])?);
        }
    }
    Ok(samples)
}

fn once(server: &Server, traffic: Traffic, pace: Pace, seconds: f64) -> Result<Sample> {
    measure(server, &traffic.load(server, pace), seconds)
}

/// Measures a server under a load, after a short time in which it is not counted.
pub(crate) fn measure(server: &Server, load: &Load, seconds: f64) -> Result<Sample> {
    let mut before = Ok(Vec::new());
    let warm_up = Duration::from_secs_f64(seconds / 5.0);
    let outcome = load::run(load, warm_up, Duration::from_secs_f64(seconds), || {
        before = server.cpu()
    })?;
    ensure!(
        outcome.failed == 0,
        "{}: {} of {} requests failed",
        server.name,
        outcome.failed,
        outcome.answered
    );
    ensure!(outcome.answered > 0, "{} answered nothing", server.name);
    let cpu = CpuUs::since(&before?, server, outcome.cpu, outcome.answered)?;
    let sample = Sample {
        per_second: outcome.per_second(),
        cpu,
        p50_ms: outcome.quantile_ms(0.5),
        p99_ms: outcome.quantile_ms(0.99),
        p999_ms: outcome.quantile_ms(0.999),
    };
    sample.tell(&server.name);
    Ok(sample)
}

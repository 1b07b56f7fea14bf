//! Which messages are traced. Pure, but for the coin.

use crate::message::Trace;

/// As `OTEL_TRACES_SAMPLER` has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Whether the sender of a request that is part of a trace decides.
    pub asks_sender: bool,
    pub root: Root,
}

/// What is decided of a request whose sender does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Root {
    Always,
    Never,
    /// So many of one.
    Ratio(f64),
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            asks_sender: true,
            root: Root::Always,
        }
    }
}

impl Sampler {
    /// Reads `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, &'static str> {
        let (asks_sender, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Root::Always,
            "always_off" => Root::Never,
            "traceidratio" => Root::Ratio(ratio(argument)?),
            _ => {
                return Err(
                    "always_on, always_off or traceidratio, or one of them behind parentbased_",
                );
            }
        };
        Ok(Self { asks_sender, root })
    }

    /// The id of a new trace that is sampled.
    pub(super) fn new_trace_id(self) -> u128 {
        let id = fastrand::u128(1..);
        match self.root {
            // As if ids had been made until one is sampled.
            Root::Ratio(ratio) if ratio > 0.0 => {
                let part = fastrand::u64(..below(ratio).max(1));
                (id >> 64 << 64) | (u128::from(part) << 1) | (id & 1)
            }
            _ => id,
        }
    }

    pub(super) fn samples(self, sender: Option<&Trace>) -> bool {
        match (sender, self.root) {
            (Some(sender), _) if self.asks_sender => sender.is_recorded,
            (_, Root::Always) => true,
            (_, Root::Never) => false,
            // All who see the trace come to the same, as [`Self::new_trace_id`] makes them.
            (Some(sender), Root::Ratio(ratio)) => part(sender.trace_id) < below(ratio),
            (None, Root::Ratio(ratio)) => fastrand::f64() < ratio,
        }
    }
}

/// The part of an id that decides, as in the SDKs.
fn part(trace_id: u128) -> u64 {
    (trace_id as u64) >> 1
}

fn below(ratio: f64) -> u64 {
    (ratio * (1_u64 << 63) as f64) as u64
}

fn ratio(argument: Option<&str>) -> Result<f64, &'static str> {
    let ratio = argument.map_or(Ok(1.0), str::parse);
    let ratio = ratio.ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or("a ratio from 0 to 1 in OTEL_TRACES_SAMPLER_ARG")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(trace_id: u128, is_recorded: bool) -> Option<Trace> {
        Some(Trace {
            trace_id,
            span_id: 1,
            is_recorded,
        })
    }

    fn samples(name: &str, argument: &str, sender: Option<Trace>) -> bool {
        let sampler = Sampler::parse(name, Some(argument)).unwrap();
        sampler.samples(sender.as_ref())
    }

    #[test]
    fn the_sender_decides_if_it_is_asked() {
        for name in ["always_on", "always_off", "traceidratio"] {
            for is_recorded in [true, false] {
                let name = format!("parentbased_{name}");
                let sampled = samples(&name, "0.5", sender(7, is_recorded));
                assert_eq!(sampled, is_recorded, "{name}");
            }
        }
        assert!(samples("always_on", "", sender(7, false)));
        assert!(!samples("always_off", "", sender(7, true)));
        assert!(samples("parentbased_always_on", "", None));
        assert!(!samples("parentbased_always_off", "", None));
    }

    #[test]
    fn a_ratio_is_of_the_trace_ids() {
        let ids = (0..1_000).map(|number: u64| u128::from((2 * number + 1) * (u64::MAX / 2_000)));
        let sampled = ids.filter(|id| samples("traceidratio", "0.25", sender(*id, false)));
        assert_eq!(sampled.count(), 250);
        assert!(!samples("traceidratio", "0", None) && samples("traceidratio", "1", None));
    }

    #[test]
    fn who_decides_by_the_id_comes_to_the_same() {
        for argument in ["0.000001", "0.01", "0.5", "1"] {
            let sampler = Sampler::parse("traceidratio", Some(argument)).unwrap();
            for _ in 0..1_000 {
                let id = sampler.new_trace_id();
                assert!(samples("traceidratio", argument, sender(id, true)), "{id}");
            }
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for (name, argument) in [
            ("jaeger_remote", None),
            ("", None),
            ("traceidratio", Some("2")),
            ("parentbased_traceidratio", Some("x")),
            ("traceidratio", Some("nan")),
        ] {
            assert!(
                Sampler::parse(name, argument).is_err(),
                "{name} {argument:?}"
            );
        }
    }
}

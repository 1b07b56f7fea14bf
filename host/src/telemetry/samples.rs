//! Reads the text that the metrics are rendered as, for who wants a figure and not a page. Pure.

/// One line: a value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    /// As they are written: `stream="echo",route="local"`.
    labels: &'a str,
    pub value: f64,
}

/// The samples of a page in Prometheus' text format, as this process renders it: no label has a quote or a comma in
/// its value.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        (!name.starts_with('#')).then_some(Sample {
            name,
            labels,
            value,
        })
    })
}

impl<'a> Sample<'a> {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let (key, value) = label.split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            (key == name).then_some(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_labels_are_read() {
        let text = "# HELP a_total what it is\n# TYPE a_total counter\na_total{stream=\"echo\",route=\"local\"} 12\n\nb 0.5\nc{le=\"+Inf\"} 3\nnonsense\n";
        let read: Vec<_> = samples(text)
            .map(|sample| (sample.name, sample.label("route"), sample.value))
            .collect();
        let expected = [
            ("a_total", Some("local"), 12.0),
            ("b", None, 0.5),
            ("c", None, 3.0),
        ];
        assert_eq!(read, expected);
        assert_eq!(
            samples(text).last().and_then(|last| last.label("le")),
            Some("+Inf")
        );
    }
}

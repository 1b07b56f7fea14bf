//! Writes the results as a document with plots.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::measure::Spread;

/// The results of one suite.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// What was measured, with notes on the results.
    pub(crate) text: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) plots: Vec<Plot>,
}

pub(crate) struct Table {
    pub(crate) head: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// A line chart over numbers.
pub(crate) struct Plot {
    /// Name of its file.
    pub(crate) name: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Section {
    pub(crate) fn new(title: &'static str, text: impl Into<String>) -> Self {
        Self {
            title,
            text: text.into(),
            tables: Vec::new(),
            plots: Vec::new(),
        }
    }

    pub(crate) fn markdown(&self, folder: &str) -> String {
        let mut out = format!("## {}\n\n{}\n", self.title, self.text);
        for table in &self.tables {
            let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
            let head: Vec<String> = table.head.iter().map(ToString::to_string).collect();
            let rule: Vec<String> = (0..head.len())
                .map(|column| if column == 0 { "---" } else { "--:" }.into())
                .collect();
            out.push('\n');
            out.extend(
                [head, rule]
                    .iter()
                    .chain(&table.rows)
                    .map(|cells| line(cells)),
            );
        }
        for plot in &self.plots {
            let _ = write!(
                out,
                "\n![{} over {}]({folder}/{}.svg)\n",
                plot.y, plot.x, plot.name
            );
        }
        out
    }

    pub(crate) fn draw(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        self.plots
            .iter()
            .try_for_each(|plot| plot.draw(&folder.join(format!("{}.svg", plot.name))))
    }
}

impl Plot {
    fn draw(&self, file: &Path) -> Result<()> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let (x_min, x_max) = points().fold((f64::MAX, f64::MIN), |(min, max), (x, _)| {
            (min.min(*x), max.max(*x))
        });
        let y_max = points().map(|(_, y)| *y).fold(0.0, f64::max) * 1.1;
        let wrong = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", file.display());
        let root = SVGBackend::new(file, (720, 360)).into_drawing_area();
        root.fill(&WHITE).map_err(|error| wrong(&error))?;
        let mut builder = ChartBuilder::on(&root);
        builder
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64);
        // A logarithmic axis: the numbers double from step to step.
        let mut chart = builder
            .build_cartesian_2d((x_min..x_max).log_scale(), 0.0..y_max)
            .map_err(|error| wrong(&error))?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x)
            .y_desc(self.y)
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(|error| wrong(&error))?;
        for (index, (name, points)) in self.lines.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3);
            let drawn = chart.draw_series(line).map_err(|error| wrong(&error))?;
            drawn.label(name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
            });
        }
        let mut labels = chart.configure_series_labels();
        labels
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3));
        labels.draw().map_err(|error| wrong(&error))?;
        root.present().map_err(|error| wrong(&error))
    }
}

/// The median, with minimum and maximum.
pub(crate) fn spread(value: Spread, digits: usize) -> String {
    let Spread { median, min, max } = value;
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}

pub(crate) fn thousands(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{:.1} k", value / 1_000.0)
    } else {
        format!("{value:.0}")
    }
}

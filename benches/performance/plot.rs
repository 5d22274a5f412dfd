//! The plot: what a datagram costs, by rate and by number of exporters.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use crate::modes::{cost, exporters};
use crate::numbers::{float, grouped};
use crate::relay::Kind;
use crate::results::Results;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (1120, 480);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// Points of a line, and whose it is.
type Line = (Kind, Vec<(f64, f64)>);

/// Writes the plot as SVG.
pub(crate) fn draw(path: &Path, results: &Results) {
    panels(path, results).expect("the plot can be drawn");
}

fn panels(path: &Path, results: &Results) -> Outcome {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(640);
    by_rate(&left, &lines(results, cost::COST, &Kind::all()))?;
    by_exporters(&right, &lines(results, exporters::EXPORTERS, &exporters::KINDS))?;
    root.present()?;
    Ok(())
}

fn lines(results: &Results, topic: &'static str, kinds: &[Kind]) -> Vec<Line> {
    let points = |kind: &Kind| {
        let series = results.series(topic, kind.name());
        (*kind, series.into_iter().map(|(under, figure)| (float(under), figure)).collect())
    };
    kinds.iter().map(points).filter(|(_, points): &Line| !points.is_empty()).collect()
}

fn by_rate(area: &Area<'_>, lines: &[Line]) -> Outcome {
    let (low, high) = extent(lines);
    let mut chart = ChartBuilder::on(area)
        .caption("by rate, 4 exporters", (FONT, 17, &INK))
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..65_000.0, (low * 0.8..high * 1.25).log_scale())?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().bold_line_style(GRID).light_line_style(WHITE).axis_style(INK);
    mesh.label_style((FONT, 13, &INK)).axis_desc_style((FONT, 14, &INK));
    mesh.x_labels(8).x_label_formatter(&|rate| format!("{:.0}", rate / 1000.0));
    mesh.y_label_formatter(&|cost: &f64| grouped(cost.round()));
    mesh.x_desc("thousand datagrams/s").y_desc("core-µs per datagram (logarithmic)").draw()?;
    draw_lines(&mut chart, lines)
}

fn by_exporters(area: &Area<'_>, lines: &[Line]) -> Outcome {
    let (_, high) = extent(lines);
    let mut chart = ChartBuilder::on(area)
        .caption("by number of exporters, 20,000 datagrams/s", (FONT, 17, &INK))
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(50)
        .build_cartesian_2d((0.8..1300.0).log_scale(), 0.0..high * 1.35)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().bold_line_style(GRID).light_line_style(WHITE).axis_style(INK);
    mesh.label_style((FONT, 13, &INK)).axis_desc_style((FONT, 14, &INK));
    mesh.x_label_formatter(&|exporters: &f64| grouped(exporters.round()));
    mesh.y_label_formatter(&|cost| format!("{cost:.0}"));
    mesh.x_desc("exporters (logarithmic)").y_desc("core-µs per datagram").draw()?;
    draw_lines(&mut chart, lines)
}

/// Draws the lines with their points, and says which is which.
fn draw_lines<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    lines: &[Line],
) -> Outcome
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for (kind, points) in lines {
        let style = colour(*kind).stroke_width(2);
        let series = LineSeries::new(points.clone(), style.filled()).point_size(3);
        let line = chart.draw_series(series)?;
        line.label(name(*kind)).legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    }
    let mut names = chart.configure_series_labels();
    names
        .position(SeriesLabelPosition::UpperRight)
        .label_font((FONT, 13, &INK))
        .legend_area_size(28)
        .margin(8);
    names.background_style(WHITE.mix(0.85)).border_style(GRID).draw()?;
    Ok(())
}

/// The least and the most of all figures.
fn extent(lines: &[Line]) -> (f64, f64) {
    let figures = || lines.iter().flat_map(|(_, points)| points.iter().map(|(_, figure)| *figure));
    (figures().fold(f64::MAX, f64::min), figures().fold(f64::MIN_POSITIVE, f64::max))
}

fn name(kind: Kind) -> String {
    if let Kind::Pair(_) = kind { format!("nf-transport, {}", kind.name()) } else { kind.name().to_owned() }
}

/// Colours that people with any sight can tell apart (Okabe, Ito).
fn colour(kind: Kind) -> RGBColor {
    let place = Kind::all().into_iter().position(|other| other == kind).unwrap_or_default();
    [
        RGBColor(0x00, 0x72, 0xb2),
        RGBColor(0x56, 0xb4, 0xe9),
        RGBColor(0x00, 0x9e, 0x73),
        RGBColor(0xcc, 0x79, 0xa7),
        RGBColor(0xe6, 0x9f, 0x00),
        RGBColor(0xd5, 0x5e, 0x00),
        RGBColor(0x55, 0x55, 0x55),
    ][place]
}

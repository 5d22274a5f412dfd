//! The plot: cost per datagram by rate and by number of exporters.

use std::error::Error;
use std::path::Path;

use nf_transport_core::secure::Suite;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::modes::{cost, exporters};
use crate::numbers::{float, grouped};
use crate::relay::Kind;
use crate::results::Results;

type PlotResult<T = ()> = Result<T, Box<dyn Error>>;
type PlotArea<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (1160, 440);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// Numbers on the axes: core-microseconds, and exporters.
const TICKS: [f64; 9] = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];
const COUNTS: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// A relay and the points of its line.
type RelayLine = (Kind, Vec<(f64, f64)>);

/// Writes the plot as SVG.
pub(crate) fn draw(path: &Path, results: &Results) {
    panels(path, results).expect("the plot can be drawn");
}

fn panels(path: &Path, results: &Results) -> PlotResult {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, rest) = root.split_horizontally(500);
    let (middle, right) = rest.split_horizontally(200);
    let by_rate = lines(results, cost::COST, &Kind::all());
    draw_by_rate(&left, &by_rate)?;
    draw_names(&middle, &by_rate)?;
    draw_by_exporters(&right, &lines(results, exporters::EXPORTERS, &exporters::KINDS))?;
    root.present()?;
    Ok(())
}

fn lines(results: &Results, topic: &'static str, kinds: &[Kind]) -> Vec<RelayLine> {
    let points = |kind: &Kind| {
        let series = results.series(topic, kind.name());
        (*kind, series.into_iter().map(|(under, figure)| (float(under), figure)).collect())
    };
    kinds.iter().map(points).filter(|(_, points): &RelayLine| !points.is_empty()).collect()
}

fn draw_by_rate(area: &PlotArea<'_>, lines: &[RelayLine]) -> PlotResult {
    let (low, high) = extent(lines);
    let (low, high) = (low * 0.8, high * 1.25);
    let ticks = TICKS.into_iter().filter(|tick| (low..high).contains(tick)).collect();
    let mut chart = ChartBuilder::on(area)
        .caption("Cost by rate, 4 exporters", (FONT, 17, &INK))
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..65_000.0, (low..high).log_scale().with_key_points(ticks))?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().bold_line_style(GRID).light_line_style(WHITE).axis_style(INK);
    mesh.label_style((FONT, 13, &INK)).axis_desc_style((FONT, 14, &INK));
    mesh.x_labels(8).x_label_formatter(&|rate| format!("{:.0}", rate / 1000.0));
    mesh.y_label_formatter(&|cost| format!("{cost}"));
    mesh.x_desc("thousand datagrams/s").y_desc("core-µs per datagram (logarithmic)").draw()?;
    draw_lines(&mut chart, lines)
}

fn draw_by_exporters(area: &PlotArea<'_>, lines: &[RelayLine]) -> PlotResult {
    let (_, high) = extent(lines);
    let mut chart = ChartBuilder::on(area)
        .caption("Cost by exporters, 20,000 datagrams/s", (FONT, 17, &INK))
        .margin(14)
        .x_label_area_size(46)
        .y_label_area_size(50)
        .build_cartesian_2d((0.8..1300.0).log_scale().with_key_points(COUNTS.to_vec()), 0.0..high * 1.15)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().bold_line_style(GRID).light_line_style(WHITE).axis_style(INK);
    mesh.label_style((FONT, 13, &INK)).axis_desc_style((FONT, 14, &INK));
    mesh.x_label_formatter(&|exporters: &f64| grouped(exporters.round()));
    mesh.y_label_formatter(&|cost| format!("{cost:.0}"));
    mesh.x_desc("exporters (logarithmic)").y_desc("core-µs per datagram").draw()?;
    draw_lines(&mut chart, lines)
}

/// Draws the lines with their points.
fn draw_lines<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    lines: &[RelayLine],
) -> PlotResult
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for (kind, points) in lines {
        let style = colour(*kind).stroke_width(2);
        chart.draw_series(LineSeries::new(points.clone(), style.filled()).point_size(3))?;
    }
    Ok(())
}

/// Draws the legend for both panels, from the highest line to the lowest.
fn draw_names(area: &PlotArea<'_>, lines: &[RelayLine]) -> PlotResult {
    let mut lines: Vec<_> = lines.iter().collect();
    let end = |(_, points): &RelayLine| points.last().map_or(0.0, |(_, figure)| *figure);
    lines.sort_by(|one, other| end(other).total_cmp(&end(one)));
    for ((kind, _), y) in lines.into_iter().zip((70..).step_by(26)) {
        area.draw(&PathElement::new([(0, y), (24, y)], colour(*kind).stroke_width(2)))?;
        area.draw(&Circle::new((12, y), 3, colour(*kind).filled()))?;
        let style = (FONT, 14, &INK).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name(*kind), (32, y), style))?;
    }
    Ok(())
}

/// Returns the lowest and the highest figure.
fn extent(lines: &[RelayLine]) -> (f64, f64) {
    let figures = || lines.iter().flat_map(|(_, points)| points.iter().map(|(_, figure)| *figure));
    (figures().fold(f64::MAX, f64::min), figures().fold(f64::MIN_POSITIVE, f64::max))
}

fn name(kind: Kind) -> String {
    if let Kind::Pair(_) = kind { format!("pair, {}", kind.name()) } else { kind.name().to_owned() }
}

/// Returns a colour of a palette that is safe for colour blindness (Okabe, Ito).
fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Pair(None) | Kind::Baseline(None) => RGBColor(0x00, 0x72, 0xb2),
        Kind::Pair(Some(suite)) | Kind::Baseline(Some(suite)) => match suite {
            Suite::Aes256Gcm => RGBColor(0x56, 0xb4, 0xe9),
            Suite::ChaCha20Poly1305 => RGBColor(0x00, 0x9e, 0x73),
            Suite::Blowfish => RGBColor(0xcc, 0x79, 0xa7),
        },
        Kind::PlainRelay => RGBColor(0xf0, 0xe4, 0x42),
        Kind::Nfcapd => RGBColor(0xe6, 0x9f, 0x00),
        Kind::Nfacctd => RGBColor(0xd5, 0x5e, 0x00),
        Kind::GatheringBarePair => RGBColor(0x55, 0x55, 0x55),
        Kind::BarePair => RGBColor(0x99, 0x99, 0x99),
        Kind::Bare(_) => INK,
    }
}

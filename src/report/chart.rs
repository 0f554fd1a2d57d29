//! Line charts over updates or K, and dot charts with intervals, as SVG. If the feature `png` is
//! built in, an SVG is also rendered as PNG, with a font that is part of the binary.
//!
//! The colours are the constants below. If one changes, it must change in `report.css` too, which
//! replaces each colour on a dark page. This file depends on names and numbers only, not on runs.

#[cfg(feature = "png")]
use anyhow::Context;
use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
#[cfg(feature = "png")]
use resvg::{tiny_skia, usvg};
#[cfg(feature = "png")]
use std::sync::Arc;

const INK: RGBColor = RGBColor(0x1c, 0x23, 0x2b);
const FAINT: RGBColor = RGBColor(0x5f, 0x6b, 0x78);
const GRID: RGBColor = RGBColor(0xe4, 0xe7, 0xeb);
/// One colour per curve; as many as a sweep has curves.
const SERIES: [RGBColor; 12] = [
    RGBColor(0x1f, 0x6f, 0xc4),
    RGBColor(0xc4, 0x56, 0x0b),
    RGBColor(0x1a, 0x85, 0x4f),
    RGBColor(0x8f, 0x4a, 0xb8),
    RGBColor(0xa8, 0x7a, 0x00),
    RGBColor(0x0c, 0x87, 0x96),
    RGBColor(0xc2, 0x33, 0x67),
    RGBColor(0x6b, 0x75, 0x80),
    RGBColor(0x7a, 0x4a, 0x2b),
    RGBColor(0x33, 0x3f, 0x9e),
    RGBColor(0x8b, 0x1e, 0x1e),
    RGBColor(0x55, 0x6b, 0x2f),
];

/// plotters writes the size of a text divided by this number.
const SIZE: f64 = 1.24;
/// Width of a letter of small text, in pixels. An estimate, because no font is loaded.
const LETTER: i32 = 6;
const LEGEND_ROW: i32 = 17;

type DrawArea<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One set of axes.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x_axis: XAxis,
    /// Label of the y-axis.
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
}

/// The x-axis, with its label.
pub(crate) enum XAxis {
    /// Numbers.
    Numbers(&'static str),
    /// One position per category; the x of a point is its zero-based position.
    Categories(&'static str, Vec<String>),
}

/// One line.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// A point of a line, with or without an interval.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) interval: Option<(f64, f64)>,
}

/// A row of a dot chart: its name, and one dot per column.
pub(crate) struct DotRow {
    pub(crate) name: String,
    /// Index of the colour.
    pub(crate) group: usize,
    /// Rate and interval in percent.
    pub(crate) dots: Vec<Option<(f64, f64, f64)>>,
    /// Per column the rates of single runs in percent, which are small circles; may be empty.
    pub(crate) runs: Vec<Vec<f64>>,
}

/// Draws panels with `columns` in a row, each of `width` × `height` pixels. Panels of categories
/// share the y range.
pub(crate) fn lines(
    panels: &[Panel],
    columns: usize,
    (width, height): (u32, u32),
) -> anyhow::Result<String> {
    let columns = columns.min(panels.len()).max(1);
    let rows = panels.len().div_ceil(columns);
    let size = (
        width * u32::try_from(columns)?,
        height * u32::try_from(rows)?,
    );
    let shared = range(panels.iter().flat_map(heights));
    draw(size, |root| {
        for (panel, area) in panels.iter().zip(root.split_evenly((rows, columns))) {
            let y_range = match panel.x_axis {
                XAxis::Numbers(_) => range(heights(panel)),
                XAxis::Categories(..) => shared,
            };
            line_panel(panel, y_range, &area)?;
        }
        Ok(())
    })
}

/// Draws a row per policy and a column per split, with a dot and its interval in each cell.
pub(crate) fn dots(
    columns: &[String],
    groups: &[String],
    rows: &[DotRow],
) -> anyhow::Result<String> {
    const ROW: i32 = 21;
    let longest = rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or(0);
    let names = i32::try_from(longest)? * LETTER + 20;
    let each = 470;
    let legend = legend_height(groups, each);
    let height = ROW * i32::try_from(rows.len())? + 62 + legend;
    let width = names + each * i32::try_from(columns.len())?;
    draw((u32::try_from(width)?, u32::try_from(height)?), |root| {
        if groups.len() > 1 {
            draw_legend(root, groups, (names, 0), each)?;
        }
        let mut rest = root.margin(legend, 0, 0, 0);
        for (index, column) in columns.iter().enumerate() {
            let names = if index == 0 { names } else { 0 };
            let (area, after) = rest.split_horizontally(names + each);
            dot_panel(column, index, rows, names, &area)?;
            rest = after;
        }
        Ok(())
    })
}

/// Renders an SVG as a PNG of twice its size in pixels.
#[cfg(feature = "png")]
pub(crate) fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    const SCALE: f32 = 2.0;
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_source(usvg::fontdb::Source::Binary(Arc::new(
        epaint_default_fonts::UBUNTU_LIGHT,
    )));
    let family = fonts
        .faces()
        .next()
        .and_then(|face| Some(face.families.first()?.0.clone()));
    fonts.set_sans_serif_family(family.context("the built-in font has no name")?);
    let options = usvg::Options {
        fontdb: Arc::new(fonts),
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_str(svg, &options).context("cannot draw a plot")?;
    let size = tree
        .size()
        .to_int_size()
        .scale_by(SCALE)
        .context("a plot has no size")?;
    let mut pixels =
        tiny_skia::Pixmap::new(size.width(), size.height()).context("a plot has no size")?;
    resvg::render(
        &tree,
        tiny_skia::Transform::from_scale(SCALE, SCALE),
        &mut pixels.as_mut(),
    );
    pixels.encode_png().context("cannot write a plot as PNG")
}

/// An axis of numbers with given ticks.
struct TickedAxis {
    axis: RangedCoordf64,
    ticks: Vec<f64>,
}

impl TickedAxis {
    /// An axis of `count` categories at 0, 1, 2, ….
    fn categories(count: usize) -> Self {
        Self {
            axis: (-0.5..count as f64 - 0.5).into(),
            ticks: (0..count).map(|place| place as f64).collect(),
        }
    }
}

impl Ranged for TickedAxis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.axis.map(value, limit)
    }

    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.axis.range()
    }
}

fn draw(
    size: (u32, u32),
    paint: impl FnOnce(&DrawArea<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    paint(&root)?;
    root.present().map_err(drawing)?;
    drop(root);
    Ok(svg)
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a plot: {error}")
}

/// Returns all y-values that a panel must show.
fn heights(panel: &Panel) -> impl Iterator<Item = f64> {
    let points = panel.series.iter().flat_map(|series| &series.points);
    points.flat_map(|point| {
        point
            .interval
            .map_or([point.y; 2], |(low, high)| [low, high])
    })
}

fn line_panel(panel: &Panel, y_range: (f64, f64), area: &DrawArea<'_>) -> anyhow::Result<()> {
    let area = area.margin(8, 8, 8, 14);
    let width = i32::try_from(area.dim_in_pixel().0)?;
    let names: Vec<String> = panel
        .series
        .iter()
        .map(|series| series.name.clone())
        .collect();
    area.draw(&Text::new(panel.title.clone(), (0, 0), text(13.0, &INK)))
        .map_err(drawing)?;
    let legend = if names.len() > 1 {
        legend_height(&names, width)
    } else {
        0
    };
    if legend > 0 {
        draw_legend(&area, &names, (0, 20), width)?;
    }
    let plot = area.margin(24 + legend, 0, 0, 0);
    match &panel.x_axis {
        XAxis::Numbers(name) => {
            let xs = range(
                panel
                    .series
                    .iter()
                    .flat_map(|series| &series.points)
                    .map(|point| point.x),
            );
            let xs = RangedCoordf64::from(xs.0..xs.1);
            let ticks = xs.key_points(6);
            let x_axis = TickedAxis { axis: xs, ticks };
            axes(panel, &plot, x_axis, y_range, name, &|x| format!("{x:.0}"))
        }
        XAxis::Categories(name, places) => {
            let x_axis = TickedAxis::categories(places.len());
            axes(panel, &plot, x_axis, y_range, name, &|x| {
                places.get(x.round() as usize).cloned().unwrap_or_default()
            })
        }
    }
}

fn axes(
    panel: &Panel,
    plot: &DrawArea<'_>,
    x_axis: TickedAxis,
    y_range: (f64, f64),
    x_label: &str,
    tick_label: &dyn Fn(&f64) -> String,
) -> anyhow::Result<()> {
    let mut chart = ChartBuilder::on(plot)
        .x_label_area_size(34)
        .y_label_area_size(46)
        .build_cartesian_2d(x_axis, y_range.0..y_range.1)
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|x| tick_label(x))
        .y_label_formatter(&|y| short(*y))
        .label_style(text(11.0, &FAINT))
        .axis_desc_style(text(11.0, &FAINT))
        .x_desc(x_label)
        .y_desc(panel.y_label.as_str())
        .draw()
        .map_err(drawing)?;
    for (index, series) in panel.series.iter().enumerate() {
        let colour = SERIES[index % SERIES.len()];
        let points = &series.points;
        let shift = horizontal_shift(index, panel);
        let line = LineSeries::new(
            points.iter().map(|point| (point.x + shift, point.y)),
            colour.stroke_width(1),
        );
        chart.draw_series(line).map_err(drawing)?;
        let intervals = points.iter().filter_map(|point| {
            let (low, high) = point.interval?;
            Some(PathElement::new(
                vec![(point.x + shift, low), (point.x + shift, high)],
                colour.stroke_width(1),
            ))
        });
        chart.draw_series(intervals).map_err(drawing)?;
        let marked = points
            .iter()
            .filter(|point| point.interval.is_some() || series.points.len() == 1);
        let circles =
            marked.map(|point| Circle::new((point.x + shift, point.y), 3, colour.filled()));
        chart.draw_series(circles).map_err(drawing)?;
    }
    Ok(())
}

/// Returns how far a series is moved to the right, so that the intervals of several series do not
/// overlap.
fn horizontal_shift(index: usize, panel: &Panel) -> f64 {
    match panel.x_axis {
        XAxis::Numbers(_) => 0.0,
        XAxis::Categories(..) => 0.07 * (index as f64 - (panel.series.len() as f64 - 1.0) / 2.0),
    }
}

fn dot_panel(
    title: &str,
    column: usize,
    rows: &[DotRow],
    names: i32,
    area: &DrawArea<'_>,
) -> anyhow::Result<()> {
    let dots = rows.iter().flat_map(|row| &row.dots).flatten();
    let lowest_run = rows
        .iter()
        .flat_map(|row| row.runs.iter().flatten())
        .fold(100.0, |low: f64, rate| {
            low.min((rate / 10.0).floor() * 10.0)
        });
    let low = dots
        .clone()
        .map(|(_, low, _)| (low / 10.0).floor() * 10.0)
        .fold(lowest_run, f64::min);
    let high = dots
        .map(|(_, _, high)| (high / 10.0).ceil() * 10.0)
        .fold(0.0, f64::max);
    area.draw(&Text::new(
        title.to_string(),
        (names.max(24), 4),
        text(13.0, &INK),
    ))
    .map_err(drawing)?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(24)
        .margin_right(16)
        .margin_left(if names == 0 { 24 } else { 0 })
        .x_label_area_size(24)
        .y_label_area_size(names)
        .build_cartesian_2d(low..high, TickedAxis::categories(rows.len()))
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(6)
        .x_label_formatter(&|x| format!("{x:.0} %"))
        .y_label_formatter(&|y| {
            let row = rows.iter().rev().nth(y.round() as usize);
            row.filter(|_| names > 0)
                .map_or(String::new(), |row| row.name.clone())
        })
        .label_style(text(11.0, &FAINT))
        .y_label_style(text(12.0, &INK))
        .draw()
        .map_err(drawing)?;
    for (place, row) in rows.iter().rev().enumerate() {
        let Some((rate, low, high)) = row.dots[column] else {
            continue;
        };
        let y = place as f64;
        let colour = SERIES[row.group % SERIES.len()];
        let interval = PathElement::new(vec![(low, y), (high, y)], colour.stroke_width(2));
        chart.draw_series([interval]).map_err(drawing)?;
        chart
            .draw_series([Circle::new((rate, y), 4, colour.filled())])
            .map_err(drawing)?;
        let runs = row.runs.get(column).into_iter().flatten();
        chart
            .draw_series(runs.map(|rate| Circle::new((*rate, y - 0.3), 2, FAINT)))
            .map_err(drawing)?;
    }
    Ok(())
}

/// Returns the position of each name in a legend, and the number of rows.
fn legend_places(names: &[String], width: i32) -> (Vec<(i32, i32)>, i32) {
    let mut places = Vec::new();
    let mut at = 0;
    let mut row = 0;
    for name in names {
        let wide = i32::try_from(name.chars().count()).unwrap_or(i32::MAX / 16) * LETTER + 34;
        if at > 0 && at + wide > width {
            at = 0;
            row += 1;
        }
        places.push((at, row * LEGEND_ROW));
        at += wide;
    }
    (places, row + 1)
}

fn legend_height(names: &[String], width: i32) -> i32 {
    if names.len() > 1 {
        legend_places(names, width).1 * LEGEND_ROW + 4
    } else {
        0
    }
}

fn draw_legend(
    area: &DrawArea<'_>,
    names: &[String],
    (left, top): (i32, i32),
    width: i32,
) -> anyhow::Result<()> {
    let (places, _) = legend_places(names, width);
    for (index, (name, (x, y))) in names.iter().zip(places).enumerate() {
        let x = left + x;
        let y = top + y + LEGEND_ROW / 2;
        let colour = SERIES[index % SERIES.len()];
        let stroke = PathElement::new(vec![(x, y), (x + 14, y)], colour.stroke_width(3));
        area.draw(&stroke).map_err(drawing)?;
        let style = text(11.0, &INK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name.clone(), (x + 20, y), style))
            .map_err(drawing)?;
    }
    Ok(())
}

/// The style of text of a height in pixels.
fn text(pixels: f64, colour: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", pixels * SIZE).into_font().color(colour)
}

/// Returns the range of the numbers with a margin of 4 %. If there are no numbers, it is 0 to 1; it
/// is never empty.
fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), n| {
        (low.min(n), high.max(n))
    });
    if low > high {
        return (0.0, 1.0);
    }
    let room = if high > low {
        (high - low) * 0.04
    } else {
        low.abs().max(1.0) * 0.5
    };
    (low - room, high + room)
}

/// Formats a number with at most three significant digits.
fn short(number: f64) -> String {
    let size = number.abs();
    if number == 0.0 || size < 1e-12 {
        "0".into()
    } else if !(1e-3..1e5).contains(&size) {
        format!("{number:.0e}")
    } else {
        let decimals = (2.0 - size.log10().floor()).clamp(0.0, 5.0) as usize;
        let text = format!("{number:.decimals$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').into()
        } else {
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "png")]
    fn dark_pixels(svg: &str) -> usize {
        let pixels = tiny_skia::Pixmap::decode_png(&png(svg).unwrap()).unwrap();
        pixels
            .pixels()
            .iter()
            .filter(|pixel| pixel.red() < 128)
            .count()
    }

    #[cfg(feature = "png")]
    fn label(words: &str) -> String {
        draw((120, 30), |root| {
            root.draw(&Text::new(words.to_string(), (4, 4), text(13.0, &INK)))
                .map_err(drawing)
        })
        .unwrap()
    }

    /// Many systems have no font installed.
    #[test]
    #[cfg(feature = "png")]
    fn text_is_rendered_without_a_system_font() {
        assert_eq!(dark_pixels(&label("")), 0);
        assert!(dark_pixels(&label("best of 5, KL")) > 100);
        assert!(label("</text><script>").contains("&lt;/text&gt;&lt;script&gt;"));
    }

    #[test]
    fn tick_labels_are_short() {
        for (number, expected) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (62.5, "62.5"),
            (-1.25, "-1.25"),
            (1000.0, "1000"),
            (3e-5, "3e-5"),
        ] {
            assert_eq!(short(number), expected);
        }
    }

    #[test]
    fn a_legend_wraps_at_the_edge_of_the_panel() {
        let names = ["sft", "oreo", "dqo"].map(String::from);
        assert_eq!(
            legend_places(&names, 120),
            (vec![(0, 0), (52, 0), (0, LEGEND_ROW)], 2)
        );
    }

    #[test]
    fn the_range_of_an_axis_is_never_empty() {
        assert_eq!(range([].into_iter()), (0.0, 1.0));
        assert_eq!(range([2.0].into_iter()), (1.0, 3.0));
        assert_eq!(range([0.0, 1.0].into_iter()), (-0.04, 1.04));
    }
}

//! Curves of training and of evaluators as SVG.

use mtl_component::Axis;
use mtl_recipe::{Error, Result};
use plotters::prelude::*;

/// A line of a chart.
pub struct Curve {
    /// Its label.
    pub label: String,
    /// Its values from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart: what is shown, and its lines.
pub struct Chart {
    /// What is shown.
    pub name: String,
    /// What its axes are, and whether they go by powers of ten.
    pub axes: [Axis; 2],
    /// Its lines.
    pub curves: Vec<Curve>,
}

const WIDTH: u32 = 900;
const HEIGHT: u32 = 340;
/// Room for the names of the lines, right of a chart, and for a letter of them.
const LEGEND: std::ops::RangeInclusive<i32> = 100..=420;
const LETTER: i32 = 7;
/// Where the first name stands, and the height of each, in pixels.
const FIRST: i32 = 50;
const LINE: i32 = 20;
/// The largest value that is drawn.
const LARGEST: f64 = 1e30;
/// Lines with at most so many values show each of them.
const FEW: usize = 12;
/// Colours that the colour-blind can distinguish (Okabe and Ito 2008), without the yellow that white paper swallows.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Draws charts below each other.
pub fn draw(charts: &[Chart]) -> Result<String> {
    let mut text = String::new();
    {
        let most = charts.iter().map(|chart| chart.curves.len()).max().unwrap_or(0) as i32;
        let height = HEIGHT.max((FIRST + LINE * most) as u32);
        let root = SVGBackend::with_string(&mut text, (WIDTH, height * charts.len() as u32)).into_drawing_area();
        root.fill(&WHITE).map_err(told)?;
        for (area, chart) in root.split_evenly((charts.len(), 1)).iter().zip(charts) {
            one(area, chart)?;
        }
        root.present().map_err(told)?;
    }
    Ok(text)
}

fn one<B: DrawingBackend>(area: &DrawingArea<B, plotters::coord::Shift>, chart: &Chart) -> Result<()>
where
    B::ErrorType: 'static,
{
    let place = |axis: &Axis, value: f64| if axis.logarithmic { value.log10() } else { value };
    let [x_axis, y_axis] = &chart.axes;
    let lines: Vec<Vec<(f64, f64)>> = chart
        .curves
        .iter()
        .map(|curve| {
            let points = curve.points.iter().map(|(x, y)| (place(x_axis, *x), place(y_axis, *y)));
            // Axes of numbers that are nearly infinite have no steps, and nothing has no power of ten.
            points.filter(|(x, y)| x.abs() <= LARGEST && y.abs() <= LARGEST).collect()
        })
        .collect();
    let span = |of: fn(&(f64, f64)) -> f64| {
        let all = lines.iter().flatten().map(of);
        let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high { (0.0, 1.0) } else { (low, high) }
    };
    let ((first, last), (low, high)) = (span(|point| point.0), span(|point| point.1));
    // Steps begin with none.
    let first = if x_axis.logarithmic { first } else { first.min(0.0) };
    let last = if last > first { last } else { first + 1.0 };
    let room = ((high - low) * 0.05).max(1e-9);
    let label = |axis: &Axis, value: f64| match axis.logarithmic {
        true => format!("{:.1e}", 10f64.powf(value)),
        false if value != 0.0 && value.abs() < 1e-4 => format!("{value:.1e}"),
        false => format!("{}", (value * 1e6).round() / 1e6),
    };
    let several = chart.curves.len() > 1;
    let longest = chart.curves.iter().map(|c| c.label.chars().count() as i32).max().unwrap_or(0);
    let beside = (36 + LETTER * longest).clamp(*LEGEND.start(), *LEGEND.end());
    let (plot, legend) = area.split_horizontally(WIDTH as i32 - if several { beside } else { 0 });
    let mut context = ChartBuilder::on(&plot)
        .caption(&chart.name, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(first..last, low - room..high + room)
        .map_err(told)?;
    context
        .configure_mesh()
        .x_desc(x_axis.text())
        .y_desc(y_axis.text())
        .x_label_formatter(&|x| label(x_axis, *x))
        .y_label_formatter(&|y| label(y_axis, *y))
        .light_line_style(WHITE)
        .draw()
        .map_err(told)?;
    for (i, (curve, points)) in chart.curves.iter().zip(&lines).enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let style = colour.stroke_width(2);
        // More variants than colours: the second round is dashed.
        if i < COLOURS.len() {
            context.draw_series(LineSeries::new(points.iter().copied(), style)).map_err(told)?;
        } else {
            let line = DashedLineSeries::new(points.iter().copied(), 6, 4, style);
            context.draw_series(line).map_err(told)?;
        }
        if points.len() <= FEW {
            let dots = points.iter().map(|point| Circle::new(*point, 3, colour.filled()));
            context.draw_series(dots).map_err(told)?;
        }
        if several {
            let y = FIRST + LINE * i as i32;
            legend.draw(&PathElement::new(vec![(4, y), (22, y)], style)).map_err(told)?;
            let text = Text::new(curve.label.as_str(), (28, y - 7), ("sans-serif", 13));
            legend.draw(&text).map_err(told)?;
        }
    }
    Ok(())
}

fn told<E: std::fmt::Display>(error: E) -> Error {
    Error::failure(format!("drawing curves: {error}"))
}

//! Learning curves as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// A line of a chart: its label, and means over runs as (step, value).
pub struct Curve {
    pub label: String,
    pub points: Vec<(u64, f64)>,
}

/// A chart: what is shown, and its lines.
pub struct Chart {
    pub name: String,
    pub curves: Vec<Curve>,
}

const WIDTH: u32 = 900;
const HEIGHT: u32 = 340;

/// Draws charts below each other.
pub fn draw(charts: &[Chart]) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT * charts.len() as u32)).into_drawing_area();
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
    let points = || chart.curves.iter().flat_map(|c| &c.points);
    let last = points().map(|p| p.0).max().unwrap_or(1);
    let (low, high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.1), h.max(p.1)));
    let room = ((high - low) * 0.05).max(1e-9);
    let mut context = ChartBuilder::on(area)
        .caption(&chart.name, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(0..last, low - room..high + room)
        .map_err(told)?;
    context.configure_mesh().x_desc("step").light_line_style(WHITE).draw().map_err(told)?;
    for (i, curve) in chart.curves.iter().enumerate() {
        let style = Palette99::pick(i).stroke_width(2);
        context
            .draw_series(LineSeries::new(curve.points.iter().copied(), style))
            .map_err(told)?
            .label(&curve.label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
    }
    if chart.curves.len() > 1 {
        let labels = context.configure_series_labels().background_style(WHITE.mix(0.85)).border_style(BLACK).draw();
        labels.map_err(told)?;
    }
    Ok(())
}

fn told<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("drawing curves: {error}")
}

//! The drawing as SVG.

use super::layout::{Layout, place};
use super::{Item, Role, Sketch};
use std::fmt::Write;

/// A colour for each phase (Wong 2011, "Points of view: Color blindness"), which every kind of sight can distinguish.
const PHASES: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];
const MARGIN: f32 = 24.0;
/// Height of a line of text, and width of a letter of the names and of the small print.
const LINE: f32 = 16.0;
const LETTER: f32 = 7.6;
const SMALL: f32 = 6.3;

pub fn write(sketch: &Sketch) -> String {
    let sizes: Vec<(f32, f32)> = sketch.items.iter().map(size).collect();
    let layout = place(sketch, &sizes);
    let head = 76.0;
    let legend = sketch.phases.iter().map(|p| p.len() as f32 * LETTER + 44.0).sum::<f32>().max(570.0);
    let width = layout.width.max(legend) + 2.0 * MARGIN;
    let height = layout.height + head + 2.0 * MARGIN;
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         font-family=\"Helvetica, Arial, sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    legend_of(sketch, &mut out);
    let _ = writeln!(
        out,
        "<g transform=\"translate({:.1} {:.1})\">",
        MARGIN + (width - 2.0 * MARGIN - layout.width) / 2.0,
        head + MARGIN
    );
    wires(sketch, &layout, &mut out);
    for (item, place) in sketch.items.iter().zip(&layout.places) {
        boxed(item, place.x, place.y, place.width, place.height, &mut out);
    }
    out.push_str("</g>\n</svg>\n");
    out
}

fn size(item: &Item) -> (f32, f32) {
    let small = item.lines.iter().map(|l| l.chars().count() as f32 * SMALL).fold(0.0, f32::max);
    let width = (item.name.chars().count() as f32 * LETTER).max(small) + 22.0;
    (width.max(70.0), (item.lines.len() + 1) as f32 * LINE + 12.0)
}

fn colour(item: &Item) -> &'static str {
    match (item.role, item.phases.first()) {
        (Role::Module | Role::Loss, Some(phase)) => PHASES[phase % PHASES.len()],
        _ => "#666666",
    }
}

fn legend_of(sketch: &Sketch, out: &mut String) {
    let _ = writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"30\" font-size=\"17\" font-weight=\"bold\">{}</text>",
        escape(&sketch.title)
    );
    let mut x = MARGIN;
    for (i, phase) in sketch.phases.iter().enumerate() {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.0}\" y=\"44\" width=\"14\" height=\"14\" rx=\"3\" fill=\"{}\"/>\
             <text x=\"{:.0}\" y=\"56\" font-size=\"12\">{}</text>",
            PHASES[i % PHASES.len()],
            x + 20.0,
            escape(phase)
        );
        x += phase.len() as f32 * LETTER + 44.0;
    }
    let _ = writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"78\" font-size=\"12\" fill=\"#555\">colour: the phase that updates a module or minimizes a loss · \
         dashed: frozen · dotted: stops gradients</text>"
    );
}

fn wires(sketch: &Sketch, layout: &Layout, out: &mut String) {
    let mut labels = String::new();
    for (link, route) in sketch.links.iter().zip(&layout.routes) {
        let Some((first, rest)) = route.split_first() else { continue };
        let mut path = format!("M{:.1} {:.1}", first.0, first.1);
        let mut from = *first;
        for to in rest {
            if (to.0 - from.0).abs() < 0.5 {
                let _ = write!(path, " L{:.1} {:.1}", to.0, to.1);
            } else {
                let half = (from.1 + to.1) / 2.0;
                let _ = write!(path, " C{:.1} {half:.1} {:.1} {half:.1} {:.1} {:.1}", from.0, to.0, to.0, to.1);
            }
            from = *to;
        }
        let dash = if sketch.items[link.from].stops { " stroke-dasharray=\"2 3\"" } else { "" };
        let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"#8a8a8a\" stroke-width=\"1.3\"{dash}/>");
        let (x, y) = from;
        let _ = writeln!(out, "<path d=\"M{:.1} {:.1} l-3.5 -7 h7 z\" fill=\"#8a8a8a\"/>", x, y);
        if !link.label.is_empty() {
            // Under the box that it comes from, on the wire itself.
            let (x, y) = below(*first, *rest.first().unwrap_or(first));
            let y = y + 3.0;
            // Written twice: on a white ground of its own form, over all wires.
            for colour in ["white\" stroke=\"white\" stroke-width=\"3", "#555"] {
                let _ = writeln!(
                    labels,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"10\" text-anchor=\"middle\" fill=\"{colour}\">{}</text>",
                    escape(&link.label)
                );
            }
        }
    }
    out.push_str(&labels);
}

/// The point of a curve, which leaves and arrives upright, that lies some way below its start.
fn below(from: (f32, f32), to: (f32, f32)) -> (f32, f32) {
    const WAY: f32 = 20.0;
    let half = (from.1 + to.1) / 2.0;
    let at = |t: f32| {
        let (s, three) = (1.0 - t, 3.0 * t * (1.0 - t));
        let x = from.0 * (s * s * s + three * s) + to.0 * (three * t + t * t * t);
        (x, from.1 * s * s * s + half * three + to.1 * t * t * t)
    };
    // Its height only grows.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..20 {
        let middle = (low + high) / 2.0;
        if at(middle).1 < from.1 + WAY { low = middle } else { high = middle }
    }
    at(high)
}

fn boxed(item: &Item, x: f32, y: f32, width: f32, height: f32, out: &mut String) {
    let colour = colour(item);
    let (radius, fill) = match item.role {
        Role::Data => (0.0, "#f2f2f2"),
        Role::Module => (7.0, "#ffffff"),
        Role::Function => (14.0, "#fafafa"),
        Role::Loss => (2.0, "#fff8ec"),
    };
    let dash = match (item.stops, item.frozen) {
        (true, _) => " stroke-dasharray=\"2 3\"",
        (_, true) => " stroke-dasharray=\"7 4\"",
        _ => "",
    };
    let _ = write!(
        out,
        "<g><title>{}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{radius}\" \
         fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.8\"{dash}/>",
        escape(&item.about)
    );
    // A module that several phases update has a mark for each further one.
    for (i, phase) in item.phases.iter().enumerate().skip(1) {
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\" rx=\"2\" fill=\"{}\"/>",
            x + width - 13.0 * i as f32,
            y + 5.0,
            PHASES[phase % PHASES.len()]
        );
    }
    let middle = x + width / 2.0;
    let _ = write!(
        out,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" font-size=\"13\" font-weight=\"bold\" text-anchor=\"middle\" fill=\"{}\">{}</text>",
        y + 18.0,
        if colour == "#666666" { "#222222" } else { colour },
        escape(&item.name)
    );
    for (i, line) in item.lines.iter().enumerate() {
        let _ = write!(
            out,
            "<text x=\"{middle:.1}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"middle\" fill=\"#333\">{}</text>",
            y + 18.0 + (i + 1) as f32 * LINE,
            escape(line)
        );
    }
    out.push_str("</g>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

//! Places in layers, after Sugiyama et al. 1981: every wire goes down, wires cross seldom, boxes stand near what they
//! are wired to.

use super::Sketch;

/// Between boxes of a layer, and between layers.
const GAP: f32 = 26.0;
const FALL: f32 = 46.0;
/// How much room a wire takes that passes a layer.
const THREAD: f32 = 12.0;

/// The place of a box: its upper left corner and its size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub x: f32,
    pub y: f32,
    pub width: f32,
    pub height: f32,
}

/// Where everything is.
#[derive(Debug)]
pub struct Layout {
    pub places: Vec<Place>,
    /// For each link the points that it passes, from the lower edge of one box to the upper edge of the other.
    pub routes: Vec<Vec<(f32, f32)>>,
    pub width: f32,
    pub height: f32,
}

/// A box, or a link on its way through a layer.
struct Cell {
    layer: usize,
    width: f32,
    height: f32,
    up: Vec<usize>,
    down: Vec<usize>,
    x: f32,
}

/// Lays out boxes of the given sizes.
pub fn place(sketch: &Sketch, sizes: &[(f32, f32)]) -> Layout {
    let layers = layers(sketch);
    let mut cells: Vec<Cell> = layers
        .iter()
        .zip(sizes)
        .map(|(layer, (width, height))| Cell {
            layer: *layer,
            width: *width,
            height: *height,
            up: vec![],
            down: vec![],
            x: 0.0,
        })
        .collect();
    let mut paths = Vec::new();
    for link in &sketch.links {
        let mut path = vec![link.from];
        for layer in layers[link.from] + 1..layers[link.to] {
            cells.push(Cell { layer, width: THREAD, height: 0.0, up: vec![], down: vec![], x: 0.0 });
            path.push(cells.len() - 1);
        }
        path.push(link.to);
        for pair in path.windows(2) {
            cells[pair[0]].down.push(pair[1]);
            cells[pair[1]].up.push(pair[0]);
        }
        paths.push(path);
    }
    let depth = layers.iter().max().map_or(0, |d| d + 1);
    let mut rows: Vec<Vec<usize>> =
        (0..depth).map(|l| (0..cells.len()).filter(|c| cells[*c].layer == l).collect()).collect();
    order(&mut rows, &cells);
    spread(&rows, &mut cells);
    let mut tops = Vec::new();
    let mut y = 0.0;
    for row in &rows {
        tops.push(y);
        y += row.iter().map(|c| cells[*c].height).fold(0.0, f32::max) + FALL;
    }
    let middle = |c: usize| cells[c].x + cells[c].width / 2.0;
    let routes = paths
        .iter()
        .map(|path| {
            let mut points = Vec::new();
            for (i, c) in path.iter().enumerate() {
                let (top, row) = (tops[cells[*c].layer], &rows[cells[*c].layer]);
                let height = row.iter().map(|c| cells[*c].height).fold(0.0, f32::max);
                let (first, last) = (i == 0, i + 1 == path.len());
                match (first, last) {
                    (true, _) => points.push((middle(*c), top + cells[*c].height)),
                    (_, true) => points.push((middle(*c), top)),
                    _ => points.extend([(middle(*c), top), (middle(*c), top + height)]),
                }
            }
            points
        })
        .collect();
    let places = (0..sizes.len())
        .map(|c| Place { x: cells[c].x, y: tops[cells[c].layer], width: cells[c].width, height: cells[c].height })
        .collect();
    let width = cells.iter().map(|c| c.x + c.width).fold(0.0, f32::max);
    Layout { places, routes, width, height: (y - FALL).max(0.0) }
}

/// The longest way from a source; sources then come down to just above what they feed.
fn layers(sketch: &Sketch) -> Vec<usize> {
    let mut layers = vec![0usize; sketch.items.len()];
    // A graph without cycles settles after as many rounds as it is deep.
    for _ in 0..sketch.items.len() {
        for link in &sketch.links {
            layers[link.to] = layers[link.to].max(layers[link.from] + 1);
        }
    }
    for _ in 0..sketch.items.len() {
        for item in 0..sketch.items.len() {
            if sketch.links.iter().any(|l| l.to == item) {
                continue;
            }
            let nearest = sketch.links.iter().filter(|l| l.from == item).map(|l| layers[l.to]).min();
            layers[item] = nearest.map_or(0, |n| n.saturating_sub(1));
        }
    }
    layers
}

/// Orders each layer by the mean place of its neighbours, down and up in turn, and keeps the order with the fewest
/// crossings.
fn order(rows: &mut Vec<Vec<usize>>, cells: &[Cell]) {
    let mut best = (crossings(rows, cells), rows.clone());
    for round in 0..24 {
        let down = round % 2 == 0;
        let mut at = vec![0.0f32; cells.len()];
        let place = |row: &[usize], at: &mut [f32]| row.iter().enumerate().for_each(|(i, c)| at[*c] = i as f32);
        rows.iter().for_each(|row| place(row, &mut at));
        let sequence: Vec<usize> = if down { (0..rows.len()).collect() } else { (0..rows.len()).rev().collect() };
        for l in sequence {
            let wish = |c: usize| {
                let near = if down { &cells[c].up } else { &cells[c].down };
                if near.is_empty() { at[c] } else { near.iter().map(|n| at[*n]).sum::<f32>() / near.len() as f32 }
            };
            let mut wished: Vec<(f32, usize)> = rows[l].iter().map(|c| (wish(*c), *c)).collect();
            wished.sort_by(|a, b| a.0.total_cmp(&b.0));
            rows[l] = wished.into_iter().map(|(_, c)| c).collect();
            place(&rows[l], &mut at);
        }
        let found = crossings(rows, cells);
        if found < best.0 {
            best = (found, rows.clone());
        }
    }
    *rows = best.1;
}

fn crossings(rows: &[Vec<usize>], cells: &[Cell]) -> usize {
    let mut at = vec![0usize; cells.len()];
    rows.iter().for_each(|row| row.iter().enumerate().for_each(|(i, c)| at[*c] = i));
    rows.iter()
        .map(|row| {
            let wires: Vec<(usize, usize)> =
                row.iter().flat_map(|c| cells[*c].down.iter().map(|d| (at[*c], at[*d]))).collect();
            let crossed = |(i, a): (usize, &(usize, usize))| {
                wires[i + 1..].iter().filter(|b| (a.0 < b.0 && a.1 > b.1) || (a.0 > b.0 && a.1 < b.1)).count()
            };
            wires.iter().enumerate().map(crossed).sum::<usize>()
        })
        .sum()
}

/// Draws every cell towards the middle of its neighbours as far as its layer's order leaves room.
fn spread(rows: &[Vec<usize>], cells: &mut [Cell]) {
    for row in rows {
        let mut x = 0.0;
        for c in row {
            cells[*c].x = x;
            x += cells[*c].width + GAP;
        }
    }
    for round in 0..60 {
        for row in rows {
            let wishes: Vec<f32> = row
                .iter()
                .map(|c| {
                    let cell = &cells[*c];
                    let near: Vec<f32> =
                        cell.up.iter().chain(&cell.down).map(|n| cells[*n].x + cells[*n].width / 2.0).collect();
                    if near.is_empty() {
                        cell.x
                    } else {
                        near.iter().sum::<f32>() / near.len() as f32 - cell.width / 2.0
                    }
                })
                .collect();
            // From the left each takes its wish or the next free place; from the right the same; the mean of both
            // keeps the order and the gaps.
            let mut left = Vec::with_capacity(row.len());
            let mut free = f32::NEG_INFINITY;
            for (c, wish) in row.iter().zip(&wishes) {
                let x = wish.max(free);
                free = x + cells[*c].width + GAP;
                left.push(x);
            }
            let mut right = vec![0.0; row.len()];
            let mut free = f32::INFINITY;
            for (i, c) in row.iter().enumerate().rev() {
                let x = wishes[i].min(free - cells[*c].width);
                free = x - GAP;
                right[i] = x;
            }
            let pull = if round < 40 { 0.6 } else { 1.0 };
            for (i, c) in row.iter().enumerate() {
                cells[*c].x += pull * ((left[i] + right[i]) / 2.0 - cells[*c].x);
            }
        }
    }
    let least = cells.iter().map(|c| c.x).fold(f32::INFINITY, f32::min);
    cells.iter_mut().for_each(|c| c.x -= least);
}

#[cfg(test)]
mod tests {
    use super::super::{Item, Link, Role};
    use super::*;

    fn sketch(count: usize, links: &[(usize, usize)]) -> Sketch {
        let item = |n: usize| Item {
            name: n.to_string(),
            role: Role::Function,
            lines: vec![],
            about: String::new(),
            phases: vec![],
            frozen: false,
            stops: false,
        };
        let links = links.iter().map(|(from, to)| Link { from: *from, to: *to, label: String::new() }).collect();
        Sketch { title: String::new(), phases: vec![], items: (0..count).map(item).collect(), links }
    }

    #[test]
    fn wires_go_down_and_boxes_do_not_overlap() {
        // A diamond with a shortcut, and two branches given in crossing order.
        let sketch = sketch(8, &[(0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (1, 5), (2, 4), (4, 6), (5, 7)]);
        let layout = place(&sketch, &[(100.0, 40.0); 8]);
        for link in &sketch.links {
            assert!(layout.places[link.from].y + 40.0 <= layout.places[link.to].y);
        }
        for (i, a) in layout.places.iter().enumerate() {
            for b in &layout.places[i + 1..] {
                assert!(a.y != b.y || (a.x - b.x).abs() >= 100.0, "{a:?} {b:?}");
            }
        }
        let long = sketch.links.iter().position(|l| (l.from, l.to) == (0, 3)).unwrap();
        assert_eq!(layout.routes[long].len(), 4, "a long wire passes the layer between");
        assert!(layout.places.iter().all(|p| p.x >= 0.0 && p.x + p.width <= layout.width + 0.01));
    }

    #[test]
    fn crossings_are_undone() {
        let sketch = sketch(4, &[(0, 3), (1, 2)]);
        let layout = place(&sketch, &[(50.0, 20.0); 4]);
        let order = |a: usize, b: usize| layout.places[a].x < layout.places[b].x;
        assert_eq!(order(0, 1), order(3, 2));
    }
}

//! The head: mesh, morph targets, and what is painted by place.

use crate::light;
use crate::maths::{bell, smooth};
use crate::mesh::{Part, Triangle};
use glam::{Vec2, Vec3};
use libm::hypotf;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::LazyLock;

/// Displacements of some vertices.
#[derive(Debug)]
pub struct Morph(Vec<(u32, Vec3)>);

impl Morph {
    /// Adds `weight` times the displacements.
    pub fn add(&self, weight: f32, vertices: &mut [Vec3]) {
        for (vertex, delta) in &self.0 {
            vertices[*vertex as usize] += weight * *delta;
        }
    }
}

/// A way in which faces differ: pairs of opposite morphs, a pair a side of the face or one for both.
#[derive(Debug)]
pub struct Modifier {
    /// Name of the negative and the positive morph, and whether it is of the right half.
    pub sides: Vec<(Option<String>, String, bool)>,
}

/// Long hair: a sheet that hangs around the back of the head, in place of the strips of the file, whose ends would
/// stand out of a picture one by one.
#[derive(Debug)]
pub struct Curtain {
    /// The vertices, row by row from the crown.
    pub vertices: Vec<usize>,
    /// Vertices of the skin above the mouth, whose extent it hangs around.
    scalp: Vec<usize>,
}

impl Curtain {
    const COLUMNS: usize = 17;
    const ROWS: usize = 16;

    fn new(vertices: Vec<usize>, scalp: Vec<usize>) -> Result<Self, String> {
        let wanted = Self::COLUMNS * Self::ROWS;
        if vertices.len() == wanted {
            Ok(Self { vertices, scalp })
        } else {
            Err(format!("{} vertices of hair", vertices.len()))
        }
    }

    fn triangles(&self) -> impl Iterator<Item = Triangle> {
        let at = |row: usize, column: usize| self.vertices[row * Self::COLUMNS + column];
        (1..Self::ROWS).flat_map(move |row| {
            (1..Self::COLUMNS).flat_map(move |column| {
                let (a, b) = (at(row - 1, column - 1), at(row - 1, column));
                let (c, d) = (at(row, column - 1), at(row, column));
                [[a, c, b], [b, c, d]].map(|vertices| Triangle { vertices, part: Part::Hair })
            })
        })
    }

    /// Places the sheet around a head of any size.
    pub fn hang(&self, vertices: &mut [Vec3]) {
        let head = || self.scalp.iter().map(|v| vertices[*v]);
        let low = head().fold(Vec3::MAX, Vec3::min);
        let high = head().fold(Vec3::MIN, Vec3::max);
        let (width, depth) = (0.97 * high.x, 0.62 * (high.z - low.z));
        let middle = Vec3::new(0.0, 0.0, low.z + depth);
        for (i, vertex) in self.vertices.iter().enumerate() {
            let (row, column) = ((i / Self::COLUMNS) as f32, (i % Self::COLUMNS) as f32);
            let (down, around) = (row / (Self::ROWS - 1) as f32, column / (Self::COLUMNS - 1) as f32 * 2.0 - 1.0);
            // A dome above, then straight down, a little wider at the ends.
            let rise = 1.0 - (down / 0.3).min(1.0);
            let radius = (1.0 - rise * rise).sqrt() * (1.0 + 0.15 * down);
            let angle = around * (1.75 + 0.2 * down);
            let (s, c) = (libm::sinf(angle), libm::cosf(angle));
            let y = high.y + 0.06 - 3.3 * down;
            vertices[*vertex] = middle + Vec3::new(-width * radius * s, y, -depth * 1.08 * radius * c);
        }
    }
}

/// What is painted by place, as weights from 0 to 1 a vertex.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// Lips.
    pub lips: f32,
    /// Inside of the mouth.
    pub mouth: f32,
    /// Ears.
    pub ears: f32,
    /// Cheeks, which redden.
    pub cheeks: f32,
    /// Tip of the nose.
    pub nose: f32,
    /// The hollow below the eye.
    pub hollow: f32,
    /// Where a beard grows.
    pub beard: f32,
    /// How much of the sky a point sees.
    pub open: f32,
}

/// The head at rest. Lengths are decimetres; x to the person's left, y up, z to the front.
#[derive(Debug)]
pub struct Head {
    /// Positions.
    pub rest: Vec<Vec3>,
    /// Faces of the mesh.
    pub triangles: Vec<Triangle>,
    /// Normals of the skin at rest.
    pub outward: Vec<Vec3>,
    /// Which vertices are skin.
    pub skin: Vec<bool>,
    /// Long hair.
    pub hair: Curtain,
    /// Weights a vertex.
    pub places: Vec<Place>,
    /// Morph targets by name.
    pub morphs: BTreeMap<String, Morph>,
    /// Ways in which faces differ.
    pub modifiers: Vec<Modifier>,
    /// Vertices whose mean is right eye, left eye, nose tip, right and left corner of the mouth.
    pub landmarks: [Vec<usize>; 5],
    /// The same at rest.
    pub points: [Vec3; 5],
}

/// The head of every picture, read once.
pub static HEAD: LazyLock<Head> = LazyLock::new(|| {
    // The file is compiled in: that it can be read is a fact of the build, and a test's.
    Head::read(include_bytes!("../assets/head.npz")).unwrap_or_else(|e| unreachable!("head.npz: {e}"))
});

impl Head {
    fn read(file: &[u8]) -> Result<Self, String> {
        let mut arrays = Arrays(zip::ZipArchive::new(Cursor::new(file)).map_err(|e| e.to_string())?);
        let vectors = |v: Vec<f32>| v.chunks_exact(3).map(|c| Vec3::new(c[0], c[1], c[2])).collect::<Vec<_>>();
        let mut rest = vectors(arrays.floats("vertices")?);
        let corners = arrays.integers("triangles")?;
        let parts = arrays.bytes("part")?;
        let mut triangles: Vec<Triangle> = corners
            .chunks_exact(3)
            .zip(&parts)
            .map(|(c, part)| Triangle {
                vertices: [c[0], c[1], c[2]],
                part: [Part::Skin, Part::Eye, Part::Hair, Part::Teeth][usize::from(*part)],
            })
            .collect();
        let count = rest.len();
        let of = |part: Part| {
            let mut mask = vec![false; count];
            triangles.iter().filter(|t| t.part == part).for_each(|t| t.vertices.iter().for_each(|v| mask[*v] = true));
            mask
        };
        let (skin, eye) = (of(Part::Skin), of(Part::Eye));
        let strips = of(Part::Hair);
        let old: Vec<usize> = (0..rest.len()).filter(|v| strips[*v]).collect();
        let scalp = (0..rest.len()).filter(|v| skin[*v] && rest[*v].y > 6.6).collect();
        let hair = Curtain::new(old, scalp)?;
        triangles.retain(|t| t.part != Part::Hair);
        triangles.extend(hair.triangles());
        hair.hang(&mut rest);

        let names = arrays.texts("target_names")?;
        let (ends, moved) = (arrays.integers("target_ptr")?, arrays.integers("target_vertex")?);
        let deltas = vectors(arrays.floats("target_delta")?);
        let morphs: BTreeMap<String, Morph> = names
            .iter()
            .zip(ends.windows(2))
            .map(|(name, w)| {
                let list = (w[0]..w[1]).map(|k| (moved[k] as u32, deltas[k])).collect();
                (name.clone(), Morph(list))
            })
            .collect();

        let mut uv = vec![Vec2::ZERO; rest.len()];
        let coordinates = arrays.floats("uv")?;
        for (vertex, at) in corners.iter().zip(arrays.integers("uv_triangles")?) {
            uv[*vertex] = Vec2::new(coordinates[2 * at], coordinates[2 * at + 1]);
        }
        let mut mask = |name: &str| -> Result<Vec<f32>, String> {
            let texture = arrays.bytes(name)?;
            let at = |p: &Vec2| {
                let (x, y) = ((p.x * 256.0) as usize, ((1.0 - p.y) * 256.0) as usize);
                f32::from(texture[y.min(255) * 256 + x.min(255)]) / 255.0
            };
            Ok(uv.iter().zip(&skin).map(|(p, skin)| if *skin { at(p) } else { 0.0 }).collect())
        };
        let (lips, mouth, ears) = (mask("mask_lips")?, mask("mask_inside_mouth")?, mask("mask_ears")?);

        let select = |test: &dyn Fn(usize) -> bool| (0..rest.len()).filter(|v| test(*v)).collect::<Vec<_>>();
        let border = select(&|v| lips[v] > 0.5 && rest[v].z > 1.2);
        let tip = select(&|v| skin[v] && rest[v].x.abs() < 0.1 && (6.8..7.2).contains(&rest[v].y));
        let most = |list: &[usize], value: &dyn Fn(usize) -> f32| {
            list.iter().copied().max_by(|a, b| value(*a).total_cmp(&value(*b))).into_iter().collect::<Vec<_>>()
        };
        let landmarks = [
            select(&|v| eye[v] && rest[v].x < 0.0),
            select(&|v| eye[v] && rest[v].x > 0.0),
            most(&tip, &|v| rest[v].z),
            most(&border, &|v| -rest[v].x),
            most(&border, &|v| rest[v].x),
        ];
        let points = landmarks.each_ref().map(|list| mean(list, &rest));

        let open = light::openness(&rest, &triangles, points.iter().sum::<Vec3>() / 5.0);
        let (eyes, nose) = (points[1], points[2]);
        let places = (0..rest.len())
            .map(|v| {
                let p = rest[v];
                let x = p.x.abs();
                let body = f32::from(u8::from(skin[v]));
                let cheek = bell(hypotf((x - 0.48) / 0.26, (p.y - nose.y - 0.02) / 0.25));
                let bare = bell(hypotf((x - 0.42) / 0.16, (p.y - nose.y + 0.02) / 0.24));
                Place {
                    lips: lips[v],
                    mouth: mouth[v],
                    ears: ears[v],
                    cheeks: cheek * body,
                    nose: bell(hypotf(x / 0.16, (p.y - nose.y) / 0.16)) * body,
                    hollow: bell(hypotf((x - 0.29) / 0.2, (p.y - (eyes.y - 0.2)) / 0.09)) * body,
                    beard: smooth(eyes.y - 0.42, eyes.y - 0.62, p.y)
                        * smooth(0.15, 0.3, p.z)
                        * (1.0 - lips[v])
                        * (1.0 - 0.85 * bare)
                        * smooth(5.75, 6.0, p.y)
                        * body,
                    open: open[v],
                }
            })
            .collect();
        let modifiers = modifiers(&morphs);
        let outward = light::normals(&rest, &triangles, |part| part == Part::Skin);
        Ok(Self { rest, outward, triangles, skin, hair, places, morphs, modifiers, landmarks, points })
    }

    /// A morph target; the names are those of the file, and each that the code asks for is there by a test.
    pub fn morph(&self, name: &str) -> &Morph {
        static NONE: Morph = Morph(Vec::new());
        let found = self.morphs.get(name);
        debug_assert!(found.is_some(), "head.npz has no morph target {name}");
        found.unwrap_or(&NONE)
    }
}

/// The mean of some vertices.
pub fn mean(list: &[usize], positions: &[Vec3]) -> Vec3 {
    list.iter().map(|v| positions[*v]).sum::<Vec3>() / list.len() as f32
}

/// Pairs of opposite morphs by which people differ. What age, pose and expression do is not among them.
fn modifiers(morphs: &BTreeMap<String, Morph>) -> Vec<Modifier> {
    const OPPOSITES: [(&str, &str); 6] = [
        ("decr", "incr"),
        ("down", "up"),
        ("in", "out"),
        ("backward", "forward"),
        ("concave", "convex"),
        ("compress", "uncompress"),
    ];
    const OTHER: [&str; 12] = [
        "macro/",
        "expr/",
        "head/head-age",
        "head/head-trans",
        "neck/",
        "eyes/l-eye-bag",
        "eyes/r-eye-bag",
        "mouth/mouth-trans-in",
        "mouth/mouth-laugh",
        "nose/nose-trans-in",
        "ears/r-ear-shape",
        "ears/l-ear-shape",
    ];
    let mut found: BTreeMap<String, Modifier> = BTreeMap::new();
    for name in morphs.keys().filter(|n| !OTHER.iter().any(|o| n.starts_with(o))) {
        let pair = OPPOSITES.iter().find_map(|(low, high)| {
            let base = name.strip_suffix(low)?.strip_suffix('-')?;
            let opposite = format!("{base}-{high}");
            morphs.contains_key(&opposite).then_some((base, opposite))
        });
        let modifier = |key: String, side, found: &mut BTreeMap<String, Modifier>| {
            found.entry(key).or_insert_with(|| Modifier { sides: Vec::new() }).sides.push(side);
        };
        if let Some((base, opposite)) = pair {
            let both = base.replace("/l-", "/").replace("/r-", "/");
            modifier(both, (Some(name.clone()), opposite, base.contains("/r-")), &mut found);
        } else if name.starts_with("head/head-") && !OPPOSITES.iter().any(|(_, high)| name.ends_with(high)) {
            modifier(name.clone(), (None, name.clone(), false), &mut found);
        }
    }
    found.into_values().collect()
}

/// The arrays of a NumPy archive.
struct Arrays<'a>(zip::ZipArchive<Cursor<&'a [u8]>>);

impl Arrays<'_> {
    /// Element type and bytes of an array in C order.
    fn array(&mut self, name: &str) -> Result<(String, Vec<u8>), String> {
        let mut file = self.0.by_name(&format!("{name}.npy")).map_err(|e| format!("{name}: {e}"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| format!("{name}: {e}"))?;
        // Version 1.0 of the format: magic, version, a 16-bit length, a Python dictionary as text, the elements.
        let length = bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
        let end = 10 + length.ok_or("cut off")?;
        let header = String::from_utf8_lossy(bytes.get(10..end).ok_or("cut off")?).into_owned();
        let kind = header.split("'descr': '").nth(1).and_then(|t| t.split('\'').next()).ok_or("no descr")?;
        Ok((kind.to_owned(), bytes.split_off(end)))
    }

    fn floats(&mut self, name: &str) -> Result<Vec<f32>, String> {
        match self.array(name)? {
            (kind, bytes) if kind == "<f4" => {
                Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            (kind, _) => Err(format!("{name}: expected f32, found {kind}")),
        }
    }

    fn integers(&mut self, name: &str) -> Result<Vec<usize>, String> {
        let (kind, bytes) = self.array(name)?;
        let size = match kind.as_str() {
            "<i4" => 4,
            "<i8" => 8,
            _ => return Err(format!("{name}: expected i32 or i64, found {kind}")),
        };
        // All are indices: their upper halves are zero.
        Ok(bytes.chunks_exact(size).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).collect())
    }

    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, String> {
        match self.array(name)? {
            (kind, bytes) if kind == "|u1" => Ok(bytes),
            (kind, _) => Err(format!("{name}: expected u8, found {kind}")),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, String> {
        let (kind, bytes) = self.array(name)?;
        let width: usize = kind
            .strip_prefix("<U")
            .and_then(|n| n.parse().ok())
            .ok_or(format!("{name}: expected text, found {kind}"))?;
        let letter = |b: &[u8]| char::from_u32(u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let text = |item: &[u8]| item.chunks_exact(4).filter_map(letter).take_while(|c| *c != '\0').collect();
        Ok(bytes.chunks_exact(4 * width).map(text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_has_its_parts_and_landmarks() {
        let head = &*HEAD;
        assert_eq!((head.rest.len(), head.triangles.len(), head.morphs.len()), (5071, 9936, 372));
        assert!(head.modifiers.len() > 80, "{}", head.modifiers.len());
        let [right, left, nose, mouth_right, mouth_left] = head.points;
        assert!(right.x < -0.2 && left.x > 0.2 && (right.x + left.x).abs() < 1e-3);
        assert!(nose.y < left.y && mouth_left.y < nose.y && nose.z > mouth_left.z);
        assert!(mouth_right.x < 0.0 && mouth_left.x > 0.0);
    }
}

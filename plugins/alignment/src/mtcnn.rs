//! MTCNN (Zhang, Zhang, Li, Qiao 2016, "Joint face detection and alignment using multitask cascaded convolutional networks"):
//! a first small network looks at a pyramid of the picture, a second and a third at the windows that are left.
//!
//! The weights are those of facenet-pytorch (MIT), whose steps are followed to the rounding of boxes: `pnet.pt`, `rnet.pt` and
//! `onet.pt`.

use crate::detector::{Detector, Face};
use mtl_component::{ErrorContext as _, Picture, Result, ScalarOps as _, mistake, nn};
use mtl_engine::weights::{self, Tensors};
use mtl_faces::alignment::Points;
use std::path::Path;
use tch::{Kind, Tensor};

/// The smallest face that is looked for, in pixels.
const SMALLEST: f32 = 20.0;
/// The side of the first network's window.
const WINDOW: f32 = 12.0;
/// The ratio of one level of the pyramid to the one before.
const FACTOR: f64 = 0.709;
/// How sure each of the networks has to be.
const SURE: [f32; 3] = [0.6, 0.7, 0.7];
/// Overlaps from which the less sure of two boxes goes: on one level, and after each of the networks.
const OVERLAP: [f32; 4] = [0.5, 0.7, 0.7, 0.7];
/// Windows in one pass.
const BATCH: usize = 512;

/// The three networks.
pub struct Mtcnn {
    nets: [Net; 3],
}

/// The weights of a network by name.
struct Net {
    weights: Tensors,
    name: &'static str,
}

impl Mtcnn {
    /// Reads the weights in a folder.
    ///
    /// # Errors
    /// A mistake if one is not there, or is not that of the network.
    pub fn open(folder: &Path) -> Result<Self> {
        let net = |name: &'static str, first: [i64; 4]| -> Result<Net> {
            let path = folder.join(format!("{name}.pt"));
            let weights = weights::read(&path)?;
            match weights.get("conv1.weight").map(Tensor::size) {
                Some(size) if size == first => Ok(Net { weights, name }),
                other => mistake!(
                    "{} is not the network {name} of MTCNN: expected `conv1.weight` of {first:?}, found {other:?}",
                    path.display()
                ),
            }
        };
        Ok(Self { nets: [net("pnet", [10, 3, 3, 3])?, net("rnet", [28, 3, 3, 3])?, net("onet", [32, 3, 3, 3])?] })
    }
}

impl Net {
    fn get(&self, name: &str) -> Result<&Tensor> {
        self.weights.get(name).with_context(|| format!("the network {} has no `{name}`", self.name))
    }

    fn conv(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let bias = Some(self.get(&format!("{name}.bias"))?);
        nn::conv2d(x, self.get(&format!("{name}.weight"))?, bias, 1, 0)
    }

    fn prelu(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        Ok(x.f_prelu(self.get(&format!("{name}.weight"))?)?)
    }

    fn dense(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        Ok(x.f_linear(self.get(&format!("{name}.weight"))?, Some(self.get(&format!("{name}.bias"))?))?)
    }

    /// Convolution, PReLU and, where there is one, pooling by so many pixels, the last window being cut.
    fn block(&self, x: &Tensor, number: usize, pool: Option<i64>) -> Result<Tensor> {
        let x = self.prelu(&self.conv(x, &format!("conv{number}"))?, &format!("prelu{number}"))?;
        Ok(match pool {
            Some(side) => x.f_max_pool2d([side, side], [2, 2], [0, 0], [1, 1], true)?,
            None => x,
        })
    }

    /// The maps as rows, in the order of the framework in which the networks were trained: by column.
    fn rows(x: &Tensor) -> Result<Tensor> {
        Ok(x.f_permute([0, 3, 2, 1])?.f_contiguous()?.f_flatten(1, -1)?)
    }
}

/// A box: left, top, right, bottom, and how sure it is. Numbers are 32 bits wide, as in the networks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    at: [f32; 4],
    score: f32,
}

impl Bounds {
    /// The smallest square around it, at its centre.
    fn squared(self) -> Self {
        let [x, y, ex, ey] = self.at;
        let (w, h) = (ex - x, ey - y);
        let side = w.max(h);
        let (x, y) = (x + w * 0.5 - side * 0.5, y + h * 0.5 - side * 0.5);
        Self { at: [x, y, x + side, y + side], ..self }
    }

    /// Moved by what a network says, in parts of its size.
    fn moved(self, by: &[f32], more: f32) -> Self {
        let [x, y, ex, ey] = self.at;
        let (w, h) = (ex - x + more, ey - y + more);
        Self { at: [x + by[0] * w, y + by[1] * h, ex + by[2] * w, ey + by[3] * h], ..self }
    }
}

/// The numbers of boxes that are left when of two that overlap too much the less sure goes, the surest first. With `more` edges
/// count as pixels, and with `least` the overlap is that of the smaller box.
fn left(boxes: &[Bounds], overlap: f32, more: f32, least: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|a, b| boxes[*b].score.total_cmp(&boxes[*a].score));
    let area = |b: &Bounds| (b.at[2] - b.at[0] + more) * (b.at[3] - b.at[1] + more);
    let mut kept: Vec<usize> = Vec::new();
    for i in order {
        let covers = |k: &usize| {
            let (a, b) = (&boxes[*k], &boxes[i]);
            let w = (a.at[2].min(b.at[2]) - a.at[0].max(b.at[0]) + more).max(0.0);
            let h = (a.at[3].min(b.at[3]) - a.at[1].max(b.at[1]) + more).max(0.0);
            let whole = if least { area(a).min(area(b)) } else { area(a) + area(b) - w * h };
            w * h / whole > overlap
        };
        if !kept.iter().any(covers) {
            kept.push(i);
        }
    }
    kept
}

/// Of -1 to 1, as the networks were trained.
fn normalised(x: &Tensor) -> Result<Tensor> {
    Ok(x.try_add_scalar(-127.5)?.try_mul_scalar(0.007_812_5)?)
}

/// A picture or a part of it at another size: each pixel the mean of those that it covers.
fn resampled(x: &Tensor, height: i64, width: i64) -> Result<Tensor> {
    Ok(x.f_adaptive_avg_pool2d([height, width])?)
}

fn floats(x: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::<f32>::try_from(&x.f_contiguous()?.f_reshape([-1])?)?)
}

/// A box, and how a network would move it.
type Said = (Bounds, [f32; 4]);

/// The first of these that are left, as [`left`] says.
fn thinned<T: Copy>(boxes: &[Bounds], of: &[T], overlap: f32) -> Vec<T> {
    left(boxes, overlap, 0.0, false).into_iter().map(|i| of[i]).collect()
}

fn bounds(said: &[Said]) -> Vec<Bounds> {
    said.iter().map(|(bounds, _)| *bounds).collect()
}

impl Mtcnn {
    /// The first network on one level of the pyramid.
    fn level(&self, picture: &Tensor, scale: f64) -> Result<Vec<Said>> {
        let net = &self.nets[0];
        let size = picture.size();
        let at_scale = |side: i64| (side as f64 * scale + 1.0) as i64;
        let x = normalised(&resampled(picture, at_scale(size[2]), at_scale(size[3]))?)?;
        let x = net.block(&net.block(&net.block(&x, 1, Some(2))?, 2, None)?, 3, None)?;
        let sure = net.conv(&x, "conv4_1")?.f_softmax(1, Kind::Float)?.f_select(1, 1)?;
        let by = net.conv(&x, "conv4_2")?;
        let maps = sure.size();
        let (rows, columns) = (maps[1] as usize, maps[2] as usize);
        let (sure, by) = (floats(&sure)?, floats(&by)?);
        let scale = scale as f32;
        let mut found: Vec<Said> = Vec::new();
        for (n, score) in sure.iter().copied().enumerate().filter(|(_, score)| *score >= SURE[0]) {
            let (x, y) = ((n % columns) as f32, (n / columns) as f32);
            // Places of the map are two pixels apart.
            let edge = |at: f32, more: f32| ((2.0 * at + more) / scale).floor();
            let at = [edge(x, 1.0), edge(y, 1.0), edge(x, WINDOW), edge(y, WINDOW)];
            found.push((Bounds { at, score }, std::array::from_fn(|k| by[k * rows * columns + n])));
        }
        Ok(thinned(&bounds(&found), &found, OVERLAP[0]))
    }

    /// What the first network finds on all levels.
    fn proposed(&self, picture: &Tensor) -> Result<Vec<Bounds>> {
        let size = picture.size();
        let mut scale = f64::from(WINDOW / SMALLEST);
        let mut shorter = size[2].min(size[3]) as f64 * scale;
        let mut found: Vec<Said> = Vec::new();
        while shorter >= f64::from(WINDOW) {
            found.extend(self.level(picture, scale)?);
            scale *= FACTOR;
            shorter *= FACTOR;
        }
        let found = thinned(&bounds(&found), &found, OVERLAP[1]);
        Ok(found.into_iter().map(|(bounds, by)| bounds.moved(&by, 0.0).squared()).collect())
    }

    /// A later network on the windows of boxes: those that lie in the picture, and what it says of each.
    fn windows(&self, stage: usize, picture: &Tensor, boxes: &[Bounds]) -> Result<(Vec<Bounds>, Vec<Vec<f32>>)> {
        let side = if stage == 1 { 24 } else { 48 };
        let size = picture.size();
        let (mut inside, mut parts) = (Vec::new(), Vec::new());
        for bounds in boxes {
            let [x, y, ex, ey] = bounds.at.map(|at| at.trunc() as i64);
            let (x, y, ex, ey) = (x.max(1), y.max(1), ex.min(size[3]), ey.min(size[2]));
            if ey > y - 1 && ex > x - 1 {
                let part = picture.f_narrow(2, y - 1, ey - y + 1)?.f_narrow(3, x - 1, ex - x + 1)?;
                parts.push(resampled(&part, side, side)?);
                inside.push(*bounds);
            }
        }
        let mut said: Vec<Vec<f32>> = Vec::new();
        for batch in parts.chunks(BATCH) {
            let found = self.look(stage, &normalised(&Tensor::f_cat(batch, 0)?)?)?;
            said.resize_with(found.len(), Vec::new);
            for (all, part) in said.iter_mut().zip(&found) {
                all.extend(floats(part)?);
            }
        }
        Ok((inside, said))
    }

    /// How sure a later network is of windows, how they are to be moved, and after the last the points.
    fn look(&self, stage: usize, x: &Tensor) -> Result<Vec<Tensor>> {
        let net = &self.nets[stage];
        let x = net.block(&net.block(x, 1, Some(3))?, 2, Some(3))?;
        let sure = |x: Tensor| -> Result<Tensor> { Ok(x.f_softmax(1, Kind::Float)?.f_select(1, 1)?) };
        if stage == 1 {
            let x = net.prelu(&net.dense(&Net::rows(&net.block(&x, 3, None)?)?, "dense4")?, "prelu4")?;
            return Ok(vec![sure(net.dense(&x, "dense5_1")?)?, net.dense(&x, "dense5_2")?]);
        }
        let x = net.block(&net.block(&x, 3, Some(2))?, 4, None)?;
        let x = net.prelu(&net.dense(&Net::rows(&x)?, "dense5")?, "prelu5")?;
        Ok(vec![sure(net.dense(&x, "dense6_1")?)?, net.dense(&x, "dense6_2")?, net.dense(&x, "dense6_3")?])
    }

    /// The boxes of which the second network is sure.
    fn refined(&self, picture: &Tensor, boxes: &[Bounds]) -> Result<Vec<Bounds>> {
        let (inside, said) = self.windows(1, picture, boxes)?;
        let [sure, by] = &said[..] else { return Ok(Vec::new()) };
        let mut found: Vec<Said> = Vec::new();
        for (i, bounds) in inside.iter().enumerate().filter(|(i, _)| sure[*i] > SURE[1]) {
            found.push((Bounds { score: sure[i], ..*bounds }, std::array::from_fn(|k| by[4 * i + k])));
        }
        let found = thinned(&bounds(&found), &found, OVERLAP[2]);
        Ok(found.into_iter().map(|(bounds, by)| bounds.moved(&by, 1.0).squared()).collect())
    }
}

impl Detector for Mtcnn {
    fn faces(&self, picture: &Picture) -> Result<Vec<Face>> {
        let _no_grad = tch::no_grad_guard();
        let (height, width) = (picture.height as i64, picture.width as i64);
        let pixels = Tensor::f_from_slice(&picture.data)?.f_view([1, height, width, 3])?;
        let pixels = pixels.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let boxes = self.refined(&pixels, &self.proposed(&pixels)?)?;
        let (inside, said) = self.windows(2, &pixels, &boxes)?;
        let [sure, by, points] = &said[..] else { return Ok(Vec::new()) };
        let mut found: Vec<(Bounds, Points)> = Vec::new();
        for (i, bounds) in inside.iter().enumerate().filter(|(i, _)| sure[*i] > SURE[2]) {
            let [x, y, ex, ey] = bounds.at;
            // The network gives the five x and then the five y, in parts of the window.
            let of = |k: usize, from: f32, size: f32| f64::from(size * points[10 * i + k] + from - 1.0);
            let points = std::array::from_fn(|k| [of(k, x, ex - x + 1.0), of(k + 5, y, ey - y + 1.0)]);
            let bounds = Bounds { score: sure[i], ..*bounds };
            found.push((bounds.moved(&by[4 * i..4 * i + 4], 1.0), points));
        }
        let boxes: Vec<Bounds> = found.iter().map(|(bounds, _)| *bounds).collect();
        let kept = left(&boxes, OVERLAP[3], 1.0, true);
        Ok(kept
            .into_iter()
            .map(|i| Face { bounds: boxes[i].at.map(f64::from), score: boxes[i].score.into(), points: found[i].1 })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_boxes_that_overlap_the_surest_is_left() {
        let bounds = |x: f32, side: f32, score: f32| Bounds { at: [x, 0.0, x + side, side], score };
        let boxes = [bounds(0.0, 10.0, 0.7), bounds(1.0, 10.0, 0.9), bounds(20.0, 10.0, 0.8), bounds(22.0, 4.0, 0.6)];
        assert_eq!(left(&boxes, 0.5, 0.0, false), [1, 2, 3]);
        // A small box within a large one covers little of both, and the whole of itself.
        assert_eq!(left(&boxes, 0.5, 1.0, true), [1, 2]);
    }

    #[test]
    fn squares_keep_the_centre() {
        let square = Bounds { at: [0.0, 10.0, 10.0, 14.0], score: 1.0 }.squared();
        assert_eq!(square.at, [0.0, 7.0, 10.0, 17.0]);
        assert_eq!(square.moved(&[0.1, 0.0, -0.1, 0.5], 0.0).at, [1.0, 7.0, 9.0, 22.0]);
    }

    #[test]
    fn weights_that_are_not_there_or_another_network_are_mistakes() {
        let dir = tempfile::tempdir().unwrap();
        let error = Mtcnn::open(dir.path()).err().unwrap();
        assert!(error.exit_status() == 2 && error.to_string().contains("pnet.pt"), "{error}");
        let path = dir.path().join("pnet.pt");
        weights::write(&path, &[("conv1.weight".into(), Tensor::zeros([1], (Kind::Float, tch::Device::Cpu)))]).unwrap();
        let error = Mtcnn::open(dir.path()).err().unwrap();
        assert!(error.to_string().contains("is not the network pnet of MTCNN"), "{error}");
    }
}

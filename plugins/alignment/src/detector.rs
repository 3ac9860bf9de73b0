//! What finds faces in pictures.

use mtl_component::{Picture, Result};
use mtl_faces::alignment::Points;

/// A face in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    /// Left, top, right and bottom in pixels.
    pub bounds: [f64; 4],
    /// How sure the detector is, 0 to 1.
    pub score: f64,
    /// Eyes, nose and corners of the mouth.
    pub points: Points,
}

impl Face {
    /// The area of its box in pixels.
    pub fn area(&self) -> f64 {
        let [left, top, right, bottom] = self.bounds;
        (right - left).max(0.0) * (bottom - top).max(0.0)
    }

    /// The squared distance of its centre from that of a picture, in pixels.
    pub fn off_centre(&self, picture: &Picture) -> f64 {
        let [left, top, right, bottom] = self.bounds;
        let (x, y) = ((left + right) / 2.0, (top + bottom) / 2.0);
        (x - picture.width as f64 / 2.0).powi(2) + (y - picture.height as f64 / 2.0).powi(2)
    }
}

/// Finds faces.
pub trait Detector: Send {
    /// The faces in a picture.
    ///
    /// # Errors
    /// If the network fails.
    fn faces(&self, picture: &Picture) -> Result<Vec<Face>>;
}

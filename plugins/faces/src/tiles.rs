//! Pictures side by side in one.

use mtl_component::{Picture, Result};

/// The pictures in rows of `columns`, each `side` pixels a side.
///
/// # Errors
/// If one cannot be resized.
pub fn tiled(pictures: &[Picture], columns: usize, side: usize) -> Result<Picture> {
    let columns = columns.clamp(1, pictures.len().max(1));
    let rows = pictures.len().div_ceil(columns).max(1);
    let (width, height) = (columns * side, rows * side);
    let mut data = vec![0; width * height * 3];
    for (n, picture) in pictures.iter().enumerate() {
        let mut tile = picture.clone();
        tile.resize(side, side)?;
        let (left, top) = (n % columns * side, n / columns * side);
        for (y, line) in tile.data.chunks_exact(side * 3).enumerate() {
            let at = ((top + y) * width + left) * 3;
            data[at..at + line.len()].copy_from_slice(line);
        }
    }
    Picture::new(width, height, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_from_left_to_right() {
        let grey = |value| Picture::new(2, 2, vec![value; 12]).unwrap();
        let sheet = tiled(&[grey(1), grey(2), grey(3)], 2, 2).unwrap();
        let at = |x: usize, y: usize| sheet.data[(y * sheet.width + x) * 3];
        assert_eq!((sheet.width, sheet.height), (4, 4));
        assert_eq!([at(0, 0), at(2, 0), at(0, 2), at(2, 2)], [1, 2, 3, 0]);
    }
}

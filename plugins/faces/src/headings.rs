//! Headings over the columns of a sheet of pictures.

use font8x8::{BASIC_FONTS, UnicodeFonts as _};
use mtl_component::{Picture, Result};

/// Width and height of a letter in pixels.
const LETTER: usize = 8;
/// The height of the row of headings in pixels.
const ROW: usize = LETTER + 4;
/// Letters are light on dark.
const LIGHT: u8 = 230;

/// The sheet with a heading over each of its columns, which are equally wide. A heading that is wider than its column is
/// left out.
///
/// # Errors
/// If the sheet has no pixels.
pub fn headed(sheet: &Picture, headings: &[String]) -> Result<Picture> {
    let width = sheet.width;
    let column = width / headings.len().max(1);
    let mut row = vec![0u8; ROW * width * 3];
    for (c, heading) in headings.iter().enumerate() {
        let letters: Vec<[u8; LETTER]> = heading.chars().filter_map(|letter| BASIC_FONTS.get(letter)).collect();
        let Some(spare) = column.checked_sub(letters.len() * LETTER) else { continue };
        let left = c * column + spare / 2;
        for (n, letter) in letters.iter().enumerate() {
            for (y, bits) in letter.iter().enumerate() {
                for x in (0..LETTER).filter(|x| bits & (1 << x) != 0) {
                    let at = ((y + 2) * width + left + n * LETTER + x) * 3;
                    row[at..at + 3].fill(LIGHT);
                }
            }
        }
    }
    row.extend(&sheet.data);
    Picture::new(width, sheet.height + ROW, row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_stand_over_their_columns() {
        let sheet = Picture::new(96, 4, vec![7; 96 * 4 * 3]).unwrap();
        let found = headed(&sheet, &["0-10".into(), "much too long".into()]).unwrap();
        assert_eq!((found.width, found.height), (96, 16));
        let light =
            |from: usize, to: usize| (0..ROW).any(|y| (from..to).any(|x| found.data[(y * 96 + x) * 3] == LIGHT));
        assert!(light(8, 40) && !light(0, 8) && !light(48, 96));
        assert_eq!(found.data[ROW * 96 * 3..], sheet.data[..]);
    }
}

//! What the header of an array of NumPy (`.npy`) says.
//!
//! ```text
//! file := 93 "NUMPY" | u8 major | u8 minor | u16 length (major 1) or u32 length | header | data
//! ```
//!
//! The header is a dictionary in Python's notation: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.

/// The bytes that such a file begins with.
pub const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// The longest header that is looked at.
pub const MAX_HEADER: usize = 1 << 12;

/// What stands between the braces of the header, from the first bytes of a file; none if they are of something else, or were
/// cut.
pub fn header(start: &[u8]) -> Option<String> {
    let [major, _minor, rest @ ..] = start.strip_prefix(&MAGIC)? else { return None };
    let (length, rest) = match major {
        1 => rest.split_first_chunk().map(|(length, rest)| (u16::from_le_bytes(*length).into(), rest))?,
        2 | 3 => rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length), rest))?,
        _ => return None,
    };
    let text = rest.get(..usize::try_from(length).ok()?.min(MAX_HEADER))?;
    let text = String::from_utf8_lossy(text);
    let (_, text) = text.split_once('{')?;
    let (text, _) = text.rsplit_once('}')?;
    Some(text.trim().trim_end_matches(',').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_version_are_read() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }\n";
        let wanted = "'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)";
        let first = [&MAGIC[..], &[1, 0], &(text.len() as u16).to_le_bytes(), text.as_bytes(), &[0; 48]].concat();
        let second = [&MAGIC[..], &[2, 0], &(text.len() as u32).to_le_bytes(), text.as_bytes(), &[0; 48]].concat();
        for file in [&first, &second] {
            assert_eq!(header(file).as_deref(), Some(wanted));
            for end in 0..file.len() - 48 {
                assert_eq!(header(&file[..end]), None, "{end}");
            }
        }
        assert_eq!(header(&[&MAGIC[..], &[9, 0], &first[8..]].concat()), None);
    }
}

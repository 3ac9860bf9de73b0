//! The header that mxnet writes before the picture of a record.

use mtl_component::{Result, mistake};

/// The bytes of a header without its list of labels.
const BYTES: usize = 24;
/// The most labels of a record.
const MAX_LABELS: usize = 1024;

/// What stands before a picture: its labels and two numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// One label, or a list of them.
    pub labels: Vec<f32>,
    /// Whether the labels are written as a list.
    pub is_list: bool,
    /// The number of the record.
    pub id: u64,
    /// Most often 0.
    pub id2: u64,
}

impl Header {
    /// Takes a payload apart into header and picture, which is empty in records that hold labels only.
    ///
    /// # Errors
    /// A mistake if it is too short for what it says.
    pub fn split(payload: &[u8]) -> Result<(Self, &[u8])> {
        let Some((fixed, rest)) = payload.split_first_chunk::<BYTES>() else {
            mistake!(
                "a payload of {} bytes is too short for the header of a picture, which has {BYTES}",
                payload.len()
            );
        };
        let word = |at: usize| [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fixed[at + i]));
        let count = u32::from_le_bytes(word(0)) as usize;
        let (labels, picture) = match count {
            0 => (vec![f32::from_le_bytes(word(4))], rest),
            1..=MAX_LABELS if rest.len() >= 4 * count => {
                let (list, picture) = rest.split_at(4 * count);
                let labels = list.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                (labels.collect(), picture)
            }
            1..=MAX_LABELS => {
                mistake!("{count} labels need {} bytes behind the header, and there are {}", 4 * count, rest.len())
            }
            _ => mistake!(
                "a header of {count} labels, expected at most {MAX_LABELS}: the record holds no picture of mxnet"
            ),
        };
        Ok((Self { labels, is_list: count > 0, id: long(8), id2: long(16) }, picture))
    }

    /// Whether the beginning of a payload holds its whole header and a byte of the picture.
    pub(super) fn is_within(start: &[u8]) -> bool {
        let count = start.first_chunk::<4>().map_or(u32::MAX, |b| u32::from_le_bytes(*b)) as usize;
        count <= MAX_LABELS && start.len() > BYTES + 4 * count
    }

    /// The payload of this header and a picture.
    pub fn joined(&self, picture: &[u8]) -> Vec<u8> {
        let count = if self.is_list { self.labels.len() as u32 } else { 0 };
        let single = if self.is_list { 0.0 } else { self.labels.first().copied().unwrap_or_default() };
        let mut out = Vec::with_capacity(BYTES + 4 * count as usize + picture.len());
        out.extend(count.to_le_bytes());
        out.extend(single.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        out.extend(self.id2.to_le_bytes());
        if self.is_list {
            self.labels.iter().for_each(|label| out.extend(label.to_le_bytes()));
        }
        out.extend_from_slice(picture);
        out
    }
}

//! The index beside a record file.

use mtl_component::{Result, mistake};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest index that is read: some two hundred million records.
const MAX_BYTES: u64 = 4 << 30;
/// What is read at once.
const CHUNK: usize = 1 << 20;

/// Keys and offsets, by key, of the records of a file of so many bytes.
///
/// # Errors
/// A mistake that names the line.
pub(super) fn read(path: &Path, records: &Path, bytes: u64) -> Result<Vec<(i64, u64)>> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (length, mut file) = match opened {
        Ok(opened) => opened,
        Err(e) => mistake!("cannot open the index {}: {e}", path.display()),
    };
    if length > MAX_BYTES {
        mistake!("the index {} has {length} bytes, expected at most {MAX_BYTES}", path.display());
    }
    let mut index = Vec::new();
    let (mut buffer, mut held, mut line) = (vec![0u8; CHUNK], 0, 0usize);
    loop {
        let got = match file.read(&mut buffer[held..]) {
            Ok(got) => got,
            Err(e) => mistake!("cannot read the index {}: {e}", path.display()),
        };
        let end = held + got;
        let mut start = 0;
        while let Some((entry, length)) = plain(&buffer[start..end]) {
            index.push(entry);
            start += length;
            line += 1;
        }
        // Without a last line feed the end of the file ends the line.
        let ends = |start: usize| match buffer[start..end].iter().position(|byte| *byte == b'\n') {
            Some(at) => Some((start + at, start + at + 1)),
            None if got == 0 && start < end => Some((end, end)),
            None => None,
        };
        while let Some((stop, next)) = ends(start) {
            line += 1;
            let text = &buffer[start..stop];
            start = next;
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Some(entry) = entry(text) else {
                mistake!(
                    "{}:{line}: expected a key, a tab and an offset, found {:?}",
                    path.display(),
                    String::from_utf8_lossy(&text[..text.len().min(100)])
                )
            };
            index.push(entry);
        }
        held = end - start;
        if got == 0 {
            break;
        }
        if held == CHUNK {
            mistake!("{}:{}: the line has more than {CHUNK} bytes", path.display(), line + 1);
        }
        buffer.copy_within(start..end, 0);
    }
    // Keys stand in a few ascending runs, which a stable sort joins: that of the labels often comes last.
    index.sort();
    if let Some(pair) = index.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        mistake!("{}: the key {} stands there twice", path.display(), pair[0].0);
    }
    let beyond = index.iter().filter(|(_, offset)| *offset >= bytes).count();
    if beyond > 0 {
        mistake!(
            "{}: {beyond} of {} offsets lie behind the end of {}, which has {bytes} bytes: the file was cut, or the index is of \
             another one",
            path.display(),
            index.len(),
            records.display()
        );
    }
    Ok(index)
}

/// Key and offset of a whole line of the common form, digits, a tab and digits, at the beginning of a text, and its length.
fn plain(text: &[u8]) -> Option<((i64, u64), usize)> {
    // As many digits cannot overflow.
    const MOST: usize = 18;
    let digits = |from: usize| {
        let (mut number, mut at) = (0u64, from);
        while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
            number = number.wrapping_mul(10).wrapping_add(digit.into());
            at += 1;
        }
        (1..=MOST).contains(&(at - from)).then_some((number, at))
    };
    let (key, at) = digits(0)?;
    let (offset, end) = digits(at + 1).filter(|_| text.get(at) == Some(&b'\t'))?;
    (text.get(end) == Some(&b'\n')).then_some(((key as i64, offset), end + 1))
}

/// Key and offset of a line.
fn entry(line: &[u8]) -> Option<(i64, u64)> {
    let tab = line.iter().position(|byte| *byte == b'\t' || *byte == b' ')?;
    let (key, offset) = (&line[..tab], line[tab + 1..].trim_ascii());
    let (negative, digits) = match key.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, key),
    };
    let key = i64::try_from(number(digits)?).ok()?;
    Some((if negative { -key } else { key }, number(offset)?))
}

/// A number in decimal digits.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

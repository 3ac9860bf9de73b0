//! Who tells what went wrong: of all processes that end because of one, only that one speaks.

use mtl_recipe::{Context, Error, Result};
use mtl_torch::{LOST, Store};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The count of faults.
const COUNT: &str = "faults";
/// How long a process waits for others to say what they know.
const PATIENCE: Duration = Duration::from_secs(2);

/// What ended a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The process that tells.
    pub rank: u64,
    /// It knows the cause; otherwise it has only lost the others.
    pub cause: bool,
    /// Its exit status.
    pub status: u8,
    /// What it says.
    pub text: String,
}

impl Fault {
    /// That of an error in a process.
    pub fn of(rank: u64, error: &Error) -> Self {
        let text = format!("{error:#}");
        Self { rank, cause: !text.contains(LOST), status: error.exit_status(), text }
    }
}

/// Writes a fault into the store.
///
/// # Errors
/// If the store is gone.
pub fn post(store: &Store, fault: &Fault) -> Result<()> {
    let text = serde_json::to_string(fault)?;
    // The place is taken before it is filled: whoever reads it waits a moment for what is missing.
    let n = store.add(COUNT, 1)?;
    Ok(store.set(&format!("fault/{n}"), &text)?)
}

/// Whether a process has told of a fault.
///
/// # Errors
/// If the store is gone.
pub fn any(store: &Store) -> Result<bool> {
    Ok(store.add(COUNT, 0)? > 0)
}

/// The faults so far, in the order in which they were told.
///
/// # Errors
/// If the store is gone.
pub fn all(store: &Store) -> Result<Vec<Fault>> {
    let mut out = Vec::new();
    for n in 1..=store.add(COUNT, 0)? {
        let since = Instant::now();
        let text = loop {
            match store.get(&format!("fault/{n}"))? {
                Some(text) => break Some(text),
                None if since.elapsed() > PATIENCE => break None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let Some(text) = text else { continue };
        out.push(serde_json::from_str(&text).context("a fault in the store is damaged")?);
    }
    Ok(out)
}

/// Tells of a fault, and gives the one that all processes end for: the first whose cause is known, if there is one within
/// a moment, or the first of all.
///
/// # Errors
/// If the store is gone.
pub fn settled(store: &Store, own: &Fault, size: u64) -> Result<Fault> {
    post(store, own)?;
    let since = Instant::now();
    loop {
        let all = all(store)?;
        let cause = all.iter().find(|fault| fault.cause).cloned();
        let late = since.elapsed() >= PATIENCE || all.len() as u64 >= size;
        match cause.or_else(|| all.into_iter().next().filter(|_| late)) {
            Some(fault) => return Ok(fault),
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(rank: u64, cause: bool) -> Fault {
        Fault { rank, cause, status: 1, text: format!("of {rank}") }
    }

    #[test]
    fn the_first_that_knows_the_cause_speaks() {
        let store = Store::local().unwrap();
        assert!(!any(&store).unwrap());
        std::thread::scope(|scope| {
            let first = scope.spawn(|| settled(&store, &fault(0, false), 3).unwrap());
            std::thread::sleep(Duration::from_millis(300));
            let others = [fault(2, true), fault(1, true)].map(|own| settled(&store, &own, 3).unwrap());
            assert_eq!([first.join().unwrap(), others[0].clone(), others[1].clone()].map(|f| f.rank), [2, 2, 2]);
        });
        assert!(any(&store).unwrap());
    }

    #[test]
    fn without_a_cause_the_first_speaks_after_a_moment() {
        let store = Store::local().unwrap();
        assert_eq!(settled(&store, &fault(1, false), 2).unwrap(), fault(1, false));
    }

    #[test]
    fn errors_of_communication_are_no_cause() {
        let lost = Error::failure(format!("{LOST}connection reset")).context("in step 3");
        assert!(!Fault::of(1, &lost).cause);
        let own = Error::mistake("no such file");
        assert_eq!(Fault::of(1, &own), Fault { rank: 1, cause: true, status: 2, text: "no such file".into() });
    }
}

//! What a process is doing, which the others watch to tell a hang from long work.

use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where a process is in the run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The step; 0 before the first.
    pub step: u64,
    /// How far it is within the step.
    pub stage: u64,
    /// What it does there, in words that follow "in step 5, ".
    pub doing: String,
    /// It does what others do not do at the same time, such as saving: however long it takes, it does not hang.
    pub solo: bool,
    /// It has nothing left to do.
    pub done: bool,
}

impl Position {
    fn order(&self) -> (u64, u64) {
        (self.step, self.stage)
    }

    /// The place in words.
    pub fn words(&self) -> String {
        match (self.step, self.doing.as_str()) {
            (0, "") => "before the first step".into(),
            (0, doing) => format!("before the first step, {doing}"),
            (step, "") => format!("in step {step}"),
            (step, doing) => format!("in step {step}, {doing}"),
        }
    }
}

/// The position of this process, and how long steps take.
#[derive(Debug)]
pub struct Whereabouts(Mutex<(Position, Instant, Duration)>);

impl Default for Whereabouts {
    fn default() -> Self {
        Self(Mutex::new((Position { solo: true, ..Position::default() }, Instant::now(), Duration::ZERO)))
    }
}

impl Whereabouts {
    fn change<T>(&self, change: impl FnOnce(&mut (Position, Instant, Duration)) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// A step begins.
    pub fn step(&self, step: u64) {
        self.change(|(position, since, longest)| {
            // What comes before the first step takes no part in the longest.
            if position.step > 0 && !position.solo {
                *longest = (*longest).max(since.elapsed());
            }
            *position = Position { step, doing: "waiting for its data".into(), ..Position::default() };
            *since = Instant::now();
        });
    }

    /// The step goes on.
    pub fn stage(&self, stage: u64, doing: impl FnOnce() -> String) {
        self.change(|(position, ..)| {
            *position = Position { step: position.step, stage, doing: doing(), ..Position::default() };
        });
    }

    /// It does what takes as long as it takes.
    pub fn solo(&self, doing: &str) {
        self.change(|(position, ..)| (position.doing, position.solo) = (doing.to_owned(), true));
    }

    /// It has nothing left to do.
    pub fn done(&self) {
        self.change(|(position, ..)| (position.solo, position.done) = (true, true));
    }

    /// The position, and the longest step so far; zero before one has ended.
    pub fn now(&self) -> (Position, Duration) {
        self.change(|(position, _, longest)| (position.clone(), *longest))
    }
}

/// After so long without a word a process has stopped.
pub const SILENCE: Duration = Duration::from_secs(10);
/// While others have waited so long, a process that does not move hangs. Steps that are longer give more time.
pub const WAIT: Duration = Duration::from_secs(20);
/// How long the first step may take.
const FIRST: Duration = Duration::from_secs(300);

/// What is known of another process.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The count of its signs of life.
    beat: u64,
    beat_at: Instant,
    position: Position,
    moved_at: Instant,
}

impl Seen {
    /// A process that nothing is known of yet.
    pub fn new(now: Instant) -> Self {
        Self { beat: 0, beat_at: now, position: Position { solo: true, ..Position::default() }, moved_at: now }
    }

    /// Takes note of a sign of life.
    pub fn note(&mut self, beat: u64, position: Position, now: Instant) {
        if beat != self.beat {
            (self.beat, self.beat_at) = (beat, now);
        }
        if position != self.position {
            (self.position, self.moved_at) = (position, now);
        }
    }

    /// Whether it has said that it is alive at all.
    fn has_spoken(&self) -> bool {
        self.beat > 0
    }
}

/// The process that hangs, if one does, and why it is thought to: one that gives no sign of life, or one that stands
/// behind the others, which have waited for it. `longest` is the longest step that was seen.
pub fn hanging(all: &[Seen], longest: Duration, now: Instant) -> Option<(usize, String)> {
    for (rank, seen) in all.iter().enumerate().filter(|(_, seen)| seen.has_spoken() && !seen.position.done) {
        let silent = now.duration_since(seen.beat_at);
        if silent >= SILENCE {
            let place = seen.position.words();
            return Some((rank, format!("has given no sign of life for {} s; it was {place}", silent.as_secs())));
        }
    }
    let patience = if longest.is_zero() { FIRST } else { WAIT.max(3 * longest) };
    let furthest = all.iter().map(|seen| seen.position.order()).max()?;
    let still = |seen: &Seen| now.duration_since(seen.moved_at) >= patience;
    if !all.iter().all(|seen| still(seen) && !seen.position.solo) {
        return None;
    }
    let (rank, behind) = all.iter().enumerate().find(|(_, seen)| seen.position.order() < furthest)?;
    let waited = now.duration_since(behind.moved_at).as_secs();
    Some((rank, format!("has been {} for {waited} s, while others wait for it", behind.position.words())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64, stage: u64, solo: bool) -> Position {
        Position { step, stage, solo, ..Position::default() }
    }

    /// Three processes that have been at these positions for so many seconds, all giving signs of life.
    fn found(positions: [Position; 3], seconds: u64, longest: u64) -> Option<usize> {
        let start = Instant::now();
        let mut all = vec![Seen::new(start); 3];
        for second in 0..=seconds {
            for (seen, position) in all.iter_mut().zip(&positions) {
                seen.note(second + 1, position.clone(), start + Duration::from_secs(second));
            }
        }
        hanging(&all, Duration::from_secs(longest), start + Duration::from_secs(seconds)).map(|(rank, _)| rank)
    }

    #[test]
    fn one_that_stands_behind_the_others_hangs_and_one_that_saves_does_not() {
        let waits = || at(5, 3, false);
        assert_eq!(found([waits(), at(5, 0, false), waits()], 25, 1), Some(1));
        assert_eq!(found([waits(), at(4, 9, false), waits()], 25, 1), Some(1));
        assert_eq!(found([waits(), at(5, 0, false), waits()], 15, 1), None, "not yet");
        assert_eq!(
            found([waits(), at(5, 0, false), waits()], 25, 9),
            None,
            "steps of 9 s may take three times as long"
        );
        assert_eq!(found([waits(), at(5, 0, false), waits()], 25, 0), None, "the first step may take longer");
        assert_eq!(found([waits(), waits(), waits()], 400, 1), None, "all compute");
        assert_eq!(found([at(4, 9, true), waits(), waits()], 400, 1), None, "rank 0 saves");
    }

    #[test]
    fn one_that_gives_no_sign_of_life_is_named() {
        let start = Instant::now();
        let mut all = vec![Seen::new(start); 2];
        let later = start + Duration::from_secs(12);
        all[0].note(1, at(3, 1, false), start);
        all[1].note(1, at(3, 2, false), start);
        all[1].note(2, at(3, 2, false), later);
        let (rank, why) = hanging(&all, Duration::from_secs(1), later).unwrap();
        assert_eq!(rank, 0);
        assert!(why.contains("12 s") && why.contains("in step 3"), "{why}");
        all[0].note(1, Position { done: true, ..at(3, 1, true) }, later);
        assert!(hanging(&all, Duration::from_secs(1), later).is_none(), "it has ended");
    }
}

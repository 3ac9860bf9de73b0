//! Fatal signals in native code: a word about where it happened, before the process dies.
//!
//! libtorch and the libraries below it run native code that can crash. What was under way is written down beforehand,
//! by [`note`]; the handler only writes it and lets the signal take its course.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// A place for one piece of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// What is being done, such as `in step 3`.
    Doing,
    /// Which part of it, such as `in the node `embed``. Cleared by a note of what is being done.
    Part,
    /// What the user can do.
    Advice,
}

/// A text that a signal handler may read at any moment. Bytes are atomic, so that a text that is being replaced is at
/// worst mixed.
struct Text<const N: usize> {
    length: AtomicUsize,
    bytes: [AtomicU8; N],
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self { length: AtomicUsize::new(0), bytes: [const { AtomicU8::new(0) }; N] }
    }

    fn set(&self, text: &str) {
        for (place, byte) in self.bytes.iter().zip(text.bytes()) {
            place.store(byte, Ordering::Relaxed);
        }
        self.length.store(text.len().min(N), Ordering::Release);
    }

    fn write(&self) {
        let mut copy = [0u8; N];
        let length = self.length.load(Ordering::Acquire);
        for (to, from) in copy.iter_mut().zip(&self.bytes).take(length) {
            *to = from.load(Ordering::Relaxed);
        }
        put(&copy[..length]);
    }
}

static DOING: Text<256> = Text::new();
static PART: Text<256> = Text::new();
static ADVICE: Text<1024> = Text::new();

/// Writes to stderr. It allocates nothing and takes no lock.
fn put(bytes: &[u8]) {
    // SAFETY: the pointer and the length are those of a live slice; write(2) may be called in a signal handler.
    unsafe {
        libc::write(2, bytes.as_ptr().cast(), bytes.len());
    }
}

/// Notes what is under way, for the case that it crashes.
pub fn note(place: Place, text: &str) {
    match place {
        Place::Doing => {
            PART.length.store(0, Ordering::Release);
            DOING.set(text);
        }
        Place::Part => PART.set(text),
        Place::Advice => ADVICE.set(text),
    }
}

const FATAL: [(libc::c_int, &[u8]); 5] = [
    (libc::SIGSEGV, b"SIGSEGV"),
    (libc::SIGBUS, b"SIGBUS"),
    (libc::SIGFPE, b"SIGFPE"),
    (libc::SIGILL, b"SIGILL"),
    (libc::SIGABRT, b"SIGABRT"),
];

extern "C" fn handler(signal: libc::c_int) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    // Another thread may crash as well; one of them tells.
    if !TOLD.swap(true, Ordering::Relaxed) {
        let name = FATAL.iter().find(|(number, _)| *number == signal).map_or(&b"a signal"[..], |(_, name)| name);
        put(b"\nerror: native code crashed (");
        put(name);
        put(b")");
        DOING.write();
        PART.write();
        put(b". This is a fault of mtlrun or of a library below it: please report it with the recipe and the command.\n");
        ADVICE.write();
    }
    // SAFETY: both may be called in a signal handler; with the default action the process ends as if there had been no
    // handler, and whoever started it sees the signal.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Lets fatal signals say what was under way. Call it once, before training.
pub fn listen() {
    for (signal, _) in FATAL {
        // SAFETY: an all-zero sigaction is a valid one without flags and with an empty mask; the handler calls only
        // what may be called in one. Rust gives its threads an alternate stack, which SA_ONSTACK uses where there is
        // one, so that an overflow of the stack can be told.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut() {
        static SHORT: Text<4> = Text::new();
        SHORT.set("abcdef");
        assert_eq!(SHORT.length.load(Ordering::Relaxed), 4);
        SHORT.set("xy");
        assert_eq!(SHORT.length.load(Ordering::Relaxed), 2);
        assert_eq!(SHORT.bytes[1].load(Ordering::Relaxed), b'y');
    }
}

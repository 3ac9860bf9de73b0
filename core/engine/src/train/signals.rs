//! Signals: the first that asks to stop is answered at once and saves, a second one leaves without saving.

use crate::ranks::Wish;
use mtl_recipe::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::{Handle, Signals as Incoming};
use signal_hook::{flag, low_level};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The exit status after a second signal: the steps since the last checkpoint are lost.
pub const LEFT: i32 = 3;

#[derive(Default)]
struct State {
    stop: AtomicI32,
    save: AtomicBool,
}

/// Listens for SIGINT, SIGTERM and SIGHUP, which stop a run, and for SIGUSR1, which saves it.
pub struct Signals {
    state: Arc<State>,
    handle: Handle,
}

/// Whether a signal was ignored when this program was started, as SIGHUP is under nohup.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn name(signal: i32) -> &'static str {
    low_level::signal_name(signal).unwrap_or("a signal")
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> Result<Self> {
        let mut wanted = vec![SIGINT, SIGTERM, SIGUSR1];
        wanted.extend(Some(SIGHUP).filter(|s| !is_ignored(*s)));
        let mut incoming = Incoming::new(wanted).context("listening for signals")?;
        // A file that grows past a limit would end the process; with a handler the write fails instead, and is
        // reported like any other.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).context("listening for signals")?;
        let state = Arc::new(State::default());
        let (seen, handle) = (state.clone(), incoming.handle());
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in incoming.forever() {
                if signal == SIGUSR1 {
                    seen.save.store(true, Ordering::SeqCst);
                    tracing::info!("{}: saving after this step, and going on", name(signal));
                } else if seen.stop.swap(signal, Ordering::SeqCst) == 0 {
                    tracing::info!("{}: saving after this step; once more to leave without saving", name(signal));
                } else {
                    tracing::warn!("{}: leaving without saving", name(signal));
                    low_level::exit(LEFT);
                }
            }
        })?;
        Ok(Self { state, handle })
    }

    /// What was asked for since the last time; a wish to stop stays.
    pub fn take(&self) -> Wish {
        let stop = self.state.stop.load(Ordering::SeqCst);
        Wish { stop: (stop != 0).then(|| 128 + stop as u8), save: self.state.save.swap(false, Ordering::SeqCst) }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
    }
}

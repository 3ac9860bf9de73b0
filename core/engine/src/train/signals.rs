//! Stopping on request: the first signal saves and stops, a second one exits at once.

use mtl_recipe::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Listens for SIGINT and SIGTERM.
pub struct Signals {
    which: Arc<AtomicUsize>,
}

impl Signals {
    /// Starts listening.
    pub fn listen() -> Result<Self> {
        let which = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order the first signal finds the flag unset and only sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, asked.clone())
                .and_then(|_| flag::register(signal, asked.clone()))
                .and_then(|_| flag::register_usize(signal, which.clone(), signal as usize))
                .context("listening for signals")?;
        }
        // A file that grows past a limit would end the process; with a handler the write fails instead, and is
        // reported like any other.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).context("listening for signals")?;
        Ok(Self { which })
    }

    /// The exit code that was asked for: 130 after SIGINT, 143 after SIGTERM.
    pub fn asked(&self) -> Option<u8> {
        match self.which.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }
}

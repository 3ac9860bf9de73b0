//! Processes that this program starts, and the signals that reach them.

use mtl_recipe::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::iterator::Signals;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often children are looked after.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Processes that train, and what a signal has asked for. Each is in a process group of its own: what a terminal sends to
/// this program is handed on, as often as it comes, so that a second Ctrl-C ends them as well.
#[derive(Default)]
pub struct Children {
    running: Mutex<Vec<Pid>>,
    signal: AtomicI32,
}

impl Children {
    /// Hands these signals on from here; `asks` says which of them ask to stop.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen(signals: &[i32], asks: fn(i32) -> bool) -> Result<Arc<Self>> {
        let children = Arc::new(Self::default());
        let mut signals = Signals::new(signals).context("listening for signals")?;
        let own = children.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if asks(signal) {
                    own.signal.store(signal, Ordering::SeqCst);
                }
                if let Some(signal) = Signal::from_named_raw(signal) {
                    own.send(signal);
                }
            }
        });
        Ok(children)
    }

    fn running(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal to all that run.
    pub fn send(&self, signal: Signal) {
        for child in self.running().iter() {
            // One that has just ended hears nothing any more.
            let _ = kill_process(*child, signal);
        }
    }

    /// The exit code that a signal has asked for.
    pub fn asked(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }

    /// Starts a process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, command: &mut Command) -> Result<Child> {
        let mut running = self.running();
        // A program that is killed takes its children along: they save, and can go on later.
        mtl_torch::end_with_parent(command);
        let child = command.process_group(0).spawn().context("starting a process")?;
        let pid = Pid::from_child(&child);
        running.push(pid);
        drop(running);
        if self.asked().is_some() {
            kill_process(pid, Signal::TERM).context("stopping a process")?;
        }
        Ok(child)
    }

    /// How a process has ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&self, child: &mut Child) -> Result<Option<ExitStatus>> {
        // Under the lock: a number that is free again is never sent a signal.
        let mut running = self.running();
        let status = child.try_wait().context("waiting for a process")?;
        if status.is_some() {
            let pid = Pid::from_child(child);
            running.retain(|other| *other != pid);
        }
        Ok(status)
    }

    /// Starts a process and waits for its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        let mut child = self.start(command)?;
        loop {
            if let Some(status) = self.ended(&mut child)? {
                return Ok(status);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

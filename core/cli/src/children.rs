//! The runs of a sweep as processes, and the signals that reach them.

use mtl_recipe::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a run is looked after.
const PAUSE: Duration = Duration::from_millis(50);

/// The runs that train, and what a signal has asked for. Each is in a process group of its own: what a terminal sends to
/// the sweep is handed on by the sweep, as often as it comes, so that a second Ctrl-C ends the runs as well.
#[derive(Default)]
pub(super) struct Running {
    children: Mutex<Vec<Pid>>,
    signal: AtomicI32,
}

impl Running {
    /// Hands signals on from here.
    pub(super) fn listen() -> Result<Arc<Self>> {
        let running = Arc::new(Self::default());
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listening for signals")?;
        let own = running.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                own.signal.store(signal, Ordering::SeqCst);
                for child in own.children().iter() {
                    // One that has just ended hears nothing any more.
                    let _ = kill_process(*child, Signal::TERM);
                }
            }
        });
        Ok(running)
    }

    fn children(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exit code that a signal has asked for.
    pub(super) fn asked(&self) -> Option<u8> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }

    /// Starts a run and waits for its end.
    pub(super) fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        let mut children = self.children();
        // A sweep that is killed takes its runs along: they save, and a second sweep goes on with them.
        mtl_torch::end_with_parent(command);
        let mut child = command.process_group(0).spawn().context("starting a run")?;
        let pid = Pid::from_child(&child);
        children.push(pid);
        drop(children);
        if self.asked().is_some() {
            kill_process(pid, Signal::TERM).context("stopping a run")?;
        }
        loop {
            // Under the lock: a number that is free again is never sent a signal.
            let mut children = self.children();
            if let Some(status) = child.try_wait().context("waiting for a run")? {
                children.retain(|other| *other != pid);
                return Ok(status);
            }
            drop(children);
            std::thread::sleep(PAUSE);
        }
    }
}

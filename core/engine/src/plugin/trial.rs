//! Opening an unknown file in another process first.
//!
//! Constructors of a library run while it is opened. One that panics ends the process, and one that loops never returns:
//! neither can be contained where it happens.

use super::{Headed, user_folder};
use mtl_recipe::files::{read_bounded, write_atomically};
use mtl_recipe::{Context, Error, Result, mistake};
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long opening a library may take.
const TIME: Duration = Duration::from_secs(10);

/// The most that is read of what the other process says.
const WORDS: u64 = 1 << 12;

/// The most lines of it that are shown.
const LINES: usize = 6;

/// What the other process prints last when all went well.
pub const OPENED: &str = "opened";

/// How unknown files are tried, and where what came of it is kept.
#[derive(Debug, Clone)]
pub struct Trial {
    program: PathBuf,
    arguments: Vec<String>,
    /// The folder of verdicts; without one every file is tried.
    verdicts: Option<PathBuf>,
}

/// How a trial ended.
enum Outcome {
    Opened,
    /// A signal ended the process, and why.
    Died(String),
    /// Anything else, and why.
    Refused(String),
    /// A fault in the code of the plugin, of which the process has told.
    Failed(String),
}

/// What is kept of a trial.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    /// The file that was tried.
    path: PathBuf,
    /// Why it cannot be opened.
    refused: Option<String>,
}

impl Trial {
    /// Tries files with that command, to which the file is added; it has to open the file and then to print [`OPENED`].
    /// Verdicts are kept in `$XDG_CACHE_HOME/mtlrun/plugins`.
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        let cache = user_folder("XDG_CACHE_HOME", ".cache");
        Self {
            program: program.into(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            verdicts: cache.map(|cache| cache.join("mtlrun/plugins")),
        }
    }

    /// Checks that a file with that SHA-256 can be opened. A file that is known is not tried again.
    ///
    /// # Errors
    /// A mistake that says what happened.
    pub fn passed(&self, path: &Path, hash: &str) -> Result<()> {
        if let Some(known) = self.kept(hash) {
            return told(path, known.refused, true);
        }
        self.anew(path, hash)
    }

    /// As [`passed`](Self::passed), whatever is known.
    ///
    /// # Errors
    /// A mistake that says what happened.
    pub fn anew(&self, path: &Path, hash: &str) -> Result<()> {
        let (refused, lasting) = match self.tried(path)? {
            Outcome::Opened => (None, true),
            Outcome::Died(reason) => (Some(reason), true),
            // What the machine or the libraries of the system lacked may be there the next time.
            Outcome::Refused(reason) => (Some(reason), false),
            Outcome::Failed(reason) => return Err(Error::failure(reason)),
        };
        let verdict = Verdict { path: path.to_owned(), refused };
        // Without a place for verdicts the file is tried again the next time.
        if let Some(file) = self.file(hash).filter(|_| lasting)
            && let Err(error) = write_atomically(&file, &serde_json::to_vec_pretty(&verdict)?)
        {
            tracing::info!("the plugin {} is tried each time: {error:#}", path.display());
        }
        told(path, verdict.refused, false)
    }

    /// The file of a verdict. It holds for programs of one header.
    fn file(&self, hash: &str) -> Option<PathBuf> {
        Some(self.verdicts.as_ref()?.join(format!("{hash}.{}.json", Headed::program())))
    }

    fn kept(&self, hash: &str) -> Option<Verdict> {
        serde_json::from_slice(&read_bounded(&self.file(hash)?, WORDS * 4).ok()?).ok()
    }

    fn tried(&self, path: &Path) -> Result<Outcome> {
        let mut words = tempfile::tempfile().context("making a file for what a plugin says")?;
        let mut result = tempfile::tempfile().context("making a file for what a plugin says")?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(path).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
        command.stdout(result.try_clone()?).stderr(words.try_clone()?);
        mtl_torch::end_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let end = Instant::now() + TIME;
        let status = loop {
            if let Some(status) = child.try_wait().context("waiting for the trial of a plugin")? {
                break Some(status);
            }
            if Instant::now() > end {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let said = part(&mut words, 0)?;
        // What the program says of itself when native code ends it is not about the plugin.
        let lines = said.lines().take_while(|line| !line.starts_with("error: native code"));
        let lines = lines.filter(|line| !line.starts_with("note: ")).take(LINES);
        let reason = lines.map(str::trim).collect::<Vec<_>>().join(" ");
        let said = if reason.is_empty() { String::new() } else { format!(". It said: {reason}") };
        let ended = "its code ended the process while it was opened";
        let Some(status) = status else {
            let seconds = TIME.as_secs();
            return Ok(Outcome::Refused(format!("it did not open within {seconds} s, and was ended{said}")));
        };
        let length = result.metadata()?.len();
        Ok(match (status.code(), status.signal()) {
            (Some(0), _) if part(&mut result, length.saturating_sub(WORDS))?.ends_with(OPENED) => Outcome::Opened,
            (Some(0), _) => Outcome::Refused(format!("{ended}{said}")),
            // The other process has said why.
            (Some(code @ (1 | 2)), _) if reason.starts_with("error: ") => {
                let reason = reason.trim_start_matches("error: ").to_owned();
                if code == 1 { Outcome::Failed(reason) } else { Outcome::Refused(reason) }
            }
            (_, Some(libc::SIGABRT)) => {
                Outcome::Died(format!("{ended} (aborted, as by a panic in a constructor){said}"))
            }
            (_, Some(_)) => Outcome::Died(format!("{ended} ({status}){said}")),
            _ => Outcome::Refused(format!("{ended} ({status}){said}")),
        })
    }
}

fn told(path: &Path, refused: Option<String>, known: bool) -> Result<()> {
    let Some(reason) = refused else { return Ok(()) };
    let again = match known {
        true => ". That was found before; mtlrun plugin check tries it anew",
        false => "",
    };
    if reason.contains(&path.display().to_string()) {
        mistake!("{reason}{again}");
    }
    mistake!("the plugin {} cannot be opened: {reason}{again}", path.display())
}

/// A part of a text, from a place on.
fn part(file: &mut std::fs::File, from: u64) -> Result<String> {
    file.seek(std::io::SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(WORDS).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

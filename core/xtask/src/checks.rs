//! The checks that every change has to pass, cheapest first.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::fault::UserFault;
use crate::needs;

/// One check: a command run in the repository root.
pub struct Step {
    name: &'static str,
    env: &'static [(&'static str, &'static str)],
    program: &'static str,
    args: &'static [&'static str],
}

/// The project's checks, in the order in which they run.
pub fn steps() -> [Step; 5] {
    let cargo = |name, env, args| Step { name, env, program: "cargo", args };
    [
        cargo("formatting", &[], &["fmt", "--all", "--check"]),
        cargo("lints", &[], &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
        cargo("cycles", &[], &["xtask", "cycles"]),
        cargo("tests", &[], &["test", "--workspace", "--locked"]),
        cargo("documentation", &[("RUSTDOCFLAGS", "-D warnings")], &["doc", "--workspace", "--no-deps", "--locked"]),
    ]
}

/// Refuses to start where rustfmt or clippy is not installed.
pub fn require_components() -> Result<()> {
    components(&needs::runs)
}

fn components(runs: &dyn Fn(&[&str]) -> bool) -> Result<()> {
    let missing: Vec<&str> = [("rustfmt", "fmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(_, subcommand)| !runs(&["cargo", subcommand, "--version"]))
        .map(|(component, _)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(UserFault(format!(
        "the checks need {}, which this Rust toolchain lacks; run `rustup component add rustfmt clippy`",
        missing.join(" and ")
    ))
    .into())
}

/// Runs the steps in `root`, each with `variables` as well, and stops at the first that fails.
pub fn run(root: &Path, steps: &[Step], variables: &[(&str, &OsStr)]) -> Result<()> {
    let all = Instant::now();
    for (index, step) in steps.iter().enumerate() {
        println!("[{}/{}] {}: {}", index + 1, steps.len(), step.name, step.command_line());
        let start = Instant::now();
        let status = Command::new(step.program)
            .args(step.args)
            .envs(step.env.iter().copied())
            .envs(variables.iter().copied())
            .current_dir(root)
            .status()
            .with_context(|| format!("cannot run {}", step.program))?;
        let seconds = start.elapsed().as_secs_f64();
        if !status.success() {
            bail!(
                "{} failed after {seconds:.1} s ({status}); to repeat it, in {}: {}",
                step.name,
                root.display(),
                step.command_line()
            );
        }
        println!("[{}/{}] {}: passed in {seconds:.1} s", index + 1, steps.len(), step.name);
    }
    println!("All {} checks passed in {:.1} s", steps.len(), all.elapsed().as_secs_f64());
    Ok(())
}

impl Step {
    /// The command as it is typed into a shell.
    fn command_line(&self) -> String {
        let env = self.env.iter().map(|(name, value)| format!("{name}=\"{value}\""));
        let words = [self.program].into_iter().chain(self.args.iter().copied()).map(String::from);
        env.chain(words).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &'static str, program: &'static str, args: &'static [&'static str]) -> Step {
        Step { name, env: &[("WORD", "two words")], program, args }
    }

    #[test]
    fn the_first_failure_stops_the_run_and_tells_how_to_repeat_it() {
        let dir = tempfile::tempdir().unwrap();
        let steps = [
            step("first", "touch", &["first"]),
            step("second", "false", &["--now"]),
            step("third", "touch", &["third"]),
        ];
        let error = run(dir.path(), &steps, &[]).unwrap_err().to_string();
        assert!(error.starts_with("second failed"), "{error}");
        assert!(error.ends_with("WORD=\"two words\" false --now"), "{error}");
        assert!(dir.path().join("first").exists());
        assert!(!dir.path().join("third").exists());
    }

    #[test]
    fn a_step_sees_its_variables() {
        let dir = tempfile::tempdir().unwrap();
        let steps = [step("only", "sh", &["-c", "test \"$WORD$MORE\" = 'two wordsandmore'"])];
        run(dir.path(), &steps, &[("MORE", OsStr::new("andmore"))]).unwrap();
    }

    #[test]
    fn a_missing_component_is_named_with_its_remedy() {
        let error = components(&|command| command[1] == "fmt").unwrap_err();
        assert!(error.to_string().contains("the checks need clippy, which"), "{error}");
        assert!(error.to_string().contains("rustup component add rustfmt clippy"), "{error}");
        assert!(error.downcast_ref::<UserFault>().is_some());
        components(&|_| true).unwrap();
    }

    #[test]
    fn the_documentation_step_is_shown_as_it_is_typed() {
        let [.., documentation] = steps();
        assert_eq!(
            documentation.command_line(),
            "RUSTDOCFLAGS=\"-D warnings\" cargo doc --workspace --no-deps --locked"
        );
    }
}

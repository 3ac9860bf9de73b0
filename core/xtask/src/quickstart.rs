//! From a fresh clone to a trained network, on faces of the project's own making.

use crate::fault::UserFault;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Builds the program, trains the quickstart recipe with `arguments` added, and draws a contact sheet.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    step(root, "cargo", &["build", "--release", "--locked"])?;
    let start = Instant::now();
    let after = arguments.iter().position(|a| a == "--out").and_then(|at| arguments.get(at + 1));
    let given = after.map(String::as_str).or_else(|| arguments.iter().find_map(|a| a.strip_prefix("--out=")));
    let run = match given {
        Some(folder) => folder.to_owned(),
        None => {
            // Named as the program names its runs, so that the newest is the last one.
            format!("runs/quickstart/{}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%SZ"))
        }
    };
    let mut train = vec!["recipes/quickstart.toml"];
    train.extend(arguments.iter().map(String::as_str));
    if given.is_none() {
        train.extend(["--out", &run]);
    }
    step(root, "target/release/mtlrun", &train)?;
    // In a folder of the run, so that the run can still be replaced: it holds nothing that it has not made.
    let sheet = format!("{run}/eval/faces.png");
    let people = ["data", "render", "--identities", "8", "--first", "1000000", "--size", "112", "--sheet", &sheet];
    step(root, "target/release/mtlrun", &people)?;
    println!(
        "\nQuickstart done, {:.0} s after the build. Open next:\n  \
         {sheet}   people that the network never saw, by age\n  \
         {run}/eval/   verification and age estimation in full\n  \
         tensorboard --logdir {run}/tb   curves, pictures and the graph\n  \
         recipes/quickstart.toml   change a line and run target/release/mtlrun recipes/quickstart.toml\n  \
         recipes/quickstart_age.toml   ageing on these weights: target/release/mtlrun recipes/quickstart_age.toml",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn step(root: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    println!("$ {program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    let failed = format!("{program} {} failed ({status})", arguments.join(" "));
    match status.code() {
        Some(0) => Ok(()),
        // The program has already explained the user's mistake; the exit code says so too.
        Some(2) => Err(UserFault(failed).into()),
        _ => bail!(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named() {
        let error = step(Path::new("."), "false", &["now"]).unwrap_err().to_string();
        assert!(error.starts_with("false now failed"), "{error}");
    }
}

//! The tools and the machine that the set-up needs, checked together so that one message names all that is missing.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::fault::UserFault;

/// Fails with one message that lists every missing need. Python is needed only for a download.
pub fn check(download: bool) -> Result<()> {
    let cxx = compiler();
    let missing = missing(&runs, cxx.as_deref(), download);
    if missing.is_empty() {
        return Ok(());
    }
    Err(UserFault(format!("the set-up needs what this machine lacks:\n  - {}", missing.join("\n  - "))).into())
}

/// The C++ compiler that CXX names: it may be a wrapper and options, such as `ccache g++ -pipe`.
pub fn compiler() -> Option<String> {
    std::env::var("CXX").ok().filter(|value| !value.trim().is_empty())
}

/// The libtorch that is fetched exists for one platform only.
pub fn check_platform() -> Result<()> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(());
    }
    Err(UserFault(format!(
        "only Linux on x86_64 with glibc is supported; this xtask was built for {} on {}",
        std::env::consts::OS,
        std::env::consts::ARCH
    ))
    .into())
}

/// Whether a command starts and ends well.
pub fn runs(command: &[&str]) -> bool {
    Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn missing(runs: &dyn Fn(&[&str]) -> bool, cxx: Option<&str>, download: bool) -> Vec<String> {
    let mut missing = Vec::new();
    missing.extend(compiler_fault(runs, cxx));
    if download {
        missing.extend(pip_fault(runs));
    }
    missing
}

fn compiler_fault(runs: &dyn Fn(&[&str]) -> bool, cxx: Option<&str>) -> Option<String> {
    if let Some(cxx) = cxx {
        let command: Vec<&str> = cxx.split_whitespace().chain(["--version"]).collect();
        return (!runs(&command)).then(|| {
            format!("a C++ compiler: CXX is `{cxx}`, which does not run; point CXX at a working compiler or unset it")
        });
    }
    // The build asks for `c++` by that name, so another compiler only helps through CXX.
    if runs(&["c++", "--version"]) {
        return None;
    }
    Some(if runs(&["g++", "--version"]) {
        "a C++ compiler named `c++`: only `g++` was found; run `export CXX=g++`".into()
    } else {
        "a C++ compiler (`c++`, or the one CXX names); on Debian: `apt-get install g++`".into()
    })
}

fn pip_fault(runs: &dyn Fn(&[&str]) -> bool) -> Option<String> {
    if runs(&["python3", "-m", "pip", "--version"]) {
        None
    } else if runs(&["python3", "--version"]) {
        Some("pip for python3, which fetches libtorch; on Debian: `apt-get install python3-pip`".into())
    } else {
        Some("python3 with pip, which fetches libtorch; on Debian: `apt-get install python3 python3-pip`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only<'a>(present: &'a [&'a str]) -> impl Fn(&[&str]) -> bool + 'a {
        move |command| present.contains(&command.join(" ").as_str())
    }

    #[test]
    fn all_missing_tools_are_named_at_once() {
        let missing = missing(&only(&[]), None, true);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].contains("apt-get install g++"), "{missing:?}");
        assert!(missing[1].contains("apt-get install python3 python3-pip"), "{missing:?}");
    }

    #[test]
    fn python_is_needed_only_for_a_download() {
        let tools = ["c++ --version"];
        assert_eq!(missing(&only(&tools), None, false), Vec::<String>::new());
        assert_eq!(missing(&only(&tools), None, true).len(), 1);
    }

    #[test]
    fn python_without_pip_asks_for_pip_alone() {
        let found = missing(&only(&["c++ --version", "python3 --version"]), None, true);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("pip for python3"), "{found:?}");
    }

    #[test]
    fn cxx_with_a_wrapper_counts_and_a_dead_cxx_hides_nothing() {
        let tools = ["c++ --version", "ccache g++ --version"];
        assert!(missing(&only(&tools), Some("ccache g++"), false).is_empty());
        let found = missing(&only(&tools), Some("/gone/g++"), false);
        assert!(found[0].contains("/gone/g++"), "{found:?}");
    }

    #[test]
    fn g_plus_plus_alone_is_told_how_to_be_used() {
        let found = missing(&only(&["g++ --version"]), None, false);
        assert!(found[0].contains("export CXX=g++"), "{found:?}");
    }

    #[test]
    fn a_program_that_does_not_exist_does_not_run() {
        assert!(!runs(&["mtlrun-no-such-program"]));
        assert!(!runs(&["false"]));
        assert!(runs(&["true"]));
    }
}

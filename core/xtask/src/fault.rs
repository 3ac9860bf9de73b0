//! Tells what the user has to put right apart from what failed.

use std::fmt;
use std::process::ExitCode;

/// Something only the user can put right: a missing tool, an unsuitable machine, a path in the way.
#[derive(Debug)]
pub struct UserFault(pub String);

impl fmt::Display for UserFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserFault {}

/// 2 for a [`UserFault`], as clap has it for a wrong command line; 1 for every other error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if is_user_fault(error) { 2 } else { 1 })
}

fn is_user_fault(error: &anyhow::Error) -> bool {
    error.downcast_ref::<UserFault>().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_user_fault_is_known_below_added_context() {
        let fault: anyhow::Result<()> = Err(UserFault("no g++".into()).into());
        assert!(is_user_fault(&fault.context("while setting up").unwrap_err()));
        assert!(!is_user_fault(&anyhow!("the disk is full")));
    }
}

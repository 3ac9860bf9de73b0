//! Who can mend what went wrong.

/// Who can mend an error; decides the exit status of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The user: a missing file, a wrong key, a bad line. Exit status 2.
    Mistake,
    /// Nobody at once: a full disk, a lost connection, numbers that diverge. Exit status 1.
    Failure,
    /// A programmer: a component panicked. Exit status 1.
    Panic,
}

impl Code {
    /// The exit status of a program that ends with such an error.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Mistake => 2,
            Self::Failure | Self::Panic => 1,
        }
    }
}

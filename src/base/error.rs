//! What went wrong, which exit code it gives, and how to react.
//!
//! An [`Error`] says three things: the [`Kind`] (which part of the program, and so which exit code), the [`Class`]
//! (what the caller does about it) and one line of text that names the place and the remedy. Causes are chained.

use std::fmt;

/// Result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which part failed. Decides the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Command line or configuration file. Exit code 2.
    Config,
    /// Model: file missing, wrong hash, not a detector, not as precise as asked for. Exit code 3.
    Model,
    /// Camera, file, external program, picture. Exit code 4.
    Source,
    /// Events could not be delivered. Exit code 5.
    Delivery,
    /// The machine: memory, threads, disk. Exit code 1.
    System,
}

impl Kind {
    /// The program's exit code for an error of this kind that ends it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Kind::System => 1,
            Kind::Config => 2,
            Kind::Model => 3,
            Kind::Source => 4,
            Kind::Delivery => 5,
        }
    }
}

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again later, with back-off.
    Retry,
    /// Continue with less: skip this frame, picture or part.
    Degrade,
    /// Log, flush, exit; the supervisor restarts us.
    Fatal,
}

/// An error of the program: one line for people, a kind and a class for the code.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    class: Class,
    text: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A fatal error. `text` is one line: what we were doing, with what, and what the user can do about it.
    pub fn fatal(kind: Kind, text: impl Into<String>) -> Self {
        Error { kind, class: Class::Fatal, text: text.into(), source: None }
    }

    /// An error that may go away by itself.
    pub fn retry(kind: Kind, text: impl Into<String>) -> Self {
        Error { kind, class: Class::Retry, text: text.into(), source: None }
    }

    /// An error that costs one frame, picture or part.
    pub fn degrade(kind: Kind, text: impl Into<String>) -> Self {
        Error { kind, class: Class::Degrade, text: text.into(), source: None }
    }

    /// The same error with its cause, which is printed after the text.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Which part failed.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The same error, made fatal: for a caller that cannot retry (a recording, a single picture).
    #[must_use]
    pub fn into_fatal(mut self) -> Self {
        self.class = Class::Fatal;
        self
    }
}

impl fmt::Display for Error {
    /// The text and its causes on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", OneLine(&self.text))?;
        let mut cause: Option<&dyn std::error::Error> = self.source.as_ref().map(|s| &**s as _);
        while let Some(error) = cause {
            write!(f, ": {}", OneLine(&error.to_string()))?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Line breaks become "; ", so that every error is one line in every log.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.0.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            f.write_str(line)?;
        }
        Ok(())
    }
}

/// The error for a file or folder that cannot be written.
pub(crate) fn cannot_write(path: &std::path::Path, error: std::io::Error) -> Error {
    let text = format!(
        "'{}' cannot be written: check the path, its permissions and the free disk space",
        path.display()
    );
    Error::fatal(Kind::System, text).caused_by(error)
}

/// Whether the process, or the machine, has no file descriptor left. That can pass.
pub(crate) fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_causes_are_one_line() {
        let inner = std::io::Error::other("first\n  second\n");
        let error = Error::fatal(Kind::Source, "open 'x'").caused_by(inner);
        assert_eq!(error.to_string(), "open 'x': first; second");
    }

    #[test]
    fn exit_codes_differ_and_are_not_zero() {
        let codes =
            [Kind::System, Kind::Config, Kind::Model, Kind::Source, Kind::Delivery].map(Kind::exit_code);
        assert_eq!(codes, [1, 2, 3, 4, 5]);
    }
}

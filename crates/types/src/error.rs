//! The one error shape: a kind, what was being done to which object, and the cause.
//!
//! The kind tells the caller what to do; the context tells a person what happened. Exit codes belong to
//! kinds and are kept here so that one table, tested once, serves every front end.

use std::{error::Error as StdError, fmt, io};

/// What went wrong, as far as the caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The command line is wrong.
    Usage,
    /// No such image, volume, snapshot or chunk.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Served, locked, or needed by others; the message names them.
    Busy,
    /// Bad input: an impossible size, a bad name, a broken archive.
    Invalid,
    /// Stored data does not match its hash or checksum.
    Corrupt,
    /// The disk or the quota is full; nothing was half done.
    NoSpace,
    /// A format or feature that this build does not know.
    Unsupported,
    /// The operating system said no.
    Io,
    /// A bug.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of its exit code.
    pub const ALL: [ErrorKind; 10] = [
        ErrorKind::Usage,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::Busy,
        ErrorKind::Invalid,
        ErrorKind::Corrupt,
        ErrorKind::NoSpace,
        ErrorKind::Unsupported,
        ErrorKind::Io,
        ErrorKind::Internal,
    ];

    /// The exit code of a process that ends with this kind.
    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::AlreadyExists => 4,
            ErrorKind::Busy => 5,
            ErrorKind::Invalid => 6,
            ErrorKind::Corrupt => 7,
            ErrorKind::NoSpace => 8,
            ErrorKind::Unsupported => 9,
            ErrorKind::Io => 10,
            ErrorKind::Internal => 70,
        }
    }

    /// The kind as it is written in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Usage => "usage",
            ErrorKind::NotFound => "not_found",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::Busy => "busy",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::NoSpace => "no_space",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Io => "io",
            ErrorKind::Internal => "internal",
        }
    }

    /// The kind that an error of the operating system has: a full disk or quota is `NoSpace`, everything else `Io`.
    pub fn of_io(error: &io::Error) -> ErrorKind {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        }
    }
}

/// An error of any library crate of Siltstone. One pointer wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of anything that can fail in Siltstone.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that starts here. `message` says what failed on which object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// An error caused by another one.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), source: Some(source.into()) }))
    }

    /// An error of the operating system while `message` was being done.
    pub fn io(message: impl Into<String>, source: io::Error) -> Error {
        Error::with_source(ErrorKind::of_io(&source), message, source)
    }

    /// Stored data that does not match its hash or checksum.
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, message)
    }

    /// Bad input.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// A bug.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, message)
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the operating system said, where it was the cause.
    pub fn os_error(&self) -> Option<i32> {
        let mut cause = self.source();
        while let Some(at) = cause {
            if let Some(error) = at.downcast_ref::<io::Error>() {
                return error.raw_os_error();
            }
            cause = at.source();
        }
        None
    }

    /// This error as the cause of a wider one of the same kind.
    pub fn context(self, message: impl Into<String>) -> Error {
        Error::with_source(self.kind(), message, self)
    }

    /// The whole chain on one line, outermost first, joined by `: `.
    pub fn chain(&self) -> String {
        let mut line = self.0.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.as_str(), self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Says what was being done when a result failed.
pub trait Context<T> {
    /// Wraps the error, if there is one, in `message`; the kind stays, or is derived from the operating system's error.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.context(message()))
    }
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::io(message(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_design() {
        let codes: Vec<u8> = ErrorKind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes, [2, 3, 4, 5, 6, 7, 8, 9, 10, 70]);
    }

    #[test]
    fn a_full_disk_is_no_space_and_the_chain_reads_outermost_first() {
        let full = io::Error::from_raw_os_error(28);
        let error = Err::<(), _>(full).context(|| "cannot append to pack 7".into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let error = error.context("cannot build image debian");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.chain().starts_with("cannot build image debian: cannot append to pack 7: "));
    }
}

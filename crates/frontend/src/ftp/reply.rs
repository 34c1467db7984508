//! What clients are told: a code and a text, and which of them an error is.

use std::io;

/// An answer, with the ends of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    code: u16,
    bytes: Vec<u8>,
}

impl Reply {
    /// An answer of one line; the text has no control characters.
    pub(super) fn new(code: u16, text: impl AsRef<[u8]>) -> Reply {
        let bytes = [format!("{code} ").as_bytes(), text.as_ref(), b"\r\n"].concat();
        Reply { code, bytes }
    }

    /// An answer of several lines; those between the first and the last are indented.
    pub(super) fn lines(code: u16, first: &str, between: &[impl AsRef<[u8]>], last: &str) -> Reply {
        let mut bytes = format!("{code}-{first}\r\n").into_bytes();
        for line in between {
            bytes.push(b' ');
            bytes.extend_from_slice(line.as_ref());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(&Reply::new(code, last).bytes);
        Reply { code, bytes }
    }

    /// What went wrong, in words that tell nothing of this machine.
    pub(super) fn of_error(error: &io::Error) -> Reply {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::NotFound => Reply::new(550, "No such file or directory."),
            Kind::PermissionDenied => Reply::new(550, "Permission denied."),
            Kind::AlreadyExists => Reply::new(550, "It exists already."),
            Kind::NotADirectory => Reply::new(550, "Not a directory."),
            Kind::IsADirectory => Reply::new(550, "It is a directory."),
            Kind::DirectoryNotEmpty => Reply::new(550, "The directory is not empty."),
            Kind::InvalidInput => Reply::new(550, "Not possible with that."),
            Kind::InvalidFilename => Reply::new(553, "That name is too long."),
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
                Reply::new(452, "The volume is full.")
            }
            Kind::ReadOnlyFilesystem => Reply::new(550, "The volume is read-only."),
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::NotConnected
            | Kind::UnexpectedEof
            | Kind::TimedOut => Reply::new(426, "The data connection broke off."),
            _ => Reply::new(451, "The server or its volume failed."),
        }
    }

    pub(super) fn code(&self) -> u16 {
        self.code
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

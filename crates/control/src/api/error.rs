//! What an operation answers when it failed: a code for programs, a sentence for people, and what
//! to do.

use std::fmt;

use block::InvalidName;
use block::size::Human;
use pool::PoolError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;

/// What kind of failure; each calls for another reaction of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request itself is wrong.
    Invalid,
    /// What was named doesn't exist.
    NotFound,
    /// It exists already.
    Exists,
    /// Refused to protect data, until named explicitly.
    Refused,
    /// Not enough room, or too few failure domains with room.
    NoSpace,
    /// Too few votes present.
    NoQuorum,
    /// Another supervisor owns the pool.
    NotOwner,
    /// The pool or volume is suspended.
    Suspended,
    /// Something else holds it: mounted, exported, in use.
    Busy,
    /// The engine isn't there (it is being restarted).
    Unavailable,
    /// A disk or the system failed underneath.
    Io,
    /// A defect of etherpool.
    Internal,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [ErrorCode; 12] = [
        ErrorCode::Invalid,
        ErrorCode::NotFound,
        ErrorCode::Exists,
        ErrorCode::Refused,
        ErrorCode::NoSpace,
        ErrorCode::NoQuorum,
        ErrorCode::NotOwner,
        ErrorCode::Suspended,
        ErrorCode::Busy,
        ErrorCode::Unavailable,
        ErrorCode::Io,
        ErrorCode::Internal,
    ];

    /// The HTTP status that carries it.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorCode::Invalid => 400,
            ErrorCode::Refused => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::Exists | ErrorCode::Busy | ErrorCode::NotOwner => 409,
            ErrorCode::NoSpace => 507,
            ErrorCode::NoQuorum | ErrorCode::Suspended | ErrorCode::Unavailable => 503,
            ErrorCode::Io => 502,
            ErrorCode::Internal => 500,
        }
    }

    /// The exit code of a command that failed with it.
    pub fn exit(self) -> Exit {
        match self {
            ErrorCode::Invalid => Exit::Usage,
            ErrorCode::NotFound => Exit::NotFound,
            ErrorCode::Exists => Exit::Exists,
            ErrorCode::Refused => Exit::Refused,
            ErrorCode::NoQuorum
            | ErrorCode::Suspended
            | ErrorCode::Unavailable
            | ErrorCode::Busy => Exit::Unavailable,
            ErrorCode::NoSpace | ErrorCode::NotOwner | ErrorCode::Io | ErrorCode::Internal => {
                Exit::Failure
            }
        }
    }
}

/// A failed operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiError {
    /// The kind.
    pub code: ErrorCode,
    /// What failed, on what.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl ApiError {
    /// Without a remedy.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), remedy: None }
    }

    /// With what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> ApiError {
        self.remedy = Some(remedy.into());
        self
    }

    /// The engine's process isn't connected.
    pub fn engine_away() -> ApiError {
        ApiError::new(ErrorCode::Unavailable, "the engine process does not answer")
            .remedy("it is restarted by the supervisor; see its log if this lasts")
    }

    /// The FTP process isn't there just now.
    pub fn ftp_away() -> ApiError {
        ApiError::new(ErrorCode::Unavailable, "the process that serves FTP does not answer")
            .remedy("it is restarted by the supervisor, and serves again by itself; see its log if this lasts")
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> ApiError {
        ApiError::new(ErrorCode::Invalid, error.to_string())
    }
}

/// The one place where the engine's errors become the API's.
impl From<PoolError> for ApiError {
    fn from(error: PoolError) -> ApiError {
        let code = match &error {
            PoolError::NotFound { .. } => ErrorCode::NotFound,
            PoolError::Exists { .. } | PoolError::Namesake { .. } => ErrorCode::Exists,
            PoolError::ReadOnly { .. } => ErrorCode::Refused,
            PoolError::Invalid { .. } => ErrorCode::Invalid,
            PoolError::Refused { .. } | PoolError::InUse { .. } => ErrorCode::Refused,
            PoolError::NoSpace { .. } => ErrorCode::NoSpace,
            PoolError::NoQuorum { .. } => ErrorCode::NoQuorum,
            PoolError::NotOwner { .. } => ErrorCode::NotOwner,
            PoolError::Suspended { .. } => ErrorCode::Suspended,
            PoolError::Io { .. } => ErrorCode::Io,
        };
        let (what, remedy) = match error {
            PoolError::NotFound { what, name, remedy } => {
                (format!("{what} `{name}` is not known here"), remedy)
            }
            PoolError::Invalid { why, remedy } => (why, remedy),
            PoolError::Refused { disk, why, remedy } => {
                (format!("disk {disk} refused: {why}"), remedy)
            }
            PoolError::ReadOnly { pool } => (
                format!("pool {pool} was imported read-only"),
                format!(
                    "to change it: `etherpool pool release {pool}`, `etherpool pool import {pool}`"
                ),
            ),
            PoolError::NotOwner { pool, owner, remedy } => {
                (format!("pool {pool} belongs to {owner}"), remedy)
            }
            PoolError::InUse { pool, owner, heard, remedy } => {
                (format!("pool {pool} is in use by {owner}, which was heard {heard} ago"), remedy)
            }
            PoolError::Namesake { name, id, other, remedy } => (
                format!(
                    "pool {name} ({id}) stays closed: another pool of this name is open here ({other})"
                ),
                remedy,
            ),
            PoolError::NoSpace { needed_bytes, free_bytes, remedy } => (
                format!(
                    "not enough space: {} wanted, {} can be had",
                    Human(needed_bytes),
                    Human(free_bytes)
                ),
                remedy,
            ),
            PoolError::Exists { what, name } => {
                return ApiError::new(code, format!("{what} `{name}` exists already"))
                    .remedy("choose another name");
            }
            other => return ApiError::new(code, other.to_string()),
        };
        ApiError::new(code, what).remedy(remedy)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        for error in
            [ApiError::engine_away(), ApiError::new(ErrorCode::NoSpace, "pool cluster has no room")]
        {
            let text = serde_json::to_string(&error).unwrap();
            assert_eq!(serde_json::from_str::<ApiError>(&text).unwrap(), error);
        }
        assert_eq!(serde_json::to_string(&ErrorCode::NoQuorum).unwrap(), "\"no-quorum\"");
    }

    #[test]
    fn the_manual_has_every_code() {
        let page = include_str!("../../../../docs/api.md");
        for code in ErrorCode::ALL {
            let word = serde_json::to_string(&code).unwrap().replace('"', "`");
            let row = format!("| {word} | {} | {} |", code.http_status(), code.exit().code());
            assert!(page.contains(&row), "docs/api.md has no row {row}");
        }
    }
}

//! How a command fails: an exit code for scripts, a sentence for people, and what to do.

use std::io;

use control::api::{ApiError, ErrorCode};
use control::exit::Exit;

use super::output::plain;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub exit: Exit,
    /// What failed and what to do, as in the API.
    pub error: ApiError,
}

impl Failure {
    /// The arguments are wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        ApiError::new(ErrorCode::Invalid, message).into()
    }

    /// Refused until confirmed.
    pub fn refused(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
        ApiError::new(ErrorCode::Refused, message).remedy(remedy).into()
    }

    /// What was named doesn't exist.
    pub fn not_found(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
        ApiError::new(ErrorCode::NotFound, message).remedy(remedy).into()
    }

    /// Nobody answers who could do it.
    pub fn not_running(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
        let error = ApiError::new(ErrorCode::Unavailable, message).remedy(remedy);
        Failure { exit: Exit::NotRunning, error }
    }

    /// A file or directory that was named can't be used: a wrong argument, unless it failed underneath.
    pub fn of_file(message: impl Into<String>, error: &io::Error) -> Failure {
        let code = if is_about_the_name(error) { ErrorCode::Invalid } else { ErrorCode::Io };
        ApiError::new(code, message).into()
    }

    /// The same, with what to do.
    pub fn remedy(self, remedy: impl Into<String>) -> Failure {
        Failure { error: self.error.remedy(remedy), ..self }
    }

    /// Tells it on standard error.
    pub fn print(&self, json: bool) {
        eprintln!("{}", plain(&self.text(json)));
    }

    /// As it is told: a line of JSON, or lines for people.
    pub fn text(&self, json: bool) -> String {
        let message = &self.error.message;
        if json {
            return serde_json::to_string(&self.error).unwrap_or_else(|_| message.clone());
        }
        match &self.error.remedy {
            Some(remedy) => format!("etherpool: {message}\n  to do: {remedy}"),
            None => format!("etherpool: {message}"),
        }
    }
}

/// Whether another name would help: nothing is there, something else is, or it isn't for who asks.
pub fn is_about_the_name(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AlreadyExists, InvalidData, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    let names =
        [NotFound, PermissionDenied, IsADirectory, NotADirectory, AlreadyExists, InvalidData];
    names.contains(&error.kind())
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure { exit: error.code.exit(), error }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        failure.error
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        match error.downcast::<ApiError>() {
            Ok(error) => error.into(),
            Err(error) => ApiError::new(ErrorCode::Internal, format!("{error:#}")).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_what_to_do_and_carry_their_code() {
        let failure = Failure::refused("3 disks would be overwritten", "confirm with --yes");
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(
            failure.text(false),
            "etherpool: 3 disks would be overwritten\n  to do: confirm with --yes"
        );
        assert_eq!(
            failure.text(true),
            r#"{"code":"refused","message":"3 disks would be overwritten","remedy":"confirm with --yes"}"#
        );
    }

    #[test]
    fn an_api_error_keeps_its_code_through_anyhow() {
        let error = anyhow::Error::from(ApiError::new(ErrorCode::NotFound, "no such pool"));
        assert_eq!(Failure::from(error).exit, Exit::NotFound);
        let error = anyhow::anyhow!("inner").context("outer");
        assert_eq!(Failure::from(error).error.message, "outer: inner");
    }
}

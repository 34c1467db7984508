//! How a command fails: an exit code for scripts, a sentence for people, and what to do.

use std::io;

use block::InvalidName;
use client::Misnamed;
use control::api::{ApiError, ErrorCode};
use control::exit::Exit;
use tls::ConnectError;

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

impl From<InvalidName> for Failure {
    fn from(error: InvalidName) -> Failure {
        ApiError::from(error).into()
    }
}

/// The one place where why a supervisor doesn't answer becomes a command's failure.
impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        use client::{Address, Error};
        let message = error.to_string();
        match error {
            Error::Refused(error) => error.into(),
            Error::Invalid(_) => Failure::usage(message),
            Error::Unreachable {
                address: Address::Socket(socket),
                source: ConnectError::Unreachable(source),
            } if source.kind() == io::ErrorKind::PermissionDenied => {
                let message =
                    format!("no permission to use the supervisor's socket {}", socket.display());
                Failure::not_running(message, "run the command as root")
            }
            Error::Unreachable { address: Address::Socket(_), .. } => Failure::not_running(
                message,
                "start one (`etherpool supervisor`, or `etherpool lab up` to try things), or name its socket with --socket",
            ),
            Error::Unreachable { address: Address::Remote(remote), source } => {
                Failure::not_running(
                    format!(
                        "no supervisor that is to be trusted answers at {} ({source})",
                        remote.url
                    ),
                    "see that it listens there ([api] of supervisor.toml), that its certificate names this host, and that --ca is whom it is of",
                )
            }
            Error::Files(_) => Failure::usage(message).remedy(
                "correct --certificate, --certificate-key and --ca, or what names these files",
            ),
            Error::CertificateRefused { .. } => Failure::refused(
                message,
                "show one that is valid, of an authority in client-ca of supervisor.toml there",
            ),
            Error::NoSupervisor { .. } => Failure::not_running(
                message,
                "name the socket of a supervisor with --socket, or its address with --api",
            ),
            Error::Late { asked, .. } => {
                let look = match &asked.pool {
                    Some(pool) => format!("`etherpool status` and `etherpool pool show {pool}`"),
                    None => "`etherpool status` and the supervisor's log".to_owned(),
                };
                ApiError::new(ErrorCode::Unavailable, message)
                    .remedy(format!(
                        "see {look} for what it waits for; --timeout SECONDS waits longer"
                    ))
                    .into()
            }
            Error::Ended { asked, .. } => ApiError::new(ErrorCode::Unavailable, message)
                .remedy(match asked.changes {
                    true => "see `etherpool status` for how far it came, then try again",
                    false => "see `etherpool status`, then try again",
                })
                .into(),
            Error::NotUnderstood(_) => ApiError::new(ErrorCode::Internal, message)
                .remedy("check that the supervisor runs the same version as this command")
                .into(),
        }
    }
}

impl From<Misnamed> for Failure {
    fn from(error: Misnamed) -> Failure {
        let failure = Failure::usage(error.to_string());
        match error {
            Misnamed::Unreadable { .. } | Misnamed::File { .. } => failure,
            Misnamed::Url { .. } => failure.remedy(
                "write it as https://HOST:PORT, as `listen` of [api] in supervisor.toml has it there",
            ),
            Misnamed::Nameless { .. } => failure.remedy(
                "name their files by --certificate and --certificate-key, or in the environment, or in \
                 ~/.config/etherpool/client.toml",
            ),
        }
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

    /// Scripts go by the codes, and people by what is said: each failure of a client has its own.
    #[test]
    fn why_a_supervisor_does_not_answer_says_what_to_do() {
        use client::{Address, Error, Named};
        use control::api::Asked;
        let socket = || Address::Socket("/s".into());
        let unreachable = |kind: io::ErrorKind| Error::Unreachable {
            address: socket(),
            source: ConnectError::Unreachable(kind.into()),
        };
        let late = |method, path| {
            let (asked, limit) = (Asked::of(method, path), std::time::Duration::from_secs(7));
            Error::Late { asked, address: socket(), limit }
        };
        let ended = |method| Error::Ended { asked: Asked::of(method, "/v2/x"), address: socket() };
        let busy = ApiError::new(ErrorCode::Busy, "m").remedy("its own");
        for (error, exit, message, remedy) in [
            (unreachable(io::ErrorKind::NotFound), Exit::NotRunning, "answers on /s", "--socket"),
            (
                unreachable(io::ErrorKind::PermissionDenied),
                Exit::NotRunning,
                "socket /s",
                "as root",
            ),
            (
                late("GET", "/v2/pools/p"),
                Exit::Unavailable,
                "within 7 s",
                "`etherpool pool show p`",
            ),
            (late("POST", "/v2/pools"), Exit::Unavailable, "and be done", "supervisor's log"),
            (ended("POST"), Exit::Unavailable, "on /s went away", "how far it came"),
            (ended("GET"), Exit::Unavailable, "on /s went away", "status`, then try again"),
            (
                Error::NoSupervisor { address: socket(), why: "odd".to_owned() },
                Exit::NotRunning,
                "is no supervisor (odd)",
                "--api",
            ),
            (Error::NotUnderstood("odd".to_owned()), Exit::Failure, "broken: odd", "same version"),
            (Error::Files(tls::TlsError::NobodyTrusted), Exit::Usage, "trusts nobody", "--ca"),
            (busy.into(), Exit::Unavailable, "m", "its own"),
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.exit, exit, "{failure:?}");
            assert!(failure.error.message.contains(message), "{failure:?}");
            assert!(
                failure.error.remedy.as_ref().is_some_and(|r| r.contains(remedy)),
                "{failure:?}"
            );
        }
        let invalid = Failure::from(Error::Invalid("'a b' is not a name".to_owned()));
        assert_eq!((invalid.exit, &*invalid.error.message), (Exit::Usage, "'a b' is not a name"));
        for (api, remedy) in [("http://h", "https://HOST:PORT"), ("https://h", "--certificate-key")]
        {
            let named = Named { api: Some(api.to_owned()), ..Named::default() };
            let failure = named.address().map_err(Failure::from).map(|_| ());
            let failure = failure.err().map(|failure| (failure.exit, failure.text(false)));
            assert!(
                failure
                    .as_ref()
                    .is_some_and(|(exit, text)| *exit == Exit::Usage && text.contains(remedy)),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn an_api_error_keeps_its_code_through_anyhow() {
        let error = anyhow::Error::from(ApiError::new(ErrorCode::NotFound, "no such pool"));
        assert_eq!(Failure::from(error).exit, Exit::NotFound);
        let error = anyhow::anyhow!("inner").context("outer");
        assert_eq!(Failure::from(error).error.message, "outer: inner");
    }
}

//! Why there is no answer, by what whoever asked does about it.

use std::path::PathBuf;
use std::time::Duration;

use block::InvalidName;
use control::api::{ApiError, Asked};
use tls::{ConnectError, TlsError};
use tokio_rustls::rustls::AlertDescription;

use crate::Address;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This can't be asked for: a name that is none, or no path of the API. Nobody was asked.
    #[error("{0}")]
    Invalid(String),
    /// Nobody answers there, or nobody who is to be trusted. Nothing was asked.
    #[error("no supervisor answers on {address} ({source})")]
    Unreachable {
        /// Where.
        address: Address,
        /// Why.
        source: ConnectError,
    },
    /// By TLS: a file of the certificate, its key or the authorities can't be used. Nobody was asked.
    #[error("the API by TLS can't be asked: {0}")]
    Files(TlsError),
    /// By TLS: our certificate isn't taken.
    #[error("the supervisor at {address} doesn't take the certificate {}: {alert:?}", certificate.display())]
    CertificateRefused {
        /// Where.
        address: Address,
        /// Its file.
        certificate: PathBuf,
        /// What was said.
        alert: AlertDescription,
    },
    /// Somebody answers, and not as a supervisor does.
    #[error("who answers on {address} is no supervisor ({why})")]
    NoSupervisor {
        /// Where.
        address: Address,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answered in time. A change may still be done.
    #[error("{}: no answer from the supervisor on {address} within {} s{}", asked.text, limit.as_secs(), still(asked))]
    Late {
        /// What was asked for.
        asked: Asked,
        /// Whom.
        address: Address,
        /// How long was waited.
        limit: Duration,
    },
    /// The supervisor went away in the middle. A change may be done or not, or a part of it.
    #[error("{}: the supervisor on {address} went away in the middle of it", asked.text)]
    Ended {
        /// What was asked for.
        asked: Asked,
        /// Whom.
        address: Address,
    },
    /// The supervisor says that it doesn't do it, why, and mostly what to do.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// What came back isn't known here, as of another version.
    #[error("the answer of the supervisor is broken: {0}")]
    NotUnderstood(String),
}

impl From<InvalidName> for Error {
    fn from(error: InvalidName) -> Error {
        Error::Invalid(error.to_string())
    }
}

fn still(asked: &Asked) -> &'static str {
    if asked.changes { "; it may still go on and be done" } else { "" }
}

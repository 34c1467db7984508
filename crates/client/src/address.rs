//! Where a supervisor's API is, and what a user's own file says of that.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use control::config::parse_toml;
use control::url::Url;
use serde::Deserialize;
use tls::KeyFiles;

/// The socket of a machine's supervisor, unless its configuration says otherwise.
pub const SOCKET: &str = "/run/etherpool/api.sock";

/// Where a supervisor's API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine.
    Socket(PathBuf),
    /// Elsewhere.
    Remote(Box<Remote>),
}

/// A supervisor elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where.
    pub url: Url,
    /// By what we show who we are.
    pub files: KeyFiles,
    /// A file of whom to trust; whom the system trusts without it.
    pub ca: Option<PathBuf>,
}

/// A supervisor elsewhere as people name it, in part or in whole: in a user's own file, `etherpool/client.toml` below
/// `$XDG_CONFIG_HOME`, or `~/.config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Named {
    /// `https://HOST:PORT`.
    pub api: Option<String>,
    /// A file with the certificate that it is shown, PEM.
    pub certificate: Option<PathBuf>,
    /// A file with the certificate's secret key, PEM.
    pub key: Option<PathBuf>,
    /// A file with whom to trust, PEM; whom this machine trusts without it.
    pub ca: Option<PathBuf>,
}

/// Why what is named is no address.
#[derive(Debug, thiserror::Error)]
pub enum Misnamed {
    /// The user's file can't be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// It.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says what can't be meant.
    #[error("{}: {why}", file.display())]
    File {
        /// It.
        file: PathBuf,
        /// What, and where in it.
        why: String,
    },
    /// This is no URL of an API.
    #[error("the API's URL '{url}' {why}")]
    Url {
        /// It.
        url: String,
        /// Why not.
        why: &'static str,
    },
    /// No certificate is named, or no key of it.
    #[error("{url} is asked by who has a certificate with its key")]
    Nameless {
        /// Where.
        url: String,
    },
}

impl Named {
    /// What the user's own file says; nothing where there is none. Blocks.
    pub fn of_user() -> Result<Named, Misnamed> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")));
        config.map_or_else(
            || Ok(Named::default()),
            |config| Named::read(&config.join("etherpool/client.toml")),
        )
    }

    fn read(file: &Path) -> Result<Named, Misnamed> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Named::default()),
            Err(source) => return Err(Misnamed::Unreadable { file: file.to_owned(), source }),
        };
        let own: Named = parse_toml(&text)
            .map_err(|error| Misnamed::File { file: file.to_owned(), why: error.to_string() })?;
        // Beside the file, wherever the program runs.
        let beside = file.parent().unwrap_or(file);
        let beside = |named: Option<PathBuf>| named.map(|named| beside.join(named));
        let Named { api, certificate, key, ca } = own;
        Ok(Named { api, certificate: beside(certificate), key: beside(key), ca: beside(ca) })
    }

    /// This, and what it lacks as another one says it.
    #[must_use]
    pub fn or(self, other: Named) -> Named {
        Named {
            api: self.api.or(other.api),
            certificate: self.certificate.or(other.certificate),
            key: self.key.or(other.key),
            ca: self.ca.or(other.ca),
        }
    }

    /// The address; none where no URL is named.
    pub fn address(self) -> Result<Option<Address>, Misnamed> {
        let Some(url) = self.api else { return Ok(None) };
        let parsed = Url::parse(&url).and_then(|parsed| match (parsed.tls, &*parsed.path) {
            (false, _) => Err("is not https://HOST:PORT"),
            (true, "/") => Ok(parsed),
            (true, _) => Err("has a path, which the API has none of"),
        });
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(why) => return Err(Misnamed::Url { url, why }),
        };
        let Some((certificate, key)) = self.certificate.zip(self.key) else {
            return Err(Misnamed::Nameless { url });
        };
        let files = KeyFiles { certificate, key };
        Ok(Some(Address::Remote(Box::new(Remote { url: parsed, files, ca: self.ca }))))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(socket) => write!(f, "{}", socket.display()),
            Address::Remote(remote) => write!(f, "{}", remote.url),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn named(api: &str) -> Named {
        let file = |name: &str| Some(PathBuf::from(name));
        Named { api: Some(api.to_owned()), certificate: file("/c"), key: file("/k"), ca: None }
    }

    fn remote(named: Named) -> Remote {
        match named.address() {
            Ok(Some(Address::Remote(remote))) => *remote,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_supervisor_by_tls_is_asked_and_by_who_can_show_who_he_is() {
        for url in
            ["http://h:1", "h:1", "https://", "https://h:x", "https://u@h:1", "https://h:1/v1"]
        {
            let error = named(url).address().unwrap_err();
            assert!(matches!(error, Misnamed::Url { .. }), "{error}");
            assert!(error.to_string().contains(url), "{error}");
        }
        let bare = Named { key: None, ..named("https://[::1]:1") };
        assert!(matches!(bare.address(), Err(Misnamed::Nameless { .. })));
        assert_eq!(Named::default().address().unwrap(), None);
        let address = named("https://[::1]:1").address().unwrap().unwrap();
        assert_eq!(address.to_string(), "https://[::1]:1");
    }

    #[test]
    fn the_users_file_fills_in_what_is_not_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("client.toml");
        assert_eq!(Named::read(&file).unwrap(), Named::default());
        std::fs::write(&file, "api = 'https://own:2'\ncertificate = 'c.pem'\nkey = '/k.pem'\n")
            .unwrap();
        let own = Named::read(&file).unwrap();
        let found = remote(own.clone());
        assert_eq!((found.url.host.as_str(), found.url.port), ("own", 2));
        assert_eq!(found.files.certificate, directory.path().join("c.pem"));
        assert_eq!(found.files.key, Path::new("/k.pem"));
        let found = remote(named("https://h").or(own));
        assert_eq!((found.url.port, found.files.certificate.as_path()), (443, Path::new("/c")));
        std::fs::write(&file, "password = 'x'\n").unwrap();
        let error = Named::read(&file).unwrap_err().to_string();
        assert!(error.contains("line 1, column 1: unknown field"), "{error}");
    }
}

//! Certificates, keys and authorities out of files, and what servers and clients speak TLS with.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

/// By what somebody shows who he is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles {
    /// A file with his certificate and those that lead to a known one, PEM.
    pub certificate: PathBuf,
    /// A file with the certificate's secret key, PEM.
    pub key: PathBuf,
}

/// Why a certificate or its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or holds nothing of the kind.
    #[error("{file}: {source}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    /// The key is no secret.
    #[error("{0} is a secret key, and users who have nothing to do with it may read or change it")]
    Exposed(PathBuf),
    /// They don't go together, or are of a kind that isn't known.
    #[error("{certificate}: {source}")]
    Unfit {
        /// The certificate.
        certificate: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// No client's certificate could be judged by these authorities.
    #[error("{authorities}: {source}")]
    Authorities {
        /// Their file.
        authorities: PathBuf,
        /// Why not.
        source: VerifierBuilderError,
    },
    /// The system trusts nobody.
    #[error(
        "this machine trusts nobody: install ca-certificates, or name a file of certificates (ca)"
    )]
    NobodyTrusted,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What the files of somebody hold, for a process that can't read them.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyContents {
    /// The certificates, PEM.
    pub certificate: Vec<u8>,
    /// The secret key, PEM.
    pub key: Vec<u8>,
}

impl fmt::Debug for KeyContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyContents(not shown)")
    }
}

impl KeyFiles {
    /// His certificate, and those behind it. Blocks.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.certificate, &read(&self.certificate)?)
    }

    fn load(&self) -> Result<Identity, TlsError> {
        self.identity(&self.contents()?)
    }

    /// What they hold now. Blocks.
    pub fn contents(&self) -> Result<KeyContents, TlsError> {
        Ok(KeyContents { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn identity(&self, contents: &KeyContents) -> Result<Identity, TlsError> {
        let chain = certificates(&self.certificate, &contents.certificate)?;
        Ok((chain, PrivateKeyDer::from_pem_slice(&contents.key).map_err(of(&self.key))?))
    }

    fn unfit(&self) -> impl Fn(rustls::Error) -> TlsError + '_ {
        |source| TlsError::Unfit { certificate: self.certificate.clone(), source }
    }

    /// Refuses a key that users of this machine may read who are neither its owner nor of its group, or that others than its
    /// owner may change.
    pub fn check_private(&self) -> Result<(), TlsError> {
        let metadata = std::fs::metadata(&self.key);
        // What can't be looked at can't be read either, and is told with the reason.
        match metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o027 != 0) {
            true => Err(TlsError::Exposed(self.key.clone())),
            false => Ok(()),
        }
    }

    /// For a server whose clients need no certificate. Blocks.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        self.server_of(&self.contents()?)
    }

    /// The same of what they held; they are named where it can't be used.
    pub fn server_of(&self, contents: &KeyContents) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions();
        let (chain, key) = self.identity(contents)?;
        let config = builder.map_err(self.unfit())?.with_no_client_auth();
        config.with_single_cert(chain, key).map_err(self.unfit())
    }

    /// For a server whose clients show a certificate of these authorities, each time: what was believed once isn't taken
    /// up again. Blocks.
    pub fn server_for(&self, authorities_file: &Path) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(authorities(authorities_file)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|source| TlsError::Authorities {
                authorities: authorities_file.to_owned(),
                source,
            })?;
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let (chain, key) = self.load()?;
        let config = builder.map_err(self.unfit())?.with_client_cert_verifier(verifier);
        let mut config = config.with_single_cert(chain, key).map_err(self.unfit())?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For a client that shows who he is, to servers of these authorities. Blocks.
    pub fn client(&self, authorities: RootCertStore) -> Result<ClientConfig, TlsError> {
        self.check_private()?;
        let (chain, key) = self.load()?;
        let config = client_builder().map_err(self.unfit())?.with_root_certificates(authorities);
        config.with_client_auth_cert(chain, key).map_err(self.unfit())
    }
}

/// For a client of whom nobody needs to know who he is.
pub fn nameless_client(authorities: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    Ok(client_builder()?.with_root_certificates(authorities).with_no_client_auth())
}

fn client_builder()
-> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
}

/// The authorities of a file, PEM. Blocks.
pub fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for one in certificates(file, &read(file)?)? {
        roots
            .add(one)
            .map_err(|source| TlsError::Unfit { certificate: file.to_owned(), source })?;
    }
    Ok(roots)
}

/// Whom to trust: who is in a file, or whom the system trusts. Blocks.
pub fn trusted(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    if let Some(file) = file {
        return authorities(file);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(TlsError::NobodyTrusted),
        false => Ok(roots),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|error| of(file)(pem::Error::Io(error)))
}

/// Those in the contents of a file.
fn certificates(file: &Path, contents: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(contents).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(of(file))?;
    match all.is_empty() {
        true => Err(TlsError::NoCertificate(file.to_owned())),
        false => Ok(all),
    }
}

fn of(file: &Path) -> impl Fn(pem::Error) -> TlsError + '_ {
    |source| TlsError::File { file: file.to_owned(), source }
}

//! FTP servers of mounts, by the configuration, and the lease that they ask for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use block::VolumeName;
use control::api::{ApiError, ErrorCode};
use control::channel::EngineRequest;
use control::config::{FtpConfig, TlsUse};
use control::reconcile::Attachment;
use frontend::ftp::{Files, FtpError, FtpServer, FtpTls, Outside, listen, open_root};
use frontend::tls::KeyFiles;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_rustls::rustls::ServerConfig;

use super::engine_client::EngineClient;

/// How long the engine may take to say whether the lease runs; later is no.
const LEASE_LIMIT: Duration = Duration::from_secs(2);

/// A running server.
pub type FtpHandle = FtpServer;

/// Starts and stops servers.
pub struct FtpServers {
    config: FtpConfig,
    engine: EngineClient,
}

impl FtpServers {
    /// By this configuration.
    pub fn new(config: FtpConfig, engine: EngineClient) -> FtpServers {
        FtpServers { config, engine }
    }

    /// Where servers listen that are not told otherwise.
    pub fn default_address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Serves `root`, on which `device` must be mounted, from that attachment of a volume.
    pub async fn start(
        &self,
        served: (&VolumeName, Attachment),
        device: &Path,
        root: &Path,
        address: SocketAddr,
    ) -> Result<FtpHandle, ApiError> {
        let files = files_of(&self.config);
        let (checked, path, on) = (files.clone(), root.to_owned(), device.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            checked.users()?;
            checked.check_keys()?;
            open_root(&path, &on)
        });
        let root = opened.await.map_err(|error| {
            ApiError::new(ErrorCode::Internal, format!("a look at a mount was lost: {error}"))
        })?;
        let root = root.map_err(error_of)?;
        let listener = listen(address).await.map_err(error_of)?;
        let FtpConfig { passive_ports: ports, anonymous, .. } = self.config;
        let config = frontend::ftp::FtpConfig {
            passive_ports: ports.first..=ports.last,
            anonymous,
            tls: tls_of(&self.config),
            ..frontend::ftp::FtpConfig::default()
        };
        let (volume, attachment) = served;
        let engine = self.engine.clone();
        let asked = Asked { files, engine, volume: volume.clone(), attachment };
        FtpServer::start(config, Arc::new(asked), root, listener)
            .map_err(|source| error_of(FtpError::Listen { address, source }))
    }

    /// Ends a server.
    pub async fn stop(&self, server: FtpHandle) {
        server.stop().await;
    }
}

/// What a server asks for.
struct Asked {
    files: Files,
    engine: EngineClient,
    volume: VolumeName,
    attachment: Attachment,
}

impl Outside for Asked {
    /// The volume may be served as long as the engine that it was attached to says that this attachment
    /// is alive and the pool's lease runs. An engine that can't be asked, or another one, can't vouch
    /// for it.
    fn may_serve(&self) -> BoxFuture<'static, bool> {
        let (engine, volume, attachment) =
            (self.engine.clone(), self.volume.clone(), self.attachment);
        async move {
            let asked = engine.call::<bool>(EngineRequest::Lease { volume, attachment });
            let answer = tokio::time::timeout(LEASE_LIMIT, asked).await;
            matches!(answer, Ok(Ok(true)))
        }
        .boxed()
    }

    fn users(&self) -> BoxFuture<'static, Result<String, String>> {
        Outside::users(&self.files)
    }

    fn certificate(&self) -> BoxFuture<'static, Result<ServerConfig, String>> {
        self.files.certificate()
    }
}

/// Those that the configuration names.
pub(super) fn files_of(config: &FtpConfig) -> Files {
    let FtpConfig { users_file, certificate, key, .. } = config;
    let keys = certificate.clone().zip(key.clone());
    let keys = keys.map(|(certificate, key)| KeyFiles { certificate, key });
    Files::new(users_file.clone(), keys)
}

/// TLS where there is a certificate.
fn tls_of(config: &FtpConfig) -> Option<FtpTls> {
    config.certificate.as_ref().map(|_| match config.tls {
        Some(TlsUse::Offered) => FtpTls::Offered,
        Some(TlsUse::Required) | None => FtpTls::Required,
    })
}

fn error_of(error: FtpError) -> ApiError {
    let code = match &error {
        FtpError::NotMounted { .. } => ErrorCode::NotFound,
        FtpError::Users(_) | FtpError::Tls(_) => ErrorCode::Invalid,
        FtpError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            ErrorCode::Busy
        }
        FtpError::Listen { .. } | FtpError::Filesystem(_) | FtpError::Copy { .. } => ErrorCode::Io,
    };
    let told = ApiError::new(code, format!("FTP: {error}"));
    match error {
        FtpError::Users(_) => told.remedy("correct the users-file of the configuration's [ftp]"),
        FtpError::Tls(_) => told.remedy("correct certificate and key of the configuration's [ftp]"),
        FtpError::Listen { .. } => told.remedy("choose another address with --listen"),
        _ => told,
    }
}

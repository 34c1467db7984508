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
use frontend::ftp::{FtpError, FtpServer, FtpTls, Lease};
use frontend::tls::KeyFiles;
use futures::FutureExt;

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
        listen: SocketAddr,
    ) -> Result<FtpHandle, ApiError> {
        let ports = self.config.passive_ports;
        let config = frontend::ftp::FtpConfig {
            listen,
            passive_ports: ports.first..=ports.last,
            users_file: self.config.users_file.clone(),
            anonymous: self.config.anonymous,
            tls: tls_of(&self.config),
            lease: self.lease_of(served.0, served.1),
            ..frontend::ftp::FtpConfig::new(root.to_owned(), device.to_owned())
        };
        FtpServer::start(config).await.map_err(error_of)
    }

    /// Ends a server.
    pub async fn stop(&self, server: FtpHandle) {
        server.stop().await;
    }

    /// The volume may be served as long as the engine that it was attached to says that this attachment
    /// is alive and the pool's lease runs. An engine that can't be asked, or another one, can't vouch
    /// for it.
    fn lease_of(&self, volume: &VolumeName, attachment: Attachment) -> Lease {
        let (engine, volume) = (self.engine.clone(), volume.clone());
        Arc::new(move || {
            let (engine, volume) = (engine.clone(), volume.clone());
            async move {
                let asked = engine.call::<bool>(EngineRequest::Lease { volume, attachment });
                let answer = tokio::time::timeout(LEASE_LIMIT, asked).await;
                matches!(answer, Ok(Ok(true)))
            }
            .boxed()
        })
    }
}

pub(super) fn tls_of(config: &FtpConfig) -> Option<FtpTls> {
    let FtpConfig { certificate, key, tls, .. } = config;
    let (certificate, key) = certificate.clone().zip(key.clone())?;
    Some(FtpTls { files: KeyFiles { certificate, key }, required: *tls != Some(TlsUse::Offered) })
}

fn error_of(error: FtpError) -> ApiError {
    let code = match &error {
        FtpError::NotMounted { .. } => ErrorCode::NotFound,
        FtpError::Users(_) | FtpError::Tls(_) | FtpError::NoPorts => ErrorCode::Invalid,
        FtpError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            ErrorCode::Busy
        }
        FtpError::Listen { .. } | FtpError::Filesystem(_) => ErrorCode::Io,
    };
    let told = ApiError::new(code, format!("FTP: {error}"));
    match error {
        FtpError::Users(_) => told.remedy("correct the users-file of the configuration's [ftp]"),
        FtpError::Tls(_) => told.remedy("correct certificate and key of the configuration's [ftp]"),
        FtpError::Listen { .. } => told.remedy("choose another address with --listen"),
        _ => told,
    }
}

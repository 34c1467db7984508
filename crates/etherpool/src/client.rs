//! Asks the supervisor's API: HTTP on a Unix socket, one connection per request.

use std::path::PathBuf;
use std::time::Duration;

use control::api::{ApiError, ErrorCode, StreamLine};
use control::channel::LineReader;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use pool::Progress;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::cli::Failure;

/// Longest answer that is read into memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long the socket may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The API of a supervisor.
pub struct ApiClient {
    socket: PathBuf,
}

impl ApiClient {
    /// Behind this socket.
    pub fn new(socket: PathBuf) -> ApiClient {
        ApiClient { socket }
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, &()).await
    }

    /// Has something done.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.call(Method::POST, path, body).await
    }

    /// Has something removed.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::DELETE, path, &()).await
    }

    /// Has something done that takes long.
    pub async fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut progress: impl FnMut(Progress),
    ) -> Result<T, Failure> {
        let response = self.send(Method::POST, path, body).await?;
        if !response.status().is_success() {
            return Err(read_error(response).await);
        }
        let mut body = response.into_body();
        let mut lines = LineReader::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&error))?;
            lines.push(frame.data_ref().map(|data| &data[..]).unwrap_or_default());
            while let Some(line) = lines.next_line().map_err(|error| broken(&error))? {
                match serde_json::from_slice(&line).map_err(|error| broken(&error))? {
                    StreamLine::Progress(news) => progress(news),
                    StreamLine::Result(value) => return Ok(value),
                    StreamLine::Error(error) => return Err(error.into()),
                }
            }
        }
        Err(ApiError::new(
            ErrorCode::Unavailable,
            "the supervisor's services ended in the middle of the operation",
        )
        .remedy("see `etherpool status` for how far it came, then try again")
        .into())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let response = self.send(method, path, body).await?;
        if !response.status().is_success() {
            return Err(read_error(response).await);
        }
        let bytes = read_all(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| broken(&error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, Failure> {
        let connected = tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(&self.socket));
        let stream = match connected.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.not_running(&error)),
            Err(_) => return Err(self.not_running(&std::io::ErrorKind::TimedOut.into())),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        tokio::spawn(async move {
            // A broken connection shows in the request that it carries.
            let _ = connection.await;
        });
        let body = serde_json::to_vec(body).map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "etherpool")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(&error))?;
        sender.send_request(request).await.map_err(|error| broken(&error))
    }

    fn not_running(&self, error: &std::io::Error) -> Failure {
        let socket = self.socket.display();
        let (what, remedy) = match error.kind() {
            std::io::ErrorKind::PermissionDenied => (
                format!("no permission to use the supervisor's socket {socket}"),
                "run the command as root".to_owned(),
            ),
            _ => (
                format!("no supervisor answers on {socket} ({error})"),
                "start one (`etherpool supervisor`, or `etherpool lab up` to try things), or name its socket with --socket"
                    .to_owned(),
            ),
        };
        let exit = control::exit::Exit::NotRunning;
        Failure { exit, code: ErrorCode::Unavailable, message: what, remedy: Some(remedy) }
    }
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    match limited.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(broken(&*error)),
    }
}

async fn read_error(response: Response<Incoming>) -> Failure {
    let status = response.status();
    match read_all(response).await.map(|bytes| serde_json::from_slice::<ApiError>(&bytes)) {
        Ok(Ok(error)) => error.into(),
        _ => ApiError::new(ErrorCode::Internal, format!("the supervisor answered {status}")).into(),
    }
}

fn broken(error: &dyn std::fmt::Display) -> Failure {
    ApiError::new(ErrorCode::Internal, format!("the answer of the supervisor is broken: {error}"))
        .remedy("check that the supervisor runs the same version as this command")
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use control::exit::Exit;

    #[tokio::test]
    async fn without_a_supervisor_the_code_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let client = ApiClient::new(directory.path().join("none.sock"));
        let failure = client.get::<u32>("/v1/status").await.unwrap_err();
        assert_eq!(failure.exit, Exit::NotRunning);
        assert!(failure.message.contains("none.sock"), "{}", failure.message);
    }
}

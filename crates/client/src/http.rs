//! One request of HTTP over one connection: of the API, and of whoever else posts a document of JSON and reads an answer.

use std::error::Error as _;

use http_body_util::{BodyExt, Limited};
use hyper::Response;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tls::Stream;
use tokio::task::JoinHandle;

pub use http_body_util::Full;
pub use hyper::body::Bytes;
pub use hyper::{Method, Request, StatusCode};

/// Why there is no answer, or no whole one.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It can't be asked for.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
    /// It can't be said as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The connection failed, or what came by it is no HTTP.
    #[error("{}", whole(.0))]
    Connection(#[from] hyper::Error),
    /// The answer is longer than anybody reads.
    #[error("an answer of more than {0} bytes")]
    TooLong(usize),
}

/// With its cause, without which it says little.
fn whole(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// An answer, whose connection ends with it.
pub struct Answer {
    response: Response<Incoming>,
    _connection: Connection,
}

struct Connection(JoinHandle<hyper::Result<()>>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request with a document.
pub fn request(
    method: Method,
    host: &str,
    path: &str,
    document: &impl Serialize,
) -> Result<Request<Full<Bytes>>, HttpError> {
    let body = serde_json::to_vec(document)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("user-agent", concat!("etherpool/", env!("CARGO_PKG_VERSION")))
        .header("content-type", "application/json");
    Ok(request.body(Full::new(Bytes::from(body)))?)
}

/// Asks; the answer as far as its head.
pub async fn exchange(
    stream: impl Stream + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Answer, HttpError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = Connection(tokio::spawn(connection));
    let error = match sender.send_request(request).await {
        Ok(response) => return Ok(Answer { response, _connection: connection }),
        Err(error) => error,
    };
    // The connection says more of why it is no more than the request that it carried.
    drop(sender);
    Err((&mut connection.0).await.ok().and_then(Result::err).unwrap_or(error).into())
}

impl Answer {
    /// What kind it is.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// All of it, of so many bytes at most.
    pub async fn whole(self, bytes_max: usize) -> Result<Bytes, HttpError> {
        match Limited::new(self.response.into_body(), bytes_max).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(error) => HttpError::Connection(*error),
                Err(_) => HttpError::TooLong(bytes_max),
            }),
        }
    }

    /// What came of it next; nothing once it is over.
    pub async fn more(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            match self.response.body_mut().frame().await.transpose()? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

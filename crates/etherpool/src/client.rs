//! Asks the supervisor's API: HTTP on a Unix socket, or by TLS, one connection per request.
//!
//! No request waits for ever. A look is answered at once or not; what changes something has a little
//! longer than the longest limit of the supervisor's own, whose message says more; and what takes as long
//! as it takes is told about while it lasts, so that silence means that nobody is at it any more.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use control::alerts::WebhookUrl;
use control::api::{
    ApiError, Asked, COMMAND_HEADER, ErrorCode, NO_OPERATION, StreamLine, former_path, from_former,
};
use control::channel::LineReader;
use frontend::tls::KeyFiles;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pool::Progress;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_rustls::rustls;

use terminal::{QUIET, WaitDisplay};

use crate::cli::Failure;
use crate::tls_client::{Stream, authorities, authority, connect};

/// Longest answer that is read into memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long the socket may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a look at something may take.
const LOOK_LIMIT: Duration = Duration::from_secs(15);
/// How long a change may take: longer than all that the supervisor waits for by itself (two minutes at
/// most, for mounts that are ended and begun again).
const CHANGE_LIMIT: Duration = Duration::from_secs(150);
/// How long an operation that tells how far it is may be silent; it is told about every few seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Where a supervisor's API is.
#[derive(Clone, Debug)]
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
    pub url: WebhookUrl,
    /// By what we show who we are.
    pub files: KeyFiles,
    /// A file of whom to trust; whom the system trusts without it.
    pub ca: Option<PathBuf>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(socket) => write!(f, "{}", socket.display()),
            Address::Remote(remote) => write!(f, "https://{}", authority(&remote.url)),
        }
    }
}

/// The API of a supervisor.
pub struct ApiClient {
    address: Address,
    /// What was asked for in place of the limits above.
    timeout: Option<Duration>,
    /// Whether people are told what is waited for.
    tell: bool,
}

/// News of an operation that takes long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// How far it is.
    Progress(Progress),
    /// What it waits for.
    Waiting(String),
}

/// In which form an answer is.
#[derive(Clone, Copy)]
enum Form {
    Ours,
    Former,
}

impl Form {
    fn read<T: DeserializeOwned>(self, text: &[u8]) -> Result<T, Failure> {
        let read = match self {
            Form::Ours => serde_json::from_slice(text),
            Form::Former => serde_json::from_slice(text).and_then(|mut answer| {
                from_former(&mut answer);
                serde_json::from_value(answer)
            }),
        };
        read.map_err(|error| broken(&error))
    }
}

impl ApiClient {
    /// There. `timeout` is how long to wait for any answer; `tell` is whether to say on a
    /// terminal what is waited for.
    pub fn new(address: Address, timeout: Option<Duration>, tell: bool) -> ApiClient {
        ApiClient { address, timeout, tell }
    }

    /// The same that says nothing by itself, for who tells people what is waited for.
    pub fn silent(&self) -> ApiClient {
        ApiClient { address: self.address.clone(), timeout: self.timeout, tell: false }
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, &(), LOOK_LIMIT).await
    }

    /// Has something done.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.call(Method::POST, path, body, CHANGE_LIMIT).await
    }

    /// The same for what waits a while longer by its nature.
    pub async fn post_and_wait<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        longer: Duration,
    ) -> Result<T, Failure> {
        self.call(Method::POST, path, body, CHANGE_LIMIT + longer).await
    }

    /// Has something removed.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.delete_as(path, &()).await
    }

    /// The same, and how.
    pub async fn delete_as<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.call(Method::DELETE, path, body, CHANGE_LIMIT).await
    }

    /// Has something done that takes long.
    pub async fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut tell: impl FnMut(News),
    ) -> Result<T, Failure> {
        let what = Asked::of("POST", path);
        let limit = self.timeout.unwrap_or(SILENCE_LIMIT);
        let late = |_| self.late(&what, limit);
        let sent = tokio::time::timeout(limit, self.send(Method::POST, path, body));
        let (response, form) = sent.await.map_err(late)??;
        if !response.status().is_success() {
            return Err(tokio::time::timeout(limit, read_error(response)).await.map_err(late)?);
        }
        let mut body = response.into_body();
        let mut lines = LineReader::default();
        while let Some(frame) = tokio::time::timeout(limit, body.frame()).await.map_err(late)? {
            let frame = frame.map_err(|error| broken(&error))?;
            lines.push(frame.data_ref().map(|data| &data[..]).unwrap_or_default());
            while let Some(line) = lines.next_line().map_err(|error| broken(&error))? {
                match form.read(&line)? {
                    StreamLine::Progress(progress) => tell(News::Progress(progress)),
                    StreamLine::Waiting(what) => tell(News::Waiting(what)),
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

    /// Hands on each line of what never ends, until `take` has had enough.
    pub async fn follow<T: DeserializeOwned>(
        &self,
        path: &str,
        mut take: impl FnMut(T) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let what = Asked::of("GET", path);
        let limit = self.timeout.unwrap_or(LOOK_LIMIT);
        let sent = tokio::time::timeout(limit, self.send(Method::GET, path, &()));
        let (response, form) = sent.await.map_err(|_| self.late(&what, limit))??;
        if !response.status().is_success() {
            return Err(read_error(response).await);
        }
        let (mut body, mut lines) = (response.into_body(), LineReader::default());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(&error))?;
            lines.push(frame.data_ref().map(|data| &data[..]).unwrap_or_default());
            while let Some(line) = lines.next_line().map_err(|error| broken(&error))? {
                if !take(form.read(&line)?)? {
                    return Ok(());
                }
            }
        }
        Err(ApiError::new(ErrorCode::Unavailable, "the supervisor's services ended")
            .remedy("see `etherpool status`, then try again")
            .into())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, Failure> {
        let what = Asked::of(method.as_str(), path);
        let limit = self.timeout.unwrap_or(limit);
        let answer = async {
            let (response, form) = self.send(method, path, body).await?;
            if !response.status().is_success() {
                return Err(read_error(response).await);
            }
            form.read(&read_all(response).await?)
        };
        let answered = tokio::time::timeout(limit, waited_for(&what, self.tell, answer));
        answered.await.unwrap_or_else(|_| Err(self.late(&what, limit)))
    }

    /// Nobody answered in time.
    fn late(&self, what: &Asked, limit: Duration) -> Failure {
        let then = match what.changes {
            true => "; it may still go on and be done",
            false => "",
        };
        let message = format!(
            "{}: no answer from the supervisor on {} within {} s{then}",
            what.text,
            self.address,
            limit.as_secs()
        );
        let look = match &what.pool {
            Some(pool) => format!("`etherpool status` and `etherpool pool show {pool}`"),
            None => "`etherpool status` and the supervisor's log".to_owned(),
        };
        ApiError::new(ErrorCode::Unavailable, message)
            .remedy(format!("see {look} for what it waits for; --timeout SECONDS waits longer"))
            .into()
    }

    /// Asks, and a supervisor of the former version in its own words.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(Response<Incoming>, Form), Failure> {
        let response = self.send_as_it_is(method.clone(), path, body).await?;
        let Some(former) = former_path(path).filter(|_| response.status() == StatusCode::NOT_FOUND)
        else {
            return Ok((response, Form::Ours));
        };
        let refused = read_error(response).await;
        if !refused.error.message.starts_with(NO_OPERATION) {
            return Err(refused);
        }
        Ok((self.send_as_it_is(method, &former, body).await?, Form::Former))
    }

    async fn send_as_it_is(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, Failure> {
        // What was typed is believed from this machine only.
        let (stream, host, typed) = match &self.address {
            Address::Socket(socket) => {
                (connect_here(socket).await?, "etherpool".to_owned(), command_line())
            }
            Address::Remote(remote) => {
                let nothing = HeaderValue::from_static("");
                (remote.connect().await?, authority(&remote.url), nothing)
            }
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let connection = tokio::spawn(connection);
        let body = serde_json::to_vec(body).map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .header("content-type", "application/json")
            .header(COMMAND_HEADER, typed)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(&error))?;
        let error = match sender.send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        // The connection says more of why it is no more than the request that it carried.
        drop(sender);
        let error = connection.await.ok().and_then(Result::err).unwrap_or(error);
        Err(self.address.refused_or_broken(error.into()))
    }
}

impl Address {
    /// By TLS a server says that it doesn't take a client's certificate after the client has connected.
    fn refused_or_broken(&self, error: anyhow::Error) -> Failure {
        let alert = error.chain().find_map(|error| match error.downcast_ref::<io::Error>() {
            Some(error) => match error.get_ref()?.downcast_ref::<rustls::Error>() {
                Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
                _ => None,
            },
            None => None,
        });
        match (self, alert) {
            (Address::Remote(remote), Some(alert)) => ApiError::new(
                ErrorCode::Refused,
                format!(
                    "the supervisor at {self} doesn't take the certificate {}: {alert:?}",
                    remote.files.certificate.display()
                ),
            )
            .remedy("show one that is valid, of an authority in client-ca of supervisor.toml there")
            .into(),
            // Whoever has that socket speaks something else, like a node.
            _ if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) => {
                Failure::not_running(
                    format!("who answers on {self} is no supervisor ({error:#})"),
                    "name the socket of a supervisor with --socket, or its address with --api",
                )
            }
            _ => broken(&format!("{error:#}")),
        }
    }
}

async fn connect_here(socket: &Path) -> Result<Box<dyn Stream>, Failure> {
    let connected = tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(socket)).await;
    match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(not_running(socket, &error)),
    }
}

fn not_running(socket: &Path, error: &io::Error) -> Failure {
    let socket = socket.display();
    let (what, remedy) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            format!("no permission to use the supervisor's socket {socket}"),
            "run the command as root",
        ),
        _ => (
            format!("no supervisor answers on {socket} ({error})"),
            "start one (`etherpool supervisor`, or `etherpool lab up` to try things), or name its socket with --socket",
        ),
    };
    Failure::not_running(what, remedy)
}

impl Remote {
    async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let unfit = |why: String| {
            Failure::from(
            ApiError::new(ErrorCode::Invalid, format!("the API by TLS can't be asked: {why}"))
                .remedy("correct --certificate, --certificate-key and --ca, or what names these files"),
        )
        };
        let ca = authorities(self.ca.as_deref()).map_err(unfit)?;
        let config = self.files.client(ca).map_err(|error| unfit(error.to_string()))?;
        let connected = tokio::time::timeout(CONNECT_LIMIT, connect(&self.url, Some(config))).await;
        connected.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(|why| {
            let what = format!("no supervisor that is to be trusted answers at https://{} ({why})", authority(&self.url));
            let remedy = "see that it listens there ([api] of supervisor.toml), that its certificate names this host, and that --ca is whom it is of";
            Failure::not_running(what, remedy)
        })
    }
}

/// What was typed, for the pool's history: as it can stand in a header.
fn command_line() -> HeaderValue {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let text = words.join(" ").replace(|c: char| c.is_control(), " ");
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or(HeaderValue::from_static(""))
}

/// Waits, and says on a terminal for what and since when, once it isn't a moment any more.
async fn waited_for<T>(what: &Asked, tell: bool, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    if !tell {
        return answer.await;
    }
    match tokio::time::timeout(QUIET, &mut answer).await {
        Ok(answer) => answer,
        Err(_) => {
            let _shown = WaitDisplay::new(&format!("waiting for the supervisor: {}", what.text));
            answer.await
        }
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
        let client =
            ApiClient::new(Address::Socket(directory.path().join("none.sock")), None, false);
        let failure = client.get::<u32>("/v2/status").await.unwrap_err();
        assert_eq!(failure.exit, Exit::NotRunning);
        assert!(failure.error.message.contains("none.sock"), "{}", failure.error.message);
    }

    /// A supervisor of version 0.1: it has none of our paths, and says states in its own form.
    #[tokio::test]
    async fn a_former_supervisor_is_asked_in_its_own_words() {
        use std::io::{Read as _, Write as _};
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let asked = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for stream in listener.incoming().take(4) {
                let (mut stream, mut head) = (stream.unwrap(), Vec::new());
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    let mut some = [0; 1024];
                    let read = stream.read(&mut some).unwrap();
                    head.extend(&some[..read]);
                }
                let line = String::from_utf8_lossy(&head).lines().next().unwrap().to_owned();
                let (status, answer) = match line.as_str() {
                    "GET /v1/one HTTP/1.1" => (
                        "200 OK",
                        r#"{"content":"blank","device_name":"","state":{"is":"refused","why":"x"}}"#,
                    ),
                    _ if line.contains("/v2/") => (
                        "404 Not Found",
                        r#"{"code":"not-found","message":"the API has no such operation: /v2"}"#,
                    ),
                    _ => ("404 Not Found", r#"{"code":"not-found","message":"there is no pool"}"#),
                };
                asked.push(line);
                let length = answer.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{answer}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        let client = ApiClient::new(Address::Socket(socket), None, false);
        let answer = client.get::<serde_json::Value>("/v2/one").await.unwrap();
        assert_eq!((&answer["state"], &answer["why"]), (&"refused".into(), &"x".into()));
        let failure = client.get::<u32>("/v2/other").await.unwrap_err();
        assert_eq!(failure.error.message, "there is no pool");
        let paths = ["/v2/one", "/v1/one", "/v2/other", "/v1/other"];
        assert_eq!(asked.join().unwrap(), paths.map(|path| format!("GET {path} HTTP/1.1")));
    }

    /// Somebody listens and never answers.
    #[tokio::test]
    async fn silence_ends_with_what_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("mute.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client =
            ApiClient::new(Address::Socket(socket), Some(Duration::from_millis(50)), false);
        let failures = [
            client.get::<u32>("/v2/pools/p").await.unwrap_err(),
            client.post::<u32>("/v2/pools/p/volumes/v/mount", &()).await.unwrap_err(),
            client.stream::<u32>("/v2/pools/p/volumes/v/mkfs", &(), |_| {}).await.unwrap_err(),
        ];
        drop(listener);
        for (failure, what) in failures.iter().zip(["look at pool p", "mount volume p/v", "mkfs"]) {
            assert_eq!(failure.exit, Exit::Unavailable);
            assert!(failure.error.message.contains(what), "{}", failure.error.message);
            assert!(failure.error.message.contains("mute.sock"), "{}", failure.error.message);
            assert!(failure.error.remedy.as_ref().unwrap().contains("pool show p"), "{failure:?}");
        }
        assert!(
            !failures[0].error.message.contains("go on")
                && failures[1].error.message.contains("go on")
        );
    }
}

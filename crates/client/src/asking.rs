//! Asks, one connection per request, and reads what is answered.
//!
//! No request waits for ever for its answer. A look is answered at once or not; what changes something has a little longer than the longest
//! limit of the supervisor's own, whose message says more; and what takes as long as it takes is told about while it lasts,
//! so that silence means that nobody is at it any more. Only what happens by itself is waited for as long as nothing does.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use block::{InvalidName, VolumeName, check_name};
use control::api::{
    ApiError, Asked, COMMAND_HEADER, ErrorCode, EventLine, NO_OPERATION, Status, SupervisorVersion,
    VersionReport, former_path, from_former,
};
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use pool::{DiskReport, PoolReport, VolumeReport};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tls::{ConnectError, Stream, alert_of};
use tokio::net::UnixStream;

use crate::http::{self, Answer, HttpError};
use crate::{Address, Error, Lines, Remote, Work};

/// Longest answer that is read into memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest one of the former version, which takes several times that while it is brought into ours.
const FORMER_BYTES_MAX: usize = 16 << 20;
/// Longest one that says that nothing is done.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// How long it may take until there is a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a look at something may take.
const LOOK_LIMIT: Duration = Duration::from_secs(15);
/// How long a change may take: longer than all that the supervisor waits for by itself (two minutes at
/// most, for mounts that are ended and begun again).
const CHANGE_LIMIT: Duration = Duration::from_secs(150);
/// How long an operation that tells how far it is may be silent; it is told about every few seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// What runs beside a request, until it is answered: for who shows people what is waited for.
pub type Aside = Arc<dyn Fn(&Asked) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Asks a supervisor.
#[derive(Clone)]
pub struct Client {
    address: Address,
    timeout: Option<Duration>,
    command: HeaderValue,
    aside: Option<Aside>,
}

/// What is asked of whom.
pub(crate) struct Request {
    asked: Asked,
    address: Address,
}

/// In which form an answer is.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Ours,
    Former,
}

/// What supervisors before 0.2 tell of theirs.
#[derive(Deserialize)]
struct FormerStatus {
    version: String,
    host: String,
    owner: String,
}

/// Where a pool is, by its name or identity.
pub fn pool_path(pool: &str) -> Result<String, InvalidName> {
    check_name(pool)?;
    Ok(format!("/v2/pools/{pool}"))
}

/// Where a volume is.
pub fn volume_path(volume: &VolumeName) -> String {
    format!("/v2/pools/{}/volumes/{}", volume.pool(), volume.volume())
}

impl Client {
    /// Of the supervisor there.
    pub fn new(address: Address) -> Client {
        let command = HeaderValue::from_static("");
        Client { address, timeout: None, command, aside: None }
    }

    /// Waits so long for any answer, in place of what is usual.
    #[must_use]
    pub fn timeout(self, timeout: Option<Duration>) -> Client {
        Client { timeout, ..self }
    }

    /// Says what somebody typed, by which a pool's history then calls what is changed. By TLS it isn't believed, and not
    /// said.
    #[must_use]
    pub fn command(self, typed: &str) -> Client {
        let text = typed.replace(|c: char| c.is_control(), " ");
        let command = HeaderValue::from_bytes(text.as_bytes());
        Client { command: command.unwrap_or(HeaderValue::from_static("")), ..self }
    }

    /// Has something run beside each request that is answered by one document.
    #[must_use]
    pub fn aside(self, aside: Option<Aside>) -> Client {
        Client { aside, ..self }
    }

    /// Who runs which version; says so of a supervisor of the former version, too.
    pub async fn version(&self) -> Result<VersionReport, Error> {
        let is_unknown =
            |error: &Error| matches!(error, Error::Refused(e) if e.code == ErrorCode::NotFound);
        match self.get("/v2/version").await {
            Err(error) if is_unknown(&error) => {}
            told => return told,
        }
        let told = self.get("/v2/status").await.map_err(|error| match is_unknown(&error) {
            true => Error::NotUnderstood("it speaks neither version 2 nor 1 of the API".to_owned()),
            false => error,
        });
        let FormerStatus { version, host, owner } = told?;
        let remark =
            format!("the supervisor's version, {version}, doesn't know which ones its nodes run");
        let supervisor = SupervisorVersion { version, host, owner };
        Ok(VersionReport { supervisor, nodes: Vec::new(), remarks: vec![remark] })
    }

    /// All that is known of the supervisor, its pools and what is made of their volumes, and what is wrong.
    pub async fn status(&self) -> Result<Status, Error> {
        self.get("/v2/status").await
    }

    /// The disks that are present, and what is on them.
    pub async fn disks(&self) -> Result<Vec<DiskReport>, Error> {
        self.get("/v2/disks").await
    }

    /// The pools that are present.
    pub async fn pools(&self) -> Result<Vec<PoolReport>, Error> {
        self.get("/v2/pools").await
    }

    /// A pool, by its name or identity.
    pub async fn pool(&self, pool: &str) -> Result<PoolReport, Error> {
        self.get(&pool_path(pool)?).await
    }

    /// A volume.
    pub async fn volume(&self, volume: &VolumeName) -> Result<VolumeReport, Error> {
        self.get(&volume_path(volume)).await
    }

    /// What happens, as it happens, from now on. Its `next` waits as long as nothing does.
    pub async fn events(&self) -> Result<Lines<EventLine>, Error> {
        self.events_as().await
    }

    /// The same in another form: as `serde_json::Value` with all that a supervisor of a later version tells.
    pub async fn events_as<T: DeserializeOwned>(&self) -> Result<Lines<T>, Error> {
        self.lines(Method::GET, "/v2/events", &(), LOOK_LIMIT, None).await
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.call(Method::GET, path, &(), LOOK_LIMIT).await
    }

    /// Has something done.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.call(Method::POST, path, body, CHANGE_LIMIT).await
    }

    /// The same for what waits a while longer by its nature.
    pub async fn post_and_wait<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        longer: Duration,
    ) -> Result<T, Error> {
        self.call(Method::POST, path, body, CHANGE_LIMIT + longer).await
    }

    /// Has something removed.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.delete_as(path, &()).await
    }

    /// The same, and how.
    pub async fn delete_as<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.call(Method::DELETE, path, body, CHANGE_LIMIT).await
    }

    /// Has something done that takes long, and tells how far it is.
    pub async fn work<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Work<T>, Error> {
        let silence = self.timeout.unwrap_or(SILENCE_LIMIT);
        let lines = self.lines(Method::POST, path, body, SILENCE_LIMIT, Some(silence));
        Ok(Work::new(lines.await?))
    }

    async fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
        silence: Option<Duration>,
    ) -> Result<Lines<T>, Error> {
        let request = self.request(&method, path);
        let limit = self.timeout.unwrap_or(limit);
        let sent = request.within(Some(limit), self.send(&request, method, path, body));
        let (answer, form) = sent.await??;
        Ok(Lines::new(answer, form, request, silence))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, Error> {
        let request = self.request(&method, path);
        let limit = self.timeout.unwrap_or(limit);
        let answer = async {
            let (answer, form) = self.send(&request, method, path, body).await?;
            form.read(&request.whole(answer, form.bytes_max()).await?)
        };
        request.within(Some(limit), self.beside(&request.asked, answer)).await?
    }

    async fn beside<T>(&self, asked: &Asked, answer: impl Future<Output = T>) -> T {
        let Some(aside) = &self.aside else { return answer.await };
        let (mut aside, mut answer) = (aside(asked), std::pin::pin!(answer));
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            () = &mut aside => {}
        }
        answer.await
    }

    fn request(&self, method: &Method, path: &str) -> Request {
        Request { asked: Asked::of(method.as_str(), path), address: self.address.clone() }
    }

    /// Asks, and a supervisor of the former version in its own words. What is answered is what was asked for.
    async fn send(
        &self,
        request: &Request,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(Answer, Form), Error> {
        let answer = self.send_as_it_is(request, method.clone(), path, body).await?;
        if answer.status().is_success() {
            return Ok((answer, Form::Ours));
        }
        let former = former_path(path).filter(|_| answer.status() == StatusCode::NOT_FOUND);
        let refused = request.refusal(answer).await?;
        let Some(former) = former.filter(|_| refused.message.starts_with(NO_OPERATION)) else {
            return Err(refused.into());
        };
        let answer = self.send_as_it_is(request, method, &former, body).await?;
        match answer.status().is_success() {
            true => Ok((answer, Form::Former)),
            false => Err(request.refusal(answer).await?.into()),
        }
    }

    async fn send_as_it_is(
        &self,
        request: &Request,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer, Error> {
        // What was typed is believed from this machine only.
        let (host, typed) = match &self.address {
            Address::Socket(_) => ("etherpool".to_owned(), self.command.clone()),
            Address::Remote(remote) => (remote.url.authority(), HeaderValue::from_static("")),
        };
        if !path.starts_with('/') {
            return Err(Error::Invalid(format!("'{path}' is no path of the API")));
        }
        let said = http::request(method, &host, path, body);
        let mut said = said.map_err(|error| Error::Invalid(format!("{path}: {error}")))?;
        said.headers_mut().insert(COMMAND_HEADER, typed);
        let stream = match &self.address {
            Address::Socket(socket) => self.connect_here(socket).await?,
            Address::Remote(remote) => self.connect_elsewhere(remote).await?,
        };
        http::exchange(stream, said).await.map_err(|error| request.failed(error))
    }

    async fn connect_here(&self, socket: &Path) -> Result<Box<dyn Stream>, Error> {
        let connected = tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(socket)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.unreachable(error.into())),
        }
    }

    async fn connect_elsewhere(&self, remote: &Remote) -> Result<Box<dyn Stream>, Error> {
        let Remote { files, ca, url } = remote.clone();
        let config = move || files.client(tls::trusted(ca.as_deref())?);
        let config = tokio::task::spawn_blocking(config).await;
        let config = config.map_err(|error| self.unreachable(io::Error::other(error).into()))?;
        let connecting = tls::connect(&url.host, url.port, Some(config.map_err(Error::Files)?));
        let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut).into());
        connected.unwrap_or_else(late).map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, source: ConnectError) -> Error {
        Error::Unreachable { address: self.address.clone(), source }
    }
}

impl Request {
    /// What comes of it in time.
    pub async fn within<T>(
        &self,
        limit: Option<Duration>,
        answer: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let Some(limit) = limit else { return Ok(answer.await) };
        tokio::time::timeout(limit, answer).await.map_err(|_| {
            let (asked, address) = (self.asked.clone(), self.address.clone());
            Error::Late { asked, address, limit }
        })
    }

    /// Nothing more comes of it.
    pub fn ended(&self) -> Error {
        Error::Ended { asked: self.asked.clone(), address: self.address.clone() }
    }

    /// Why nothing came of it, or nothing whole.
    pub fn failed(&self, error: HttpError) -> Error {
        let address = self.address.clone();
        match (&self.address, alert_of(&error), &error) {
            (Address::Remote(remote), Some(alert), _) => {
                let certificate = remote.files.certificate.clone();
                Error::CertificateRefused { address, certificate, alert }
            }
            // Whoever is there speaks something else, like a node.
            (_, _, HttpError::Connection(why)) if why.is_parse() => {
                Error::NoSupervisor { address, why: error.to_string() }
            }
            (_, _, HttpError::Connection(_)) => self.ended(),
            _ => Error::NotUnderstood(error.to_string()),
        }
    }

    async fn whole(&self, answer: Answer, bytes_max: usize) -> Result<hyper::body::Bytes, Error> {
        answer.whole(bytes_max).await.map_err(|error| self.failed(error))
    }

    /// What the supervisor says that it doesn't do.
    async fn refusal(&self, answer: Answer) -> Result<ApiError, Error> {
        let status = answer.status();
        let text = self.whole(answer, REFUSAL_BYTES_MAX).await?;
        serde_json::from_slice(&text)
            .map_err(|_| Error::NotUnderstood(format!("the supervisor answered {status}")))
    }
}

impl Form {
    fn bytes_max(self) -> usize {
        match self {
            Form::Ours => ANSWER_BYTES_MAX,
            Form::Former => FORMER_BYTES_MAX,
        }
    }

    pub fn read<T: DeserializeOwned>(self, text: &[u8]) -> Result<T, Error> {
        let read = match self {
            Form::Ours => serde_json::from_slice(text),
            Form::Former => serde_json::from_slice(text).and_then(|mut answer| {
                from_former(&mut answer);
                serde_json::from_value(answer)
            }),
        };
        read.map_err(|error| Error::NotUnderstood(error.to_string()))
    }
}

#[cfg(test)]
#[path = "asking_tests.rs"]
mod tests;

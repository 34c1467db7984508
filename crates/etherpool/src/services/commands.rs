//! Who had what done: each request that changes a pool is told to the engine when its outcome is known, and the
//! engine logs it and keeps it in the pool's history. Nobody waits for that. What changes anything else is logged here.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::ORIGIN;
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use control::api::{ApiError, Asked, COMMAND_HEADER, ErrorCode, operation};
use control::channel::EngineRequest;
use serde_json::Value;

use super::Services;
use super::access::Peer;
use super::api::Refusal;
use super::refusals::line_of;
use super::routes::Takes;

/// Longest body of a request.
pub const REQUEST_BYTES_MAX: usize = 2 << 20;
/// Longest answer that is read for what went wrong.
const ERROR_BYTES_MAX: usize = 64 << 10;

tokio::task_local! {
    /// The note of the request that is being answered. Who answers before the outcome is known takes it along.
    static NOTE: Arc<Mutex<Option<Note>>>;
}

/// A request whose outcome isn't known yet.
pub struct Note {
    services: Arc<Services>,
    pool: String,
    who: String,
    what: String,
}

impl Note {
    /// This was its outcome.
    pub fn tell(self, result: String) {
        tokio::spawn(async move { self.keep(result).await });
    }

    async fn keep(&self, result: String) {
        let told = self.services.engine.call::<()>(self.request(result.clone())).await;
        if let Err(error) = told {
            let (who, what) = (&self.who, &self.what);
            tracing::warn!(who, what, result, %error, "a command isn't in the pool's history");
        }
    }

    fn request(&self, result: String) -> EngineRequest {
        let pools = self.services.pools.borrow();
        let named = pools.iter().find(|pool| pool.id == self.pool).map(|pool| pool.name.clone());
        EngineRequest::TellCommand {
            pool: named.unwrap_or_else(|| self.pool.clone()),
            who: self.who.clone(),
            what: self.what.clone(),
            result,
        }
    }
}

/// The outcome as it is kept.
pub fn outcome<T>(result: &Result<T, ApiError>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("failed: {}", error.message),
    }
}

/// The note of the request that is being answered, for whoever goes on after its answer has begun.
pub fn take_note() -> Option<Note> {
    NOTE.try_with(take).ok().flatten()
}

fn take(note: &Arc<Mutex<Option<Note>>>) -> Option<Note> {
    note.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Refuses what is written otherwise than it is: what is noted is what the path says. No name needs it.
fn as_it_is(asked: &Uri) -> Result<(), ApiError> {
    match asked.path().contains('%') {
        false => Ok(()),
        true => {
            Err(ApiError::new(ErrorCode::Invalid, "the path has a % in it, as no name here has"))
        }
    }
}

/// Refuses all but looking to pages in browsers: none of ours asks for more, so it is somebody else's, which uses the
/// certificate of whoever looks at it. Browsers say whose page asks, and let no page leave that out.
fn by_no_page(request: &Request) -> Result<(), ApiError> {
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    if looks || !request.headers().contains_key(ORIGIN) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Refused, "a page in a browser asks for this, and none may")
        .remedy("use etherpool's commands"))
}

/// Answers a request that takes a role, if whoever asks has it, and notes it if it changes something.
pub(super) async fn noted(
    services: Arc<Services>,
    takes: Takes,
    request: Request,
    next: Next,
) -> Response {
    let peer = Peer::of(&request);
    let asked = Asked::of(request.method().as_str(), request.uri().path());
    let may = peer.may(takes.role).and_then(|()| as_it_is(request.uri()));
    if let Err(refusal) = may.and_then(|()| by_no_page(&request)) {
        services.refusals.tell(|untold| {
            let (who, asked, why) = (peer.name(), line_of(&asked.text), &refusal.message);
            tracing::warn!(who, asked, why, untold, "refused");
        });
        return Refusal::from(refusal).into_response();
    }
    if !asked.changes {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, REQUEST_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => {
            return (axum::http::StatusCode::BAD_REQUEST, error.to_string()).into_response();
        }
    };
    let details: Value = serde_json::from_slice(&body).unwrap_or_default();
    let says_nothing = body.is_empty() || matches!(&body[..], b"{}" | b"null");
    if !takes.a_body && !says_nothing {
        return Refusal::from(ApiError::new(
            ErrorCode::Invalid,
            "all that is asked for here is said by the path: there must be no body",
        ))
        .into_response();
    }
    // What somebody says from elsewhere that he typed needn't be what he asks for.
    let typed = parts.headers.get(COMMAND_HEADER).filter(|_| !peer.is_remote());
    let typed = typed.map(|typed| typed.as_bytes());
    let named = || details["name"].as_str().map(str::to_owned);
    let pool =
        asked.pool.clone().or_else(|| named().filter(|_| operation(parts.uri.path()) == "pools"));
    // Afterwards there is nothing that it could be kept in.
    let ends_it = parts.uri.path().ends_with("/release");
    let is_asked_for = details["dry_run"] != true;
    // Of a pool's key nothing is kept, nor of what can't be told from one.
    let is_shown = details.is_object() && details.get("secret").is_none();
    let shown = if is_shown { body.clone() } else { Bytes::new() };
    let (who, what) = (peer.name(), line_of(&what(&asked, typed, &shown)));
    let request = Request::from_parts(parts, Body::from(body));
    let Some(pool) = pool.filter(|_| is_asked_for) else {
        let response = next.run(request).await;
        if is_asked_for {
            tracing::info!(who, what, status = response.status().as_u16(), "command");
        }
        return response;
    };
    let note = Note { services, pool, who, what };
    if ends_it {
        note.keep("begun".to_owned()).await;
    }
    let note = Arc::new(Mutex::new(Some(note)));
    let response = NOTE.scope(Arc::clone(&note), next.run(request)).await;
    let Some(note) = take(&note) else { return response };
    if response.status().is_success() {
        if !ends_it {
            note.tell("done".to_owned());
        }
        return response;
    }
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, ERROR_BYTES_MAX).await.unwrap_or_default();
    let error = serde_json::from_slice::<ApiError>(&body);
    let why = error.map_or_else(|_| parts.status.to_string(), |error| error.message);
    note.tell(format!("failed: {why}"));
    Response::from_parts(parts, Body::from(body))
}

/// The command as it was typed, or in the API's words.
fn what(asked: &Asked, typed: Option<&[u8]>, body: &Bytes) -> String {
    match typed.filter(|typed| !typed.is_empty()) {
        Some(typed) => String::from_utf8_lossy(typed).into_owned(),
        None if body.is_empty() || &body[..] == b"{}" || &body[..] == b"null" => asked.text.clone(),
        None => format!("{} {}", asked.text, String::from_utf8_lossy(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_kept_else_what_was_asked() {
        let asked = Asked::of("POST", "/v2/pools/p/set");
        let body = Bytes::from_static(b"{\"scrub_rate_bytes\":7}");
        assert_eq!(
            what(&asked, Some(b"pool set p scrub-rate 7M"), &body),
            "pool set p scrub-rate 7M"
        );
        assert_eq!(what(&asked, None, &body), "set pool p {\"scrub_rate_bytes\":7}");
        assert_eq!(what(&asked, Some(b""), &Bytes::from_static(b"{}")), "set pool p");
    }
}

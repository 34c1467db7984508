//! Answers as the former version reads them: what it asks for under its own paths is done by the same operations.

use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use control::api::{ApiError, ErrorCode, to_former};
use futures::TryStreamExt as _;

use super::api::Refusal;
use super::described::LINES;

/// An answer as the former version reads it.
pub(super) async fn in_former_form(answer: Response) -> Response {
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    let converted = |text: &[u8]| {
        let mut value = serde_json::from_slice(text).ok()?;
        to_former(&mut value);
        serde_json::to_vec(&value).ok()
    };
    let is_stream = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == LINES);
    let body = match is_stream {
        // Each piece is a line.
        true => {
            Body::from_stream(body.into_data_stream().map_ok(move |line| match converted(&line) {
                Some(mut line) => {
                    line.push(b'\n');
                    Bytes::from(line)
                }
                None => line,
            }))
        }
        false => match to_bytes(body, usize::MAX).await {
            Ok(text) => Body::from(converted(&text).map_or(text, Bytes::from)),
            Err(error) => {
                return Refusal::from(ApiError::new(ErrorCode::Internal, error.to_string()))
                    .into_response();
            }
        },
    };
    Response::from_parts(parts, body)
}

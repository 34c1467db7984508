//! What a route takes and answers, read off the types of its handler: none is described otherwise than it is.

use std::future::Future;
use std::marker::PhantomData;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use control::api::{ApiError, ErrorCode};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api::{App, Json, On, Refusal};
use super::schemas::Schemas;

/// What a path names.
pub(super) struct Path<P>(pub P);

impl<P: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<P> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<P>, Refusal> {
        let found = axum::extract::Path::from_request_parts(parts, state).await;
        found.map(|axum::extract::Path(named)| Path(named)).map_err(|error| {
            ApiError::new(ErrorCode::Invalid, format!("the path: {}", error.body_text())).into()
        })
    }
}

/// What is asked for behind a path.
pub(super) struct Query<Q>(pub Q);

impl<Q: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<Q> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Query<Q>, Refusal> {
        let found = axum::extract::Query::from_request_parts(parts, state).await;
        found.map(|axum::extract::Query(asked)| Query(asked)).map_err(|error| {
            ApiError::new(ErrorCode::Invalid, format!("the request: {}", error.body_text())).into()
        })
    }
}

/// The type of a stream of JSON lines, each of which is a piece of the body.
pub(super) const LINES: &str = "application/x-ndjson";

/// An answer in lines.
pub(super) struct Lines<Line> {
    body: Body,
    line: PhantomData<Line>,
}

impl<Line> Lines<Line> {
    /// Of these pieces, each of them a line.
    pub fn new(body: Body) -> Lines<Line> {
        Lines { body, line: PhantomData }
    }
}

impl<Line> IntoResponse for Lines<Line> {
    fn into_response(self) -> Response {
        ([("content-type", LINES)], self.body).into_response()
    }
}

/// What would be done, or lines while it is done.
pub(super) enum Work<Preview, Line> {
    Would(Json<Preview>),
    Does(Lines<Line>),
}

impl<Preview, Line> IntoResponse for Work<Preview, Line>
where
    Json<Preview>: IntoResponse,
{
    fn into_response(self) -> Response {
        match self {
            Work::Would(preview) => preview.into_response(),
            Work::Does(lines) => lines.into_response(),
        }
    }
}

/// An answer that is no JSON, by its type.
pub(super) struct Text<Kind>(Response, PhantomData<Kind>);

impl<Kind> Text<Kind> {
    pub fn new(answer: impl IntoResponse) -> Text<Kind> {
        Text(answer.into_response(), PhantomData)
    }
}

impl<Kind> IntoResponse for Text<Kind> {
    fn into_response(self) -> Response {
        self.0
    }
}

/// A type of text.
pub(super) trait TextKind {
    const KIND: &str;
}

/// What a route takes and answers, as schemas.
#[derive(Default)]
pub(super) struct Operation {
    /// Of each part of the path that isn't the same for all, in order.
    pub path: Vec<Value>,
    /// Of what may stand behind the path.
    pub query: Option<Value>,
    /// Of the body, and whether there must be one.
    pub body: Option<(Value, bool)>,
    /// By content types.
    pub answer: serde_json::Map<String, Value>,
}

/// A handler's argument.
pub(super) trait Part {
    fn describe(operation: &mut Operation, schemas: &mut Schemas);
}

impl Part for App {
    fn describe(_: &mut Operation, _: &mut Schemas) {}
}

impl<P: JsonSchema> Part for Path<P> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        let named = schemas.asked::<P>();
        operation.path = match &named["prefixItems"] {
            Value::Array(parts) => parts.clone(),
            _ => vec![named],
        };
    }
}

impl<Q: JsonSchema> Part for Query<Q> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        operation.query = Some(schemas.asked_whole::<Q>());
    }
}

impl<P: JsonSchema, R: JsonSchema + DeserializeOwned> Part for On<P, R> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        if schemas.asked::<P>()["type"] != "null" {
            Path::<P>::describe(operation, schemas);
        }
        // An empty body counts as this.
        let is_needed = serde_json::from_str::<R>("{}").is_err();
        operation.body = Some((schemas.asked::<R>(), is_needed));
    }
}

/// A handler's answer.
pub(super) trait Answers {
    fn describe(operation: &mut Operation, schemas: &mut Schemas);
}

impl<T: JsonSchema> Answers for Json<T> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        let schema = schemas.told::<T>();
        operation.answer.insert("application/json".to_owned(), json!({ "schema": schema }));
    }
}

impl<T: Answers> Answers for Result<T, Refusal> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        T::describe(operation, schemas);
    }
}

impl<Line: JsonSchema> Answers for Lines<Line> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        let whole = json!({ "type": "string", "description": "Documents of JSON, one a line, each as x-item-schema says." });
        let lines = json!({ "schema": whole, "x-item-schema": schemas.told::<Line>() });
        operation.answer.insert(LINES.to_owned(), lines);
    }
}

impl<Preview: JsonSchema, Line: JsonSchema> Answers for Work<Preview, Line> {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        Json::<Preview>::describe(operation, schemas);
        Lines::<Line>::describe(operation, schemas);
    }
}

impl<Kind: TextKind> Answers for Text<Kind> {
    fn describe(operation: &mut Operation, _: &mut Schemas) {
        let text = json!({ "schema": { "type": "string" } });
        operation.answer.insert(Kind::KIND.to_owned(), text);
    }
}

/// A handler, whose arguments are these.
pub(super) trait Described<Arguments> {
    fn describe(schemas: &mut Schemas) -> Operation;
}

macro_rules! described {
    ($($argument:ident),*) => {
        impl<Handler, Doing, $($argument),*> Described<($($argument,)*)> for Handler
        where
            Handler: Fn($($argument),*) -> Doing,
            Doing: Future,
            Doing::Output: Answers,
            $($argument: Part,)*
        {
            fn describe(schemas: &mut Schemas) -> Operation {
                let mut operation = Operation::default();
                $(<$argument as Part>::describe(&mut operation, schemas);)*
                <Doing::Output as Answers>::describe(&mut operation, schemas);
                operation
            }
        }
    };
}

described!();
described!(One);
described!(One, Two);
described!(One, Two, Three);

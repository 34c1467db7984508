//! The API as a machine reads it: an OpenAPI 3.1 document, made of the one table of routes and the types of their handlers.

use std::sync::LazyLock;

use control::alerts::Batch;
use control::api::{ApiError, ErrorCode};
use serde_json::{Map, Value, json};

use super::api::Json;
use super::described::Operation;
use super::routes::{Route, all};
use super::schemas::Schemas;

/// The version of the API: what its paths begin with.
const VERSION: &str = "2";

const DESCRIPTION: &str = "What the supervisor of etherpool does for programs, on its Unix socket \
    (`/run/etherpool/api.sock`) and by TLS. Within a version answers may have further fields, and words further values: \
    leave alone what you don't know. A body may be left out where nothing has to be said. What fails answers with \
    an `ApiError`: what, on what, and mostly what to do.";

/// `GET /v2/openapi.json`.
pub(super) async fn show() -> Json<&'static Value> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
    Json(&DOCUMENT)
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in all() {
        let operation = operation_of(&route, &mut schemas);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.taken.method] = operation;
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "etherpool",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
            "x-program-version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{
            "url": "/",
            "description": "On the Unix socket the host is any, as http://etherpool; by TLS it is where [api] of supervisor.toml says.",
        }],
        "paths": paths,
        "webhooks": { "messages": webhook(&mut schemas) },
        "components": {
            "responses": refusals(&mut schemas),
            "securitySchemes": {
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A certificate that [api] of supervisor.toml knows, whose name has the role there: \
                        read, operate or administer, each of which may what those before it may.",
                },
            },
        },
    });
    schemas.put_into(&mut document);
    document
}

/// What [alerts] of supervisor.toml has posted.
fn webhook(schemas: &mut Schemas) -> Value {
    let content = json!({ "application/json": { "schema": schemas.told::<Batch>() } });
    json!({ "post": {
        "operationId": "take_messages",
        "summary": "What people are told, posted to each [[alerts.webhook]] of supervisor.toml",
        "requestBody": { "required": true, "content": content },
        "responses": { "2XX": { "description": "Taken; after any other answer it is posted again" } },
    } })
}

fn operation_of(route: &Route, schemas: &mut Schemas) -> Value {
    let Operation { path, query, body, answer } = (route.taken.describe)(schemas);
    let names = parameters(route.path);
    let in_path = names.iter().zip(path).map(|(name, schema)| {
        let description = meaning_of(name);
        json!({ "name": name, "in": "path", "required": true, "schema": schema, "description": description })
    });
    let mut parameters: Vec<Value> = in_path.collect();
    for (name, mut schema) in query
        .iter()
        .flat_map(|query| query["properties"].as_object())
        .flatten()
        .map(|(name, schema)| (name, schema.clone()))
    {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        parameters.push(
            json!({ "name": name, "in": "query", "schema": schema, "description": description }),
        );
    }
    let mut responses = Map::new();
    responses.insert("200".to_owned(), json!({ "description": "Done", "content": answer }));
    for status in statuses() {
        let place = format!("#/components/responses/{status}");
        responses.insert(status.to_string(), json!({ "$ref": place }));
    }
    let mut operation = json!({
        "operationId": id_of(route.taken.method, route.path),
        "tags": [tag_of(route.path)],
        "summary": route.says,
        "description": format!("Takes the role `{}`.", route.role),
        // Whoever is connected to the socket has a role without any.
        "security": [{ "certificate": [route.role] }, {}],
        "parameters": parameters,
        "responses": responses,
    });
    if let Some((schema, is_needed)) = body {
        operation["requestBody"] = json!({ "required": is_needed, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

/// The names between braces.
fn parameters(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
}

/// What a part of a path is.
fn meaning_of(name: &str) -> &'static str {
    match name {
        "pool" => "The pool, by its name or identity.",
        "volume" => "The volume, by its name in the pool.",
        "disk" => "The disk, by its address.",
        "number" => "The job, by its number in the pool.",
        "server" => "The boot server, by its id.",
        "id" => "The token, by its id.",
        _ => "The name of the file.",
    }
}

/// By which programs that were made of the document call it: as lasting as the path. What one of several is named of is
/// written as one: `get_pool_volume_stats`.
fn id_of(method: &str, path: &str) -> String {
    let parts: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && *part != "v2").collect();
    if parts.is_empty() {
        return format!("{method}_index");
    }
    let mut id = method.to_owned();
    for (index, part) in parts.iter().enumerate().filter(|(_, part)| !part.starts_with('{')) {
        let is_named = parts.get(index + 1).is_some_and(|next| next.starts_with('{'));
        let one = match part.strip_suffix("ies") {
            Some(stem) => format!("{stem}y"),
            None => part.strip_suffix('s').unwrap_or(part).to_owned(),
        };
        id.push('_');
        id.push_str(if is_named { &one } else { part });
    }
    id.replace(['-', '.'], "_")
}

fn tag_of(path: &str) -> &'static str {
    match path.trim_start_matches("/v2/") {
        rest if rest.contains("volume") => "volumes",
        rest if rest.starts_with("pools") || rest.starts_with("plan") => "pools",
        _ => "supervisor",
    }
}

fn statuses() -> std::collections::BTreeSet<u16> {
    ErrorCode::ALL.into_iter().map(ErrorCode::http_status).collect()
}

/// How requests fail, by the status of the answer.
fn refusals(schemas: &mut Schemas) -> Value {
    let refusal = schemas.told::<ApiError>();
    let codes = schemas.told_whole::<ErrorCode>();
    let meaning = |code: ErrorCode| {
        let word = json!(code);
        let known = codes["oneOf"].as_array().into_iter().flatten();
        let says =
            known.filter(|one| one["const"] == word).find_map(|one| one["description"].as_str());
        format!("`{}`: {}", word.as_str().unwrap_or_default(), says.unwrap_or_default())
    };
    let of = |status: u16| {
        let codes = ErrorCode::ALL.into_iter().filter(|code| code.http_status() == status);
        let description = codes.map(meaning).collect::<Vec<_>>().join(" ");
        let content = json!({ "application/json": { "schema": refusal } });
        (status.to_string(), json!({ "description": description, "content": content }))
    };
    Value::Object(statuses().into_iter().map(of).collect())
}

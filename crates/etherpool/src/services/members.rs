//! Requests of the API about nodes that join, and the tokens by which they do.

use axum::extract::State;
use control::api::{
    AddedMember, ApiError, CreateToken, CreatedToken, ErrorCode, MembersReport, NamedMember,
};
use control::channel::EngineRequest;
use seal::NotATokenId;

use super::api::{Answer, App, On};
use super::described::Path;

pub(super) async fn show(State(services): App) -> Answer<MembersReport> {
    services.ask(EngineRequest::Members).await
}

pub(super) async fn add(on: On<(), NamedMember>) -> Answer<AddedMember> {
    on.services.ask(EngineRequest::AddMember(on.request)).await
}

pub(super) async fn forget(on: On<(), NamedMember>) -> Answer<()> {
    on.services.ask(EngineRequest::ForgetMember(on.request)).await
}

pub(super) async fn create_token(on: On<(), CreateToken>) -> Answer<CreatedToken> {
    on.services.ask(EngineRequest::CreateToken(on.request)).await
}

pub(super) async fn revoke_token(State(services): App, Path(id): Path<String>) -> Answer<()> {
    let id = id.parse().map_err(|error: NotATokenId| {
        ApiError::new(ErrorCode::Invalid, error.to_string()).remedy("see `etherpool token list`")
    })?;
    services.ask(EngineRequest::RevokeToken { id }).await
}

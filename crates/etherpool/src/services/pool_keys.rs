//! The secret halves of pools' keys, each a file in the state directory that only root reads, and what is done with
//! them: whom a pool's disks obey is changed here, and told by the engine. Who has a pool open needs none for that; a
//! secret may as well be kept elsewhere, until something is to be changed.

use std::ffi::OsString;
use std::io;

use axum::extract::State;
use control::api::{
    ApiError, ErrorCode, ImportPool, NamedSupervisor, PoolKeyReport, PoolKeySecret,
    RevokeSupervisor, RotateKey,
};
use control::channel::EngineRequest;
use os::dir::Directory;
use pool::{ImportPlan, PoolGrant, PoolReport, VotesOf};
use seal::{Grant, PoolKey, PoolKeyPair, PublicKey, SecretKey, Security};
use zeroize::Zeroizing;

use super::Services;
use super::api::{Answer, App, Json, On, OnPool};
use super::described::Path;
use crate::keys;

/// Longer than such a file ever is.
const FILE_BYTES_MAX: u64 = 256;

/// Where they are kept.
pub struct PoolKeys {
    state_dir: Directory,
}

/// A grant that is to be made known, and what is to be done once it is.
struct Change {
    grant: Grant,
    /// The key that is no pool's any more then.
    former: Option<PoolKey>,
}

impl PoolKeys {
    pub fn open(state_dir: &std::path::Path) -> io::Result<PoolKeys> {
        Directory::create(state_dir).map(|state_dir| PoolKeys { state_dir })
    }

    /// This machine's key.
    fn own(&self) -> Result<PublicKey, ApiError> {
        keys::load_or_make(&self.state_dir).map(|pair| pair.public()).map_err(not_kept)
    }

    fn file_of(key: PoolKey) -> String {
        let hex: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("pool-{hex}.key")
    }

    /// Those that are kept, by the names of their files.
    fn all(&self) -> Vec<PoolKey> {
        let names = self.state_dir.names().unwrap_or_default().into_iter();
        let keys = names.filter_map(|name| {
            let hex = name.to_str()?.strip_prefix("pool-")?.strip_suffix(".key")?.to_owned();
            let bytes = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
            Some(PoolKey(bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()?))
        });
        keys.collect()
    }

    fn find(&self, key: PoolKey) -> Result<Option<PoolKeyPair>, ApiError> {
        let name = PoolKeys::file_of(key);
        let bytes = self.state_dir.read(&name, FILE_BYTES_MAX).map_err(not_kept)?;
        let Some(bytes) = bytes.map(Zeroizing::new) else { return Ok(None) };
        let pair = std::str::from_utf8(&bytes).ok().and_then(pair_of);
        match pair.filter(|pair| pair.public() == key) {
            Some(pair) => Ok(Some(pair)),
            None => Err(ApiError::new(
                ErrorCode::Io,
                format!("{} holds another key", self.state_dir.path_of(&name).display()),
            )
            .remedy(
                "take that file away, and bring the pool's key back: etherpool pool key import",
            )),
        }
    }

    fn has(&self, key: PoolKey) -> Option<String> {
        let found = self.find(key).ok().flatten();
        found.map(|_| self.state_dir.path_of(PoolKeys::file_of(key)).display().to_string())
    }

    /// The pool's, without which nothing is changed.
    fn needed(&self, grant: &Grant) -> Result<PoolKeyPair, ApiError> {
        self.find(grant.key())?.ok_or_else(|| {
            ApiError::new(
                ErrorCode::Refused,
                format!("this machine hasn't the secret half of the pool's key {}", grant.key()),
            )
            .remedy("bring it here: etherpool pool key import POOL FILE, of what pool key export wrote where it is; if it is lost, rotate and revoke take --lost-key")
        })
    }

    fn keep(&self, pair: &PoolKeyPair) -> Result<(), ApiError> {
        let name = OsString::from(PoolKeys::file_of(pair.public()));
        let text = Zeroizing::new(format!("{}\n", *pair.secret().to_text()));
        match self.state_dir.create_private(&name, text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.find(pair.public()).map(drop)
            }
            kept => kept.map_err(not_kept),
        }
    }

    fn forget(&self, key: PoolKey) {
        let name = OsString::from(PoolKeys::file_of(key));
        if let Err(error) = self.state_dir.remove(&name)
            && error.kind() != io::ErrorKind::NotFound
        {
            let file = self.state_dir.path_of(&name);
            tracing::warn!(%error, "{} is nobody's key any more, and stays", file.display());
        }
    }

    fn make(&self) -> Result<PoolKeyPair, ApiError> {
        let bytes = os::random_bytes().map_err(not_kept)?;
        let pair = PoolKeyPair::of(SecretKey::new(bytes)).map_err(not_kept)?;
        self.keep(&pair)?;
        Ok(pair)
    }

    /// A new pool's key, and its first grant, to this machine. Where the pool isn't made its file stays, as nobody
    /// can be sure of that.
    pub fn found(&self) -> Result<Grant, ApiError> {
        let own = self.own()?;
        self.make()?.found(&[own]).map_err(not_granted)
    }

    /// The grant by which this machine may have a pool that obeys `known`: that one, or, where it has the pool's key, one
    /// that names it. None if there is none.
    fn to_import(&self, known: &Grant) -> Result<Option<Grant>, ApiError> {
        let own = self.own()?;
        if known.names(&own) {
            return Ok(Some(known.clone()));
        }
        let Some(pair) = self.find(known.key())? else { return Ok(None) };
        pair.follow(known, &with(known, own)).map(Some).map_err(not_granted)
    }

    fn admit(&self, known: &Grant, supervisor: PublicKey) -> Result<Change, ApiError> {
        let grant = self.needed(known)?.follow(known, &with(known, supervisor));
        Ok(Change { grant: grant.map_err(not_granted)?, former: None })
    }

    /// The pool has another key from now on, and only those of `supervisors` may have its disks. Who has the pool open
    /// needs no copy of a key that is lost for that; but nothing leads disks that are away from that one to the next.
    fn rotate(
        &self,
        known: &Grant,
        supervisors: &[PublicKey],
        lost_key: bool,
    ) -> Result<Change, ApiError> {
        let former = match lost_key {
            true => None,
            false => Some(self.needed(known)?),
        };
        let next = self.make()?;
        let grant = match &former {
            Some(former) => former.hand_over(known, &next, supervisors),
            None => next.found_after(known, supervisors),
        };
        let grant = grant.map_err(not_granted).inspect_err(|_| self.forget(next.public()))?;
        Ok(Change { grant, former: former.map(|former| former.public()) })
    }
}

fn with(known: &Grant, supervisor: PublicKey) -> Vec<PublicKey> {
    known.supervisors().iter().copied().chain([supervisor]).collect()
}

fn pair_of(text: &str) -> Option<PoolKeyPair> {
    PoolKeyPair::of(SecretKey::parse(text).ok()?).ok()
}

fn not_kept(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Io, format!("a key can't be kept in the state directory: {error:#}"))
        .remedy("see that the state directory can be written; nothing was changed")
}

fn not_granted(error: seal::GrantError) -> ApiError {
    ApiError::new(ErrorCode::Refused, error.to_string())
        .remedy("see who may have the pool's disks: etherpool pool key list POOL")
}

fn no_key(pool: &str) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!("pool {pool} has no key: its disks obey whoever claims them"),
    )
    .remedy("to make one: etherpool pool key rotate POOL")
}

impl Services {
    /// Whether a pool that is made here has a key. Where nobody demands keys nobody shows one, and its own disks would
    /// refuse it.
    fn pools_have_keys(&self) -> bool {
        self.config.security != Security::None
    }

    /// Whom a new pool's disks are to obey.
    pub(super) fn first_grant(&self) -> Result<Option<Grant>, ApiError> {
        self.pools_have_keys().then(|| self.pool_keys.found()).transpose()
    }

    async fn grant_of(&self, pool: &str) -> Result<Option<PoolGrant>, ApiError> {
        self.grant_by(pool, self.pool_keys.all()).await
    }

    async fn grant_by(
        &self,
        pool: &str,
        keys: Vec<PoolKey>,
    ) -> Result<Option<PoolGrant>, ApiError> {
        self.engine.call(EngineRequest::PoolGrant { pool: pool.to_owned(), keys }).await
    }

    /// Where the secret half of a pool's key is kept.
    pub(super) async fn key_file_of(&self, pool: &str) -> Option<String> {
        let known = self.grant_of(pool).await.ok().flatten()?;
        self.pool_keys.has(known.grant.key())
    }

    fn report(&self, known: PoolGrant) -> Result<PoolKeyReport, ApiError> {
        let PoolGrant { grant, unheard } = known;
        Ok(PoolKeyReport {
            key: grant.key(),
            version: grant.version(),
            supervisors: grant.supervisors().to_vec(),
            this_machine: self.pool_keys.own()?,
            file: self.pool_keys.has(grant.key()),
            unheard,
        })
    }

    async fn set_grant(&self, pool: String, change: Change) -> Result<PoolKeyReport, ApiError> {
        let Change { grant, former } = change;
        // Where this fails it isn't known which of both keys the pool has: both are kept.
        let known = self.engine.call(EngineRequest::SetGrant { pool, grant }).await?;
        former.into_iter().for_each(|former| self.pool_keys.forget(former));
        // Until that is written down somebody who was shut out could show himself as let in.
        self.remember().await?;
        self.report(known)
    }

    /// Whose a pool is. Who isn't let in by its disks is told that, and not what he can't see because of it.
    pub(super) async fn plan_import(&self, pool: String, votes: VotesOf) -> Answer<ImportPlan> {
        let asked = EngineRequest::PlanImportPool { pool: pool.clone(), votes };
        let planned: Result<ImportPlan, ApiError> = self.engine.call(asked).await;
        if planned.as_ref().is_ok_and(|plan| plan.no_quorum.is_none()) {
            return Ok(Json(planned?));
        }
        let known = self.grant_of(&pool).await.ok().flatten().map(|known| known.grant);
        if let Some(known) = known
            && self.pool_keys.to_import(&known)?.is_none()
        {
            return Err(self.shut_out(&pool, &known)?.into());
        }
        Ok(Json(planned?))
    }

    /// Imports a pool; where its disks don't obey this machine yet, and it has the pool's key, by a grant to itself.
    pub(super) async fn import(&self, pool: String, request: ImportPool) -> Answer<PoolReport> {
        // Disks of this machine it may have all the same, and those of pools without keys.
        let known = self.grant_of(&pool).await.ok().flatten().map(|known| known.grant);
        let grant = match &known {
            Some(known) => self.pool_keys.to_import(known)?,
            None => None,
        };
        let is_shut_out = grant.is_none();
        let asked = EngineRequest::ImportPool { pool: pool.clone(), request, grant };
        let imported = self.ask_for_pool(&pool, asked).await;
        match (imported, known) {
            (Err(_), Some(known)) if is_shut_out => Err(self.shut_out(&pool, &known)?.into()),
            (imported, _) => imported,
        }
    }

    fn shut_out(&self, pool: &str, known: &Grant) -> Result<ApiError, ApiError> {
        let (key, own) = (known.key(), self.pool_keys.own()?);
        let why = format!(
            "the disks of pool {pool} obey its key {key}, which doesn't let this machine in"
        );
        Ok(ApiError::new(ErrorCode::Refused, why).remedy(format!(
            "where it is open: etherpool pool admit {pool} {own}; or with a copy of its key: \
             etherpool pool import {pool} --key FILE"
        )))
    }
}

pub(super) async fn show(
    State(services): App,
    Path(pool): Path<String>,
) -> Answer<Option<PoolKeyReport>> {
    let known = services.grant_of(&pool).await?;
    Ok(Json(known.map(|known| services.report(known)).transpose()?))
}

pub(super) async fn admit(on: OnPool<NamedSupervisor>) -> Answer<PoolKeyReport> {
    let On { services, path: pool, request: NamedSupervisor { supervisor, dry_run }, .. } = on;
    let known = services.grant_of(&pool).await?.ok_or_else(|| no_key(&pool))?;
    let change = services.pool_keys.admit(&known.grant, supervisor)?;
    if dry_run || known.grant.names(&supervisor) {
        return Ok(Json(services.report(known)?));
    }
    Ok(Json(services.set_grant(pool, change).await?))
}

pub(super) async fn rotate(on: OnPool<RotateKey>) -> Answer<PoolKeyReport> {
    let On { services, path: pool, request: RotateKey { lost_key }, .. } = on;
    let change = match services.grant_of(&pool).await? {
        Some(known) => {
            services.pool_keys.rotate(&known.grant, known.grant.supervisors(), lost_key)?
        }
        None if services.pools_have_keys() => {
            Change { grant: services.pool_keys.found()?, former: None }
        }
        None => {
            let why =
                "this supervisor demands no keys, so it shows none to disks that would obey one";
            return Err(ApiError::new(ErrorCode::Refused, why)
                .remedy("set security in supervisor.toml and restart it, then make the pool's key")
                .into());
        }
    };
    Ok(Json(services.set_grant(pool, change).await?))
}

pub(super) async fn revoke(on: OnPool<RevokeSupervisor>) -> Answer<PoolKeyReport> {
    let On {
        services,
        path: pool,
        request: RevokeSupervisor { supervisor, lost_key, dry_run },
        ..
    } = on;
    let known = services.grant_of(&pool).await?.ok_or_else(|| no_key(&pool))?;
    if supervisor == services.pool_keys.own()? {
        let why = "that is this machine, which has the pool open";
        return Err(ApiError::new(ErrorCode::Refused, why)
            .remedy("import the pool on the machine that is to have it, and revoke this one there")
            .into());
    }
    if !known.grant.names(&supervisor) {
        let why = format!("{supervisor} may not have the disks of pool {pool} anyway");
        return Err(ApiError::new(ErrorCode::NotFound, why)
            .remedy("see who may: etherpool pool key list POOL")
            .into());
    }
    if dry_run {
        if !lost_key {
            services.pool_keys.needed(&known.grant)?;
        }
        return Ok(Json(services.report(known)?));
    }
    let others = known.grant.supervisors().iter().copied();
    let others: Vec<PublicKey> = others.filter(|other| *other != supervisor).collect();
    let change = services.pool_keys.rotate(&known.grant, &others, lost_key)?;
    Ok(Json(services.set_grant(pool, change).await?))
}

pub(super) async fn export(
    State(services): App,
    Path(pool): Path<String>,
) -> Answer<PoolKeySecret> {
    let known = services.grant_of(&pool).await?.ok_or_else(|| no_key(&pool))?;
    let pair = services.pool_keys.needed(&known.grant)?;
    Ok(Json(PoolKeySecret { secret: pair.secret().to_text().to_string() }))
}

pub(super) async fn import_key(on: OnPool<PoolKeySecret>) -> Answer<PoolKeyReport> {
    let On { services, path: pool, request: PoolKeySecret { secret }, .. } = on;
    let secret = Zeroizing::new(secret);
    let pair = pair_of(&secret);
    let given = pair.iter().map(PoolKeyPair::public).collect();
    let known = services.grant_by(&pool, given).await?.ok_or_else(|| no_key(&pool))?;
    let Some(pair) = pair.filter(|pair| pair.public() == known.grant.key()) else {
        let why = format!("this isn't the key of pool {pool}, which is {}", known.grant.key());
        return Err(ApiError::new(ErrorCode::Refused, why)
            .remedy("a key that was rotated is none any more: bring the newest copy")
            .into());
    };
    services.pool_keys.keep(&pair)?;
    Ok(Json(services.report(known)?))
}

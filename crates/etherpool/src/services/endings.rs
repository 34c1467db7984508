//! The end of pools. One of which a volume is used is destroyed by nobody: whoever uses it is named. One that can't be
//! opened any more is given up.

use control::api::{ApiError, ErrorCode, PoolReportExt as _, Preview, ReleasePool};
use control::channel::EngineRequest;
use control::settings::VolumeSettings;
use pool::{DestroyPlan, DestroyReport, PoolReport, PoolState};
use uuid::Uuid;

use super::Services;
use super::alerts::DISCOVERY;
use super::mounts::check_confirmed;
use super::operations::check_detached;

impl Services {
    /// What destroying a pool would end, or why it isn't destroyed.
    pub async fn plan_destroy(&self, pool: String) -> Result<DestroyPlan, ApiError> {
        let pools = self.fresh_pools().await?;
        let named = |one: &&PoolReport| one.name == pool || one.id == pool;
        pools.iter().filter(named).try_for_each(check_not_used)?;
        self.engine.call(EngineRequest::PlanDestroyPool { pool }).await
    }

    /// Destroys a pool that nobody uses, if it still is what was shown.
    pub async fn destroy_pool(
        &self,
        pool: String,
        shown: DestroyPlan,
    ) -> Result<DestroyReport, ApiError> {
        if pool != shown.id && pool != shown.name {
            return Err(ApiError::new(
                ErrorCode::Refused,
                format!("pool {pool} is to be destroyed, but pool {} was shown", shown.name),
            ));
        }
        let is_it = |one: &&PoolReport| one.id == shown.id && one.is_open();
        let names: Vec<_> = {
            let pools = self.fresh_pools().await?;
            let found = pools.iter().find(is_it);
            let volumes = found.into_iter().flat_map(PoolReport::named_volumes);
            volumes.map(|(name, _)| name).collect()
        };
        let (mut turns, mut paused) = (Vec::new(), Vec::new());
        for name in &names {
            turns.push(self.turns.on(name).await?);
        }
        // Looked at once nobody begins anything with them any more.
        self.fresh_pools().await?.iter().filter(is_it).try_for_each(check_not_used)?;
        for name in &names {
            let state = self.reconciler.volume(name).pause().await?;
            check_detached(name, state.device().is_some())?;
            paused.push(state);
        }
        let request = EngineRequest::DestroyPool { shown: shown.clone() };
        let destroyed: DestroyReport = self.engine.call(request).await?;
        if let Ok(id) = shown.id.parse() {
            // Disks that were away are told by it when they are back. What can't be written is told as trouble.
            self.registry.note_destroyed(id, &shown.name).await;
        }
        self.look_now();
        self.witness_left.notify_one();
        Ok(destroyed)
    }
}

/// A pool of this supervisor that can't be opened.
pub(super) struct LackingPool {
    id: Uuid,
    name: String,
}

impl Services {
    /// The pool of this name or id that is this supervisor's, and of which too little is present, or nothing. One that is
    /// open, or is about to be, isn't taken for it.
    pub(super) fn lacking_pool(
        &self,
        pools: &[PoolReport],
        pool: &str,
    ) -> Result<Option<LackingPool>, ApiError> {
        let known = self.registry.known().into_iter();
        let named: Vec<_> = known.filter(|(id, name)| name == pool || id == pool).collect();
        let state_of =
            |id: &str| pools.iter().find(|report| report.id == id).map(|report| &report.state);
        let mut lacking = named
            .iter()
            .filter(|(id, _)| matches!(state_of(id), None | Some(PoolState::Incomplete { .. })));
        let Some((id, name)) = lacking.next() else { return Ok(None) };
        if pools.iter().any(|report| report.is_open() && report.name == pool) {
            return Ok(None);
        }
        if named.len() > 1 {
            let ids: Vec<&str> = named.iter().map(|(id, _)| id.as_str()).collect();
            let text = format!("there are {} pools called {pool}: {}", ids.len(), ids.join(", "));
            return Err(ApiError::new(ErrorCode::Refused, text).remedy("name one by its id"));
        }
        if state_of(id).is_none() && self.begun.elapsed() < DISCOVERY {
            let text = format!(
                "pool {name} is not there yet, as the supervisor has run for a few seconds only; \
                 try again in half a minute"
            );
            return Err(ApiError::new(ErrorCode::Suspended, text));
        }
        Ok(id.parse().ok().map(|id| LackingPool { id, name: name.clone() }))
    }

    /// Gives up a pool that can't be opened: machines that are gone for good would be waited for, and told of, for ever.
    pub(super) async fn give_up(
        &self,
        LackingPool { id, name }: LackingPool,
        request: ReleasePool,
    ) -> Result<Option<Preview>, ApiError> {
        let effects = vec![format!(
            "pool {name} ({id}) can't be opened, and isn't opened by itself any more, also if its disks are back; what is on \
             them stays as it is, and `etherpool pool import {name}` opens it then, here or elsewhere"
        )];
        let preview =
            Preview { effects, ends_something: true, gives_up: true, ..Preview::default() };
        if request.dry_run {
            return Ok(Some(preview));
        }
        check_confirmed(&name, request, &preview)?;
        let asked = EngineRequest::GiveUpPool { name, id };
        let () = self.engine.call(asked).await?;
        self.registry.forget(id).await;
        self.look_now();
        Ok(None)
    }
}

/// Refuses what would take a volume from whoever uses it, and says who does.
fn check_not_used(pool: &PoolReport) -> Result<(), ApiError> {
    let uses: Vec<String> = pool
        .named_volumes()
        .flat_map(|(name, volume)| {
            let settings = VolumeSettings::from_properties(&volume.properties);
            let mount = settings.mount.iter().map(|mount| {
                let served = if settings.ftp.is_some() { " and served by FTP" } else { "" };
                format!("{name} is mounted at {}{served}", mount.path.display())
            });
            let device = settings.device.then(|| format!("{name} is attached"));
            let exports = settings.exports.iter();
            let exports =
                exports.map(|export| format!("{name} is exported as aoe:{}", export.address));
            mount.chain(device).chain(exports).collect::<Vec<_>>()
        })
        .collect();
    if uses.is_empty() {
        return Ok(());
    }
    let remedy = "end that first: etherpool volume unmount, detach, unexport";
    let why = format!("pool {} is in use: {}", pool.name, uses.join("; "));
    Err(ApiError::new(ErrorCode::Busy, why).remedy(remedy))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_uses_a_pool_is_named() {
        let mut pool: PoolReport = serde_json::from_str(
            r#"{"name":"p","id":"1","state":"online","owner":"host","epoch":1,"stale_secs":null,
                "capacity_bytes":1,"free_bytes":0,"survives":0,"disks":[],"lease_ok":true,"jobs":[],
                "votes":{"total":1,"present":1},"scrub":null,
                "volumes":[{"name":"v","id":"1","layout":"raid0","size_bytes":1,"properties":{},
                "degraded":false,"dirty_bytes":0,"read_bytes":0,"written_bytes":0,"resynced_bytes":0,
                "repaired_blocks":0,"log_bytes":0,"state":"online","replayed":{"records":0,"blocks":0}}]}"#,
        )
        .unwrap();
        assert!(check_not_used(&pool).is_ok());
        let volume = &mut pool.volumes[0];
        volume.properties.insert("mount".into(), r#"{"path":"/srv/v"}"#.into());
        volume.properties.insert("device".into(), "true".into());
        let error = check_not_used(&pool).unwrap_err();
        assert_eq!(error.code, ErrorCode::Busy);
        let said = &error.message;
        assert!(said.contains("is mounted at /srv/v") && said.contains("is attached"), "{said}");
    }
}

//! Whom the disks of a pool obey, changed under load and while machines come and go: whoever was let in has the pool,
//! whoever was shut out has nothing, and every disk hears of it in the end.

use std::time::Duration;

use aoe_target::read_reservation;
use block::{Lba, SectorRange};
use futures::FutureExt;
use pool::engine::{CreatePool, ImportOptions};
use pool::metadata::Layout;
use pool::{PoolError, PoolGrant, PoolReport};
use seal::{Grant, PoolKeyPair, PublicKey, SecretKey};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::jobs::disturb;
use super::owners::import;
use super::scenario;
use crate::cluster::Plan;
use crate::drivers;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[scenario(
    "grants",
    "a pool's key is changed, and supervisors are let in and shut out, under load and while machines go and come; those \
     who are let in take the pool over, those who aren't get nothing",
    900,
    |stage| changes(stage).boxed_local(),
)];

/// A key by its number.
pub(super) fn key(number: u8) -> Result<PoolKeyPair, Failure> {
    PoolKeyPair::of(SecretKey::new([number; 32])).map_err(|error| Failure(error.to_string()))
}

pub(super) fn supervisor(rig: &Rig, number: usize) -> PublicKey {
    drivers::public_key(&rig.cluster.director(), rig.cluster.supervisor(number).name())
}

pub(super) fn bystander(rig: &Rig) -> PublicKey {
    drivers::public_key(&rig.cluster.director(), drivers::BYSTANDER)
}

/// Makes a pool, with a key where pools of this run have some.
pub(super) async fn create(rig: &Rig, request: CreatePool) -> Result<PoolReport, Failure> {
    let grant = rig.cluster.is_granted().then(|| first(rig)).transpose()?;
    rig.with(|engine| async move { engine.create_granted(request, grant).await }).await
}

/// The first grant of a pool, to all supervisors that there are.
fn first(rig: &Rig) -> Result<Grant, Failure> {
    let all = (0..rig.cluster.plan().supervisors).map(|of| supervisor(rig, of));
    let all: Vec<_> = all.chain([bystander(rig)]).collect();
    key(1)?.found(&all).map_err(|error| Failure(error.to_string()))
}

impl Rig {
    pub(super) async fn grant(&self) -> Result<PoolGrant, Failure> {
        let known = self.with(|engine| async move { engine.grant(POOL) }).await?;
        known.ok_or_else(|| Failure("the pool has no key".into()))
    }

    pub(super) async fn set_grant(&self, grant: Grant) -> Result<PoolGrant, Failure> {
        self.with(|engine| async move { engine.set_grant(POOL, grant).await }).await
    }
}

async fn changes(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, granted: true, ..Plan::simple(4, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::BUSY).await?;
    // The number of the pool's key, and of the supervisor that has it open.
    let (mut number, mut active) = (1, 0);
    for _ in 0..3 + rig.below(4) {
        rig.run_for(rig.between(1, 2000)).await;
        let away = (rig.below(3) == 0).then(|| rig.below(4));
        away.into_iter().for_each(|node| rig.cluster.kill_node(node));
        rig.run_for(rig.between(1, 3000)).await;
        let known = rig.grant().await?.grant;
        // What nobody waited for may have been done later.
        number += u8::from(known.key() == key(number + 1)?.public());
        let (ours, other) = (supervisor(&rig, active), supervisor(&rig, 1 - active));
        let both = rig.below(2) == 0;
        let named = [ours, bystander(&rig)].into_iter().chain(both.then_some(other));
        let named: Vec<PublicKey> = named.collect();
        let rotates = rig.below(2) == 0;
        let next = match rotates {
            true => key(number)?.hand_over(&known, &key(number + 1)?, &named),
            false => key(number)?.follow(&known, &named),
        };
        let next = next.map_err(|error| Failure(error.to_string()))?;
        let set = rig.set_grant(next.clone());
        let set = match rig.below(3) {
            // Whoever does it dies, or a machine does, while it is being done.
            0 => {
                let limit = rig.between(0, 20);
                let set = runtime::timeout(&rig.cluster.director(), limit, set).await;
                let ended = set.is_ok();
                disturb(&rig, Mix::BUSY).await?;
                ended
            }
            _ => {
                set.await?;
                true
            }
        };
        away.into_iter().for_each(|node| rig.cluster.start_node(node));
        rig.wait_clean(CONVERGENCE_MAX).await?;
        let now = rig.grant().await?.grant;
        expect(now == next || !set && now == known, || {
            format!("{now:?}, neither {known:?} nor {next:?}")
        })?;
        number += u8::from(now == next && rotates);
        all_hear(&rig).await?;
        if rig.below(2) == 0 {
            active = take_over(&rig, active, now.names(&other)).await?;
        }
    }
    rig.cluster.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    all_hear(&rig).await?;
    rig.converge().await
}

/// Every disk that is there knows the newest grant.
async fn all_hear(rig: &Rig) -> Result<(), Failure> {
    let begin = rig.cluster.world().timeline().now();
    loop {
        let PoolGrant { grant, unheard } = rig.grant().await?;
        if unheard.is_empty() {
            return all_have(rig, &grant);
        }
        let took = rig.cluster.world().timeline().now().since(begin);
        expect(took < CONVERGENCE_MAX, || format!("{unheard:?} don't hear whom they obey"))?;
        rig.run_for(Duration::from_millis(500)).await;
    }
}

/// The record of every disk has it.
fn all_have(rig: &Rig, grant: &Grant) -> Result<(), Failure> {
    let slot = |number| SectorRange::new(Lba(16 + 8 * u64::from(number)), 8);
    for (name, disk) in rig.cluster.disks() {
        let records = (0..2).filter_map(|of| read_reservation(&disk.peek(slot(of)), of));
        let newest = records.max_by_key(|record| record.sequence);
        let known = newest.and_then(|record| record.grant);
        let has = known.as_deref() == Some(grant);
        expect(has, || format!("{name} was told {grant:?} and has {known:?}"))?;
    }
    Ok(())
}

/// Another supervisor takes the pool, if it may; tells who has it.
async fn take_over(rig: &std::rc::Rc<Rig>, active: usize, may: bool) -> Result<usize, Failure> {
    let other = 1 - active;
    rig.cluster.kill_supervisor(active);
    rig.forget_clients();
    rig.cluster.start_supervisor(other);
    let has_it = match may {
        true => {
            import(rig, other).await?;
            other
        }
        false => {
            rig.set_active(other);
            rig.see_disks(rig.cluster.disks().len()).await?;
            let options = ImportOptions { force: true, ..ImportOptions::default() };
            let refused: Result<Result<_, PoolError>, Failure> = rig
                .with(|engine| async move {
                    Ok::<_, PoolError>(engine.import_pool(POOL, options).await)
                })
                .await;
            let refused = refused?.map(drop);
            expect(refused.is_err(), || "who was shut out has the pool".into())?;
            rig.cluster.kill_supervisor(other);
            rig.set_active(active);
            rig.cluster.start_supervisor(active);
            rig.see_disks(rig.cluster.disks().len()).await?;
            active
        }
    };
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.load(Mix::BUSY).await?;
    Ok(has_it)
}

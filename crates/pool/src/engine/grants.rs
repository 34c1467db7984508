//! Whom the pool's disks obey: a grant of the pool's key ([`seal::Grant`]), kept in the metadata, shown with every claim
//! and kept by each disk's target. A disk that is away when there is a new one hears of it when it is back.

use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, Buffer, Claim, Completion, Holder, IoError, RefusalReason, Trust};
use futures::future::join_all;
use seal::{Grant, PublicKey};

use super::lease::Ended;
use super::member::Member;
use super::open_pool::OpenPool;
use super::pool::Pool;
use super::re_add::{NotFit, not_fit};
use crate::error::PoolError;
use crate::metadata::{MetaRecord, Metadata};
use crate::report::PoolGrant;

/// The property that has it, as text.
const GRANT: &str = "grant";
/// How often disks that haven't heard of it are told.
const TELL_EVERY: Duration = Duration::from_secs(5);
pub(super) const NOT_ADMITTED: IoError = IoError::Refused(RefusalReason::NotAdmitted);

/// What a claim says by which a disk hears of a grant.
pub(super) fn follow(grant: Option<&Grant>) -> Trust {
    grant.map_or(Trust::Unchanged, |grant| Trust::Follow(Buffer::copy_of(grant.bytes())))
}

/// What a claim says by which a disk that comes into a pool obeys it, and no former one.
pub(super) fn replace(grant: Option<&Grant>) -> Trust {
    grant.map_or(Trust::Unchanged, |grant| Trust::Replace(Buffer::copy_of(grant.bytes())))
}

/// The record that keeps it.
pub(super) fn record(grant: &Grant) -> MetaRecord {
    MetaRecord::PoolPropertySet { key: GRANT.to_owned(), value: Some(grant.to_string()) }
}

/// The one that is kept.
pub(super) fn kept(meta: &Metadata) -> Option<Rc<Grant>> {
    meta.properties().get(GRANT)?.parse().ok().map(Rc::new)
}

/// The one that counts: what the metadata keeps, or one that was found on disks or made for an import, if the pool's key
/// leads to it. Anybody can write a grant that names us, with a key of his own, on a disk of his own.
pub(super) fn believed(
    kept: Option<Rc<Grant>>,
    found: Option<Rc<Grant>>,
    key: Option<PublicKey>,
) -> Option<Rc<Grant>> {
    let follows = |found: &Rc<Grant>| kept.as_ref().is_some_and(|kept| found.follows(kept));
    let newest = found.filter(follows).or_else(|| kept.clone());
    newest.filter(|grant| is_to(grant, key))
}

/// Whether it lets in who shows this key, or none and yet has the disks.
pub(super) fn is_to(grant: &Grant, key: Option<PublicKey>) -> bool {
    key.is_none_or(|key| grant.names(&key))
}

/// Claims a disk as it is; where it doesn't let us in, by a grant that does.
pub(super) async fn admitted(
    device: &dyn BlockDevice,
    claim: Claim,
    grant: Option<Rc<Grant>>,
) -> Result<Completion<Holder>, IoError> {
    match (device.claim(claim.clone()).await, grant) {
        (Err(NOT_ADMITTED), Some(grant)) => {
            device.claim(Claim { trust: follow(Some(&grant)), ..claim }).await
        }
        (claimed, _) => claimed,
    }
}

impl Pool {
    pub(super) fn grant_version(&self) -> u64 {
        self.grant.borrow().as_ref().map_or(0, |grant| grant.version())
    }

    /// Disks that haven't heard of the newest grant.
    fn unheard(&self) -> Vec<Rc<Member>> {
        let version = self.grant_version();
        let all = self.members().into_iter();
        all.filter(|member| member.heard_grant.get() < version).collect()
    }

    /// Tells disks that are here what they haven't heard. A claim waits for all that its disk does, and holds up
    /// what comes after it: none is made in vain.
    async fn tell_grant(&self) {
        let here = self.unheard().into_iter().filter(|member| member.claimed.get());
        let here = here.filter_map(|member| Some((member.device()?, member)));
        join_all(here.map(|(device, member)| async move {
            if let Err(error) = self.tell(&member, &*device).await {
                let disk = member.display_name();
                tracing::warn!(pool = %self.name, disk, ?error, "not told whom it obeys");
            }
        }))
        .await;
    }

    /// Tells a disk that is the member's: by a grant that follows what it knows, or, where none leads from that, in the
    /// place of it. Then it is looked at once more, as another pool's may be in its place by now.
    pub(super) async fn tell(
        &self,
        member: &Member,
        device: &dyn BlockDevice,
    ) -> Result<(), NotFit> {
        member.heard_grant.set(0);
        let Some(grant) = self.grant.borrow().clone() else { return Ok(()) };
        let claim = |trust| {
            let claim = Claim { trust, ..self.claim() };
            self.within(self.limits.claim, device.claim(claim))
        };
        let told = match claim(follow(Some(&*grant))).await {
            Err(NOT_ADMITTED) => {
                self.check_label(member, device).await?;
                claim(replace(Some(&*grant))).await
            }
            told => told,
        };
        told.map_err(not_fit)?;
        member.heard_grant.set(grant.version());
        Ok(())
    }

    /// Claims a disk of which it isn't known yet what it is: it learns whom it obeys only where it lets us in no
    /// otherwise.
    pub(super) async fn claim_unknown(
        &self,
        device: &dyn BlockDevice,
    ) -> Result<Completion<Holder>, IoError> {
        let grant = self.grant.borrow().clone();
        admitted(device, self.claim(), grant).await
    }

    /// The claim that its disks have accepted.
    pub(super) fn claim(&self) -> Claim {
        Claim::new(self.epoch, self.owner)
    }
}

impl OpenPool {
    /// Keeps a grant by which the pool was imported, and tells disks of the newest, for as long as the pool is open.
    pub(crate) async fn run_grants(self: Rc<Self>) {
        while let Ok(()) = self.look_at_grant().await {
            if self.pool.unless_over(self.pool.runtime.sleep(TELL_EVERY)).await.is_err() {
                return;
            }
        }
    }

    async fn look_at_grant(self: &Rc<Self>) -> Result<(), Ended> {
        if !self.pool.lease.holds(self.pool.runtime.now()) {
            return Ok(());
        }
        let is_newer = |shown: &Rc<Grant>| {
            let kept = kept(&self.pool.meta.borrow());
            kept.filter(|kept| is_to(kept, self.pool.key()))
                .is_none_or(|kept| kept.version() < shown.version())
        };
        let shown = || self.pool.grant.borrow().clone().filter(is_newer);
        if shown().is_some() {
            let _meta = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
            if let Some(shown) = shown() {
                self.commit_if_room(&[record(&shown)]).await?;
            }
        }
        self.sign_anew().await?;
        self.pool.unless_over(self.pool.tell_grant()).await
    }

    /// Has the votes say under which grant they are, as whoever imports the pool goes by that, and who signed the metadata.
    async fn sign_anew(&self) -> Result<(), Ended> {
        let is_signed = self.pool.votes.signed_under() >= self.pool.grant_version();
        match self.pool.read_only || is_signed {
            true => self.pool.name_signers().await,
            false => self.pool.change_configuration(|_| true).await,
        }
    }

    /// Believes a grant that was found on disks, if the pool's key leads to it.
    pub(crate) fn learn_grant(&self, found: Grant) {
        let kept = kept(&self.pool.meta.borrow());
        let believed = believed(kept, Some(Rc::new(found)), self.pool.key());
        let known = self.pool.grant_version();
        if let Some(believed) = believed.filter(|believed| believed.version() > known) {
            self.pool.grant.replace(Some(believed));
        }
    }

    /// Gives the pool another grant, and tells its disks; those that are away hear of it when they are back.
    pub(crate) async fn set_grant(
        self: &Rc<Self>,
        grant: Rc<Grant>,
    ) -> Result<PoolGrant, PoolError> {
        let this = Rc::clone(self);
        // Whoever gives up waiting for the commit doesn't end it, and what is committed is shown.
        let set = self.in_time(async move {
            let pool = &this.pool;
            let plan = |meta: &Metadata| {
                let known = pool.grant.borrow().clone();
                let known = known.or_else(|| kept(meta).filter(|kept| is_to(kept, pool.key())));
                match known.is_none_or(|known| grant.version() > known.version()) {
                    true => Ok((vec![record(&grant)], ())),
                    false => Err(PoolError::invalid(
                        "the pool has another key by now, or somebody else changed who may have its disks",
                        "look at it again: etherpool pool key list POOL",
                    )),
                }
            };
            this.administer_now(plan).await?;
            pool.grant.replace(Some(grant));
            this.sign_anew().await.map_err(|ended| this.over(ended))
        });
        set.await?;
        let told = self.pool.unless_over(self.pool.tell_grant()).await;
        told.map_err(|ended| self.over(ended))?;
        self.grant().ok_or_else(|| self.over(Ended::Closed))
    }

    /// Whom its disks obey, and which of them don't know it yet.
    pub(crate) fn grant(&self) -> Option<PoolGrant> {
        let grant = self.pool.grant.borrow().as_deref().cloned()?;
        let unheard = self.pool.unheard();
        Some(PoolGrant {
            grant,
            unheard: unheard.iter().map(|member| member.display_name()).collect(),
        })
    }
}

/// Has a disk that is no pool's any more obey whoever claims it. Where that fails those who had it may have it still, and
/// its node's administrator may give up whom it obeys.
pub(super) async fn forget(device: &dyn BlockDevice, claim: Claim) {
    let forgotten = device.claim(Claim { trust: Trust::Forget, ..claim }).await;
    if let Err(error) = forgotten {
        tracing::warn!(%error, "a disk that is free obeys whom it obeyed: disk reset-owner on its node");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use seal::{PoolKeyPair, SecretKey};

    use super::*;

    const US: PublicKey = PublicKey([1; 32]);
    const OTHER: PublicKey = PublicKey([2; 32]);

    fn key(number: u8) -> PoolKeyPair {
        PoolKeyPair::of(SecretKey::new([number; 32])).unwrap()
    }

    /// Our public key is known to everybody.
    #[test]
    fn a_grant_on_a_disk_is_believed_only_if_the_pools_key_leads_to_it() {
        let first = key(1).found(&[OTHER]).unwrap();
        let to_us = key(1).follow(&first, &[US, OTHER]).unwrap();
        let rotated = key(1).hand_over(&to_us, &key(2), &[US]).unwrap();
        let forged = key(9).found(&[US, OTHER]).unwrap();
        let forged = key(9).follow(&forged, &[US, OTHER]).unwrap();
        let forged = key(9).follow(&forged, &[US, OTHER]).unwrap();
        let of = |grant: &Grant| Some(Rc::new(grant.clone()));
        for (kept, found, expected) in [
            (None, None, None),
            (None, of(&forged), None),
            (of(&first), None, None),
            (of(&first), of(&to_us), of(&to_us)),
            (of(&first), of(&rotated), of(&rotated)),
            (of(&first), of(&forged), None),
            (of(&to_us), of(&forged), of(&to_us)),
            (of(&to_us), of(&first), of(&to_us)),
            (of(&rotated), of(&to_us), of(&rotated)),
        ] {
            assert_eq!(believed(kept, found, Some(US)), expected);
        }
        assert_eq!(believed(of(&first), None, None), of(&first));
    }
}

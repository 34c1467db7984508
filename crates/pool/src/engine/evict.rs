//! Evicting disks: before anything is acknowledged without a disk, a majority of votes says that
//! the pool does without it. When the majority itself is out of reach this is no failure of disks but
//! of the way to them: everything waits, and nothing is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{IoError, SectorRange};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;

use super::config::evict;
use super::lease::Ended;
use super::member::{Member, Standing};
use super::pool::Pool;
use crate::format::{DiskGeometry, DiskNumber};
use crate::report::PoolEvent;

impl Pool {
    /// Evicts disks that failed, unless they answer again before a majority of votes does
    /// (`resolved` disks aren't asked any more). Returns when each is out or answers.
    pub(crate) async fn evict(
        self: &Rc<Self>,
        failed: &BTreeMap<DiskNumber, IoError>,
        resolved: bool,
    ) -> Result<(), Ended> {
        for (disk, error) in failed {
            let Some(member) = self.member(*disk) else { continue };
            if *error == IoError::FlushFailed {
                self.note_failed_flush(&member).await;
            }
        }
        let (mut resolved, mut patience) = (resolved, self.limits.probe);
        loop {
            let gone = failed.iter().map(|(disk, error)| async move {
                let is_fine = self.is_fine(*disk, *error, resolved, patience);
                (!self.is_out(*disk) && !is_fine.await).then_some(*disk)
            });
            let out: BTreeSet<DiskNumber> = join_all(gone).await.into_iter().flatten().collect();
            if out.is_empty() {
                return Ok(());
            }
            if self.majority_answers(&out).await {
                return self.evict_now(out, failed).await;
            }
            self.wait_for_change().await?;
            // Without it there is no majority; if it answers by now, it needn't be evicted. One that is slow
            // may take its time: nothing else can be done meanwhile.
            (resolved, patience) = (false, self.limits.eviction);
        }
    }

    /// Remembers the instance whose flush failed. The answer may have come so late that another one is there
    /// by now, which never failed and may have the vote without which nothing can be decided: so it is
    /// asked. One that failed fails every flush ([`block::BlockDevice::flush`]).
    async fn note_failed_flush(&self, member: &Member) {
        let (Some(device), Some(instance)) = (member.device(), member.seen_instance.get()) else {
            return;
        };
        let again = self.within(self.limits.probe, device.flush(instance)).await;
        if again.is_err_and(|error| error == IoError::FlushFailed) {
            member.failed_instance.set(Some(instance));
        }
    }

    async fn evict_now(
        self: &Rc<Self>,
        out: BTreeSet<DiskNumber>,
        failed: &BTreeMap<DiskNumber, IoError>,
    ) -> Result<(), Ended> {
        let pool = Rc::clone(self);
        let before: BTreeSet<DiskNumber> =
            out.iter().copied().filter(|disk| self.is_out(*disk)).collect();
        // Of many that a disk didn't answer one puts it out.
        let mut ours = BTreeSet::new();
        self.change_configuration(|config| {
            ours.extend(out.iter().copied().filter(|disk| !pool.is_out(*disk)));
            // One that was removed meanwhile is nowhere named any more.
            let there = out.iter().copied().filter(|disk| pool.member(*disk).is_some()).collect();
            evict(config, &there, |disk| pool.id_of(disk))
        })
        .await?;
        for disk in out.difference(&before) {
            let Some(member) = self.member(*disk) else { continue };
            if member.is_usable() {
                member.set_standing(Standing::Out);
            }
            if !ours.contains(disk) {
                continue;
            }
            member.was_evicted(self.runtime.now(), self.limits.rejoin);
            let why = failed.get(disk).map_or_else(|| "missing".into(), ToString::to_string);
            self.events.tell(PoolEvent::DiskOut {
                pool: self.name.clone(),
                disk: member.display_name(),
                why,
            });
        }
        self.changed.notify_all();
        // A disk that answers in spite of it is taken in again.
        for disk in out {
            if let Some(member) = self.member(disk) {
                self.re_add_soon(&member);
            }
        }
        Ok(())
    }

    /// Whether a disk that failed an operation answers now, so that the operation may be repeated. One that began anew
    /// takes nothing before it was looked at.
    async fn is_fine(
        &self,
        disk: DiskNumber,
        error: IoError,
        resolved: bool,
        patience: Duration,
    ) -> bool {
        let Some(member) = self.member(disk) else { return false };
        let is_failed_instance = member.failed_instance.get() == member.seen_instance.get();
        let unflushed = matches!(error, IoError::FlushFailed) && is_failed_instance;
        // A member that hung for the whole eviction time gets no second chance; one that said
        // `Lost` may have come back since.
        let resolved = resolved && !matches!(error, IoError::Restarted { .. });
        if resolved || unflushed {
            return false;
        }
        let answers = async {
            loop {
                let changed = self.changed.notified();
                if member.is_usable() {
                    return probe(&member).await;
                }
                if !member.is_looked_at() {
                    return Err(IoError::Lost);
                }
                changed.await;
            }
        };
        self.within(patience, answers).await.is_ok()
    }

    /// Whether a disk answers a small read at once.
    pub(super) async fn answers(&self, member: &Rc<Member>) -> bool {
        self.within(self.limits.probe, probe(member)).await.is_ok()
    }

    /// Whether a majority of votes answers at this moment with our epoch, without the suspects. A suspect
    /// that is claimed again and can't take part as it is (its contents are older) does answer: where
    /// there is no majority without it, its own vote is needed.
    pub(super) async fn majority_answers(self: &Rc<Self>, suspects: &BTreeSet<DiskNumber>) -> bool {
        let voters = self.present_voters();
        let counts = |member: &Rc<Member>| member.is_unfit() || !suspects.contains(&member.number);
        let rounds = voters.into_iter().filter(counts);
        let mut asked: FuturesUnordered<_> = rounds
            .filter_map(|member| Some((member.id, member.device()?)))
            .map(|(disk, device)| async move { (disk, device.renew().await) })
            .collect();
        let mut ours = BTreeSet::new();
        let limit = self.runtime.sleep(self.limits.eviction);
        let mut limit = std::pin::pin!(limit);
        while !self.is_majority(|disk| ours.contains(&disk)) {
            match futures::future::select(asked.next(), limit.as_mut()).await {
                futures::future::Either::Left((Some((disk, Ok(answer))), _)) => {
                    ours.extend((answer.value.epoch == self.epoch).then_some(disk));
                }
                futures::future::Either::Left((Some((_, Err(_))), _)) => {}
                _ => {
                    self.lease_round();
                    return false;
                }
            }
        }
        true
    }
}

/// Reads something small.
async fn probe(member: &Rc<Member>) -> Result<(), IoError> {
    let device = member.device().ok_or(IoError::Lost)?;
    let [slot, _] = DiskGeometry::applied_slots();
    device.read(SectorRange::new(slot, block::BLOCK_SECTORS)).await.map(|_| ())
}

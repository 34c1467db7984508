//! Looking at the disks of a closed pool for a command that changes what is on them: all are claimed under one epoch,
//! so that nobody else changes them, and then each is looked at again.

use block::{Claim, Epoch, Instance, IoError};
use futures::future::join_all;

use super::Engine;
use super::observe::read_content;
use super::open::SeenDisk;
use super::unlabel::newest_vote;
use crate::error::PoolError;
use crate::format::{Configuration, Destruction, Label};

/// Who else claims the disks outbids us this often before we give up.
const CLAIM_ATTEMPTS: usize = 4;

/// A claimed disk, as it is.
pub(super) struct ExaminedDisk {
    pub(super) seen: SeenDisk,
    pub(super) label: Label,
    /// The instance that was looked at.
    pub(super) instance: Instance,
    /// Its newest vote, and the slot that has it.
    pub(super) vote: Option<(usize, Configuration)>,
}

impl ExaminedDisk {
    pub(super) fn destruction(&self) -> Destruction {
        self.vote.as_ref().map_or(Destruction::None, |(_, vote)| vote.destruction)
    }

    /// Where its next vote goes.
    pub(super) fn next_slot(&self) -> usize {
        self.vote.as_ref().map_or(0, |(slot, _)| 1 - slot)
    }
}

impl Engine {
    /// Claims all disks under one epoch, and looks at each again: one that doesn't answer, or isn't what it was, ends it.
    pub(super) async fn claim_and_examine(
        &self,
        seen: &[SeenDisk],
    ) -> Result<(Epoch, Vec<ExaminedDisk>), PoolError> {
        let renewals = seen.iter().map(|disk| self.in_time(disk.device.renew()));
        let holders = join_all(renewals).await.into_iter().flatten();
        let voted = seen.iter().filter_map(|disk| Some(disk.vote.as_ref()?.newest.epoch));
        let highest = holders.map(|answer| answer.value.epoch).chain(voted).max();
        let mut epoch = highest.unwrap_or_default().next();
        for _ in 0..CLAIM_ATTEMPTS {
            let claim = Claim { epoch, owner: self.config.owner, force: false };
            let claims = seen.iter().map(|disk| self.in_time(disk.device.claim(claim)));
            let answers = join_all(claims).await;
            let outbid = answers.iter().filter_map(|answer| match answer {
                Err(IoError::Fenced { highest }) => Some(*highest),
                _ => None,
            });
            if let Some(highest) = outbid.max() {
                epoch = highest.next();
                continue;
            }
            let looks = seen.iter().zip(answers).map(|(disk, answer)| async move {
                let look = async { self.look_claimed(disk, answer?.instance).await };
                look.await.map_err(|error| {
                    PoolError::io("looking at it once it was claimed", &disk.place.name, error)
                })?
            });
            let disks = join_all(looks).await.into_iter().collect::<Result<Vec<_>, PoolError>>()?;
            return Ok((epoch, disks));
        }
        Err(PoolError::invalid("another supervisor claims its disks", "find out who uses the pool"))
    }

    /// Whether a claimed disk is the one that was seen.
    async fn look_claimed(
        &self,
        seen: &SeenDisk,
        instance: Instance,
    ) -> Result<Result<ExaminedDisk, PoolError>, IoError> {
        let content = self.in_time(read_content(&*seen.device, false)).await?;
        let found = content.as_of(seen.label.pool);
        let Some((label, shown)) = found.filter(|(label, _)| label.disk == seen.label.disk) else {
            return Ok(Err(PoolError::refused(
                seen.place.to_string(),
                "it doesn't carry what was shown any more",
                "look at it again (disk list); nothing was done",
            )));
        };
        let vote = self.in_time(newest_vote(&*seen.device, &label)).await?;
        // Still the one that was claimed.
        let now = self.in_time(seen.device.renew()).await?.instance;
        if now != instance {
            return Err(IoError::Restarted { now });
        }
        Ok(Ok(ExaminedDisk {
            seen: SeenDisk { vote: shown, ..seen.clone() },
            label,
            instance,
            vote,
        }))
    }

    /// What a disk that is to be looked at or wiped answers in time.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, IoError>>,
    ) -> Result<T, IoError> {
        let done = runtime::timeout(&self.runtime, self.config.limits.claim, work).await;
        done.unwrap_or(Err(IoError::Lost))
    }
}

//! Scrub: everything that the pool holds is read and compared, at a rate, from the first group to the last; what
//! is wrong is repaired. Otherwise what rots is noticed when it is needed, and that is when another disk is gone.
//!
//! It is a job: how far it is stands in the metadata ([`state`]), so it goes on after a crash, about there. Once a
//! month one begins by itself. It waits for nobody: what disks have that are away or behind is counted as unread.

mod state;
mod structures;

use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::oneshot;

use self::state::ScrubState;
use super::commit::CommitError;
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::pace::Pace;
use super::settings::{PoolSettings, SCRUB_EVERY, SCRUB_RATE, setting};
use super::verify::{Manner, Silent};
use super::volume::{Serving, Volume};
use crate::error::PoolError;
use crate::format::{GenerationId, JobNumber, VolumeId};
use crate::metadata::{Job, JobKind, MetaRecord, Metadata, RunKey};
use crate::report::{PoolEvent, ScrubReport, VerifyReport};

/// How often is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often is written how far it is: so much is read again after a crash.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// Groups that are read at once.
const GROUPS: usize = 4;
/// While requests are answered each part rests so many times as long as it took: with all groups together disks
/// are asked half of the time.
const RESTS: u32 = 2 * GROUPS as u32 - 1;
/// Groups that are looked up at once.
const GROUPS_LOOKED_UP: usize = 64;
/// How long a volume that is being opened is waited for.
const OPENING_MAX: Duration = Duration::from_secs(60);
/// From the beginning of one to that of the next, where nobody said otherwise.
const USUALLY_EVERY_SECS: u64 = 30 * 24 * 3600;

/// Which scrub it is.
#[derive(Clone, Copy)]
struct Begun {
    number: JobNumber,
    secs: u64,
}

/// A group that is to be read.
#[derive(Clone, Copy)]
struct Next {
    place: (VolumeId, u16, u64),
    generation: GenerationId,
    /// Extents that it has.
    extents: u64,
}

impl OpenPool {
    /// Begins a scrub, with new settings if there are any; one that is under way goes on.
    pub(crate) async fn begin_scrub(
        self: &Rc<Self>,
        settings: &PoolSettings,
    ) -> Result<JobNumber, PoolError> {
        let (mut records, now) = (settings.records()?, self.calendar_secs());
        let begun = self.administer(move |meta| {
            let (number, more) = records_to_begin(meta, now);
            records.extend(more);
            Ok((records, number))
        });
        begun.await
    }

    /// Reads what there is to read, and begins when it is due, for as long as the pool is open.
    pub(crate) async fn run_scrubs(self: Rc<Self>) {
        loop {
            let job = self.pool.meta.borrow().scrub_job().map(|(number, _)| number);
            let done = match job {
                Some(number) => self.scrub(number).await,
                None => self.begin_if_due().await,
            };
            if done.is_err() || self.pool.unless_over(self.rest()).await.is_err() {
                return;
            }
        }
    }

    /// What is known of the scrub that is under way, or of the last one.
    pub(super) fn scrub_report(&self, meta: &Metadata) -> ScrubReport {
        let state = ScrubState::of(meta).unwrap_or_default();
        let every = setting(meta, SCRUB_EVERY, Some(USUALLY_EVERY_SECS));
        let next = every.filter(|_| state.counted_from > 0 && meta.scrub_job().is_none());
        ScrubReport {
            begun_secs: Some(state.begun).filter(|secs| *secs > 0),
            ended_secs: Some(state.ended).filter(|secs| *secs > 0),
            next_secs: next.map(|every| state.counted_from.saturating_add(every)),
            blocks: state.blocks,
            bad_blocks: state.bad,
            repaired_blocks: state.repaired,
            unread_blocks: state.unread,
        }
    }

    /// Extents that the scrub has read, those included that aren't noted yet.
    pub(super) fn scrubbed_extents(&self, meta: &Metadata) -> u64 {
        let state = ScrubState::of(meta).unwrap_or_default();
        let job = meta.scrub_job().map(|(number, _)| number);
        let read = self
            .jobs
            .scrubbed
            .get()
            .filter(|(number, begun, _)| (Some(*number), *begun) == (job, state.begun));
        read.map_or(state.extents, |(_, _, extents)| state.extents.max(extents))
    }

    async fn rest(&self) {
        self.pool.runtime.sleep(LOOK_EVERY).await;
    }

    fn calendar_secs(&self) -> u64 {
        self.pool.runtime.calendar().as_secs().max(1)
    }

    async fn begin_if_due(self: &Rc<Self>) -> Result<(), Ended> {
        let now = self.calendar_secs();
        let is_due = |meta: &Metadata| {
            let every = setting(meta, SCRUB_EVERY, Some(USUALLY_EVERY_SECS))?;
            let from = ScrubState::of(meta).unwrap_or_default().counted_from;
            // A clock that was wrong mustn't keep it from ever being due.
            let is_known = from > 0 && from <= now;
            Some((is_known, now.saturating_sub(from) >= every))
        };
        let due = is_due(&self.pool.meta.borrow());
        let (Some((true, true)) | Some((false, _))) = due else { return Ok(()) };
        let _meta = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
        let records = {
            let meta = self.pool.meta.borrow();
            let state = ScrubState::of(&meta).unwrap_or_default();
            match is_due(&meta) {
                _ if meta.scrub_job().is_some() => return Ok(()),
                Some((true, true)) => records_to_begin(&meta, now).1,
                Some((false, _)) => vec![ScrubState { counted_from: now, ..state }.record()],
                _ => return Ok(()),
            }
        };
        self.commit_if_room(&records).await.map(drop)
    }

    /// Commits what a pool whose metadata is full goes on without, with the metadata locked; false then.
    pub(super) async fn commit_if_room(&self, records: &[MetaRecord]) -> Result<bool, Ended> {
        match self.pool.try_commit_locked(records).await {
            Ok(()) => Ok(true),
            Err(CommitError::Ended(ended)) => Err(ended),
            Err(CommitError::Inconsistent(_) | CommitError::TooLarge) => Ok(false),
        }
    }

    /// Goes on with a scrub from where it was, to its end or until it is cancelled.
    async fn scrub(self: &Rc<Self>, number: JobNumber) -> Result<(), Ended> {
        let state = ScrubState::of(&self.pool.meta.borrow());
        let Some(mut state) = state else { return self.begin_anew(number).await };
        let begun = Begun { number, secs: state.begun };
        if !self.is_wanted(begun) {
            return Ok(());
        }
        self.pool.events.tell(PoolEvent::ScrubBegun { pool: self.pool.name.clone() });
        // Whoever goes on with it read them when he opened the pool.
        if state.place() == ScrubState::default().place() {
            let structures = self.pool.scrub_structures().await?;
            state.bad = structures.bad;
            state.unread = structures.unread;
        }
        let (pace, mut noted) = (Rc::new(Pace::by(Some(SCRUB_RATE))), self.pool.runtime.now());
        let opened_by = noted + OPENING_MAX;
        while self.is_wanted(begun) {
            let next = self.next_groups(&state);
            let Some(first) = next.first() else { return self.end_scrub(begun, state).await };
            // Those of one volume together.
            let volume = first.place.0;
            let serving = self.serving_volume(volume);
            if serving.is_none() && self.pool.runtime.now() < opened_by && self.is_opening(volume) {
                self.pool.unless_over(self.rest()).await?;
                continue;
            }
            let groups = next.iter().take_while(|next| next.place.0 == volume);
            let verified = groups.map(|next| {
                let verified = serving.as_ref().map(|volume| {
                    let (done, receiver) = oneshot::channel();
                    let (this, volume) = (Rc::clone(self), Rc::clone(volume));
                    let (pace, generation) = (Rc::clone(&pace), next.generation);
                    // Tasks of their own: they have locks, and go on while this waits for a commit.
                    let verify = async move {
                        let found = this.scrub_group(&volume, generation, &pace, begun).await;
                        let _ = done.send(found);
                    };
                    (verify, receiver)
                });
                async {
                    let Some((verify, receiver)) = verified else {
                        return (*next, Ok(Some(self.unread(next))));
                    };
                    self.pool.runtime.spawn(verify);
                    (*next, receiver.await.unwrap_or(Err(Ended::Closed)))
                }
            });
            let mut verified = futures::stream::iter(verified).buffered(GROUPS);
            while let Some((next, found)) = verified.next().await {
                let Some(found) = found? else { return Ok(()) };
                let (volume, lane, set) = next.place;
                state.set_place((volume, lane, set.saturating_add(1)));
                state.add(next.extents, &found);
                self.jobs.scrubbed.set(Some((begun.number, begun.secs, state.extents)));
                if self.pool.runtime.now().since(noted) >= NOTE_EVERY {
                    noted = self.pool.runtime.now();
                    if !self.note(begun, &[state.record()]).await? {
                        return Ok(());
                    }
                }
            }
            // What isn't served costs no time.
            self.pool.runtime.yield_now().await;
        }
        Ok(())
    }

    /// A job of which nothing says how far it is begins at the start.
    async fn begin_anew(&self, number: JobNumber) -> Result<(), Ended> {
        let _meta = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
        let (job, state) = {
            let meta = self.pool.meta.borrow();
            (meta.scrub_job().map(|(number, _)| number), ScrubState::of(&meta))
        };
        if job != Some(number) || state.is_some() {
            return Ok(());
        }
        let now = self.calendar_secs();
        self.commit_if_room(&[ScrubState::begun_at(now).record()]).await.map(drop)
    }

    async fn end_scrub(&self, begun: Begun, mut state: ScrubState) -> Result<(), Ended> {
        state.ended = self.calendar_secs();
        let records = [state.record(), MetaRecord::JobRemoved { number: begun.number }];
        if self.note(begun, &records).await? {
            if self.is_wanted(begun) && !self.note(begun, &records[1..]).await? {
                return Ok(());
            }
            let report = self.scrub_report(&self.pool.meta.borrow());
            let pool = self.pool.name.clone();
            self.pool.events.tell(PoolEvent::ScrubDone { pool, report });
        }
        Ok(())
    }

    /// Whether nobody cancelled it. Another one may have its number.
    fn is_wanted(&self, begun: Begun) -> bool {
        let meta = self.pool.meta.borrow();
        let is_job = meta.scrub_job().is_some_and(|(number, _)| number == begun.number);
        is_job && ScrubState::of(&meta).is_some_and(|state| state.begun == begun.secs)
    }

    /// Commits how far it is, unless it was cancelled; tells whether it wasn't.
    async fn note(&self, begun: Begun, records: &[MetaRecord]) -> Result<bool, Ended> {
        let _meta = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
        if !self.is_wanted(begun) {
            return Ok(false);
        }
        // What isn't noted is read again by whoever goes on.
        self.commit_if_room(records).await?;
        Ok(true)
    }

    /// The groups from the next one on, some of them.
    fn next_groups(&self, state: &ScrubState) -> Vec<Next> {
        let from = state.place();
        let meta = self.pool.meta.borrow();
        let volumes = meta.volumes().range(from.0..).map(|(_, volume)| volume);
        let runs = volumes.flat_map(|volume| {
            let key = match volume.id == from.0 {
                true => RunKey { lane: from.1, first_set: from.2 },
                false => RunKey { lane: 0, first_set: 0 },
            };
            // The next group may be in the middle of a run.
            let first = volume.runs.range(..=key).next_back().map_or(key, |(first, _)| *first);
            volume.runs.range(first..).map(move |(_, run)| (volume.id, key, run))
        });
        let groups = runs.flat_map(|(volume, key, run)| {
            let RunKey { lane, first_set } = run.key;
            let skipped = match lane == key.lane {
                true => key.first_set.saturating_sub(first_set),
                // Of the lane before.
                false if lane < key.lane => u64::from(run.count),
                false => 0,
            };
            // What nothing was written to has nothing to compare.
            (skipped..u64::from(run.initialised())).map(move |index| Next {
                place: (volume, lane, first_set + index),
                generation: run.generation.plus(index),
                extents: run.holders().count() as u64,
            })
        });
        groups.take(GROUPS_LOOKED_UP).collect()
    }

    fn serving_volume(&self, id: VolumeId) -> Option<Rc<Volume>> {
        self.volume(id).filter(|volume| volume.serving() == Serving::Yes)
    }

    fn is_opening(&self, id: VolumeId) -> bool {
        self.volume(id).is_some_and(|volume| volume.serving() == Serving::Opening)
    }

    /// Nothing if nobody wants to know any more.
    async fn scrub_group(
        &self,
        volume: &Rc<Volume>,
        generation: GenerationId,
        pace: &Pace,
        begun: Begun,
    ) -> Result<Option<VerifyReport>, Ended> {
        let rest = async |bytes, took| {
            pace.rest(self, bytes, took * RESTS, || self.is_wanted(begun)).await;
            self.is_wanted(begun)
        };
        let verifying = volume.verify_group(generation, Manner::of(None, Silent::LeftOut), rest);
        self.pool.unless_over(verifying).await?
    }

    /// What is found of a group whose volume isn't served.
    fn unread(&self, next: &Next) -> VerifyReport {
        let dirty = next.extents * u64::from(self.pool.shape().rows());
        VerifyReport { dirty, ..VerifyReport::default() }
    }
}

/// The records that begin a scrub, and its number; none where one is under way.
fn records_to_begin(meta: &Metadata, now: u64) -> (JobNumber, Vec<MetaRecord>) {
    if let Some((number, _)) = meta.scrub_job() {
        return (number, Vec::new());
    }
    let runs = meta.volumes().values().flat_map(|volume| volume.runs.values());
    let extents = runs.map(|run| u64::from(run.initialised()) * run.holders().count() as u64);
    let job = Job { kind: JobKind::Scrub, disks: Vec::new(), extents: extents.sum() };
    let number = meta.next_job();
    (number, vec![MetaRecord::JobSet { number, job }, ScrubState::begun_at(now).record()])
}

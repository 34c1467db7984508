//! What others keep in a pool, of several keepers at a time, over crashes and takeovers: each finds what it kept last, whole,
//! and nothing that another one does changes that; nor does somebody who goes by a keeper's name and doesn't know what it
//! has kept since.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures::FutureExt;
use pool::metadata::{
    KeepNotes, KeeperId, KeptNotes, Layout, NOTE_BYTES_MAX, NOTES_BYTES_MAX, NotesKept,
};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::jobs::disturb;
use super::owners::import;
use super::scenario;
use crate::cluster::Plan;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[scenario(
    "notes",
    "several keep notes in a pool, now and then more than there is room for, over crashes and takeovers: nobody's are \
     changed by another one, and nobody overwrites what he knows nothing of",
    600,
    |stage| notes(stage).boxed_local(),
)];

type Notes = BTreeMap<String, String>;

/// Somebody who keeps notes, and what the pool has of them.
struct Keeper {
    id: KeeperId,
    /// All states that it knows of.
    known: BTreeSet<u64>,
    kept: Notes,
}

struct Desk {
    rig: Rc<Rig>,
    keepers: Vec<Keeper>,
    mark: u64,
}

impl Desk {
    async fn shown(&self) -> Result<BTreeMap<KeeperId, Notes>, Failure> {
        let all = self.rig.with(|engine| async move { engine.notes(POOL) }).await?;
        Ok(all.into_iter().map(|KeptNotes { keeper, notes, .. }| (keeper, notes)).collect())
    }

    /// Every keeper has what it has.
    async fn check(&self) -> Result<(), Failure> {
        let mut shown = self.shown().await?;
        for Keeper { id, kept, .. } in &self.keepers {
            let found = shown.remove(id).unwrap_or_default();
            expect(found == *kept, || differs(*id, &found, kept))?;
        }
        expect(shown.is_empty(), || format!("somebody has kept {shown:?}"))?;
        let taken: usize = self.keepers.iter().map(|keeper| bytes_of_all(&keeper.kept)).sum();
        expect(taken <= NOTES_BYTES_MAX, || format!("{taken} bytes are kept"))
    }

    fn want(&mut self, number: usize) -> KeepNotes {
        self.mark += 1;
        let is_greedy = self.rig.below(6) == 0;
        let most = if is_greedy { 16 } else { 4 };
        let of = |this: &Desk| {
            let bytes = if is_greedy { 15_000 } else { this.rig.below(2000) };
            (format!("n{}", this.rig.below(most + 2)), format!("{}-{bytes:0>bytes$}", this.mark))
        };
        let notes = (0..self.rig.below(most + 1)).map(|_| of(self)).collect();
        let keeper = &mut self.keepers[number];
        let known = keeper.known.clone();
        // It is remembered before it is said.
        keeper.known.insert(self.mark);
        let (keeper, mark) = (keeper.id, self.mark);
        let are_all = self.rig.below(3) > 0;
        let host = format!("host-{number}");
        KeepNotes { keeper, host, at_secs: mark, mark, known, are_all, notes }
    }

    async fn keep(&self, want: KeepNotes) -> Result<NotesKept, Failure> {
        self.rig.with(|engine| async move { engine.keep_notes(POOL, want).await }).await
    }

    /// A keeper has something else kept; perhaps its supervisor ends meanwhile.
    async fn turn(&mut self, number: usize) -> Result<(), Failure> {
        let want = self.want(number);
        let (keep, cut) = (want.clone(), self.rig.below(4) == 0);
        let asked = self.keep(keep);
        if cut {
            let limit = self.rig.between(0, 20);
            drop(runtime::timeout(&self.rig.cluster.director(), limit, asked).await);
            self.rig.restart_supervisor(self.rig.between(1, 2000)).await;
            self.rig.load(Mix::default()).await?;
            self.rig.wait_clean(CONVERGENCE_MAX).await?;
        } else {
            let done = asked.await?;
            expect(!done.is_unknown, || format!("{} isn't known any more", want.keeper))?;
        }
        let mut shown = self.shown().await?;
        let found = shown.remove(&want.keeper).unwrap_or_default();
        let before = &self.keepers[number].kept;
        let is_as_it_was = cut && found == *before;
        expect(is_as_it_was || is_right(&want, before, &found, &shown), || {
            differs(want.keeper, &found, &want.notes)
        })?;
        self.keepers[number].kept = found;
        Ok(())
    }

    /// Somebody goes by a keeper's name who knows only what was kept at some time before, or nothing.
    async fn double(&mut self, number: usize) -> Result<(), Failure> {
        let mut want = self.want(number);
        let Keeper { id, known, kept } = &mut self.keepers[number];
        known.remove(&want.mark);
        want.known.clear();
        want.notes.insert("double".into(), "is nobody's".into());
        let (id, is_free) = (*id, kept.is_empty());
        if is_free {
            return Ok(());
        }
        let done = self.keep(want).await?;
        // Where there was no room for any of it there was nothing to be refused.
        expect(!done.changed, || format!("a double of {id} has kept something: {done:?}"))
    }

    async fn forget(&mut self, number: usize) -> Result<(), Failure> {
        let id = self.keepers[number].id;
        let was_there =
            self.rig.with(|engine| async move { engine.forget_notes(POOL, id).await }).await?;
        let kept = std::mem::take(&mut self.keepers[number].kept);
        expect(was_there != kept.is_empty(), || format!("of {id} was there: {was_there}"))
    }
}

fn differs(id: KeeperId, found: &Notes, expected: &Notes) -> String {
    let short = |notes: &Notes| {
        let cut = |text: &String| text.chars().take(8).collect::<String>();
        notes.iter().map(|(name, text)| format!("{name}={}", cut(text))).collect::<Vec<_>>()
    };
    format!("{id} has {:?}, not {:?}", short(found), short(expected))
}

/// What a note takes, with the name of its property.
fn bytes_of(name: &str, text: &str) -> usize {
    "note-0123456789abcdef.".len() + name.len() + text.len()
}

fn bytes_of_all(notes: &Notes) -> usize {
    notes.iter().map(|(name, text)| bytes_of(name, text)).sum()
}

/// Whether a keeper has what it wanted: each note as it wanted it, unless there is no room for that even now; then as it was
/// before, unless there is none for that either.
fn is_right(
    want: &KeepNotes,
    before: &Notes,
    found: &Notes,
    others: &BTreeMap<KeeperId, Notes>,
) -> bool {
    let mut all = want.notes.clone();
    if !want.are_all {
        before.iter().for_each(|(name, text)| {
            all.entry(name.clone()).or_insert_with(|| text.clone());
        });
    }
    let taken: usize = others.values().chain([found]).map(bytes_of_all).sum();
    let room = NOTES_BYTES_MAX.saturating_sub(taken);
    let fits = |name: &str, text: &str, instead: Option<&String>| {
        let room = room + instead.map_or(0, |instead| bytes_of(name, instead));
        text.len() <= NOTE_BYTES_MAX && bytes_of(name, text) <= room
    };
    let is_as_good = |(name, text): (&String, &String)| match (found.get(name), before.get(name)) {
        (Some(now), _) if now == text => true,
        (Some(now), was) => was == Some(now) && !fits(name, text, Some(now)),
        (None, was) => !fits(name, text, None) && was.is_none_or(|was| !fits(name, was, None)),
    };
    taken <= NOTES_BYTES_MAX
        && found.keys().all(|name| all.contains_key(name))
        && all.iter().all(is_as_good)
}

async fn notes(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, ..Plan::simple(3, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    let keeper = |number| Keeper {
        id: KeeperId(0x1000 + number),
        known: BTreeSet::new(),
        kept: Notes::new(),
    };
    let keepers = (0..2 + rig.below(2) as u64).map(keeper).collect();
    let mut desk = Desk { rig: Rc::clone(&rig), keepers, mark: 0 };
    for _ in 0..8 + rig.below(8) {
        let number = rig.below(desk.keepers.len());
        match rig.below(8) {
            0 => desk.double(number).await?,
            1 => desk.forget(number).await?,
            _ => desk.turn(number).await?,
        }
        desk.check().await?;
        match rig.below(6) {
            0 => disturb(&rig, Mix::default()).await?,
            1 => taken_over(&rig).await?,
            _ => rig.run_for(rig.between(1, 500)).await,
        }
        rig.wait_clean(CONVERGENCE_MAX).await?;
        desk.check().await?;
    }
    rig.converge().await
}

/// Another supervisor has the pool.
pub(super) async fn taken_over(rig: &Rc<Rig>) -> Result<(), Failure> {
    let other = 1 - rig.active();
    rig.cluster.kill_supervisor(rig.active());
    rig.forget_clients();
    rig.cluster.start_supervisor(other);
    import(rig, other).await?;
    rig.load(Mix::default()).await
}

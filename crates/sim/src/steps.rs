//! Everything that leaves a process and lasts is a *step*: a write or flush of a disk, a frame on a
//! cable. Steps of an operation are counted, so that a run exists in which the power, a machine or a
//! process goes right before, right after or in the middle of exactly the n-th of them.
//!
//! A step happens while some task runs, and a task can't be taken away while it runs. So when the
//! chosen step strikes, the world holds still: whatever those who are to die do until the task next
//! waits has no effect, and then the crash happens before anything else. What others do, the chosen
//! step included, happens: an engine's death spares the writes of a node.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use pool::{StopAt, StopPoint};

/// What kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A write that a cache may hold.
    Write,
    /// A write whose answer says that it is on stable storage, as it gets there.
    Stable,
    /// A flush, as it ends.
    Flush,
    /// A frame.
    Frame,
}

impl Kind {
    /// Whether it changes what a disk has.
    pub fn is_on_disk(self) -> bool {
        self != Kind::Frame
    }
}

/// One of the steps, counted from zero, or a place that an engine passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nth {
    /// Among all.
    Step(u64),
    /// Among those on disks.
    OnDisk(u64),
    /// A place between two of them, where everything of the one before has happened.
    Named(StopAt),
}

/// When the crash comes, seen from its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Nothing of the step happens.
    Before,
    /// Part of it does.
    Middle,
    /// All of it does, and nobody hears of it.
    After,
}

/// How much of a step happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// None.
    Nothing,
    /// A part.
    Half,
    /// All.
    All,
}

type Crash = Box<dyn FnOnce(&str)>;
/// Whether a crash at the first place takes away who is at the second.
type Dies = Box<dyn Fn(&str, &str) -> bool>;

/// The count of steps, and the one that a crash waits for.
#[derive(Default)]
pub struct Steps {
    counting: Cell<bool>,
    kinds: RefCell<Vec<Kind>>,
    on_disks: Cell<u64>,
    passed: RefCell<BTreeSet<StopPoint>>,
    armed: Cell<Option<(Nth, When)>>,
    crash: RefCell<Option<(Dies, Crash)>>,
    /// Where the step struck, and what it was: the world holds still.
    struck: RefCell<Option<(String, String)>>,
    holds_still: Cell<bool>,
}

impl Steps {
    /// Begins to count, at zero.
    pub fn begin(&self) {
        self.counting.set(true);
        self.kinds.borrow_mut().clear();
        self.on_disks.set(0);
        self.passed.borrow_mut().clear();
    }

    /// Ends counting and forgets what hasn't struck; tells what steps there were.
    pub fn end(&self) -> Vec<Kind> {
        self.counting.set(false);
        self.armed.set(None);
        self.crash.take();
        self.kinds.take()
    }

    /// The `nth` step from now on ends in `crash`, which is told where it struck.
    /// `dies` says whether a crash at the first of two places takes away who is at the second.
    pub fn arm(
        &self,
        nth: Nth,
        when: When,
        dies: impl Fn(&str, &str) -> bool + 'static,
        crash: impl FnOnce(&str) + 'static,
    ) {
        self.begin();
        self.armed.set(Some((nth, when)));
        *self.crash.borrow_mut() = Some((Box::new(dies), Box::new(crash)));
    }

    /// A step is about to happen at `place`.
    pub fn take(&self, kind: Kind, place: &str) -> Effect {
        if self.holds_still.get() {
            return if self.is_void(place) { Effect::Nothing } else { Effect::All };
        }
        if !self.counting.get() {
            return Effect::All;
        }
        let (number, on_disks) = (self.kinds.borrow().len() as u64, self.on_disks.get());
        self.kinds.borrow_mut().push(kind);
        self.on_disks.set(on_disks + u64::from(kind.is_on_disk()));
        let is_it = |nth| match nth {
            Nth::Step(nth) => nth == number,
            Nth::OnDisk(nth) => kind.is_on_disk() && nth == on_disks,
            Nth::Named(_) => false,
        };
        let Some((_, when)) = self.armed.get().filter(|(armed, _)| is_it(*armed)) else {
            return Effect::All;
        };
        self.strikes_at(place, format!("{when:?} {kind:?} {number} at {place}"));
        match when {
            _ if !self.is_void(place) => Effect::All,
            When::Before => Effect::Nothing,
            // A frame goes as a whole or not at all.
            When::Middle if kind == Kind::Frame => Effect::Nothing,
            When::Middle => Effect::Half,
            When::After => Effect::All,
        }
    }

    /// The named places that were passed since the beginning.
    pub fn passed(&self) -> BTreeSet<StopPoint> {
        self.passed.borrow().clone()
    }

    /// The engine at `place` passes a named place; whether it halts there, because the crash comes.
    pub fn pass(&self, point: StopPoint, place: &str) -> bool {
        self.passed.borrow_mut().insert(point);
        let Some((Nth::Named(mut at), when)) = self.armed.get() else { return false };
        let is_it = !self.holds_still.get() && at.is_reached(point);
        self.armed.set(Some((Nth::Named(at), when)));
        if is_it {
            self.strikes_at(place, format!("{point} at {place}"));
        }
        is_it
    }

    fn strikes_at(&self, place: &str, what: String) {
        self.armed.set(None);
        self.holds_still.set(true);
        *self.struck.borrow_mut() = Some((place.to_string(), what));
    }

    /// Whether a crash is due as soon as the present task waits.
    pub fn holds_still(&self) -> bool {
        self.holds_still.get()
    }

    /// Whether what happens at `place` now has no effect any more.
    pub fn is_void(&self, place: &str) -> bool {
        if !self.holds_still.get() {
            return false;
        }
        match (&*self.struck.borrow(), &*self.crash.borrow()) {
            (Some((at, _)), Some((dies, _))) => dies(at, place),
            _ => false,
        }
    }

    /// The crash, once the task that took the step waits.
    pub(crate) fn strike(&self) {
        let Some((_, what)) = self.struck.take() else { return };
        self.counting.set(false);
        self.holds_still.set(false);
        let crash = self.crash.take();
        if let Some((_, crash)) = crash {
            crash(&what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn the_chosen_step_strikes_once_and_nothing_happens_until_the_crash() {
        let steps = Steps::default();
        assert_eq!(steps.take(Kind::Write, "d"), Effect::All);
        let seen = Rc::new(RefCell::new(String::new()));
        let crashed = Rc::clone(&seen);
        let dies = |at: &str, place: &str| at == "e" && place != "g";
        steps.arm(Nth::Step(1), When::Middle, dies, move |what| {
            *crashed.borrow_mut() = what.to_string()
        });
        assert_eq!(steps.take(Kind::Write, "d"), Effect::All);
        assert_eq!(steps.take(Kind::Flush, "e"), Effect::Half);
        assert!(steps.holds_still());
        assert_eq!(steps.take(Kind::Frame, "f"), Effect::Nothing);
        assert_eq!(steps.take(Kind::Frame, "g"), Effect::All);
        steps.strike();
        assert_eq!(*seen.borrow(), "Middle Flush 1 at e");
        assert_eq!(steps.take(Kind::Frame, "f"), Effect::All);
        steps.begin();
        assert!((0..3).all(|_| steps.take(Kind::Frame, "f") == Effect::All));
        assert_eq!(steps.end(), vec![Kind::Frame; 3]);
        steps.arm(Nth::OnDisk(1), When::Before, |_, _| true, |_| ());
        assert_eq!(steps.take(Kind::Write, "d"), Effect::All);
        assert_eq!(steps.take(Kind::Frame, "d"), Effect::All);
        assert_eq!(steps.take(Kind::Stable, "d"), Effect::Nothing);
    }
}

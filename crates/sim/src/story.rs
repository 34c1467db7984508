//! What happened in a run: the last significant events for people, and a hash over everything for
//! the test that a seed replays exactly.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::rc::Rc;

use block::Instant;
use tracing::field::{Field, Visit};

use crate::random::mix;

/// Events that a story keeps; older ones are forgotten.
const LINES_MAX: usize = 120;

thread_local! {
    /// Where the log lines of production code go: the story of the run on this thread.
    static CURRENT: RefCell<Option<Rc<Story>>> = const { RefCell::new(None) };
}

/// The record of one run.
pub struct Story {
    lines: RefCell<VecDeque<String>>,
    hash: Cell<u64>,
    events: Cell<u64>,
    now: Cell<Instant>,
    verbose: bool,
}

impl Story {
    /// Nothing happened yet. A verbose story prints each event as it happens.
    pub fn new(verbose: bool) -> Rc<Story> {
        Rc::new(Story {
            lines: RefCell::default(),
            hash: Cell::new(0),
            events: Cell::new(0),
            now: Cell::new(Instant::default()),
            verbose,
        })
    }

    /// Makes this story the one that log lines of production code go to.
    pub fn make_current(self: &Rc<Self>) {
        CURRENT.with(|current| *current.borrow_mut() = Some(Rc::clone(self)));
    }

    /// Tells the time.
    pub(crate) fn set_now(&self, now: Instant) {
        self.now.set(now);
    }

    /// A significant event: kept for people, and part of the hash.
    pub fn tell(&self, actor: &str, text: &str) {
        let micros = self.now.get().as_nanos() / 1000;
        let line =
            format!("{:>4}.{:06} {actor:<12} {text}", micros / 1_000_000, micros % 1_000_000);
        line.bytes().for_each(|byte| self.mix(u64::from(byte)));
        if self.verbose {
            println!("{line}");
        }
        let mut lines = self.lines.borrow_mut();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// An event that counts for the hash only.
    pub fn mix(&self, value: u64) {
        self.hash.set(mix(self.hash.get() ^ value));
        self.events.set(self.events.get() + 1);
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        mix(self.hash.get() ^ self.events.get())
    }

    /// The last `count` significant events.
    pub fn last(&self, count: usize) -> Vec<String> {
        let lines = self.lines.borrow();
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }
}

/// Takes the log lines of production code into the current story. Lines contain nothing that
/// differs between two runs of a seed, or the replay test fails.
pub struct Listener {
    /// Levels beyond this one are ignored.
    pub level: tracing::Level,
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let target = event.metadata().target();
        CURRENT.with(|current| {
            if let Some(story) = current.borrow().as_ref() {
                story.tell(target.split("::").next().unwrap_or(target), text.0.trim_start());
            }
        });
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        // Writing to a string can't fail.
        debug_assert!(written.is_ok());
    }
}

//! Listeners to the log of requests. Each has a queue of its own, so that one who doesn't listen any
//! more costs memory for a while and the requests nothing.

use std::rc::{Rc, Weak};

use runtime::EventQueue;

use crate::{ExportId, TraceRecord};

/// Records that wait for one listener.
const RECORDS_MAX: usize = 4096;

/// A listener's end: the records from its beginning on, until it is dropped.
pub type TraceStream = Rc<EventQueue<TraceRecord, RECORDS_MAX>>;

/// All listeners, and the export that they listen to if it is one.
#[derive(Default)]
pub(super) struct Listeners {
    queues: Vec<(Option<ExportId>, Weak<EventQueue<TraceRecord, RECORDS_MAX>>)>,
}

impl Listeners {
    /// One more, for one export or for all.
    pub(super) fn add(&mut self, export: Option<ExportId>) -> TraceStream {
        let stream = TraceStream::default();
        self.queues.push((export, Rc::downgrade(&stream)));
        stream
    }

    /// Whether anybody listens.
    pub(super) fn any(&mut self) -> bool {
        self.queues.retain(|(_, queue)| queue.strong_count() > 0);
        !self.queues.is_empty()
    }

    /// Hands a record to all whom it concerns; `lost` of all exports' were lost before it.
    pub(super) fn hand_out(&self, record: TraceRecord, lost: u64) {
        for (export, queue) in &self.queues {
            let Some(queue) = queue.upgrade() else { continue };
            queue.note_lost(lost);
            if export.is_none_or(|export| export == record.export) {
                queue.push(record);
            }
        }
    }
}

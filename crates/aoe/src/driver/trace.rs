//! Listeners to the log of requests. Each has a bounded queue of its own, so that one who doesn't
//! listen any more costs memory for a while and the requests nothing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use runtime::Notify;

use crate::target::{ExportId, TraceRecord};

/// Records that wait for one listener.
const RECORDS_MAX: usize = 4096;

/// A listener's end: the records from its beginning on.
pub struct TraceStream {
    queue: Rc<Queue>,
}

#[derive(Default)]
struct Queue {
    export: Option<ExportId>,
    records: RefCell<VecDeque<TraceRecord>>,
    lost: Cell<u64>,
    arrival: Notify,
}

/// All listeners.
#[derive(Default)]
pub(super) struct Listeners {
    queues: Vec<Weak<Queue>>,
}

impl TraceStream {
    /// The next record.
    pub async fn next(&self) -> TraceRecord {
        loop {
            let arrival = self.queue.arrival.notified();
            if let Some(record) = self.queue.records.borrow_mut().pop_front() {
                return record;
            }
            arrival.await;
        }
    }

    /// How many records were lost since the last question because too many waited.
    pub fn take_lost(&self) -> u64 {
        self.queue.lost.take()
    }
}

impl Listeners {
    /// One more, for one export or for all.
    pub(super) fn add(&mut self, export: Option<ExportId>) -> TraceStream {
        let queue = Rc::new(Queue { export, ..Queue::default() });
        self.queues.push(Rc::downgrade(&queue));
        TraceStream { queue }
    }

    /// Whether anybody listens.
    pub(super) fn any(&mut self) -> bool {
        self.queues.retain(|queue| queue.strong_count() > 0);
        !self.queues.is_empty()
    }

    /// Hands a record to all whom it concerns; `lost` of all exports' were lost before it.
    pub(super) fn hand_out(&self, record: TraceRecord, lost: u64) {
        for queue in self.queues.iter().filter_map(Weak::upgrade) {
            queue.lost.set(queue.lost.get() + lost);
            if queue.export.is_some_and(|export| export != record.export) {
                continue;
            }
            let mut records = queue.records.borrow_mut();
            if records.len() >= RECORDS_MAX {
                queue.lost.set(queue.lost.get() + 1);
                continue;
            }
            records.push_back(record);
            drop(records);
            queue.arrival.notify_all();
        }
    }
}

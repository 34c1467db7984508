//! Transfers that need nothing but one request to the kernel, the common ones: without a task. A short
//! or interrupted transfer is done once more in the ordinary way, in the same place of the order.

use std::io;
use std::rc::Rc;

use block::{
    Answer, Buffer, BufferMut, Completion, DeviceEvent, Done, Durability, IoError, Operation,
    Place, SectorRange,
};

use super::errors::translate;
use super::operations::is_interruption;
use super::{Shared, access};
use crate::reactor::Part;

impl Shared {
    /// Whether an operation is one request to the kernel, and may go there now.
    pub(super) fn is_one_call(&self, operation: &Operation) -> bool {
        let range = operation.range();
        let writes = operation.changes_sectors();
        let simple = match operation {
            Operation::Read(_) => true,
            Operation::Write { data, durability, .. } => {
                // A sync that others share ends in its own time.
                let alone =
                    *durability == Durability::Volatile || self.is_synced_alone(*durability);
                alone
                    && data.is_aligned_to(self.alignment_bytes as usize)
                    && self.takes_data(range, data)
            }
            _ => false,
        };
        simple
            && self.is_whole(range)
            && !self.line.holds_up(access(range, writes))
            && (self.direct || !writes || self.may_write_here() || self.writer().is_ok())
    }
}

/// Begins what [`Shared::is_one_call`] agreed to.
pub(super) fn begin(shared: &Rc<Shared>, operation: Operation, done: Done) {
    let range = operation.range();
    let offset_bytes = range.start.byte_offset();
    let (fd, handle) = (Rc::clone(&shared.fd), shared.handle.clone());
    let under_way = |writes| UnderWay {
        shared: Rc::clone(shared),
        place: shared.line.enter(access(range, writes)),
        range,
        done,
    };
    let Operation::Write { data, durability, .. } = operation else {
        let under_way = under_way(false);
        let buffer = BufferMut::for_overwriting(range.len_bytes() as usize);
        return handle.read_call(fd, buffer, offset_bytes, move |result, buffer| {
            under_way.end(result, Answer::Data(buffer.freeze()), None);
        });
    };
    let under_way = under_way(true);
    let told = move |result, data: Buffer| {
        under_way.end(result, Answer::Done, Some((data, durability)));
    };
    if shared.direct {
        let flags = shared.write_flags(durability);
        return handle.write_call(fd, data, offset_bytes, flags, told);
    }
    let part = Part { start: 0, offset_bytes };
    if shared.may_write_here() {
        return told(shared.write_here(&data, offset_bytes), data);
    }
    match shared.writer() {
        Ok(writer) => writer.begin(data, part, move |(result, data)| told(result, data)),
        Err(error) => told(Err(error), data),
    }
}

/// A transfer between its begin and its end.
struct UnderWay {
    shared: Rc<Shared>,
    place: Place,
    range: SectorRange,
    done: Done,
}

impl UnderWay {
    fn end(self, result: io::Result<u32>, answer: Answer, written: Option<(Buffer, Durability)>) {
        let UnderWay { shared, place, range, done } = self;
        let instance = shared.instance;
        if matches!(result, Ok(len) if u64::from(len) == range.len_bytes()) {
            drop(place);
            return done(Ok(Completion::new(instance, answer)));
        }
        if let Err(error) = &result
            && !is_interruption(error)
        {
            drop(place);
            let error = match &written {
                None => translate(error, range),
                Some((_, durability)) => {
                    shared.write_failed(error, shared.write_flags(*durability), range)
                }
            };
            if error == IoError::Lost {
                shared.announce(DeviceEvent::Lost);
            }
            return done(Err(error));
        }
        let operation = match written {
            None => Operation::Read(range),
            Some((data, durability)) => Operation::Write { start: range.start, data, durability },
        };
        let again = Rc::clone(&shared);
        shared.handle.runtime().spawn(async move {
            let result = again.carry_out(operation).await;
            drop(place);
            done(result.map(|answer| Completion::new(instance, answer)));
        });
    }
}

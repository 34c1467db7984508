//! A disk with a private layer over it: what is written stays in memory and is gone with the layer, what is read comes
//! from below where nothing was written. The disk itself is only read, as an observer's, and isn't claimed; that its
//! owner spoke since the layer was made is told as if somebody had claimed it. (The idea is device-mapper's snapshot,
//! and what people put over the members of a broken md array before they try anything.)
//!
//! An engine that opens a pool writes: epoch, votes, a checkpoint, the end of the logs. Over such disks it
//! does all that as ever, and nothing of it happens.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{
    Answer, BlockDevice, Buffer, Claim, Completion, Done, Epoch, Geometry, Holder, Instance,
    Instant, IoError, Operation, Outcome, OwnerId, RefusalReason, SECTOR_BYTES, SectorRange,
};
use runtime::Handle;
use seal::Grant;

use super::grants;

/// What is in memory outlives the disk's restarts: there is one instance.
const INSTANCE: Instance = Instance(1);

/// What a sector takes of the room: itself, and what it takes to find it.
const SECTOR_COST_BYTES: u64 = 640;

/// Memory that all layers of an engine may take together.
pub(crate) struct Room {
    bytes: u64,
    left_bytes: Cell<u64>,
    /// How often it wasn't enough.
    refusals: Cell<u64>,
}

impl Room {
    pub(crate) fn new(bytes: u64) -> Rc<Room> {
        Rc::new(Room { bytes, left_bytes: Cell::new(bytes), refusals: Cell::new(0) })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.get()
    }

    fn take(&self, sectors: u64) -> bool {
        let left = self.left_bytes.get().checked_sub(sectors * SECTOR_COST_BYTES);
        match left {
            Some(left) => self.left_bytes.set(left),
            None => self.refusals.set(self.refusals.get() + 1),
        }
        left.is_some()
    }

    fn give_back(&self, sectors: u64) {
        self.left_bytes.set(self.left_bytes.get() + sectors * SECTOR_COST_BYTES);
    }
}

/// A disk with a private layer over it.
pub(crate) struct Overlay {
    base: Rc<dyn BlockDevice>,
    layer: Rc<Layer>,
    /// By which the disk lets us look, where it doesn't anyway.
    grant: Option<Rc<Grant>>,
}

struct Layer {
    runtime: Handle,
    room: Rc<Room>,
    written: RefCell<BTreeMap<u64, Box<[u8; SECTOR_BYTES]>>>,
    /// Who had the disk when the layer was made, and when that was.
    owner: Holder,
    made_at: Instant,
    claimed: Cell<Holder>,
}

impl Overlay {
    /// A layer over a disk that `owner` had at this moment and was silent.
    pub(crate) fn over(
        base: Rc<dyn BlockDevice>,
        owner: Holder,
        room: &Rc<Room>,
        runtime: &Handle,
        grant: Option<Rc<Grant>>,
    ) -> Rc<Overlay> {
        let layer = Layer {
            runtime: runtime.clone(),
            room: Rc::clone(room),
            written: RefCell::default(),
            owner,
            made_at: runtime.now(),
            claimed: Cell::new(owner),
        };
        Rc::new(Overlay { base, layer: Rc::new(layer), grant })
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        self.room.give_back(self.written.get_mut().len() as u64);
    }
}

impl Layer {
    /// Puts sectors into the layer; `None` are zeros.
    fn put(&self, range: SectorRange, data: Option<&[u8]>) -> Outcome {
        let mut written = self.written.borrow_mut();
        let known = written.range(range.start.0..range.end().0).count() as u64;
        if !self.room.take(range.count - known) {
            return Err(IoError::NoSpace(range));
        }
        for (index, at) in (range.start.0..range.end().0).enumerate() {
            let sector = written.entry(at).or_insert_with(|| Box::new([0; SECTOR_BYTES]));
            match data {
                Some(data) => {
                    sector.copy_from_slice(&data[index * SECTOR_BYTES..][..SECTOR_BYTES]);
                }
                None => sector.fill(0),
            }
        }
        Ok(Completion::new(INSTANCE, Answer::Done))
    }

    /// The sectors of a range that are in the layer, by their place in it.
    fn of(&self, range: SectorRange) -> Vec<(usize, [u8; SECTOR_BYTES])> {
        let written = self.written.borrow();
        let found = written.range(range.start.0..range.end().0);
        found.map(|(at, sector)| ((at - range.start.0) as usize, **sector)).collect()
    }

    fn claim(&self, claim: Claim) -> Outcome {
        let highest = self.claimed.get().epoch;
        if claim.epoch < highest {
            return Err(IoError::Fenced { highest });
        }
        let holder = Holder::new(claim.epoch, claim.owner);
        self.claimed.set(holder);
        Ok(Completion::new(INSTANCE, Answer::Holder(holder)))
    }

    /// What the disk below said of its owner, asked at `asked`.
    fn renewed(&self, asked: Instant, told: Outcome) -> Outcome {
        let holder = match told?.value {
            Answer::Holder(holder) => holder,
            _ => return Err(IoError::Unsupported),
        };
        let passed = asked.since(self.made_at);
        // Clocks drift: who was silent before stays so by a hundredth more or less of the time since.
        let spoke = holder.heard.is_some_and(|heard| heard < passed - passed / 50);
        if spoke || !holder.is_same(self.owner) {
            let highest = self.claimed.get().epoch.max(holder.epoch).next();
            return Err(IoError::Fenced { highest });
        }
        Ok(Completion::new(INSTANCE, Answer::Holder(self.claimed.get())))
    }
}

/// Reads of a disk that doesn't obey us, once it was shown a grant that lets us look: it keeps that for as long as the
/// session with it lasts, and writes nothing down.
fn show_and_read(base: Rc<dyn BlockDevice>, range: SectorRange, grant: &Grant, done: Done) {
    let trust = grants::follow(Some(grant));
    let show = Claim { trust, ..Claim::new(Epoch::OBSERVER, OwnerId::NONE) };
    let reading = Rc::clone(&base);
    let shown = move |shown: Outcome| match shown {
        Ok(_) => reading.submit(Operation::Read(range), done),
        Err(error) => done(Err(error)),
    };
    base.submit(Operation::Claim(show), Box::new(shown));
}

/// What was read below, with what is in the layer over it.
fn patched(read: Outcome, layer: &[(usize, [u8; SECTOR_BYTES])]) -> Outcome {
    let data = match read {
        Ok(Completion { value: Answer::Data(data), .. }) => data,
        Ok(_) => return Err(IoError::Unsupported),
        // Its owner is back, as the next renewal tells.
        Err(IoError::Refused(RefusalReason::Owned)) => return Err(IoError::Lost),
        Err(IoError::Restarted { .. }) => return Err(IoError::Restarted { now: INSTANCE }),
        Err(error) => return Err(error),
    };
    let data = match layer.is_empty() {
        true => data,
        false => {
            let mut whole = data.into_mut();
            for (index, sector) in layer {
                whole[index * SECTOR_BYTES..][..SECTOR_BYTES].copy_from_slice(sector);
            }
            whole.freeze()
        }
    };
    Ok(Completion::new(INSTANCE, Answer::Data(data)))
}

impl BlockDevice for Overlay {
    fn geometry(&self) -> Geometry {
        Geometry { read_only: false, ..self.base.geometry() }
    }

    fn submit(&self, operation: Operation, done: Done) {
        let range = operation.range();
        if !range.fits(self.geometry().sectors) {
            return done(Err(IoError::OutOfRange(range)));
        }
        match operation {
            Operation::Read(range) => {
                // Before anything that is written later.
                let over = self.layer.of(range);
                if over.len() as u64 == range.count {
                    let whole = Buffer::zeroed(range.len_bytes() as usize);
                    let whole = Completion::new(INSTANCE, Answer::Data(whole));
                    return done(patched(Ok(whole), &over));
                }
                let (base, grant) = (Rc::clone(&self.base), self.grant.clone());
                let read = move |outcome| match (outcome, grant) {
                    (Err(grants::NOT_ADMITTED), Some(grant)) => {
                        show_and_read(
                            base,
                            range,
                            &grant,
                            Box::new(move |outcome| done(patched(outcome, &over))),
                        );
                    }
                    (outcome, _) => done(patched(outcome, &over)),
                };
                self.base.submit(Operation::Read(range), Box::new(read));
            }
            Operation::Write { data, .. } => done(self.layer.put(range, Some(&data))),
            Operation::WriteZeroes { .. } => done(self.layer.put(range, None)),
            Operation::Discard(_) => done(Ok(Completion::new(INSTANCE, Answer::Done))),
            Operation::Flush(instance) if instance == INSTANCE => {
                done(Ok(Completion::new(INSTANCE, Answer::Done)));
            }
            Operation::Flush(_) => done(Err(IoError::Restarted { now: INSTANCE })),
            Operation::Claim(claim) => done(self.layer.claim(claim)),
            Operation::Renew => {
                let (layer, asked) = (Rc::clone(&self.layer), self.layer.runtime.now());
                let told = move |outcome| done(layer.renewed(asked, outcome));
                self.base.submit(Operation::Renew, Box::new(told));
            }
            Operation::AskHealth => self.base.submit(Operation::AskHealth, done),
        }
    }

    fn disown(&self) {
        self.layer.claimed.set(Holder { epoch: Epoch::OBSERVER, ..Holder::default() });
    }
}

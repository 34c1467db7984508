//! Requests by a ring: each comes to the reactor's thread as a completion, and its answer goes back with
//! the reactor's other entries. No thread and no call of its own.
//!
//! The kernel decides, at the beginning of a connection, by what the administrator has set; the program
//! never sets that.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::oneshot;

use block::Buffer;
use os::reactor::{FuseQueues, FuseRequest, FuseServer};

use super::meaning::{Incoming, Meaning, Operation, meaning_of};
use super::request::{Answer, Finish, Reply, VolumeRequest};
use super::server::Shared;
use super::wire::{self, InHeader};

/// Where the administrator switches it.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether this kernel sends requests by a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It doesn't know how to, or FUSE isn't there yet.
    Missing,
    /// It would if it was told to.
    Off,
    /// For all connections that begin now.
    On,
}

/// What the administrator has set.
pub fn switch() -> Switch {
    match std::fs::read(SWITCH) {
        Ok(set) if set.first() == Some(&b'Y') => Switch::On,
        Ok(_) => Switch::Off,
        Err(_) => Switch::Missing,
    }
}

/// The ring's end of a connection, for the thread that has the ring. Dropped after the kernel was told that
/// a ring takes its requests, it ends the connection: nobody waits for ever.
pub struct RingSide {
    taken_over: oneshot::Receiver<StopOnDrop>,
}

/// The other end, for who begins the connection.
pub(super) struct Offer {
    take_over: oneshot::Sender<StopOnDrop>,
    shared: Arc<Shared>,
}

struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Offer {
    pub(super) fn new(shared: &Arc<Shared>) -> (Offer, RingSide) {
        let (take_over, taken_over) = oneshot::channel();
        (Offer { take_over, shared: Arc::clone(shared) }, RingSide { taken_over })
    }

    /// Whether anybody is there to take it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.take_over.is_canceled()
    }

    /// From now on the kernel waits for the ring. Whoever went away meanwhile drops this, which stops all.
    pub(super) fn take_over(self) {
        let _ = self.take_over.send(StopOnDrop(self.shared));
    }
}

impl RingSide {
    /// Has requests come to `queues`, if the kernel sends them there; `handler` is called with each on the
    /// thread of the queues' reactor, and doesn't block.
    pub async fn serve(
        self,
        queues: FuseQueues,
        handler: impl FnMut(VolumeRequest, RingReply) + 'static,
    ) {
        let Ok(guard) = self.taken_over.await else { return };
        let Some(fuse) = guard.0.descriptor() else { return };
        queues.serve(fuse, Rc::new(Server { guard, handler: RefCell::new(handler) }));
    }
}

/// As [`Reply`], of a request that came by a ring.
pub type RingReply = Reply<RingPending>;

/// A request in a slot of the ring.
pub struct RingPending {
    request: FuseRequest,
    operation: Operation,
}

impl Finish for RingPending {
    fn finish(self, answer: Answer) {
        let RingPending { request, operation } = self;
        operation.tell(&answer, |error, body| request.answer(error, body));
    }
}

struct Server<H> {
    /// When the kernel has let go of all slots.
    guard: StopOnDrop,
    handler: RefCell<H>,
}

impl<H: FnMut(VolumeRequest, RingReply)> FuseServer for Server<H> {
    fn serve(&self, request: FuseRequest) {
        let shared = &self.guard.0;
        let Some(incoming) = incoming(&request) else { return };
        match meaning_of(&incoming, shared.size_bytes(), shared.read_only) {
            // The kernel begins, and forgets, by the descriptor.
            Meaning::Silence => request.answer(0, &[]),
            Meaning::Init => request.answer(-libc::EPROTO, &[]),
            Meaning::Answer(Ok(body)) => request.answer(0, &body),
            Meaning::Answer(Err(errno)) => request.answer(-errno, &[]),
            Meaning::Perform(operation) => {
                // The slot is the kernel's again with the answer, and what is written may be needed longer.
                let what = operation.request(|len| Buffer::copy_of(&incoming.rest[..len]));
                let reply = Reply::new(RingPending { request, operation });
                (self.handler.borrow_mut())(what, reply);
            }
        }
    }

    fn end(&self) {
        self.guard.0.stop();
    }
}

/// `None` for what has no sense; it is answered with an error when it is dropped.
fn incoming(request: &FuseRequest) -> Option<Incoming<'_>> {
    let header: InHeader = wire::head(request.head())?;
    let rest = request.payload();
    // What isn't header and payload is the operation's own head.
    let front = (header.len as usize).checked_sub(size_of::<InHeader>() + rest.len())?;
    Some(Incoming { header, front: request.operation().get(..front)?, rest })
}

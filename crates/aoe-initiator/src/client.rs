//! What the session client and the plain client have in common, as their driver sees it.
//!
//! Order of use: any number of verbs and `handle_frame`, then `poll_transmit`, `poll_outcome` and
//! `poll_event` until each returns `None`, then wait until `poll_timeout`.

use block::{
    Answer, Buffer, Completion, DeviceEvent, Geometry, Instance, Instant, IoError, Operation,
    Outcome, SECTOR_BYTES,
};

use super::operations::OperationId;
use super::outlet::{Traffic, Transmit};
use super::paths::{LocalPort, PathId};
use super::statistics::Statistics;
use aoe_wire::{ExportInfo, PortId};
use seal::PublicKey;

/// Largest operation that callers may ask for.
pub(crate) const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// A generator of random numbers.
pub(crate) type Random = Box<dyn FnMut() -> u64>;

/// The client's side of one disk.
pub(crate) trait Client {
    /// Whether it speaks sequenced sessions.
    fn has_sessions(&self) -> bool;

    /// Whether the target has ever answered, so that its geometry is known.
    fn is_known(&self) -> bool;

    /// Whether the target is there, so that whoever else answers on this path is an intruder.
    fn defends_against(&self, path: PathId) -> bool;

    /// Whether what opened last at its address was another disk: that one is to be found anew.
    fn met_another(&self) -> bool;

    /// The key of the machine that has the disk, if it proved one; what it says of a program of this machine.
    fn node_key(&self) -> Option<PublicKey> {
        None
    }

    /// Whether a program of this machine has the disk, and is spoken with by its socket only.
    fn is_confined(&self) -> bool {
        false
    }

    /// Whether it is claimed by this client.
    fn is_claimed(&self) -> bool {
        false
    }

    /// What its target told of itself when it opened last, and who holds the medium, as an answer told last; never told
    /// by a target that can't be claimed.
    fn export(&self, now: Instant) -> Option<ExportInfo>;

    /// Size and block limits, as last known.
    fn geometry(&self) -> Geometry;

    /// What all clients have.
    fn traffic(&mut self) -> &mut Traffic;

    /// The outcome of an operation that needs no target; `None` when it does.
    fn immediate_outcome(&self, operation: &Operation) -> Option<Outcome>;

    /// Does what is due and sends what may be sent: at [`Client::poll_timeout`], harmless at any time.
    fn advance(&mut self, now: Instant);

    /// Queues an operation. Its outcome comes through [`Client::poll_outcome`], in any case and in
    /// bounded time.
    fn submit(&mut self, now: Instant, operation: Operation) -> OperationId {
        if let Some(outcome) = self.immediate_outcome(&operation) {
            return self.traffic().operations.submit_completed(outcome);
        }
        let id = self.traffic().operations.submit(operation);
        self.advance(now);
        id
    }

    /// Learns of a port, or of its changed address or MTU.
    fn set_port(&mut self, now: Instant, port: LocalPort) {
        self.traffic().outlet.paths.set_port(port);
        self.advance(now);
    }

    /// Forgets a port and the paths through it.
    fn remove_port(&mut self, now: Instant, port: PortId) {
        self.traffic().outlet.paths.remove_port(port);
        self.advance(now);
    }

    /// Adds a way to the target; also a sign of life when the way was known.
    fn add_path(&mut self, now: Instant, path: PathId);

    /// Gives a claim up: what was wanted under it and has no outcome yet fails and is never sent again,
    /// what is wanted from now on is an observer's. Nothing to do for a client that can't claim.
    fn disown(&mut self, now: Instant) {
        let _ = now;
    }

    /// Whether an observer's reads are of all that is on a medium whose owner is silent. Nothing to do for a
    /// client that can't claim.
    fn look_inside(&mut self, looks: bool) {
        let _ = looks;
    }

    /// Ends: all operations fail, and the target is told where it can be.
    fn close(&mut self, now: Instant);

    /// A reply for this disk arrived at a port.
    fn handle_frame(&mut self, now: Instant, port: PortId, frame: &[u8]);

    /// The next frame to send.
    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.traffic().outlet.poll()
    }

    /// The next operation that ended.
    fn poll_outcome(&mut self) -> Option<(OperationId, Outcome)> {
        self.traffic().operations.poll_outcome()
    }

    /// The next hint.
    fn poll_event(&mut self) -> Option<DeviceEvent> {
        self.traffic().events.pop_front()
    }

    /// When [`Client::advance`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;

    /// What was counted.
    fn statistics(&self) -> Statistics;
}

/// The outcome of an operation that asks for too much, or for no sectors at all. How many there are, and
/// of which instance, isn't known before the target was reached.
pub(crate) fn outcome_by_range(
    operation: &Operation,
    sectors: Option<u64>,
    instance: Option<Instance>,
) -> Option<Outcome> {
    if !operation.has_range() {
        return None;
    }
    let range = operation.range();
    let is_cut = matches!(operation,
        Operation::Write { data, .. } if !data.len().is_multiple_of(SECTOR_BYTES));
    let has_data = matches!(operation, Operation::Read(_) | Operation::Write { .. });
    let is_long = has_data && range.len_bytes() > u64::from(TRANSFER_BYTES_MAX);
    if is_cut || is_long || sectors.is_some_and(|sectors| !range.fits(sectors)) {
        return Some(Err(IoError::OutOfRange(range)));
    }
    if range.count > 0 {
        return None;
    }
    let answer = match operation {
        Operation::Read(_) => Answer::Data(Buffer::empty()),
        _ => Answer::Done,
    };
    instance.map(|instance| Ok(Completion::new(instance, answer)))
}

//! What the session client and the plain client have in common, as their driver sees it.
//!
//! Order of use: any number of verbs and `handle_*`, then `poll_transmit`, `poll_outcome` and
//! `poll_event` until each returns `None`, then wait until `poll_timeout`.

use block::{DeviceEvent, Geometry, Holder, Instant, Operation, Outcome};

use super::operations::OperationId;
use super::outlet::Transmit;
use super::paths::{LocalPort, PathId};
use super::statistics::Statistics;
use aoe_wire::PortId;

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

    /// Who holds the medium, as an answer told last; never told by a target that can't be claimed.
    fn holder(&self, now: Instant) -> Option<Holder>;

    /// Size and block limits, as last known.
    fn geometry(&self) -> Geometry;

    /// Queues an operation. Its outcome comes through [`Client::poll_outcome`], in any case and in
    /// bounded time.
    fn submit(&mut self, now: Instant, operation: Operation) -> OperationId;

    /// Learns of a port, or of its changed address or MTU.
    fn set_port(&mut self, now: Instant, port: LocalPort);

    /// Forgets a port and the paths through it.
    fn remove_port(&mut self, now: Instant, port: PortId);

    /// Adds a way to the target; also a sign of life when the way was known.
    fn add_path(&mut self, now: Instant, path: PathId);

    /// The ways to the target.
    fn paths(&self) -> Vec<PathId>;

    /// Gives a claim up: what was wanted under it and has no outcome yet fails and is never sent again,
    /// what is wanted from now on is an observer's. Nothing to do for a client that can't claim.
    fn disown(&mut self, now: Instant) {
        let _ = now;
    }

    /// Ends: all operations fail, and the target is told where it can be.
    fn close(&mut self, now: Instant);

    /// A reply for this disk arrived at a port.
    fn handle_frame(&mut self, now: Instant, port: PortId, frame: &[u8]);

    /// The time of [`Client::poll_timeout`] has come. Harmless at any other time.
    fn handle_timeout(&mut self, now: Instant);

    /// The next frame to send.
    fn poll_transmit(&mut self) -> Option<Transmit>;

    /// The next operation that ended.
    fn poll_outcome(&mut self) -> Option<(OperationId, Outcome)>;

    /// The next hint.
    fn poll_event(&mut self) -> Option<DeviceEvent>;

    /// When [`Client::handle_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;

    /// What was counted.
    fn statistics(&self) -> Statistics;
}

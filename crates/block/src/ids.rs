//! Identities that cross layers.

use std::fmt;

/// A server's incarnation of a medium: new at each start of the server and each reopening of the
/// medium. A flush that names another instance fails, because writes that the earlier one answered
/// may never have reached the medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub u64);

/// The number of an ownership. A higher epoch deposes every lower one on each disk that has
/// accepted it. Zero is the observer's epoch: it may read and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of one who only looks.
    pub const OBSERVER: Epoch = Epoch(0);

    /// The next higher epoch. There is none above the last, which only a forger can bring: whoever
    /// claims under it again is fenced by its owner.
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// Who owns: the lasting identity of a supervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub uuid::Uuid);

impl OwnerId {
    /// Nobody.
    pub const NONE: OwnerId = OwnerId(uuid::Uuid::nil());
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

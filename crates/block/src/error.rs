//! Why an operation on a device failed, cut by what a caller can do about it.

use crate::{Epoch, Instance, SectorRange};

/// A failed operation. Each kind calls for another reaction, which is why there are no more kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The medium can't give or take these sectors; others are fine. Another copy may serve.
    #[error("medium error at {0}")]
    Medium(SectorRange),
    /// The medium has no room (a sparse file's file system is full). Nothing was promised.
    #[error("no space left under {0}")]
    NoSpace(SectorRange),
    /// The range isn't on the device: the caller's mistake or a device that shrank.
    #[error("{0} is beyond the end of the device")]
    OutOfRange(SectorRange),
    /// The device takes no writes.
    #[error("the device is read-only")]
    ReadOnly,
    /// The server or medium began anew: what it answered under the earlier instance without a
    /// completed flush may be gone. Do it again under the present instance.
    #[error("the device restarted (now instance {:#x})", .now.0)]
    Restarted {
        /// The present instance.
        now: Instance,
    },
    /// A write-back failed under this instance; every flush of it fails until the medium is
    /// reopened. Never retried in hope of a better answer.
    #[error("a flush failed; the medium must be reopened")]
    FlushFailed,
    /// The device doesn't answer. The operation may or may not have happened.
    #[error("the device does not answer")]
    Lost,
    /// Somebody with a higher epoch owns the medium. Nothing under the caller's epoch happens there
    /// any more.
    #[error("fenced: the device has accepted {highest}")]
    Fenced {
        /// The highest epoch that the device has accepted.
        highest: Epoch,
    },
    /// The server refuses for a reason of its own (an access list, a foreign content under a claim,
    /// an unreadable target field). Repeating doesn't help.
    #[error("refused by the device: {0}")]
    Refused(RefusalReason),
    /// The device has no such operation.
    #[error("not supported by the device")]
    Unsupported,
}

pub use refusal::RefusalReason;

mod refusal {
    use std::fmt;

    /// Why a server refuses. What to do about it depends on what was asked for: who asked says it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum RefusalReason {
        /// The medium carries something that isn't etherpool's; a claim would overwrite it.
        ForeignContent,
        /// All copies of the reservation record are unreadable: closed until somebody forces a claim.
        ReservationUnreadable,
        /// The sectors belong to the target itself.
        ProtectedRange,
        /// The client is on no list that may do this.
        AccessDenied,
        /// An observer's session asked for more than reading.
        ObserverOnly,
        /// The medium has an owner, and an observer asked for more than it shows to everybody.
        Owned,
        /// The medium obeys a pool's key, and the client isn't one of those that the pool lets in.
        NotAdmitted,
        /// The medium obeys nobody yet, and its machine doesn't take the client for one of its own.
        NotJoined,
    }

    impl fmt::Display for RefusalReason {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                RefusalReason::ForeignContent => {
                    "the disk carries data that is not etherpool's"
                }
                RefusalReason::ReservationUnreadable => "the disk's reservation record is unreadable",
                RefusalReason::ProtectedRange => "these sectors belong to the target",
                RefusalReason::AccessDenied => "access denied by the target's configuration",
                RefusalReason::ObserverOnly => "this session may only read",
                RefusalReason::Owned => {
                    "the disk has an owner, who alone may read more than its labels, votes and reservation record"
                }
                RefusalReason::NotAdmitted => {
                    "the disk obeys the key of its pool, which doesn't let this machine in"
                }
                RefusalReason::NotJoined => {
                    "the disk's machine hasn't joined those of this one, and gives its disks to nobody else"
                }
            })
        }
    }
}

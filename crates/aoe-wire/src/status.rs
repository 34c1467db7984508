//! How the answer to a session's request says that it went, and the one translation from errors of
//! devices to that and back.

use block::{Epoch, IoError, Lba, RefusalReason, SectorRange};

/// The status of a reply (docs/session.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// These sectors failed; detail: the first bad one.
    Medium,
    /// The store under the export is full.
    NoSpace,
    /// The range isn't on the export.
    OutOfRange,
    /// The export takes no writes.
    ReadOnly,
    /// A write-back failed; stays so for this instance.
    FlushFailed,
    /// A higher epoch was accepted.
    Fenced,
    /// Refused for a reason of the server's own; detail: its number.
    Refused,
    /// The session or the instance isn't known (any more).
    NoSession,
    /// No such operation.
    Unsupported,
    /// The sequence number is below the floor or beyond the window.
    OutsideWindow,
    /// The device behind the export vanished.
    MediumGone,
    /// Fragments of the command are missing; the payload says which sectors.
    Incomplete,
    /// A number that isn't known.
    Unknown(u8),
}

codes!(Status {
    Ok = 0,
    Medium = 1,
    NoSpace = 2,
    OutOfRange = 3,
    ReadOnly = 4,
    FlushFailed = 5,
    Fenced = 6,
    Refused = 7,
    NoSession = 8,
    Unsupported = 9,
    OutsideWindow = 10,
    MediumGone = 11,
    Incomplete = 12,
});

impl Status {
    /// How a device's failure is told to a client: the status and its detail.
    pub fn of(error: IoError) -> (Status, u64) {
        match error {
            IoError::Medium(range) => (Status::Medium, range.start.0),
            IoError::NoSpace(_) => (Status::NoSpace, 0),
            IoError::OutOfRange(_) => (Status::OutOfRange, 0),
            IoError::ReadOnly => (Status::ReadOnly, 0),
            IoError::Restarted { .. } => (Status::NoSession, 0),
            IoError::FlushFailed => (Status::FlushFailed, 0),
            IoError::Lost => (Status::MediumGone, 0),
            IoError::Fenced { .. } => (Status::Fenced, 0),
            IoError::Refused(reason) => (Status::Refused, number_of(reason)),
            IoError::Unsupported => (Status::Unsupported, 0),
        }
    }

    /// What a status means to the caller of an operation on `range`; `None` for success. `highest`
    /// is the epoch field of the reply. What only the session itself can react to (no session,
    /// outside of the window, incomplete, unknown numbers) is as if there had been no answer.
    pub fn to_error(self, detail: u64, range: SectorRange, highest: Epoch) -> Option<IoError> {
        Some(match self {
            Status::Ok => return None,
            Status::Medium => IoError::Medium(bad_part(range, detail)),
            Status::NoSpace => IoError::NoSpace(range),
            Status::OutOfRange => IoError::OutOfRange(range),
            Status::ReadOnly => IoError::ReadOnly,
            Status::FlushFailed => IoError::FlushFailed,
            Status::Fenced => IoError::Fenced { highest },
            Status::Refused => match reason_of(detail) {
                Some(reason) => IoError::Refused(reason),
                None => IoError::Unsupported,
            },
            Status::Unsupported => IoError::Unsupported,
            Status::NoSession
            | Status::OutsideWindow
            | Status::MediumGone
            | Status::Incomplete
            | Status::Unknown(_) => IoError::Lost,
        })
    }
}

/// From the first bad sector to the end of what was asked for; all of it when the answer names a
/// sector that wasn't.
fn bad_part(range: SectorRange, first_bad: u64) -> SectorRange {
    if first_bad < range.start.0 || first_bad >= range.end().0 {
        return range;
    }
    SectorRange::new(Lba(first_bad), range.end().0 - first_bad)
}

fn number_of(reason: RefusalReason) -> u64 {
    match reason {
        RefusalReason::ForeignContent => 1,
        RefusalReason::ReservationUnreadable => 2,
        RefusalReason::ProtectedRange => 3,
        RefusalReason::AccessDenied => 4,
        RefusalReason::ObserverOnly => 5,
        RefusalReason::Owned => 6,
        RefusalReason::NotAdmitted => 7,
        RefusalReason::NotJoined => 8,
    }
}

fn reason_of(number: u64) -> Option<RefusalReason> {
    Some(match number {
        1 => RefusalReason::ForeignContent,
        2 => RefusalReason::ReservationUnreadable,
        3 => RefusalReason::ProtectedRange,
        4 => RefusalReason::AccessDenied,
        5 => RefusalReason::ObserverOnly,
        6 => RefusalReason::Owned,
        7 => RefusalReason::NotAdmitted,
        8 => RefusalReason::NotJoined,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        let range = SectorRange::new(Lba(100), 8);
        let highest = Epoch(9);
        for error in [
            IoError::Medium(range),
            IoError::Medium(SectorRange::new(Lba(103), 5)),
            IoError::NoSpace(range),
            IoError::OutOfRange(range),
            IoError::ReadOnly,
            IoError::FlushFailed,
            IoError::Lost,
            IoError::Fenced { highest },
            IoError::Refused(RefusalReason::ForeignContent),
            IoError::Refused(RefusalReason::ReservationUnreadable),
            IoError::Refused(RefusalReason::ProtectedRange),
            IoError::Refused(RefusalReason::AccessDenied),
            IoError::Refused(RefusalReason::ObserverOnly),
            IoError::Refused(RefusalReason::Owned),
            IoError::Refused(RefusalReason::NotAdmitted),
            IoError::Refused(RefusalReason::NotJoined),
            IoError::Unsupported,
        ] {
            let (status, detail) = Status::of(error);
            assert_eq!(Status::from(u8::from(status)), status);
            assert_eq!(status.to_error(detail, range, highest), Some(error));
        }
        assert_eq!(Status::Ok.to_error(0, range, highest), None);
        assert_eq!(Status::Medium.to_error(7, range, highest), Some(IoError::Medium(range)));
    }

    #[test]
    fn raw_values_survive() {
        for raw in 0..=255 {
            assert_eq!(u8::from(Status::from(raw)), raw);
        }
    }
}

//! Who may do what with a medium: what is asked of each command when it arrives, and again when its turn has come, as a claim
//! or a change of the configuration may have come between.

use std::rc::Rc;

use block::{Access, Buffer, Epoch, Instant, IoError, OwnerId, RefusalReason, Trust};

use seal::Grant;

use crate::export::{Asker, Export};
use crate::fenced::Ownership;
use crate::policy::AccessOperation;
use crate::session::observer;
use aoe_wire::{HealthPayload, Operation, SessionRequest};

/// What a CLAIM asks for beside its epoch; of other commands nothing.
pub(super) struct Claimed {
    pub owner: OwnerId,
    pub trust: Trust,
    /// The grant that was shown in its session, or is by this CLAIM, by which its client may look.
    pub shown: Option<Rc<Grant>>,
}

/// What to do with a command that may run.
pub(super) enum Verdict {
    /// It is answered with who holds the medium.
    Holder,
    /// It is answered with how the drive is.
    Health(Buffer),
    /// It takes its place in the queue.
    Queue(Access),
}

/// Whether a request shows that the present owner lives. A claim of the accepted epoch by somebody
/// else doesn't.
pub(super) fn is_owners(
    export: &Export,
    request: &SessionRequest,
    asker: Asker,
    claimed: &Claimed,
) -> bool {
    let holder = export.device.ownership.holder();
    request.epoch != Epoch::OBSERVER
        && request.epoch == holder.epoch
        && (request.operation != Operation::Claim || claimed.owner == holder.owner)
        && export.obeys(asker, &claimed.trust)
}

/// Whether the client is one of those who may: by the administrator's rules, and by the reservation
/// of a disk that has no owner yet. Asked at arrival and again when its turn has come, because a
/// reservation may have come between.
pub(super) fn permit(
    export: &Export,
    trusted: bool,
    request: &SessionRequest,
) -> Result<(), IoError> {
    let client = request.header.source;
    let reserved = !export.admits(trusted, client);
    let looks =
        matches!(request.operation, Operation::Status | Operation::Health | Operation::Unknown(_));
    let denied = changes(request) && !export.permits(trusted, AccessOperation::Write, client);
    match denied || reserved && !looks {
        true => Err(IoError::Refused(RefusalReason::AccessDenied)),
        false => Ok(()),
    }
}

/// Whether a command changes the disk.
pub(super) fn changes(request: &SessionRequest) -> bool {
    request.operation.is_once() && request.operation != Operation::Flush && !is_showing(request)
}

/// Whether it is a CLAIM of nothing, by which an observer shows a grant that lets him look at all.
pub(super) fn is_showing(request: &SessionRequest) -> bool {
    request.operation == Operation::Claim && request.epoch == Epoch::OBSERVER
}

/// Whether and how a command may run; asked at arrival and again when its turn has come, because a
/// claim may have come between.
pub(super) fn judge(
    export: &Export,
    now: Instant,
    sectors_max: u32,
    request: &SessionRequest,
    asker: Asker,
    claimed: &Claimed,
) -> Result<Verdict, IoError> {
    let Claimed { owner, trust, shown } = claimed;
    let (owner, is_observer) = (*owner, request.epoch == Epoch::OBSERVER);
    let is_guest =
        || is_observer && shown.as_ref().is_some_and(|shown| export.admits_guest(asker, shown));
    let obeys = export.obeys(asker, trust) || is_guest();
    // First: a deposed owner is to know that he is, whoever may have the disk now.
    check_epoch(export.device.ownership, request, claimed)?;
    // A look behind what is shown to everybody, too, is for those only whom it obeys, and they are told why not.
    let is_forced = request.force && !observer::may_read(&export.device, request.range());
    if !obeys && (!is_observer || is_forced || is_showing(request)) {
        return Err(IoError::Refused(match export.device.grant {
            None if !asker.is_own => RefusalReason::NotJoined,
            _ => RefusalReason::NotAdmitted,
        }));
    }
    let range = request.range();
    let geometry = &export.device.geometry;
    match request.operation {
        Operation::Read | Operation::Write if request.sectors > sectors_max => {
            return Err(IoError::OutOfRange(range));
        }
        Operation::Read | Operation::Write | Operation::Discard | Operation::WriteZeroes
            if request.sectors == 0 || !range.fits(geometry.sectors) =>
        {
            return Err(IoError::OutOfRange(range));
        }
        Operation::Read
            if is_observer
                && !observer::may_read(&export.device, range)
                && !(request.force && export.is_owner_silent(now)) =>
        {
            return Err(IoError::Refused(RefusalReason::Owned));
        }
        _ => {}
    }
    let held = export.device.ownership.holder();
    let is_known = held.epoch == request.epoch && held.owner == owner;
    if changes(request)
        && export.is_read_only()
        && !(request.operation == Operation::Claim && is_known && !export.may_change_trust(trust))
    {
        return Err(IoError::ReadOnly);
    }
    match request.operation {
        Operation::Read => Ok(Verdict::Queue(Access::Read(range))),
        Operation::Write | Operation::Discard | Operation::WriteZeroes => {
            Ok(Verdict::Queue(Access::Write(range)))
        }
        Operation::Flush => Ok(Verdict::Queue(Access::Free)),
        Operation::Claim if is_observer => Ok(Verdict::Holder),
        Operation::Claim if is_known && !export.may_change_trust(trust) => Ok(Verdict::Holder),
        Operation::Claim => Ok(Verdict::Queue(Access::Barrier)),
        Operation::Status => Ok(Verdict::Holder),
        Operation::Health => Ok(Verdict::Health(HealthPayload::emit(export.health.as_ref()))),
        Operation::Hello | Operation::Open | Operation::Close | Operation::Unknown(_) => {
            Err(IoError::Unsupported)
        }
    }
}

/// Rule 3: only the holder of the accepted epoch, and observers who look, get through; only CLAIM
/// raises it.
fn check_epoch(
    ownership: Ownership,
    request: &SessionRequest,
    Claimed { owner, shown, .. }: &Claimed,
) -> Result<(), IoError> {
    let shows = is_showing(request) && shown.is_some();
    let looks =
        matches!(request.operation, Operation::Read | Operation::Status | Operation::Health);
    if matches!(request.operation, Operation::Unknown(_)) {
        return Err(IoError::Unsupported);
    }
    if request.epoch == Epoch::OBSERVER {
        let refused = IoError::Refused(RefusalReason::ObserverOnly);
        return if looks || shows { Ok(()) } else { Err(refused) };
    }
    let is_claim = request.operation == Operation::Claim;
    if ownership == Ownership::Unreadable {
        let refused = IoError::Refused(RefusalReason::ReservationUnreadable);
        return if is_claim && request.force { Ok(()) } else { Err(refused) };
    }
    let holder = ownership.holder();
    let allowed = match is_claim {
        true => {
            request.epoch > holder.epoch || request.epoch == holder.epoch && *owner == holder.owner
        }
        false => request.epoch == holder.epoch,
    };
    if allowed { Ok(()) } else { Err(IoError::Fenced { highest: holder.epoch }) }
}

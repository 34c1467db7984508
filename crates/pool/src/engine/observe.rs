//! Looking at a disk without touching it: what its labels and vote record say, or what else is on it.

use block::probe::{Signature, glance, probe};
use block::{BlockDevice, Buffer, IoError, Lba, RefusalReason, SectorRange};
use futures::future::join_all;

use super::config::vote_place;
use crate::format::{
    Configuration, Destruction, DiskGeometry, DiskId, Label, LabelError, LabelState, PoolId,
    SelectedLabel, Signed, VOTE_BYTES, VotePlace, VoteSlots, end_of_labelled, select_label,
    select_vote,
};

/// Sectors of a vote slot.
const VOTE_SECTORS: u64 = (VOTE_BYTES / block::SECTOR_BYTES) as u64;

/// What is on a disk.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Not looked at yet.
    Unread,
    /// Nothing.
    Blank,
    /// Something that isn't etherpool's.
    Foreign(Vec<Signature>),
    /// A disk of a pool, with the configuration that it shows if it has or had a vote.
    Labelled { label: Box<SelectedLabel>, vote: Option<Vote> },
    /// A disk of a pool that is no more, as it shows itself.
    Destroyed { label: Box<SelectedLabel>, vote: Vote },
    /// A disk of a pool that can't be used as it is.
    Refused(LabelError),
    /// It can't be read.
    Unreadable(IoError),
}

impl Content {
    /// The vote of a disk of a pool, be that no more.
    pub(crate) fn vote(&self) -> Option<&Vote> {
        match self {
            Content::Labelled { vote, .. } => vote.as_ref(),
            Content::Destroyed { vote, .. } => Some(vote),
            _ => None,
        }
    }

    /// The label of a disk of a pool, be that no more.
    pub(crate) fn label(&self) -> Option<&Label> {
        match self {
            Content::Labelled { label, .. } | Content::Destroyed { label, .. } => {
                Some(&label.label)
            }
            _ => None,
        }
    }
}

/// What a disk's vote says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    /// The newest of it that can be read.
    pub(crate) newest: Configuration,
    /// The slot that has it.
    pub(crate) slot: usize,
    /// Both slots can be read: there is no newer one.
    pub(crate) is_whole: bool,
    /// By whose word that is the pool's configuration.
    pub(crate) signed: Option<Signed>,
    /// Whether that is believed (`trusted`). Else it shows at most that its disk is there.
    pub(crate) counts: bool,
}

/// How much of what isn't etherpool's is looked for on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Nothing: it is asked for labels only.
    Unasked,
    /// What has a place by which it is recognised.
    Glanced,
    /// Everything: it may be overwritten next.
    Searched,
}

/// Reads what is on a device.
pub(crate) async fn read_content(
    device: &dyn BlockDevice,
    others: Others,
) -> Result<Content, IoError> {
    Ok(match read_label(device).await? {
        LabelState::Labelled(label) => labelled(device, label).await?,
        LabelState::Refused(error) => Content::Refused(error),
        LabelState::Blank => {
            let found = match others {
                Others::Unasked => Vec::new(),
                Others::Glanced => glance(device).await?,
                Others::Searched => probe(device).await?,
            };
            if found.is_empty() { Content::Blank } else { Content::Foreign(found) }
        }
    })
}

/// What is on a device that has this label.
pub(crate) async fn labelled(
    device: &dyn BlockDevice,
    label: Box<SelectedLabel>,
) -> Result<Content, IoError> {
    // Any disk may have a vote by now, or know by the one that it had who has them.
    let place = vote_place(label.label.pool, label.label.disk);
    let (slots, read) = read_vote(device, &place, &label.label.vote_disks).await?;
    let is_whole = read.iter().all(|is_read| *is_read);
    let newest = slots.newest_slot().zip(slots.newest);
    let vote = newest.map(|(slot, newest)| Vote {
        newest,
        slot,
        is_whole,
        signed: slots.signed,
        counts: true,
    });
    Ok(match vote {
        Some(vote) if vote.newest.destruction == Destruction::Decided => {
            Content::Destroyed { label, vote }
        }
        vote => Content::Labelled { label, vote },
    })
}

/// What the vote slots of a disk hold, and which of them could be read. `labelled` are the voters that its label
/// names.
pub(crate) async fn read_vote(
    device: &dyn BlockDevice,
    place: &VotePlace,
    labelled: &[DiskId],
) -> Result<(VoteSlots, [bool; 2]), IoError> {
    let begins = begins_of_votes(device).await?;
    let slots = match are_empty(&begins) {
        true => begins,
        false => read_slots(device, DiskGeometry::vote_slots(), VOTE_SECTORS).await?,
    };
    let found = select_vote(place, [slots[0].as_deref(), slots[1].as_deref()], labelled);
    Ok((found, [slots[0].is_some(), slots[1].is_some()]))
}

/// Whether a disk has no vote, and had none.
pub(crate) async fn has_no_vote(device: &dyn BlockDevice) -> Result<bool, IoError> {
    Ok(are_empty(&begins_of_votes(device).await?))
}

/// What vote slots begin with. Of thousands of disks a few vote or did: where no slot begins with anything, none holds a
/// record.
async fn begins_of_votes(device: &dyn BlockDevice) -> Result<[Option<Buffer>; 2], IoError> {
    read_slots(device, DiskGeometry::vote_slots(), 1).await
}

fn are_empty(begins: &[Option<Buffer>; 2]) -> bool {
    let is_empty = |begin: &Option<Buffer>| {
        begin.as_ref().is_some_and(|begin| begin.iter().all(|byte| *byte == 0))
    };
    begins.iter().all(is_empty)
}

/// Reads and judges the four label slots. A slot that can't be read counts as missing; a device that
/// doesn't answer is an error.
pub(crate) async fn read_label(device: &dyn BlockDevice) -> Result<LabelState, IoError> {
    let device_bytes = device.geometry().sectors.saturating_mul(block::SECTOR_BYTES as u64);
    let [first, second, ..] = DiskGeometry::label_slots(device_bytes);
    let front = read_slots(device, [first, second], 8).await?;
    let front_bytes = [front[0].as_deref(), front[1].as_deref()];
    let labelled_bytes = end_of_labelled(front_bytes, device_bytes);
    let [.., third, fourth] = DiskGeometry::label_slots(labelled_bytes);
    let back = read_slots(device, [third, fourth], 8).await?;
    let slots = [front_bytes[0], front_bytes[1], back[0].as_deref(), back[1].as_deref()];
    let selected = select_label(slots, device_bytes);
    if let LabelState::Labelled(found) = &selected {
        // Whoever opens a pool writes.
        let names = found.label.features.unknown_to_writers();
        if !names.is_empty() {
            return Ok(LabelState::Refused(LabelError::UnknownFeatures { names }));
        }
    }
    Ok(selected)
}

/// The label of a device that is known to be this disk: also one without two equal copies ([`LabelError::Damaged`]), unless
/// something else has left its mark on the disk since, which nothing is to be written over.
pub(crate) async fn read_label_of(
    device: &dyn BlockDevice,
    disk: (PoolId, DiskId),
) -> Result<LabelState, IoError> {
    match read_label(device).await? {
        LabelState::Refused(error) => match error.left_of(disk) {
            Some(left) if !is_marked(device).await? => {
                Ok(LabelState::Labelled(Box::new(left.clone())))
            }
            _ => Ok(LabelState::Refused(error)),
        },
        read => Ok(read),
    }
}

/// Whether anything is on a device that others are known by. Damage alone isn't.
async fn is_marked(device: &dyn BlockDevice) -> Result<bool, IoError> {
    let is_mark =
        |found: &Signature| !matches!(found, Signature::Etherpool | Signature::UnknownData);
    Ok(probe(device).await?.iter().any(is_mark))
}

/// Reads two slots of `sectors` each; `None` for one that is damaged or beyond the end.
pub(crate) async fn read_slots(
    device: &dyn BlockDevice,
    slots: [Lba; 2],
    sectors: u64,
) -> Result<[Option<Buffer>; 2], IoError> {
    let reads = slots.map(|slot| device.read(SectorRange::new(slot, sectors)));
    let mut found = [None, None];
    for (slot, answer) in found.iter_mut().zip(join_all(reads).await) {
        *slot = match answer {
            Ok(answer) => Some(answer.value),
            Err(IoError::Medium(_) | IoError::OutOfRange(_)) => None,
            Err(error) => return Err(error),
        };
    }
    Ok(found)
}

/// What is wrong with a label and what to do about it.
pub(crate) fn explain(error: &LabelError) -> String {
    format!("{error}; {}", remedy_of_label(error))
}

/// A disk that can't be used as it is may be the only one with its pool's newest data: nothing that
/// is proposed here writes to it.
pub(crate) fn remedy_of_label(error: &LabelError) -> &'static str {
    match error {
        LabelError::Damaged { .. } => {
            "keep it as it is, it may hold what no other disk has: see whether its drive or cable \
             fails (log of its node), and whether its pool is whole without it (pool show)"
        }
        LabelError::Truncated { .. } => {
            "give the device its former size back; what is on it is left as it is"
        }
        LabelError::NewerVersion { .. } | LabelError::UnknownFeatures { .. } => {
            "update etherpool on this machine"
        }
    }
}

/// What is wrong with a disk that can't be read, or whose target doesn't take us for its owner, and what
/// to do about it.
pub(crate) fn explain_io(error: IoError) -> String {
    match error {
        IoError::Refused(reason) => {
            format!("its target refuses: {reason}; {}", remedy_of_refusal(reason))
        }
        error => format!("{error}; {}", remedy_of_unread()),
    }
}

/// What to do about a disk of which nothing was read.
fn remedy_of_unread() -> &'static str {
    "keep it as it is: see whether its drive, cable or node fails (log of its node)"
}

/// What to do about a target's refusal.
pub(crate) fn remedy_of_refusal(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::ForeignContent => {
            "if another disk is in its place, put the right one back (disk list says what it carries)"
        }
        RefusalReason::ReservationUnreadable => {
            "restart its node, in case the drive reads it again; where no other machine uses the disk: \
             `etherpool disk reset-epoch`, which makes the record of its owner anew and leaves its data"
        }
        RefusalReason::AccessDenied => "let this machine in: access lists of its node",
        RefusalReason::NotAdmitted => {
            "let this machine in: `etherpool pool admit` where its pool is open, or `etherpool pool import \
             --key` with the pool's key; if that is lost, `etherpool disk reset-owner` on its node"
        }
        RefusalReason::NotJoined => {
            "let the machines come to know each other: `etherpool token create` here, and `etherpool join` on the disk's node; or \
             name this machine's key in `supervisors` of its configuration"
        }
        RefusalReason::Owned => {
            "to use its pool here: `etherpool pool import`, which says whose it is and asks"
        }
        RefusalReason::ProtectedRange | RefusalReason::ObserverOnly => {
            "report this: nobody should have asked for that"
        }
    }
}

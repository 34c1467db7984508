//! Making a device a disk of a pool: whether it may be, and what is written in which order. The labels
//! come last, so that a crash leaves a disk that belongs to nobody.

use std::rc::Rc;

use block::{
    BLOCK_SECTORS, BlockDevice, Claim, Durability, DurabilityClass, IoError, Lba, SECTOR_BYTES,
    SectorRange,
};

use super::EngineConfig;
use super::io::write_durably;
use super::observe::{Content, explain, read_content};
use crate::error::PoolError;
use crate::format::{Confirm, DiskGeometry, DiskId, Label, MIB, PoolId, ReleaseNumber};

/// A device that shall become a disk.
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) node: uuid::Uuid,
    pub(crate) node_name: String,
    pub(crate) device: Rc<dyn BlockDevice>,
    /// The user named it as one to be overwritten.
    pub(crate) forced: bool,
}

impl Candidate {
    pub(crate) fn size_bytes(&self) -> u64 {
        let bytes = self.device.geometry().sectors.saturating_mul(SECTOR_BYTES as u64);
        DiskGeometry::labelled_bytes_of(bytes)
    }

    /// Whether the device may be overwritten. `known` tells whether a disk identity belongs to a
    /// pool that is open here.
    pub(crate) async fn check(
        &self,
        known: impl Fn(PoolId, DiskId) -> Known,
    ) -> Result<(), PoolError> {
        let refuse = |why: String, remedy: &str| Err(PoolError::refused(&self.name, why, remedy));
        let name = &self.name;
        let force = format!("name it with --force-disk {name} to overwrite what is on it");
        let geometry = self.device.geometry();
        if geometry.read_only {
            return refuse("it is read-only".into(), "export it writable");
        }
        if geometry.class == DurabilityClass::Unknown && !self.forced {
            let why = "its target may acknowledge writes that are not durable";
            let remedy =
                format!("export it with etherpool node, or name it with --force-disk {name}");
            return refuse(why.into(), &remedy);
        }
        let content = read_content(&*self.device, true).await;
        match content.map_err(|error| PoolError::io("looking at it", name, error))? {
            Content::Blank => Ok(()),
            Content::Labelled { label, .. } => match known(label.label.pool, label.label.disk) {
                Known::Member => {
                    let why = format!("it is a disk of pool {} already", label.label.pool_name);
                    refuse(why, "name another one")
                }
                Known::Unfinished => Ok(()),
                Known::Not if self.forced => Ok(()),
                Known::Not => {
                    let why = format!("it belongs to pool {}", label.label.pool_name);
                    refuse(why, &force)
                }
            },
            Content::Foreign(_) | Content::Refused(_) if self.forced => Ok(()),
            Content::Foreign(found) => {
                let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                refuse(format!("it carries: {}", found.join(", ")), &force)
            }
            Content::Refused(error) => refuse(explain(&error), &force),
            Content::Unreadable(error) => Err(PoolError::io("looking at it", name, error)),
            Content::Unread => refuse("it could not be looked at".into(), "try again"),
        }
    }

    /// The layout of the disk, or how large it would have to be.
    pub(crate) fn geometry(
        &self,
        metadata_bytes: u64,
        extent_bytes: u64,
    ) -> Result<DiskGeometry, PoolError> {
        DiskGeometry::new(self.size_bytes(), metadata_bytes, extent_bytes)
            .map_err(|error| PoolError::refused(&self.name, error.to_string(), "use a larger disk"))
    }

    /// Claims the medium.
    pub(crate) async fn claim(
        &self,
        config: &EngineConfig,
        epoch: block::Epoch,
    ) -> Result<(), PoolError> {
        let claim = Claim { epoch, owner: config.owner, force: self.forced };
        match self.device.claim(claim).await {
            Ok(_) => Ok(()),
            Err(IoError::Refused(reason)) => Err(PoolError::refused(
                &self.name,
                format!("its target refuses: {reason}"),
                "see the node's log",
            )),
            Err(IoError::Unsupported) => Err(PoolError::refused(
                &self.name,
                "its target cannot keep an owner",
                "export it with etherpool node",
            )),
            Err(error) => Err(PoolError::io("claiming it", &self.name, error)),
        }
    }

    /// Wipes what might be recognised later and writes the first confirm block.
    pub(crate) async fn prepare(&self, label: &Label) -> Result<(), IoError> {
        let end = label.geometry.labelled_bytes();
        let free = [(16 << 10, MIB), (end - MIB + (16 << 10), end)];
        for (from, to) in free {
            wipe(&*self.device, from, to).await?;
        }
        let confirm =
            Confirm { pool: label.pool, disk: label.disk, sequence: 1, release: ReleaseNumber(0) };
        let sector = DiskGeometry::confirm_slots()[confirm.slot()];
        write_durably(&*self.device, sector, confirm.encode()).await?;
        Ok(())
    }

    /// Writes the label to all four slots, and reads it back: two names may be one device.
    pub(crate) async fn write_label(&self, label: &Label) -> Result<(), PoolError> {
        let slots = DiskGeometry::label_slots(label.geometry.labelled_bytes());
        for sequence in 1..=2 {
            for slot in Label::slots_of(sequence) {
                let write = write_durably(&*self.device, slots[slot], label.encode(sequence, slot));
                let written = write.await;
                written.map_err(|error| PoolError::io("labelling it", &self.name, error))?;
            }
        }
        Ok(())
    }

    /// Whether the label is there.
    pub(crate) async fn check_label(&self, label: &Label) -> Result<(), PoolError> {
        match read_content(&*self.device, false).await {
            Ok(Content::Labelled { label: found, .. }) if found.label == *label => Ok(()),
            Ok(_) => Err(PoolError::refused(
                &self.name,
                "it does not hold what was just written to it: it is the same device as another \
                 one that was named, or it is broken",
                "name each device once",
            )),
            Err(error) => Err(PoolError::io("reading its label", &self.name, error)),
        }
    }
}

/// Whose a labelled disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// A disk of a pool that is open here.
    Member,
    /// Labelled for a pool that is open here, but never added to it: an extension that was
    /// interrupted.
    Unfinished,
    /// Neither.
    Not,
}

async fn wipe(device: &dyn BlockDevice, from: u64, to: u64) -> Result<(), IoError> {
    const PIECE_SECTORS: u64 = 256;
    let (mut at, end) = (from / SECTOR_BYTES as u64, to / SECTOR_BYTES as u64);
    while at < end {
        let sectors = PIECE_SECTORS.min(end - at);
        let range = SectorRange::new(Lba(at), sectors);
        match device.write_zeroes(range, Durability::Durable).await {
            Ok(_) => {}
            Err(IoError::Unsupported) => {
                let zeros = block::Buffer::zeroed(range.len_bytes() as usize);
                write_durably(device, range.start, zeros).await?;
            }
            Err(error) => return Err(error),
        }
        at += sectors;
    }
    debug_assert!(from.is_multiple_of(BLOCK_SECTORS));
    Ok(())
}

//! What is on a disk: recognised by the magic numbers that file systems, volume managers and
//! partition tables leave. Nothing that a user has may be overwritten by accident, so whoever
//! labels, exports or formats a disk asks here first.
//!
//! This is a recogniser, not a parser: it errs on the side of "something is there". Positions and
//! magics are those of the programs' own on-disk documentation, as libblkid has them.
//!
//! There are two looks. [`probe`] goes through everything, 700 KiB; it is for whoever has the disk at hand, and for what
//! may be overwritten next. [`glance`] reads all places where something says what it is, 100 KiB, because over a cable
//! thousands of disks are looked at: what it doesn't see is bytes without a name beyond 68 KiB, and ZFS of which nothing is
//! left but uberblocks. **Nothing is written after a glance alone**: a target goes through a disk that nobody owns
//! before it lets anybody claim it, and refuses what is there.
//!
//! # ZFS
//!
//! ZFS has no magic at one place. Each of four labels of 256 KiB, two at either end at multiples of that, has the
//! configuration at 16 KiB, as an XDR nvlist of unique names (`include/sys/vdev_impl.h` of OpenZFS, `vdev_label_t`; its first
//! twelve bytes are always the same), and from 128 KiB on a ring of uberblocks, in slots of 1 KiB to 8 KiB by the pool's
//! ashift. libblkid counts uberblocks, of which it wants four; a change that was sent to it in 2024 goes by the nvlist, as
//! spares and caches may have no uberblocks. That is the better sign, and enough:
//!
//! - without one that can be read ZFS itself takes a disk for none of its own: `vdev_label_read_config` reads nothing else;
//! - it is in all four labels of every disk, as it is written with the first of them: of a pool whose only
//!   uberblock is the first one (slot 4, as counting begins with 4), and of spares and caches, which may have none;
//! - it doesn't depend on the ashift, nor on how many times a pool was written to;
//! - who overwrites the start of a disk leaves two of them at its end, and the other way round.
//!
//! Uberblocks without any nvlist are what is left where somebody destroyed the four places of the latter; [`probe`] sees
//! them in all four rings. This was compared with what `ztest` of OpenZFS 2.1.11 made with ashift 9, 12, 13 and 14: data
//! disks, one of them with a single uberblock in slot 4, and a cache with one in slot 0; each had the twelve bytes in all labels.

use std::fmt;

use futures::future::{join, try_join_all};

use crate::{
    BLOCK_BYTES, BlockDevice, Crc32c, IoError, Lba, RefusalReason, SECTOR_BYTES, SectorRange,
};

/// Magic of an etherpool label, at the start of the disk and 1 MiB before its (labelled) end.
pub const LABEL_MAGIC: [u8; 8] = *b"EPLABEL\0";
/// Magic of the reservation record, 8 KiB behind each label.
pub const RESERVATION_MAGIC: [u8; 8] = *b"EPFIELD\0";

/// Bytes of a label; the first two lie one behind the other at the start of the disk.
pub const LABEL_BYTES: usize = BLOCK_BYTES;
const LABEL_CRC: usize = 8;
const LABEL_SLOT: usize = 12;
const LABEL_VERSION: usize = 14;
const LABEL_COMPATIBLE: usize = 16;
const LABEL_SIZE: usize = 88;

/// The size in bytes that a label in slot 0 or 1 gives to its disk: the labels at the other end lie
/// that far behind. `None` unless it is a whole label of the version that has its size there. Whose it
/// is, and whether it can be used, the pool's own code must tell.
pub fn labelled_bytes(label: &[u8], slot: u8) -> Option<u64> {
    let label: &[u8; LABEL_BYTES] = label.try_into().ok()?;
    let crc = Crc32c::new()
        .update(&label[..LABEL_CRC])
        .update(&[0; LABEL_SLOT - LABEL_CRC])
        .update(&label[LABEL_SLOT..])
        .finish();
    let size = u64::from_le_bytes(*label[LABEL_SIZE..].first_chunk()?);
    let valid = label.starts_with(&LABEL_MAGIC)
        && label[LABEL_CRC..LABEL_SLOT] == crc.to_le_bytes()
        && label[LABEL_SLOT] == slot
        && label[LABEL_VERSION..LABEL_COMPATIBLE] == [0, 0]
        && size.is_multiple_of(BLOCK_BYTES as u64);
    valid.then_some(size)
}

/// Something recognisable on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Signature {
    /// An etherpool label or reservation record; whose, the pool's own code must tell.
    Etherpool,
    /// GUID partition table.
    Gpt,
    /// MBR partition table or boot sector.
    Mbr,
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// bcachefs or bcache.
    Bcache,
    /// A member of a ZFS pool.
    Zfs,
    /// LVM physical volume.
    Lvm,
    /// Member of a Linux md array.
    Md,
    /// LUKS container.
    Luks,
    /// Swap space.
    Swap,
    /// F2FS.
    F2fs,
    /// NTFS.
    Ntfs,
    /// FAT or exFAT.
    Fat,
    /// ISO 9660 or UDF image.
    Iso9660,
    /// GFS2.
    Gfs2,
    /// OCFS2.
    Ocfs2,
    /// JFS.
    Jfs,
    /// ReiserFS.
    Reiserfs,
    /// DRBD metadata.
    Drbd,
    /// squashfs or EROFS image.
    ReadOnlyImage,
    /// VMFS of VMware.
    Vmfs,
    /// Ceph BlueStore.
    Bluestore,
    /// Stratis pool member.
    Stratis,
    /// Bytes other than zero where a blank disk has none, of no known kind.
    UnknownData,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signature::Etherpool => "etherpool disk",
            Signature::Gpt => "GPT partition table",
            Signature::Mbr => "partition table (MBR)",
            Signature::Ext => "ext2/3/4 file system",
            Signature::Xfs => "XFS file system",
            Signature::Btrfs => "btrfs file system",
            Signature::Bcache => "bcache or bcachefs",
            Signature::Zfs => "ZFS pool member",
            Signature::Lvm => "LVM physical volume",
            Signature::Md => "Linux md RAID member",
            Signature::Luks => "LUKS container",
            Signature::Swap => "swap space",
            Signature::F2fs => "F2FS file system",
            Signature::Ntfs => "NTFS file system",
            Signature::Fat => "FAT file system",
            Signature::Iso9660 => "ISO 9660 or UDF image",
            Signature::Gfs2 => "GFS2 file system",
            Signature::Ocfs2 => "OCFS2 file system",
            Signature::Jfs => "JFS file system",
            Signature::Reiserfs => "ReiserFS file system",
            Signature::Drbd => "DRBD metadata",
            Signature::ReadOnlyImage => "squashfs or EROFS image",
            Signature::Vmfs => "VMFS volume",
            Signature::Bluestore => "Ceph BlueStore device",
            Signature::Stratis => "Stratis pool member",
            Signature::UnknownData => "unknown data",
        })
    }
}

/// A magic at a byte offset from the start of the disk.
struct Magic(Signature, usize, &'static [u8]);

const HEAD: &[Magic] = &[
    Magic(Signature::Etherpool, 0, &LABEL_MAGIC),
    Magic(Signature::Etherpool, 4096, &LABEL_MAGIC),
    Magic(Signature::Etherpool, 8192, &RESERVATION_MAGIC),
    Magic(Signature::Etherpool, 12288, &RESERVATION_MAGIC),
    Magic(Signature::Gpt, 512, b"EFI PART"),
    Magic(Signature::Gpt, 4096, b"EFI PART"),
    Magic(Signature::Ext, 0x438, &[0x53, 0xef]),
    Magic(Signature::Xfs, 0, b"XFSB"),
    Magic(Signature::Btrfs, 0x10040, b"_BHRfS_M"),
    Magic(
        Signature::Bcache,
        4096 + 24,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ],
    ),
    Magic(
        Signature::Bcache,
        4096 + 24,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d,
            0xf7, 0xef,
        ],
    ),
    Magic(Signature::Lvm, 0x018, b"LVM2 001"),
    Magic(Signature::Lvm, 0x200, b"LABELONE"),
    Magic(Signature::Lvm, 0x000, b"LABELONE"),
    Magic(Signature::Lvm, 0x400, b"LABELONE"),
    Magic(Signature::Lvm, 0x600, b"LABELONE"),
    Magic(Signature::Md, 0, &MD_MAGIC),
    Magic(Signature::Md, 4096, &MD_MAGIC),
    Magic(Signature::Zfs, ZFS_NVLIST_AT as usize, &ZFS_NVLISTS[0]),
    Magic(Signature::Zfs, ZFS_NVLIST_AT as usize, &ZFS_NVLISTS[1]),
    Magic(Signature::Luks, 0, b"LUKS\xba\xbe"),
    Magic(Signature::Luks, 0x4000, b"SKUL\xba\xbe"),
    Magic(Signature::Swap, 4086, b"SWAPSPACE2"),
    Magic(Signature::Swap, 4086, b"SWAP-SPACE"),
    Magic(Signature::Swap, 65526, b"SWAPSPACE2"),
    Magic(Signature::F2fs, 0x400, &[0x10, 0x20, 0xf5, 0xf2]),
    Magic(Signature::Ntfs, 3, b"NTFS    "),
    Magic(Signature::Fat, 3, b"EXFAT   "),
    Magic(Signature::Fat, 0x36, b"FAT1"),
    Magic(Signature::Fat, 0x52, b"FAT32   "),
    Magic(Signature::Iso9660, 0x8001, b"CD001"),
    Magic(Signature::Iso9660, 0x8001, b"BEA01"),
    Magic(Signature::Gfs2, 0x10000, &[0x01, 0x16, 0x19, 0x70]),
    Magic(Signature::Ocfs2, 0x2000, b"OCFSV2"),
    Magic(Signature::Ocfs2, 0x1000, b"OCFSV2"),
    Magic(Signature::Jfs, 0x8000, b"JFS1"),
    Magic(Signature::Reiserfs, 0x10034, b"ReIsEr"),
    Magic(Signature::ReadOnlyImage, 0, b"hsqs"),
    Magic(Signature::ReadOnlyImage, 0x400, &[0xe2, 0xe1, 0xf5, 0xe0]),
    Magic(Signature::Bluestore, 0, b"bluestore block device"),
    Magic(Signature::Stratis, 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    Magic(Signature::Stratis, 9 * 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
];

/// How much of the head is gone through: all of ZFS' first label.
const HEAD_BYTES: usize = 256 * 1024;
/// How much of it is glanced at: up to behind btrfs' superblock, which is the last that has a place of its own.
const GLANCE_BYTES: usize = 68 * 1024;
/// Of ZFS' labels two lie at the start and two at the end, at multiples of their size.
const ZFS_LABEL_BYTES: u64 = 256 * 1024;
const ZFS_NVLIST_AT: u64 = 16 * 1024;
/// How it begins: in XDR, written by a machine of either endianness; version 0, unique names.
const ZFS_NVLISTS: [[u8; 12]; 2] =
    [[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]];
const ZFS_RING_AT: u64 = 128 * 1024;
const ZFS_RING_BYTES: usize = 128 * 1024;
const ZFS_MAGIC: u64 = 0x00ba_b10c;
const VMFS_AT: u64 = 1 << 20;
const MD_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];

/// Everything recognisable on `device`, in order and without repetitions; empty for a blank disk. A
/// disk whose server says that it has an owner is etherpool's, though the rest isn't shown to others.
///
/// # Errors
/// What reading the device answers: what can't be read can't be called blank.
pub async fn probe(device: &dyn BlockDevice) -> Result<Vec<Signature>, IoError> {
    look(device, Look::Through).await
}

/// The same of what has a place by which it is recognised, for a fraction of the bytes: to tell what is on a disk,
/// not to overwrite it.
///
/// # Errors
/// As of [`probe`].
pub async fn glance(device: &dyn BlockDevice) -> Result<Vec<Signature>, IoError> {
    look(device, Look::Glance).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Through,
    Glance,
}

/// All places are read at once: one after the other a hard disk's arm would be waited for at each.
async fn look(device: &dyn BlockDevice, look: Look) -> Result<Vec<Signature>, IoError> {
    let sectors = device.geometry().sectors;
    let size_bytes = sectors.saturating_mul(SECTOR_BYTES as u64);
    let head_bytes = if look == Look::Through { HEAD_BYTES } else { GLANCE_BYTES };
    let head = async {
        match read_within(device, 0, head_bytes).await {
            Err(IoError::Refused(RefusalReason::Owned)) => Ok(None),
            head => head.map(Some),
        }
    };
    let places = places(size_bytes, look);
    let reads = places.iter().map(|place| read_within(device, place.at, place.bytes));
    let (head, reads) = join(head, try_join_all(reads)).await;
    let Some(head) = head? else { return Ok(vec![Signature::Etherpool]) };

    let mut found = Vec::new();
    probe_head(&head, &mut found);
    if head.iter().any(|byte| *byte != 0) && found.is_empty() {
        found.push(Signature::UnknownData);
    }
    let named = places.iter().zip(reads?).filter(|(place, bytes)| (place.is_it)(bytes));
    found.extend(named.map(|(place, _)| place.signature));

    found.sort_unstable();
    found.dedup();
    if found.len() > 1 {
        found.retain(|signature| *signature != Signature::UnknownData);
    }
    Ok(found)
}

/// Something that leaves its mark behind the head.
struct Place {
    signature: Signature,
    at: u64,
    bytes: usize,
    is_it: fn(&[u8]) -> bool,
}

/// Where to look behind the head of a disk.
fn places(size_bytes: u64, look: Look) -> Vec<Place> {
    let mut places = Vec::new();
    let mut add = |signature, at, bytes, is_it| {
        places.push(Place { signature, at, bytes, is_it });
    };
    add(Signature::Vmfs, VMFS_AT, BLOCK_BYTES, |block| {
        block.starts_with(&[0x0d, 0xd0, 0x01, 0xc0])
    });
    // etherpool's second pair of labels and fields.
    let ours = (size_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64).saturating_sub(1 << 20);
    add(Signature::Etherpool, ours, 4 * BLOCK_BYTES, is_ours);
    // GPT's backup header, at the last sector of 512- or 4096-byte disks.
    for sector_bytes in [512, 4096] {
        if size_bytes > sector_bytes {
            let last = size_bytes - sector_bytes;
            add(Signature::Gpt, last, SECTOR_BYTES, |sector| sector.starts_with(b"EFI PART"));
        }
    }
    // md 0.90 (64 KiB-aligned, 64 KiB before the end) and 1.0 (4 KiB-aligned, 8 KiB before the end).
    let md_090 = (size_bytes & !0xffff).saturating_sub(0x10000);
    let md_10 = (size_bytes / 512).saturating_sub(16) / 8 * 8 * 512;
    for at in [md_090, md_10] {
        add(Signature::Md, at, SECTOR_BYTES, |sector| sector.starts_with(&MD_MAGIC));
    }
    // DRBD's internal metadata: magic 8374026D at byte 60 of the last 4 KiB block.
    let drbd = (size_bytes / 4096 * 4096).saturating_sub(4096);
    add(Signature::Drbd, drbd, SECTOR_BYTES, |sector| {
        sector.get(60..).is_some_and(|rest| rest.starts_with(&[0x83, 0x74, 0x02]))
    });
    // ZFS' labels but the first, which the head has.
    let aligned = size_bytes / ZFS_LABEL_BYTES * ZFS_LABEL_BYTES;
    let behind = |labels: u64| aligned.checked_sub(labels * ZFS_LABEL_BYTES);
    for label in [Some(ZFS_LABEL_BYTES), behind(2), behind(1)].into_iter().flatten() {
        add(Signature::Zfs, label + ZFS_NVLIST_AT, SECTOR_BYTES, |nvlist| {
            ZFS_NVLISTS.iter().any(|begin| nvlist.starts_with(begin))
        });
        if look == Look::Through {
            add(Signature::Zfs, label + ZFS_RING_AT, ZFS_RING_BYTES, has_zfs_uberblock);
        }
    }
    places
}

fn is_ours(blocks: &[u8]) -> bool {
    let begins = |block: usize, magic: &[u8]| {
        blocks.get(block * BLOCK_BYTES..).is_some_and(|block| block.starts_with(magic))
    };
    (0..2).any(|block| begins(block, &LABEL_MAGIC))
        || (2..4).any(|block| begins(block, &RESERVATION_MAGIC))
}

/// How much of the head of a disk that has an owner its target shows to everybody.
const SHOWN_BYTES: usize = 48 * 1024;
/// Where its target keeps who has it.
const RESERVATION: std::ops::Range<usize> = 8192..16384;

/// Whether nothing is at the start of a disk but its target's record of who has it: of a disk whose owner asks as
/// much of it as [`probe`] looks at, else what anybody is shown.
///
/// # Errors
/// What reading the device answers.
pub async fn is_empty_but_for_owner(device: &dyn BlockDevice) -> Result<bool, IoError> {
    let head = match read_within(device, 0, HEAD_BYTES).await {
        Err(IoError::Refused(RefusalReason::Owned)) => read_within(device, 0, SHOWN_BYTES).await?,
        head => head?,
    };
    let mut others = head.iter().enumerate().filter(|(at, _)| !RESERVATION.contains(at));
    Ok(others.all(|(_, byte)| *byte == 0))
}

fn probe_head(head: &[u8], found: &mut Vec<Signature>) {
    for Magic(signature, offset, magic) in HEAD {
        if head.get(*offset..offset + magic.len()) == Some(*magic) {
            found.push(*signature);
        }
    }
    if head.get(510..512) == Some(&[0x55, 0xaa])
        && !found.iter().any(|s| matches!(s, Signature::Ntfs | Signature::Fat))
    {
        found.push(Signature::Mbr);
    }
    if head.get(ZFS_RING_AT as usize..).is_some_and(has_zfs_uberblock) {
        found.push(Signature::Zfs);
    }
}

fn has_zfs_uberblock(ring: &[u8]) -> bool {
    ring.chunks_exact(1024).any(|uberblock| {
        uberblock.first_chunk::<8>().is_some_and(|magic| {
            u64::from_le_bytes(*magic) == ZFS_MAGIC || u64::from_be_bytes(*magic) == ZFS_MAGIC
        })
    })
}

/// Reads what of `len_bytes` from `offset_bytes` exists, in whole sectors, transfer by transfer.
async fn read_within(
    device: &dyn BlockDevice,
    offset_bytes: u64,
    len_bytes: usize,
) -> Result<Vec<u8>, IoError> {
    let geometry = device.geometry();
    let transfer = u64::from(geometry.max_transfer_bytes) / SECTOR_BYTES as u64;
    let transfer = transfer.max(1);
    let start = offset_bytes / SECTOR_BYTES as u64;
    let end = (start + (len_bytes / SECTOR_BYTES) as u64).min(geometry.sectors);
    let range = SectorRange::new(Lba(start), end.saturating_sub(start));
    let parts = try_join_all(range.pieces(transfer).map(|part| device.read(part))).await?;
    let mut bytes = Vec::with_capacity(range.len_bytes() as usize);
    parts.iter().for_each(|part| bytes.extend_from_slice(&part.value));
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::MemoryDevice;
    use futures::FutureExt;

    const SECTORS: u64 = 8192;

    fn disk_with(edits: &[(usize, &[u8])]) -> MemoryDevice {
        let device = MemoryDevice::new(SECTORS);
        for (offset, bytes) in edits {
            device.contents().borrow_mut()[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        device
    }

    fn probed(device: &MemoryDevice) -> Vec<Signature> {
        probe(device).now_or_never().unwrap().unwrap()
    }

    fn glanced(device: &MemoryDevice) -> Vec<Signature> {
        glance(device).now_or_never().unwrap().unwrap()
    }

    /// What either look finds, which is the same.
    fn found_with(edits: &[(usize, &[u8])]) -> Vec<Signature> {
        let device = disk_with(edits);
        let found = probed(&device);
        assert_eq!(glanced(&device), found);
        found
    }

    #[test]
    fn blank_is_blank() {
        assert_eq!(found_with(&[]), []);
    }

    #[test]
    fn every_magic_is_found_where_it_stands() {
        for Magic(signature, offset, magic) in HEAD {
            assert!(found_with(&[(*offset, magic)]).contains(signature), "{signature} at {offset}");
        }
    }

    #[test]
    fn tails_are_looked_at() {
        let size = SECTORS as usize * 512;
        assert_eq!(found_with(&[(size - 512, b"EFI PART")]), [Signature::Gpt]);
        assert_eq!(found_with(&[(size - 4096, b"EFI PART")]), [Signature::Gpt]);
        for (block, magic) in
            (0..4).zip([LABEL_MAGIC, LABEL_MAGIC, RESERVATION_MAGIC, RESERVATION_MAGIC])
        {
            let at = size - (1 << 20) + block * 4096;
            assert_eq!(found_with(&[(at, &magic)]), [Signature::Etherpool]);
        }
        assert_eq!(found_with(&[(size - 0x10000, &MD_MAGIC)]), [Signature::Md]);
        assert_eq!(found_with(&[(size - 8192, &MD_MAGIC)]), [Signature::Md]);
        assert_eq!(found_with(&[(size - 4096 + 60, &[0x83, 0x74, 0x02, 0x6d])]), [Signature::Drbd]);
        assert_eq!(found_with(&[(1 << 20, &[0x0d, 0xd0, 0x01, 0xc0])]), [Signature::Vmfs]);
    }

    #[test]
    fn anything_else_is_not_called_blank() {
        assert_eq!(found_with(&[(60_000, b"x")]), [Signature::UnknownData]);
        assert_eq!(found_with(&[(510, &[0x55, 0xaa])]), [Signature::Mbr]);
        let far = disk_with(&[(100_000, b"x")]);
        assert_eq!((probed(&far), glanced(&far)), (vec![Signature::UnknownData], vec![]));
    }

    /// A member of a ZFS pool as the published layout has it: in `labels` what ZFS begins one with, and an uberblock for each
    /// transaction from the fourth on.
    fn zfs_disk(sectors: u64, ashift: u32, transactions: u64, labels: &[usize]) -> MemoryDevice {
        let device = MemoryDevice::new(sectors);
        let contents = device.contents();
        let mut disk = contents.borrow_mut();
        let aligned = disk.len() / (256 << 10) * (256 << 10);
        let starts = [0, 256 << 10, aligned - (512 << 10), aligned - (256 << 10)];
        for label in labels {
            let label = &mut disk[starts[*label]..][..256 << 10];
            label[16 << 10..][..12].copy_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            // What comes first in it: 36 bytes, 32 of them in memory, the version.
            label[(16 << 10) + 12..][..24]
                .copy_from_slice(b"\0\0\0\x24\0\0\0\x20\0\0\0\x07version\0\0\0\0\x08");
            let slot_bytes = 1 << ashift.clamp(10, 13);
            for transaction in 4..4 + transactions {
                let slot = transaction as usize % ((128 << 10) / slot_bytes);
                label[(128 << 10) + slot * slot_bytes..][..8]
                    .copy_from_slice(&ZFS_MAGIC.to_le_bytes());
            }
        }
        drop(disk);
        device
    }

    #[test]
    fn of_zfs_one_label_will_do_whatever_pool_it_is_of() {
        // Of a size that is no multiple of a label's, too.
        for sectors in [SECTORS, SECTORS + 8 * 17] {
            for ashift in 9..=14 {
                // A spare has no uberblock, a new pool one, and one in use has the whole ring.
                for transactions in [0, 1, 5, 1000] {
                    for labels in [&[0, 1, 2, 3][..], &[2, 3], &[0], &[1], &[2], &[3]] {
                        let disk = zfs_disk(sectors, ashift, transactions, labels);
                        let what = (sectors, ashift, transactions, labels);
                        assert_eq!(probed(&disk), [Signature::Zfs], "{what:?}");
                        assert_eq!(glanced(&disk), [Signature::Zfs], "{what:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn of_zfs_uberblocks_alone_are_seen_by_who_looks_through() {
        let big_endian = ZFS_MAGIC.to_be_bytes();
        for start in [
            0,
            256 << 10,
            (SECTORS as usize) * 512 - (512 << 10),
            (SECTORS as usize) * 512 - (256 << 10),
        ] {
            for slot in [0, 4, 16, 32, 127] {
                let disk = disk_with(&[(start + (128 << 10) + slot * 1024, &big_endian)]);
                assert_eq!(probed(&disk), [Signature::Zfs], "{start} {slot}");
            }
        }
    }

    #[test]
    fn a_glance_reads_a_tenth_of_a_mebibyte() {
        let bytes = |look, head| {
            let places: usize = places(1 << 40, look).iter().map(|place| place.bytes).sum();
            places + head
        };
        assert_eq!(bytes(Look::Glance, GLANCE_BYTES), 94_208);
        assert_eq!(bytes(Look::Through, HEAD_BYTES), 679_936);
    }

    fn label(slot: u8, bytes: u64, change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut label = vec![0; LABEL_BYTES];
        label[..8].copy_from_slice(b"EPLABEL\0");
        label[12] = slot;
        label[88..96].copy_from_slice(&bytes.to_le_bytes());
        label[4095] = 7;
        change(&mut label);
        let crc = crate::crc32c(&label);
        label[8..12].copy_from_slice(&crc.to_le_bytes());
        label
    }

    #[test]
    fn a_whole_label_tells_the_labelled_size() {
        for slot in [0, 1] {
            assert_eq!(labelled_bytes(&label(slot, 3 << 20, |_| ()), slot), Some(3 << 20));
            assert_eq!(labelled_bytes(&label(slot, 0, |_| ()), slot), Some(0));
        }
        let most = u64::MAX - 4095;
        assert_eq!(labelled_bytes(&label(0, most, |_| ()), 0), Some(most));
    }

    #[test]
    fn whatever_else_is_there_tells_none() {
        assert_eq!(labelled_bytes(&label(1, 3 << 20, |_| ()), 0), None, "of the other slot");
        assert_eq!(labelled_bytes(&label(0, (3 << 20) + 512, |_| ()), 0), None, "no whole blocks");
        assert_eq!(labelled_bytes(&label(0, 3 << 20, |l| l[14] = 1), 0), None, "another version");
        assert_eq!(labelled_bytes(&label(0, 3 << 20, |l| l[15] = 1), 0), None, "another version");
        assert_eq!(labelled_bytes(&label(0, 3 << 20, |l| l[0] = 0), 0), None, "no label");
        assert_eq!(labelled_bytes(&[0; LABEL_BYTES], 0), None);
        let whole = label(0, 3 << 20, |_| ());
        assert_eq!(labelled_bytes(&whole[..4095], 0), None);
        assert_eq!(labelled_bytes(&[&whole[..], &[0]].concat(), 0), None);
        assert_eq!(labelled_bytes(&[], 0), None);
        for at in 0..LABEL_BYTES {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(labelled_bytes(&damaged, 0), None, "byte {at}");
        }
    }

    #[test]
    fn tiny_devices_do_not_panic() {
        for sectors in [0, 1, 7, 9, 2047] {
            let device = MemoryDevice::new(sectors);
            assert_eq!(probed(&device), []);
            assert_eq!(glanced(&device), []);
        }
    }
}

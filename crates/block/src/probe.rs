//! What is on a disk: recognised by the magic numbers that file systems, volume managers and
//! partition tables leave. Nothing that a user has may be overwritten by accident, so whoever
//! labels, exports or formats a disk asks here first.
//!
//! This is a recogniser, not a parser: it errs on the side of "something is there". Positions and
//! magics are those of the programs' own on-disk documentation, as libblkid has them.

use std::fmt;

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
    Magic(Signature::Md, 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    Magic(Signature::Md, 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
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

/// How much of the head is looked at: up to behind btrfs' superblock and all of ZFS' first label.
const HEAD_BYTES: usize = 256 * 1024;
/// ZFS keeps uberblocks from 128 KiB on in each 256 KiB label; two labels at the start, two at the
/// end, at multiples of 256 KiB.
const ZFS_LABEL_BYTES: u64 = 256 * 1024;
const ZFS_MAGIC: u64 = 0x00ba_b10c;
const VMFS_OFFSET_BYTES: u64 = 1 << 20;

/// Everything recognisable on `device`, in order and without repetitions; empty for a blank disk. A
/// disk whose server says that it has an owner is etherpool's, though the rest isn't shown to others.
///
/// # Errors
/// What reading the device answers: what can't be read can't be called blank.
pub async fn probe(device: &dyn BlockDevice) -> Result<Vec<Signature>, IoError> {
    let sectors = device.geometry().sectors;
    let size_bytes = sectors.saturating_mul(SECTOR_BYTES as u64);
    let mut found = Vec::new();

    let head = match read_within(device, 0, HEAD_BYTES).await {
        Err(IoError::Refused(RefusalReason::Owned)) => return Ok(vec![Signature::Etherpool]),
        head => head?,
    };
    probe_head(&head, &mut found);
    if head.iter().any(|byte| *byte != 0) && found.is_empty() {
        found.push(Signature::UnknownData);
    }
    let vmfs = read_within(device, VMFS_OFFSET_BYTES, BLOCK_BYTES).await?;
    if vmfs.starts_with(&[0x0d, 0xd0, 0x01, 0xc0]) {
        found.push(Signature::Vmfs);
    }
    probe_tail(device, size_bytes, &mut found).await?;

    found.sort_unstable();
    found.dedup();
    if found.len() > 1 {
        found.retain(|signature| *signature != Signature::UnknownData);
    }
    Ok(found)
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
    if head.len() > 128 * 1024 && has_zfs_uberblock(&head[128 * 1024..]) {
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

async fn probe_tail(
    device: &dyn BlockDevice,
    size_bytes: u64,
    found: &mut Vec<Signature>,
) -> Result<(), IoError> {
    // etherpool's second pair of labels and fields.
    let ours = (size_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64).saturating_sub(1 << 20);
    let block = read_within(device, ours, 4 * BLOCK_BYTES).await?;
    let is = |offset: usize, magic: &[u8]| block.get(offset..offset + magic.len()) == Some(magic);
    if is(0, &LABEL_MAGIC)
        || is(4096, &LABEL_MAGIC)
        || is(8192, &RESERVATION_MAGIC)
        || is(12288, &RESERVATION_MAGIC)
    {
        found.push(Signature::Etherpool);
    }
    // GPT's backup header, at the last sector of 512- or 4096-byte disks.
    for sector_bytes in [512, 4096] {
        if size_bytes > sector_bytes {
            let last = read_within(device, size_bytes - sector_bytes, 512).await?;
            if last.starts_with(b"EFI PART") {
                found.push(Signature::Gpt);
            }
        }
    }
    // md 0.90 (64 KiB-aligned, 64 KiB before the end) and 1.0 (4 KiB-aligned, 8 KiB before the end).
    let md_090 = (size_bytes & !0xffff).saturating_sub(0x10000);
    let md_10 = (size_bytes / 512).saturating_sub(16) / 8 * 8 * 512;
    for offset in [md_090, md_10] {
        let block = read_within(device, offset, 512).await?;
        if block.starts_with(&[0xfc, 0x4e, 0x2b, 0xa9]) {
            found.push(Signature::Md);
        }
    }
    // DRBD's internal metadata: magic 8374026D at byte 60 of the last 4 KiB block.
    let drbd = (size_bytes / 4096 * 4096).saturating_sub(4096);
    let block = read_within(device, drbd, 512).await?;
    if block.get(60..64).is_some_and(|m| m[..3] == [0x83, 0x74, 0x02]) {
        found.push(Signature::Drbd);
    }
    // ZFS' third and fourth label.
    let aligned = size_bytes / ZFS_LABEL_BYTES * ZFS_LABEL_BYTES;
    for label in 1..=2 {
        let Some(start) = aligned.checked_sub(label * ZFS_LABEL_BYTES) else { continue };
        let ring = read_within(device, start + 128 * 1024, 128 * 1024).await?;
        if has_zfs_uberblock(&ring) {
            found.push(Signature::Zfs);
        }
    }
    Ok(())
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
    let mut bytes = Vec::with_capacity(len_bytes);
    let mut at = start;
    while at < end {
        let count = transfer.min(end - at);
        let part = device.read(SectorRange::new(Lba(at), count)).await?;
        bytes.extend_from_slice(&part.value);
        at += count;
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::MemoryDevice;
    use futures::FutureExt;

    const SECTORS: u64 = 8192;

    fn found_with(edits: &[(usize, &[u8])]) -> Vec<Signature> {
        let device = MemoryDevice::new(SECTORS);
        for (offset, bytes) in edits {
            device.contents().borrow_mut()[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        probe(&device).now_or_never().unwrap().unwrap()
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
        assert_eq!(found_with(&[(size - (1 << 20), &LABEL_MAGIC)]), [Signature::Etherpool]);
        assert_eq!(found_with(&[(size - 0x10000, &[0xfc, 0x4e, 0x2b, 0xa9])]), [Signature::Md]);
        assert_eq!(found_with(&[(size - 8192, &[0xfc, 0x4e, 0x2b, 0xa9])]), [Signature::Md]);
        assert_eq!(found_with(&[(size - 4096 + 60, &[0x83, 0x74, 0x02, 0x6d])]), [Signature::Drbd]);
        let uberblock = ZFS_MAGIC.to_le_bytes();
        assert_eq!(found_with(&[(size - 256 * 1024 + 132 * 1024, &uberblock)]), [Signature::Zfs]);
    }

    #[test]
    fn anything_else_is_not_called_blank() {
        assert_eq!(found_with(&[(100_000, b"x")]), [Signature::UnknownData]);
        assert_eq!(found_with(&[(510, &[0x55, 0xaa])]), [Signature::Mbr]);
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
            assert_eq!(probe(&device).now_or_never().unwrap().unwrap(), []);
        }
    }
}

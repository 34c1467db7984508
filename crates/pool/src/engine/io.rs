//! Reads and writes of any length on a device that takes only so much at a time.

use block::{
    BLOCK_BYTES, BlockDevice, Buffer, BufferMut, Completion, Durability, Instance, IoError, Lba,
    SECTOR_BYTES, SectorRange,
};
use futures::future::join_all;

/// Reads `sectors` from `start`, in parallel pieces.
pub(crate) async fn read_run(
    device: &dyn BlockDevice,
    start: Lba,
    sectors: u64,
) -> Result<Buffer, IoError> {
    read_seen(device, start, sectors).await.map(|seen| seen.value)
}

/// The same, with the instance that answered: one, otherwise `Restarted`.
pub(crate) async fn read_seen(
    device: &dyn BlockDevice,
    start: Lba,
    sectors: u64,
) -> Result<Completion<Buffer>, IoError> {
    let most = most_sectors(device);
    if sectors <= most {
        let range = SectorRange::new(start, sectors);
        let seen = device.read(range).await?;
        return if seen.value.len() as u64 == range.len_bytes() {
            Ok(seen)
        } else {
            // A device that answers with another length than asked for has not read this range.
            Err(IoError::Medium(range))
        };
    }
    let pieces = pieces(start, sectors, most).map(|range| {
        let reading = device.read(range);
        async move { (range, reading.await) }
    });
    let mut whole = BufferMut::zeroed(sectors as usize * SECTOR_BYTES);
    let mut instance: Option<Instance> = None;
    for (range, result) in join_all(pieces).await {
        let Completion { instance: now, value: data, .. } = result?;
        if instance.is_some_and(|instance| instance != now) {
            return Err(IoError::Restarted { now });
        }
        instance = Some(now);
        let offset = (range.start.0 - start.0) as usize * SECTOR_BYTES;
        match whole.get_mut(offset..offset + data.len()) {
            Some(window) if data.len() as u64 == range.len_bytes() => window.copy_from_slice(&data),
            _ => return Err(IoError::Medium(range)),
        }
    }
    Ok(Completion::new(instance.unwrap_or_default(), whole.freeze()))
}

/// Writes `data` from `start`, in parallel pieces, all answered by one instance: otherwise
/// `Restarted`, since what the earlier one took may be gone.
pub(crate) async fn write_run(
    device: &dyn BlockDevice,
    start: Lba,
    data: Buffer,
    durability: Durability,
) -> Result<Completion<()>, IoError> {
    let most = most_sectors(device);
    let sectors = (data.len() / SECTOR_BYTES) as u64;
    if sectors <= most {
        return device.write(start, data, durability).await;
    }
    let writes = pieces(start, sectors, most).map(|range| {
        let offset = (range.start.0 - start.0) as usize * SECTOR_BYTES;
        let piece = data.slice(offset, offset + range.len_bytes() as usize);
        device.write(range.start, piece, durability)
    });
    let mut instance: Option<Instance> = None;
    for result in join_all(writes).await {
        let now = result?.instance;
        if instance.is_some_and(|instance| instance != now) {
            return Err(IoError::Restarted { now });
        }
        instance = Some(now);
    }
    Ok(Completion::new(instance.unwrap_or_default(), ()))
}

/// As [`write_run`], durable, and again when the device restarted meanwhile: for structures that are
/// written whole, where a repetition does no harm.
pub(crate) async fn write_durably(
    device: &dyn BlockDevice,
    start: Lba,
    data: Buffer,
) -> Result<Completion<()>, IoError> {
    for _ in 0..RESTARTS_MAX {
        match write_run(device, start, data.clone(), Durability::Durable).await {
            Err(IoError::Restarted { .. }) => {}
            answer => return answer,
        }
    }
    Err(IoError::Lost)
}

/// So often what can't be read and nobody else has is read before it passes for lost: a drive that fails for
/// a moment reads it again.
pub(crate) const READ_TRIES: u32 = 8;
/// How often all copies of something are looked at, one look after the other, while they are wrong: what a
/// disk answers may be wrong now and right next time.
pub(crate) const LOOKS_MAX: u32 = 5;
/// A device that restarts this often during one write is as good as lost.
pub(crate) const RESTARTS_MAX: usize = 8;

fn most_sectors(device: &dyn BlockDevice) -> u64 {
    let bytes = device.geometry().max_transfer_bytes as usize;
    ((bytes - bytes % BLOCK_BYTES).max(BLOCK_BYTES) / SECTOR_BYTES) as u64
}

fn pieces(start: Lba, sectors: u64, most: u64) -> impl Iterator<Item = SectorRange> {
    (0..sectors.div_ceil(most)).map(move |piece| {
        let from = piece * most;
        SectorRange::new(Lba(start.0 + from), most.min(sectors - from))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use block::MemoryDevice;
    use futures::FutureExt;

    use super::*;

    #[test]
    fn long_runs_go_in_pieces_and_come_back_whole() {
        let device = MemoryDevice::new(8192);
        let data: Vec<u8> = (0..3 << 20).map(|i| (i / 4096 % 251) as u8).collect();
        let data = Buffer::copy_of(&data);
        write_run(&device, Lba(8), data.clone(), Durability::Durable)
            .now_or_never()
            .unwrap()
            .unwrap();
        let read = |start, count| read_run(&device, start, count).now_or_never().unwrap();
        assert_eq!(read(Lba(8), 6144).unwrap(), data);
        assert!(read(Lba(8000), 6144).is_err());
    }
}

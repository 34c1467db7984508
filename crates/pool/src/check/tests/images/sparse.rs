//! Disks in few bytes: what is zero takes none, what was there before is named, and what repeats itself is said once.
//!
//! The file is "EPDISKS1", the number of disks (1 byte), then for each: length of its name (1), name, sectors of 512 bytes
//! (4). Its sectors follow in order, each group of them by a byte:
//!
//! | byte | what follows |
//! |---|---|
//! | 0 | number (4) of sectors of zeros |
//! | 1 | number (4) of an earlier sector that this one equals, counted over all that were told by 2 |
//! | 2 | one sector, as pieces: a length (2), and that many bytes; with the length's highest bit set one byte, repeated |
//!
//! Numbers are little-endian.

use std::collections::BTreeMap;

const MAGIC: &[u8; 8] = b"EPDISKS1";
const SECTOR: usize = 512;
const REPEATED: u16 = 1 << 15;
/// Shorter repetitions aren't worth a piece.
const REPETITION_MIN: usize = 6;

pub(super) fn encode(disks: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(disks.len() as u8);
    let mut told: BTreeMap<&[u8], u32> = BTreeMap::new();
    for (name, image) in disks {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&((image.len() / SECTOR) as u32).to_le_bytes());
        let mut zeros = 0_u32;
        for sector in image.chunks_exact(SECTOR) {
            if sector.iter().all(|byte| *byte == 0) {
                zeros += 1;
                continue;
            }
            put_zeros(&mut out, &mut zeros);
            if let Some(number) = told.get(sector) {
                out.push(1);
                out.extend_from_slice(&number.to_le_bytes());
                continue;
            }
            told.insert(sector, told.len() as u32);
            out.push(2);
            put_sector(&mut out, sector);
        }
        put_zeros(&mut out, &mut zeros);
    }
    out
}

fn put_zeros(out: &mut Vec<u8>, zeros: &mut u32) {
    if *zeros > 0 {
        out.push(0);
        out.extend_from_slice(&zeros.to_le_bytes());
        *zeros = 0;
    }
}

fn put_sector(out: &mut Vec<u8>, sector: &[u8]) {
    let repeated = |from: usize| sector[from..].iter().take_while(|b| **b == sector[from]).count();
    let mut at = 0;
    while at < sector.len() {
        let count = repeated(at);
        if count >= REPETITION_MIN {
            out.extend_from_slice(&(count as u16 | REPEATED).to_le_bytes());
            out.push(sector[at]);
            at += count;
            continue;
        }
        let begin = at;
        while at < sector.len() && repeated(at) < REPETITION_MIN {
            at += 1;
        }
        out.extend_from_slice(&((at - begin) as u16).to_le_bytes());
        out.extend_from_slice(&sector[begin..at]);
    }
}

/// Nothing where it isn't such a file.
pub(super) fn decode(mut file: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let from = &mut file;
    if take(from, MAGIC.len())? != MAGIC {
        return None;
    }
    let mut told: Vec<Vec<u8>> = Vec::new();
    let count = take(from, 1)?[0];
    let mut disks = Vec::new();
    for _ in 0..count {
        let len = usize::from(take(from, 1)?[0]);
        let name = String::from_utf8(take(from, len)?.to_vec()).ok()?;
        let bytes = number(from)? as usize * SECTOR;
        let mut image = Vec::new();
        while image.len() < bytes {
            match take(from, 1)?[0] {
                0 => image.resize(image.len() + number(from)? as usize * SECTOR, 0),
                1 => image.extend_from_slice(told.get(number(from)? as usize)?),
                2 => {
                    let sector = take_sector(from)?;
                    image.extend_from_slice(&sector);
                    told.push(sector);
                }
                _ => return None,
            }
        }
        disks.push((name, image));
    }
    from.is_empty().then_some(disks)
}

fn take_sector(from: &mut &[u8]) -> Option<Vec<u8>> {
    let mut sector = Vec::new();
    while sector.len() < SECTOR {
        let len = u16::from_le_bytes(take(from, 2)?.try_into().ok()?);
        match len & REPEATED {
            0 => sector.extend_from_slice(take(from, usize::from(len))?),
            _ => {
                let byte = take(from, 1)?[0];
                sector.resize(sector.len() + usize::from(len & !REPEATED), byte);
            }
        }
    }
    Some(sector)
}

fn take<'a>(from: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(taken)
}

fn number(from: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(from, 4)?.try_into().ok()?))
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut first = vec![0; 8 * SECTOR];
    first[..3].copy_from_slice(b"abc");
    first[SECTOR - 1] = 9;
    first[3 * SECTOR..4 * SECTOR].fill(7);
    let second = [first.clone(), vec![1; SECTOR]].concat();
    let disks =
        vec![("d0".to_owned(), first), ("d1".to_owned(), second), (String::new(), Vec::new())];
    let encoded = encode(&disks);
    assert_eq!(decode(&encoded), Some(disks));
    for len in 0..encoded.len() {
        assert_eq!(decode(&encoded[..len]), None, "cut off after {len}");
    }
}

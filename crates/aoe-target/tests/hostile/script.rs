//! Bytes as choices: which requests, and what is wrong with them.

use crate::corpus::{CLIENTS, TARGET, ata, config, header, mask, reserve};

/// Choices, until the bytes are used up.
pub struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((byte, rest)) => {
                self.bytes = rest;
                *byte
            }
            None => 0,
        }
    }

    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// One of `count`.
    pub fn one_of(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count.max(1)
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.one_of(items.len())]
    }

    /// True this often of 256 times.
    pub fn often(&mut self, of_256: u8) -> bool {
        self.byte() < of_256
    }
}

/// A plain request, valid in itself more often than not.
pub fn request(choices: &mut Choices<'_>) -> Vec<u8> {
    let source = choices.pick(&CLIENTS);
    let (shelf, slot) = choices.pick(&[
        (1, 1),
        (1, 1),
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 1),
        (2, 2),
        (3, 1),
        (4, 1),
        (0xffff, 0xff),
        (0xffff, 1),
        (1, 0xff),
        (1, 9),
        (9, 1),
    ]);
    let tag = u32::from(choices.word());
    let kind = choices.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 0x55]);
    let mut frame = header(source, shelf, slot, kind, tag);
    if choices.often(24) {
        frame[..6].copy_from_slice(&[0xff; 6]);
    }
    match kind {
        0 => ata_request(frame, choices),
        1 => config_request(frame, choices),
        2 => mask_request(frame, choices),
        3 => reserve_request(frame, choices),
        _ => frame,
    }
}

fn ata_request(frame: Vec<u8>, choices: &mut Choices<'_>) -> Vec<u8> {
    let code = choices.pick(&[
        0x34, 0x34, 0x34, 0x34, 0x30, 0x30, 0x24, 0x24, 0x24, 0x20, 0xec, 0xe7, 0xea, 0xe5, 0xef,
        0xb0, 0x00, 0x25,
    ]);
    let (count, lba) = match code {
        0xb0 => (choices.byte() % 3, 0xc2_4f00 | u64::from(choices.byte())),
        0xec => (1, 0xa000_0000),
        _ => (choices.byte() % 6, place(choices)),
    };
    let feature = match code {
        0xb0 => choices.pick(&[0xd0, 0xd1, 0xd4, 0xd5, 0xd6, 0xd8, 0xd9, 0xda, 0xd2, 0]),
        0xef => choices.pick(&[0x02, 0x82, 0x55]),
        _ => 0,
    };
    let flags = match code {
        0x30 => 0x01,
        0x34 => 0x41,
        0x24 | 0xea => 0x40,
        _ => 0,
    };
    let lba = if matches!(code, 0x20 | 0x30) { lba | 0xe000_0000 } else { lba };
    let mut frame = ata(frame, flags, feature, count, code, lba);
    if matches!(code, 0x30 | 0x34) || code == 0xb0 && feature == 0xd6 {
        let fill = choices.byte();
        frame.extend((0..usize::from(count) * 512).map(|at| fill ^ at as u8));
    }
    frame
}

/// Mostly on the disk, sometimes at its end or at that of numbers.
fn place(choices: &mut Choices<'_>) -> u64 {
    match choices.byte() {
        0..200 => u64::from(choices.byte() % 64),
        200..230 => 60 + u64::from(choices.byte() % 8),
        230..240 => 0x0fff_fffe,
        240..250 => 0xffff_ffff_fffe,
        _ => u64::from(choices.word()) << 20,
    }
}

fn config_request(frame: Vec<u8>, choices: &mut Choices<'_>) -> Vec<u8> {
    let command = choices.pick(&[0, 0, 1, 2, 3, 4, 5]);
    let string = choices.pick(&[&b""[..], b"a", b"ab", b"owner", &[0x41; 1024], &[0x42; 1025]]);
    let len = if choices.often(230) { string.len() as u16 } else { choices.word() };
    config(frame, command, len, string)
}

fn mask_request(frame: Vec<u8>, choices: &mut Choices<'_>) -> Vec<u8> {
    let command = choices.pick(&[0, 1, 1, 1, 1, 2]);
    let directives: Vec<(u8, [u8; 6])> = (0..choices.one_of(4))
        .map(|_| (choices.pick(&[0, 1, 1, 2, 2, 3]), choices.pick(&CLIENTS)))
        .collect();
    let count = if choices.often(200) { directives.len() as u8 } else { choices.byte() };
    mask(frame, command, count, &directives)
}

fn reserve_request(frame: Vec<u8>, choices: &mut Choices<'_>) -> Vec<u8> {
    let command = choices.pick(&[0, 1, 1, 2, 2, 3]);
    let macs: Vec<[u8; 6]> = (0..choices.one_of(4)).map(|_| choices.pick(&CLIENTS)).collect();
    let count = if choices.often(200) { macs.len() as u8 } else { choices.byte() };
    reserve(frame, command, count, &macs)
}

/// Does something to a frame, or nothing.
pub fn mutate(mut frame: Vec<u8>, choices: &mut Choices<'_>) -> Vec<u8> {
    while !choices.is_empty() && choices.often(96) {
        let at = usize::from(choices.word());
        match choices.one_of(7) {
            // Headers are where it hurts.
            0 | 1 => {
                let index = at % frame.len().clamp(1, 40);
                if let Some(byte) = frame.get_mut(index) {
                    *byte ^= 1 << (at >> 13);
                }
            }
            2 => {
                let value = choices.pick(&[0, 1, 2, 0x7f, 0x80, 0xff]);
                let index = at % frame.len().max(1);
                if let Some(byte) = frame.get_mut(index) {
                    *byte = value;
                }
            }
            3 => frame.truncate(at % (frame.len() + 1)),
            4 => frame.extend((0..at % 600).map(|n| n as u8)),
            5 => frame.resize(60.max(frame.len()), 0),
            _ => {
                let random: Vec<u8> = (0..at % 80).map(|_| choices.byte()).collect();
                let keep = frame.len().min(12);
                frame.truncate(keep);
                frame.extend(random);
            }
        }
    }
    frame
}

/// Bytes from nowhere, sometimes with the marks of a frame of ours.
pub fn noise(choices: &mut Choices<'_>) -> Vec<u8> {
    let len = usize::from(choices.word()) % 1400;
    let mut frame: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(0x9d)).collect();
    for byte in frame.iter_mut().take(64) {
        *byte = choices.byte();
    }
    if choices.often(200) && len >= 24 {
        frame[..6].copy_from_slice(&TARGET);
        frame[6] &= 0xfe;
        frame[12..15].copy_from_slice(&[0x88, 0xa2, 0x10]);
        frame[16..19].copy_from_slice(&[0, 1, 1]);
    }
    frame
}

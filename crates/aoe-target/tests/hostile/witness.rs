//! An independent reader of plain AoE. It knows the protocol's tables and what our target promises
//! where they leave it open, and shares no code with the target. For each frame it says which answers
//! there must be, byte for byte, and what is on the disk afterwards.

use crate::corpus::TARGET;

const SECTOR: usize = 512;
const MTU: usize = 9000;
/// What is advertised at that MTU: whole blocks of 4 KiB.
const ADVERTISED: u8 = 16;
const SECTORS_MAX: u8 = ((MTU - 36) / SECTOR) as u8;
const BUFFERS: u16 = 64;
const LIST_MAX: usize = 255;

/// How a reserved export tells those who aren't among the holders.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    AtaError,
    AoeError,
    Silent,
}

/// One export as it must be.
pub struct Export {
    pub shelf: u16,
    pub slot: u8,
    pub disk: Vec<u8>,
    pub read_only: bool,
    pub refusal: Refusal,
    pub write_cache: bool,
    pub switchable: bool,
    pub smart: bool,
    /// It belongs to a pool: plain clients may look at what it is and no more.
    pub owned: bool,
    /// Clients that may not write, by the administrator's rules.
    pub no_writes: Vec<[u8; 6]>,
    pub smart_enabled: bool,
    pub mask: Vec<[u8; 6]>,
    pub reserved: Vec<[u8; 6]>,
    pub config: Vec<u8>,
}

/// All exports, by address.
pub struct Witness {
    pub exports: Vec<Export>,
}

/// The parts of a header that matter.
struct Asked<'a> {
    frame: &'a [u8],
    source: [u8; 6],
    command: u8,
}

fn be16(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

impl Witness {
    /// The exports that a frame is for; none for what is no request.
    fn addressed(&self, frame: &[u8]) -> Vec<usize> {
        let is_request = frame.len() >= 24
            && frame[12..14] == [0x88, 0xa2]
            && frame[6] & 1 == 0
            && frame[14] & 0x08 == 0;
        if !is_request {
            return Vec::new();
        }
        let (shelf, slot) = (be16(frame, 16), frame[18]);
        (0..self.exports.len())
            .filter(|index| {
                let own = &self.exports[*index];
                (shelf == own.shelf || shelf == 0xffff) && (slot == own.slot || slot == 0xff)
            })
            .collect()
    }

    /// Whether a frame is for sessions, which are another witness's business.
    pub fn is_session(&self, frame: &[u8]) -> bool {
        frame.get(19) == Some(&0xf0)
    }

    /// Whether a frame may change more than sectors: what the harness doesn't let run beside others.
    pub fn is_serial(frame: &[u8]) -> bool {
        frame.get(19) != Some(&0) || !matches!(frame.get(27), Some(0x20 | 0x24 | 0x30 | 0x34))
    }

    /// The answers to a plain frame, unpadded; takes effect.
    pub fn handle(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        for index in self.addressed(frame) {
            let mut source = [0; 6];
            source.copy_from_slice(&frame[6..12]);
            let asked = Asked { frame, source, command: frame[19] };
            answers.extend(self.exports[index].answer(&asked));
        }
        answers
    }
}

impl Export {
    fn answer(&mut self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        if !self.owned && !self.mask.is_empty() && !self.mask.contains(&asked.source) {
            return None;
        }
        if asked.frame[14] >> 4 != 1 {
            return Some(self.refuse(asked, 5));
        }
        match asked.command {
            0 => self.ata(asked),
            1 => self.config(asked),
            2 => Some(self.mask(asked)),
            3 => Some(self.reserve(asked)),
            _ => Some(self.refuse(asked, 1)),
        }
    }

    /// Addresses turned round, the real shelf and slot, command and tag as they were.
    fn header(&self, asked: &Asked<'_>, error: u8) -> Vec<u8> {
        let mut reply = asked.source.to_vec();
        reply.extend(TARGET);
        reply.extend([0x88, 0xa2, if error == 0 { 0x18 } else { 0x1c }, error]);
        reply.extend(self.shelf.to_be_bytes());
        reply.extend([self.slot, asked.command]);
        reply.extend(&asked.frame[20..24]);
        reply
    }

    fn refuse(&self, asked: &Asked<'_>, error: u8) -> Vec<u8> {
        let mut reply = self.header(asked, error);
        reply.extend([0; 12]);
        reply
    }

    // ---- command 0 ----

    fn ata(&mut self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        let frame = asked.frame;
        if frame.len() < 36 {
            return Some(self.refuse(asked, 2));
        }
        let (feature, count, code) = (frame[25], frame[26], frame[27]);
        let data = &frame[36..];
        let failed = |error| Some(self.registers(asked, error, 0, 0x41, &[]));
        let aborted = || failed(0x04);
        let lba48 = (0..6).rev().fold(0, |sum, at| sum << 8 | u64::from(frame[28 + at]));
        let lba = if matches!(code, 0x24 | 0x34 | 0xea) { lba48 } else { lba48 & 0x0fff_ffff };
        let changes = matches!(code, 0x30 | 0x34 | 0xef)
            || code == 0xb0 && matches!(feature, 0xd4 | 0xd6 | 0xd8 | 0xd9);
        if changes && self.no_writes.contains(&asked.source) {
            let named = be16(frame, 16) != 0xffff && frame[18] != 0xff;
            return if named { self.denied(asked) } else { None };
        }
        if code == 0xec {
            return match count {
                1 => Some(self.registers(asked, 0, 0, 0x40, &self.identify())),
                _ => aborted(),
            };
        }
        if self.owned {
            return aborted();
        }
        if !self.reserved.is_empty() && !self.reserved.contains(&asked.source) {
            return self.denied(asked);
        }
        match code {
            0x20 | 0x24 | 0x30 | 0x34 => {}
            0xe7 | 0xea => return Some(self.registers(asked, 0, 0, 0x40, &[])),
            0xe5 => return Some(self.registers(asked, 0, 0xff, 0x40, &[])),
            0xef => return self.set_features(asked, feature),
            0xb0 => return self.smart(asked, lba48),
            _ => return aborted(),
        }
        let is_write = matches!(code, 0x30 | 0x34);
        let bytes = usize::from(count) * SECTOR;
        if count > SECTORS_MAX || is_write && data.len() < bytes {
            return Some(self.refuse(asked, 2));
        }
        let sectors = (self.disk.len() / SECTOR) as u64;
        if lba.checked_add(count.into()).is_none_or(|end| end > sectors) {
            return failed(0x10);
        }
        if is_write && self.read_only {
            return aborted();
        }
        let at = lba as usize * SECTOR;
        if is_write {
            self.disk[at..at + bytes].copy_from_slice(&data[..bytes]);
            return Some(self.registers(asked, 0, 0, 0x40, &[]));
        }
        Some(self.registers(asked, 0, 0, 0x40, &self.disk[at..at + bytes]))
    }

    fn denied(&self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        match self.refusal {
            Refusal::AtaError => Some(self.registers(asked, 0x04, 0, 0x41, &[])),
            Refusal::AoeError => Some(self.refuse(asked, 6)),
            Refusal::Silent => None,
        }
    }

    /// Of the request's flags only W comes back; E says that the command has a 48-bit address.
    fn registers(
        &self,
        asked: &Asked<'_>,
        error: u8,
        count: u8,
        status: u8,
        data: &[u8],
    ) -> Vec<u8> {
        let mut reply = self.header(asked, 0);
        let extended = if matches!(asked.frame[27], 0x24 | 0x34 | 0xea) { 0x40 } else { 0 };
        reply.extend([extended | asked.frame[24] & 1, error, count, status]);
        reply.extend(&asked.frame[28..34]);
        reply.extend([0, 0]);
        reply.extend(data);
        // aoeping wants a sector from every SMART command.
        if asked.frame[27] == 0xb0 && self.smart && data.is_empty() {
            reply.extend([0; SECTOR]);
        }
        reply
    }

    fn set_features(&mut self, asked: &Asked<'_>, feature: u8) -> Option<Vec<u8>> {
        if !self.switchable || self.read_only || !matches!(feature, 0x02 | 0x82) {
            return Some(self.registers(asked, 0x04, 0, 0x41, &[]));
        }
        self.write_cache = feature == 0x02;
        Some(self.registers(asked, 0, 0, 0x40, &[]))
    }

    /// The disk of the harness answers each command with status 0x50, its count, and bytes of 0xa5.
    fn smart(&mut self, asked: &Asked<'_>, lba48: u64) -> Option<Vec<u8>> {
        let frame = asked.frame;
        let (feature, count) = (frame[25], frame[26]);
        let log_fits = (1..=SECTORS_MAX).contains(&count);
        let possible = match feature {
            0xd0 | 0xd1 | 0xd4 | 0xd8 | 0xd9 | 0xda => true,
            0xd5 => log_fits,
            0xd6 => log_fits && frame.len() - 36 >= usize::from(count) * SECTOR,
            _ => false,
        };
        let writes = matches!(feature, 0xd4 | 0xd6 | 0xd8 | 0xd9);
        let signed = lba48 & 0xff_ff00 == 0xc2_4f00;
        if !possible || !signed || !self.smart || writes && self.read_only {
            return Some(self.registers(asked, 0x04, 0, 0x41, &[]));
        }
        match feature {
            0xd8 => self.smart_enabled = true,
            0xd9 => self.smart_enabled = false,
            _ => {}
        }
        let bytes = match feature {
            0xd0 | 0xd1 => SECTOR,
            0xd5 => usize::from(count) * SECTOR,
            _ => 0,
        };
        let mut reply = self.registers(asked, 0, count, 0x50, &vec![0xa5; bytes]);
        reply[28..31].copy_from_slice(&[0x11, 0x22, 0x33]);
        Some(reply)
    }

    fn identify(&self) -> Vec<u8> {
        let mut words = [0u16; 256];
        let mut text = |at: usize, len: usize, text: &str| {
            let text = format!("{text:<width$}", width = len * 2);
            for (word, pair) in words[at..at + len].iter_mut().zip(text.as_bytes().chunks(2)) {
                *word = u16::from_be_bytes([pair[0], pair[1]]);
            }
        };
        text(10, 10, &format!("{}.{}", self.shelf, self.slot));
        text(23, 4, "0.1");
        text(27, 20, "etherpool");
        let sectors = (self.disk.len() / SECTOR) as u16;
        (words[47], words[49], words[50]) = (0x8000, 0x0200, 0x4000);
        (words[60], words[100]) = (sectors, sectors);
        words[82] = 0x20 | u16::from(self.smart);
        words[83] = 0x4000 | 0x3400;
        words[84] = 0x4000;
        words[85] =
            if self.write_cache { 0x20 } else { 0 } | u16::from(self.smart && self.smart_enabled);
        words[86] = 0x3400;
        words[87] = 0x4000;
        words[93] = 0x400b;
        // 8 logical sectors to a physical one.
        words[106] = 0x6003;
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    // ---- command 1 ----

    fn config(&mut self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        let frame = asked.frame;
        if frame.len() < 32 {
            return None;
        }
        let command = frame[29] & 0x0f;
        let len = usize::from(be16(frame, 30));
        if command == 0 {
            return Some(self.config_reply(asked, 0, 0));
        }
        if len > 1024 || frame.len() < 32 + len {
            return None;
        }
        let string = &frame[32..32 + len];
        match command {
            1 if string != self.config => None,
            2 if !self.config.starts_with(string) => None,
            3 if !self.config.is_empty() && string != self.config => {
                Some(self.config_reply(asked, 4, command))
            }
            1..=4 => {
                if command >= 3 {
                    self.config = string.to_vec();
                }
                Some(self.config_reply(asked, 0, command))
            }
            _ => Some(self.refuse(asked, 2)),
        }
    }

    fn config_reply(&self, asked: &Asked<'_>, error: u8, command: u8) -> Vec<u8> {
        let mut reply = self.header(asked, error);
        reply.extend(BUFFERS.to_be_bytes());
        reply.extend([0, 1, ADVERTISED, 0x10 | command]);
        reply.extend((self.config.len() as u16).to_be_bytes());
        reply.extend(&self.config);
        reply
    }

    // ---- commands 2 and 3 ----

    fn mask(&mut self, asked: &Asked<'_>) -> Vec<u8> {
        let frame = asked.frame;
        if frame.len() < 28 {
            return self.refuse(asked, 2);
        }
        let (command, count) = (frame[25], usize::from(frame[27]));
        let is_edit = command == 1;
        if is_edit && frame.len() < 28 + count * 8 {
            return self.refuse(asked, 2);
        }
        if self.owned {
            return self.refuse(asked, 1);
        }
        if command > 1 {
            return self.refuse(asked, 2);
        }
        let directives = if is_edit { &frame[28..28 + count * 8] } else { &[] };
        for (index, directive) in directives.chunks(8).enumerate() {
            let mut mac = [0; 6];
            mac.copy_from_slice(&directive[2..]);
            let known = self.mask.contains(&mac);
            let error = match directive[1] {
                0 => 0,
                1 if !known && self.mask.len() == LIST_MAX => 3,
                1 => {
                    if !known {
                        self.mask.push(mac);
                    }
                    0
                }
                2 => {
                    self.mask.retain(|listed| *listed != mac);
                    0
                }
                _ => 2,
            };
            if error != 0 {
                let mut reply = self.header(asked, 0);
                reply.extend([0, command, error, index as u8]);
                return reply;
            }
        }
        let mut reply = self.header(asked, 0);
        reply.extend([0, command, 0, self.mask.len() as u8]);
        for mac in &self.mask {
            reply.extend([0, 0]);
            reply.extend(mac);
        }
        reply
    }

    fn reserve(&mut self, asked: &Asked<'_>) -> Vec<u8> {
        let frame = asked.frame;
        if frame.len() < 26 {
            return self.refuse(asked, 2);
        }
        let (command, count) = (frame[24], usize::from(frame[25]));
        let sets = matches!(command, 1 | 2);
        if sets && frame.len() < 26 + count * 6 {
            return self.refuse(asked, 2);
        }
        if self.owned {
            return self.refuse(asked, 1);
        }
        if command > 2 {
            return self.refuse(asked, 2);
        }
        if command == 1 && !self.reserved.is_empty() && !self.reserved.contains(&asked.source) {
            return self.refuse(asked, 6);
        }
        if sets {
            let macs = frame[26..26 + count * 6].chunks(6);
            self.reserved = macs
                .map(|chunk| {
                    let mut mac = [0; 6];
                    mac.copy_from_slice(chunk);
                    mac
                })
                .collect();
        }
        let mut reply = self.header(asked, 0);
        reply.extend([command, self.reserved.len() as u8]);
        self.reserved.iter().for_each(|mac| reply.extend(mac));
        reply
    }
}

//! The 512 bytes with which a disk tells what it is, as far as AoE initiators look.

use super::ParseError;

const BLOCK_BYTES: usize = 512;

const SERIAL_WORDS: std::ops::Range<usize> = 10..20;
const FIRMWARE_WORDS: std::ops::Range<usize> = 23..27;
const MODEL_WORDS: std::ops::Range<usize> = 27..47;
const MULTIPLE_WORD: usize = 47;
const CAPABILITIES_WORD: usize = 49;
const CAPABILITIES2_WORD: usize = 50;
const SECTORS28_WORD: usize = 60;
const SUPPORTED1_WORD: usize = 82;
const SUPPORTED2_WORD: usize = 83;
const SUPPORTED3_WORD: usize = 84;
const ENABLED1_WORD: usize = 85;
const ENABLED2_WORD: usize = 86;
const ENABLED3_WORD: usize = 87;
const HARDWARE_RESET_WORD: usize = 93;
const SECTORS48_WORD: usize = 100;
const SECTOR_SIZE_WORD: usize = 106;

const BIT_SMART: u16 = 1 << 0;
const BIT_WRITE_CACHE: u16 = 1 << 5;
const BIT_LBA48: u16 = 1 << 10;
const BIT_FLUSH: u16 = 1 << 12;
const BIT_FLUSH_EXT: u16 = 1 << 13;
/// Bit 14 set and bit 15 clear: the word is valid.
const VALID: u16 = 0x4000;
const SECTORS28_MAX: u64 = 0x0fff_ffff;
const SECTORS48_MAX: u64 = 0xffff_ffff_ffff;

/// What a disk says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identify {
    /// Size in sectors.
    pub sectors: u64,
    /// Serial number, at most 20 bytes.
    pub serial: String,
    /// Firmware revision, at most 8 bytes.
    pub firmware: String,
    /// Model, at most 40 bytes.
    pub model: String,
    /// Whether 48-bit commands are understood.
    pub lba48: bool,
    /// Whether FLUSH CACHE and FLUSH CACHE EXT do what they say.
    pub flush: bool,
    /// Whether writes are answered before they are on stable storage.
    pub write_cache: bool,
    /// Whether SMART commands are understood, and if so, whether SMART is switched on.
    pub smart: Option<bool>,
    /// Physical block size in bytes: 512 times a power of two; others are told as 512.
    pub physical_block_bytes: u32,
}

impl Identify {
    /// The block as it goes over the wire.
    pub fn build(&self) -> [u8; BLOCK_BYTES] {
        let mut words = [0u16; BLOCK_BYTES / 2];
        put_string(&mut words[SERIAL_WORDS], &self.serial);
        put_string(&mut words[FIRMWARE_WORDS], &self.firmware);
        put_string(&mut words[MODEL_WORDS], &self.model);
        words[MULTIPLE_WORD] = 0x8000;
        words[CAPABILITIES_WORD] = 0x0200;
        words[CAPABILITIES2_WORD] = VALID;
        let sectors28 = self.sectors.min(SECTORS28_MAX);
        words[SECTORS28_WORD] = sectors28 as u16;
        words[SECTORS28_WORD + 1] = (sectors28 >> 16) as u16;
        let smart = |is: bool| if is { BIT_SMART } else { 0 };
        words[SUPPORTED1_WORD] = BIT_WRITE_CACHE | smart(self.smart.is_some());
        words[ENABLED1_WORD] =
            smart(self.smart == Some(true)) | if self.write_cache { BIT_WRITE_CACHE } else { 0 };
        let commands = if self.lba48 { BIT_LBA48 } else { 0 }
            | if self.flush { BIT_FLUSH | BIT_FLUSH_EXT } else { 0 };
        words[SUPPORTED2_WORD] = VALID | commands;
        words[ENABLED2_WORD] = commands;
        words[SUPPORTED3_WORD] = VALID;
        words[ENABLED3_WORD] = VALID;
        words[HARDWARE_RESET_WORD] = 0x400b;
        let sectors48 = self.sectors.min(SECTORS48_MAX);
        for (i, word) in words[SECTORS48_WORD..SECTORS48_WORD + 4].iter_mut().enumerate() {
            *word = (sectors48 >> (16 * i)) as u16;
        }
        words[SECTOR_SIZE_WORD] = sector_size_word(self.physical_block_bytes);
        let mut block = [0; BLOCK_BYTES];
        for (bytes, word) in block.chunks_exact_mut(2).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        block
    }

    /// What a disk said. Only 512 bytes are looked at.
    pub fn parse(data: &[u8]) -> Result<Identify, ParseError> {
        let block = data.get(..BLOCK_BYTES).ok_or(ParseError::Truncated)?;
        let words: Vec<u16> =
            block.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let commands = words[SUPPORTED2_WORD] | words[ENABLED2_WORD];
        let lba48 = commands & BIT_LBA48 != 0;
        let word_count = if lba48 { 4 } else { 2 };
        let first = if lba48 { SECTORS48_WORD } else { SECTORS28_WORD };
        let sectors = words[first..first + word_count]
            .iter()
            .rev()
            .fold(0u64, |sum, word| sum << 16 | u64::from(*word));
        Ok(Identify {
            sectors: sectors.min(SECTORS48_MAX),
            serial: string_of(&words[SERIAL_WORDS]),
            firmware: string_of(&words[FIRMWARE_WORDS]),
            model: string_of(&words[MODEL_WORDS]),
            lba48,
            flush: commands & (BIT_FLUSH | BIT_FLUSH_EXT) != 0,
            write_cache: words[ENABLED1_WORD] & BIT_WRITE_CACHE != 0,
            smart: (words[SUPPORTED1_WORD] & BIT_SMART != 0)
                .then_some(words[ENABLED1_WORD] & BIT_SMART != 0),
            physical_block_bytes: physical_block_bytes(words[SECTOR_SIZE_WORD]),
        })
    }
}

/// Strings are padded with spaces, and the two bytes of each word are swapped.
fn put_string(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().map(|byte| if byte.is_ascii_graphic() { byte } else { b' ' });
    for word in words {
        let first = bytes.next().unwrap_or(b' ');
        *word = u16::from_be_bytes([first, bytes.next().unwrap_or(b' ')]);
    }
}

fn string_of(words: &[u16]) -> String {
    let text: String = words
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .map(|byte| if byte.is_ascii_graphic() { char::from(byte) } else { ' ' })
        .collect();
    text.trim().to_owned()
}

fn sector_size_word(physical_block_bytes: u32) -> u16 {
    let ratio = physical_block_bytes / 512;
    if !physical_block_bytes.is_multiple_of(512) || !ratio.is_power_of_two() || ratio == 1 {
        return VALID;
    }
    let exponent = ratio.trailing_zeros().min(15) as u16;
    VALID | 1 << 13 | exponent
}

fn physical_block_bytes(word: u16) -> u32 {
    let several = word & 0xc000 == VALID && word & 1 << 13 != 0;
    if several { 512 << (word & 0x0f) } else { 512 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn example() -> Identify {
        Identify {
            sectors: 0x1_2345_6789,
            serial: "194.0:lab".into(),
            firmware: "0.1.0".into(),
            model: "etherpool".into(),
            lba48: true,
            flush: true,
            write_cache: false,
            smart: None,
            physical_block_bytes: 4096,
        }
    }

    #[test]
    fn words_are_where_initiators_look() {
        let block = example().build();
        let word = |n: usize| u16::from_le_bytes([block[2 * n], block[2 * n + 1]]);
        assert_eq!(&block[20..40], b"91.4:0al b          ");
        assert_eq!(&block[54..64], b"teehproo l");
        assert_eq!((word(47), word(49), word(50)), (0x8000, 0x0200, 0x4000));
        assert_eq!((word(60), word(61)), (0xffff, 0x0fff));
        assert_eq!((word(82), word(85)), (0x0020, 0));
        assert_eq!((word(83), word(84), word(86), word(87)), (0x7400, 0x4000, 0x3400, 0x4000));
        assert_eq!(word(93), 0x400b);
        assert_eq!([word(100), word(101), word(102), word(103)], [0x6789, 0x2345, 1, 0]);
        assert_eq!(word(106), 0x6003);
    }

    #[test]
    fn round_trip() {
        for change in [
            |_: &mut Identify| (),
            |identify: &mut Identify| identify.write_cache = true,
            |identify: &mut Identify| identify.smart = Some(false),
            |identify: &mut Identify| identify.smart = Some(true),
            |identify: &mut Identify| identify.flush = false,
            |identify: &mut Identify| identify.physical_block_bytes = 512,
            |identify: &mut Identify| (identify.lba48, identify.sectors) = (false, 77),
        ] {
            let mut identify = example();
            change(&mut identify);
            assert_eq!(Identify::parse(&identify.build()), Ok(identify));
        }
        assert_eq!(Identify::parse(&[0; 511]), Err(ParseError::Truncated));
    }

    #[test]
    fn hostile_strings_and_sizes() {
        let mut identify = example();
        identify.model = "ü\n".repeat(100);
        identify.sectors = u64::MAX;
        identify.physical_block_bytes = 0;
        let parsed = Identify::parse(&identify.build()).unwrap();
        assert_eq!((parsed.model.as_str(), parsed.sectors), ("", 0xffff_ffff_ffff));
        assert_eq!(parsed.physical_block_bytes, 512);
        assert!(Identify::parse(&[0xff; 512]).is_ok());
    }
}

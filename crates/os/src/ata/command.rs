//! ATA commands as SCSI carries them: ATA PASS-THROUGH (16) of the SCSI/ATA translation standard
//! (SAT). Building the descriptor block is a pure function, tested against the tables of the
//! standards; no ATA disk is needed for it.

/// Bytes of a sector, whatever the disk's own sector size: SMART logs and IDENTIFY count in these.
pub const SECTOR_BYTES: usize = 512;

/// Length of the descriptor block.
pub const CDB_BYTES: usize = 16;

const ATA_PASS_THROUGH_16: u8 = 0x85;
/// Protocols, in bits 4..1 of the second byte.
const PROTOCOL_NON_DATA: u8 = 3 << 1;
const PROTOCOL_PIO_IN: u8 = 4 << 1;
const PROTOCOL_PIO_OUT: u8 = 5 << 1;
/// The command has registers of 16 and 48 bits.
const EXTEND: u8 = 1;
/// The answer's registers are wanted also when nothing failed.
const CK_COND: u8 = 1 << 5;
const FROM_DEVICE: u8 = 1 << 3;
/// The length is in the count register, in sectors.
const LENGTH_IN_COUNT_SECTORS: u8 = 1 << 2 | 2;

/// Where SMART commands carry their magic number: bits 23..8 of the address.
const SMART_MAGIC: u64 = 0x00c2_4f00;
const SMART_MAGIC_MASK: u64 = 0x00ff_ff00;
const SMART: u8 = 0xb0;
/// SMART feature: write a log.
const SMART_WRITE_LOG: u8 = 0xd6;
/// The log through which SCT commands are given.
const SCT_COMMAND_LOG: u64 = 0xe0;
const SET_FEATURES: u8 = 0xef;
const IDENTIFY: u8 = 0xec;
/// Sets the standby timer without spinning down at once (0xe2 would).
const IDLE: u8 = 0xe3;

/// What goes along with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Nothing; the answer is in the registers.
    None,
    /// Sectors from the disk.
    In {
        /// How many.
        sectors: u8,
    },
    /// Whole sectors to the disk.
    Out(Vec<u8>),
}

/// A command: the registers as ATA has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtaCommand {
    /// Features.
    pub features: u16,
    /// Sector count.
    pub count: u16,
    /// Address, 48 bits; 28 where the command isn't extended.
    pub lba: u64,
    /// Device register.
    pub device: u8,
    /// The command's number.
    pub command: u8,
    /// Whether it is one with 48-bit registers.
    pub extended: bool,
    /// Its data.
    pub transfer: Transfer,
}

impl AtaCommand {
    /// A command of 28 bits without data.
    pub fn non_data(command: u8, features: u8, count: u8) -> AtaCommand {
        AtaCommand {
            features: features.into(),
            count: count.into(),
            lba: 0,
            device: 0,
            command,
            extended: false,
            transfer: Transfer::None,
        }
    }

    /// SMART with a subcommand; the lowest byte of the address selects a log or a test. `None` when
    /// data isn't as long as `count` says, or when it isn't passed on:
    ///
    /// - a captive self-test would hold the disk up for hours;
    /// - writing to the logs of SCT (0xe0, 0xe1) could overwrite the whole disk behind everybody's
    ///   back, so that only the host's own logs and the selective self-test's are written;
    /// - what the vendor or nobody defines might do anything.
    pub fn smart(feature: u8, count: u8, lba_low: u8, data: Option<Vec<u8>>) -> Option<AtaCommand> {
        let sectors = usize::from(count);
        let transfer = match (feature, data) {
            (0xd0 | 0xd1, None) if count == 1 => Transfer::In { sectors: 1 },
            (0xd5, None) if count > 0 => Transfer::In { sectors: count },
            (0xd6, Some(data))
                if count > 0
                    && data.len() == sectors * SECTOR_BYTES
                    && matches!(lba_low, 0x09 | 0x80..=0x9f) =>
            {
                Transfer::Out(data)
            }
            (0xd8..=0xda, None) => Transfer::None,
            // Start one that runs beside the work, or end it.
            (0xd4, None) if matches!(lba_low, 0..=4 | 0x7f) => Transfer::None,
            _ => return None,
        };
        Some(AtaCommand {
            features: feature.into(),
            count: count.into(),
            lba: SMART_MAGIC | u64::from(lba_low),
            device: 0,
            command: SMART,
            extended: false,
            transfer,
        })
    }

    /// IDENTIFY DEVICE.
    pub fn identify() -> AtaCommand {
        let transfer = Transfer::In { sectors: 1 };
        AtaCommand { transfer, ..AtaCommand::non_data(IDENTIFY, 0, 1) }
    }

    /// SET FEATURES: the disk's write cache.
    pub fn set_write_cache(on: bool) -> AtaCommand {
        AtaCommand::non_data(SET_FEATURES, if on { 0x02 } else { 0x82 }, 0)
    }

    /// SET FEATURES: reading ahead within the disk.
    pub fn set_read_ahead(on: bool) -> AtaCommand {
        AtaCommand::non_data(SET_FEATURES, if on { 0xaa } else { 0x55 }, 0)
    }

    /// After how long without work the disk stops spinning, in the timer's own units (see
    /// [`super::settings::StandbyTimer`]).
    pub fn set_standby_timer(timer: u8) -> AtaCommand {
        AtaCommand::non_data(IDLE, 0, timer)
    }

    /// SCT error recovery control: how long the disk tries to read or write a sector before it
    /// reports an error, in units of 100 ms; zero for as long as it likes.
    pub fn set_error_recovery(write: bool, tenths: u16) -> AtaCommand {
        let mut data = vec![0; SECTOR_BYTES];
        let action: u16 = 3;
        let function_set: u16 = 1;
        let selection: u16 = if write { 2 } else { 1 };
        for (at, word) in [action, function_set, selection, tenths].into_iter().enumerate() {
            data[at * 2..at * 2 + 2].copy_from_slice(&word.to_le_bytes());
        }
        AtaCommand {
            lba: SMART_MAGIC | SCT_COMMAND_LOG,
            transfer: Transfer::Out(data),
            ..AtaCommand::non_data(SMART, SMART_WRITE_LOG, 1)
        }
    }

    /// Whether it only looks, so that it may be sent to the disk of a partition.
    pub fn is_harmless(&self) -> bool {
        let smart = self.command == SMART && self.lba & SMART_MAGIC_MASK == SMART_MAGIC;
        match self.command {
            IDENTIFY => true,
            _ if smart => matches!(self.features, 0xd0 | 0xd1 | 0xd5 | 0xda),
            _ => false,
        }
    }

    /// The descriptor block.
    pub fn cdb(&self) -> [u8; CDB_BYTES] {
        let (protocol, flags) = match &self.transfer {
            Transfer::None => (PROTOCOL_NON_DATA, CK_COND),
            // Success of these needs no registers, and some bridges lose the data when asked.
            Transfer::In { .. } => (PROTOCOL_PIO_IN, FROM_DEVICE | LENGTH_IN_COUNT_SECTORS),
            Transfer::Out(_) => (PROTOCOL_PIO_OUT, LENGTH_IN_COUNT_SECTORS),
        };
        let [features_high, features_low] = self.features.to_be_bytes();
        let [count_high, count_low] = self.count.to_be_bytes();
        let lba = self.lba.to_le_bytes();
        let extended = |byte: u8| if self.extended { byte } else { 0 };
        // Without 48 bits, bits 27..24 of the address are in the device register.
        let device = if self.extended { self.device } else { self.device | (lba[3] & 0x0f) };
        [
            ATA_PASS_THROUGH_16,
            protocol | if self.extended { EXTEND } else { 0 },
            flags,
            extended(features_high),
            features_low,
            extended(count_high),
            count_low,
            extended(lba[3]),
            lba[0],
            extended(lba[4]),
            lba[1],
            extended(lba[5]),
            lba[2],
            device,
            self.command,
            0,
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    /// Byte by byte from the table of ATA PASS-THROUGH (16) in SAT, and the commands' registers from
    /// ACS.
    #[test]
    fn blocks_are_as_the_standard_has_them() {
        for (command, expected) in [
            (AtaCommand::identify(), "85 08 0e 00 00 00 01 00 00 00 00 00 00 00 ec 00"),
            (
                AtaCommand::smart(0xd0, 1, 0, None).unwrap(),
                "85 08 0e 00 d0 00 01 00 00 00 4f 00 c2 00 b0 00",
            ),
            (
                AtaCommand::smart(0xda, 0, 0, None).unwrap(),
                "85 06 20 00 da 00 00 00 00 00 4f 00 c2 00 b0 00",
            ),
            (
                AtaCommand::smart(0xd5, 2, 6, None).unwrap(),
                "85 08 0e 00 d5 00 02 00 06 00 4f 00 c2 00 b0 00",
            ),
            (
                AtaCommand::smart(0xd6, 1, 0x80, Some(vec![0; 512])).unwrap(),
                "85 0a 06 00 d6 00 01 00 80 00 4f 00 c2 00 b0 00",
            ),
            (AtaCommand::set_write_cache(false), "85 06 20 00 82 00 00 00 00 00 00 00 00 00 ef 00"),
            (AtaCommand::set_write_cache(true), "85 06 20 00 02 00 00 00 00 00 00 00 00 00 ef 00"),
            (AtaCommand::set_read_ahead(true), "85 06 20 00 aa 00 00 00 00 00 00 00 00 00 ef 00"),
            (AtaCommand::set_read_ahead(false), "85 06 20 00 55 00 00 00 00 00 00 00 00 00 ef 00"),
            (AtaCommand::set_standby_timer(242), "85 06 20 00 00 00 f2 00 00 00 00 00 00 00 e3 00"),
            (
                AtaCommand::set_error_recovery(false, 70),
                "85 0a 06 00 d6 00 01 00 e0 00 4f 00 c2 00 b0 00",
            ),
        ] {
            assert_eq!(command.cdb().to_vec(), hex(expected), "{command:?}");
        }
    }

    #[test]
    fn registers_of_48_bits_are_split_as_the_standard_has_them() {
        let command = AtaCommand {
            features: 0x1122,
            count: 0x3344,
            lba: 0x0066_5544_3322_1100 >> 8,
            device: 0x40,
            command: 0x2f,
            extended: true,
            transfer: Transfer::In { sectors: 1 },
        };
        let expected = "85 09 0e 11 22 33 44 44 11 55 22 66 33 40 2f 00";
        assert_eq!(command.cdb().to_vec(), hex(expected));
        // The same with 28 bits: what doesn't fit isn't sent, bits 27..24 go with the device.
        let short = AtaCommand { extended: false, ..command };
        let expected = "85 08 0e 00 22 00 44 00 11 00 22 00 33 44 2f 00";
        assert_eq!(short.cdb().to_vec(), hex(expected));
    }

    #[test]
    fn error_recovery_is_a_page_of_words() {
        let Transfer::Out(page) = AtaCommand::set_error_recovery(true, 0x0146).transfer else {
            panic!("the page goes to the disk")
        };
        assert_eq!(page[..8], hex("03 00 01 00 02 00 46 01"));
        assert!(page.len() == SECTOR_BYTES && page[8..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn smart_that_could_do_harm_or_is_of_the_wrong_length_is_not_passed_on() {
        for (feature, count, low, data) in [
            (0xd0, 2, 0, None),
            (0xd0, 1, 0, Some(512)),
            (0xd5, 0, 6, None),
            (0xd6, 1, 0x80, None),
            (0xd6, 2, 0x80, Some(512)),
            (0xd6, 0, 0x80, Some(0)),
            // SCT commands, WRITE SAME among them.
            (0xd6, 1, 0xe0, Some(512)),
            (0xd6, 1, 0xe1, Some(512)),
            (0xd6, 1, 0xa0, Some(512)),
            // Self-tests that hold the disk up until they end.
            (0xd4, 0, 0x81, None),
            (0xd4, 0, 0x82, None),
            (0xd3, 0, 0, None),
            (0x00, 0, 0, None),
            (0xff, 0, 0, None),
        ] {
            let data = data.map(|len| vec![0; len]);
            assert_eq!(AtaCommand::smart(feature, count, low, data), None, "{feature:02x}");
        }
        assert!(AtaCommand::smart(0xd4, 0, 2, None).is_some());
    }

    #[test]
    fn only_looking_is_harmless() {
        let smart = |feature| AtaCommand::smart(feature, 1, 0, None).unwrap();
        assert!(AtaCommand::identify().is_harmless() && smart(0xd0).is_harmless());
        assert!(AtaCommand::smart(0xda, 0, 0, None).unwrap().is_harmless());
        assert!(!AtaCommand::smart(0xd9, 0, 0, None).unwrap().is_harmless());
        assert!(!AtaCommand::set_write_cache(true).is_harmless());
        assert!(!AtaCommand::set_error_recovery(true, 70).is_harmless());
        assert!(!AtaCommand::set_standby_timer(0).is_harmless());
    }
}

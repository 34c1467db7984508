//! How an ATA command went, from what SCSI says about it. Pure functions, tested with sense data
//! from logs of real machines.
//!
//! Three forms occur. Descriptor format with an ATA status return descriptor is what SAT wants and
//! what Linux sends on success. Fixed format comes from bridges and from disks set so; Linux before
//! 6.11 put the registers into the wrong bytes of it. And sense data without registers at all.

/// The error bit and the bits that mean the same for the caller: busy, device fault, data request.
const STATUS_FAILED: u8 = 0x01 | 0x08 | 0x20 | 0x80;
const STATUS_READY: u8 = 0x40;
const STATUS_ERROR: u8 = 0x01;
/// "Command aborted", what most refusals are.
const ERROR_ABORTED: u8 = 0x04;
const ERROR_UNCORRECTABLE: u8 = 0x40;

const SENSE_NONE: u8 = 0x00;
const SENSE_RECOVERED: u8 = 0x01;
const SENSE_MEDIUM: u8 = 0x03;
const SENSE_ILLEGAL_REQUEST: u8 = 0x05;
/// "Invalid command operation code": no ATA disk, or a bridge that knows nothing of it.
const ASC_INVALID_OPCODE: u8 = 0x20;
/// "ATA pass through information available", with the second byte.
const ASC_INFORMATION: (u8, u8) = (0x00, 0x1d);

const DESCRIPTOR_ATA_RETURN: u8 = 0x09;
const DESCRIPTOR_ATA_RETURN_LEN: u8 = 0x0c;

/// The registers after a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Status.
    pub status: u8,
    /// Error.
    pub error: u8,
    /// Sector count.
    pub count: u16,
    /// Address.
    pub lba: u64,
    /// Device.
    pub device: u8,
}

impl Registers {
    /// What a command that succeeded leaves when nobody asked for more.
    pub const SUCCESS: Registers =
        Registers { status: 0x50, error: 0, count: 0, lba: 0, device: 0 };

    /// Whether the command failed.
    pub fn is_failure(&self) -> bool {
        self.status & STATUS_FAILED != 0
    }
}

/// What sense data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// The disk answered; it may have refused.
    Registers(Registers),
    /// There is no ATA disk behind it, or nothing that passes commands on.
    NotAta,
    /// It failed, and these registers are made up from the SCSI error: there are no others.
    Derived(Registers),
}

/// Reads sense data.
pub fn parse(sense: &[u8]) -> Sense {
    let byte = |at: usize| sense.get(at).copied().unwrap_or(0);
    match byte(0) & 0x7f {
        0x72 | 0x73 => {
            let (key, asc) = (byte(1) & 0x0f, byte(2));
            if let Some(registers) = descriptor(sense) {
                return Sense::Registers(registers);
            }
            without_registers(key, asc, byte(3))
        }
        0x70 | 0x71 => {
            let (key, asc, ascq) = (byte(2) & 0x0f, byte(12), byte(13));
            let valid = byte(0) & 0x80 != 0;
            if valid || (asc, ascq) == ASC_INFORMATION {
                return Sense::Registers(fixed(byte(3), byte(4), byte(5), byte(6), &|at| {
                    byte(8 + at)
                }));
            }
            // Linux before 6.11, which marks nothing valid: a status that says ready and failed is
            // no vendor's accident.
            if byte(7) >= 0x0a && byte(9) & (STATUS_READY | STATUS_ERROR) == 0x41 {
                let none = |_| 0;
                return Sense::Registers(fixed(byte(8), byte(9), byte(10), byte(11), &none));
            }
            without_registers(key, asc, ascq)
        }
        _ => without_registers(0, 0, 0),
    }
}

/// The first ATA status return descriptor, wherever it stands.
fn descriptor(sense: &[u8]) -> Option<Registers> {
    let end = (8 + usize::from(*sense.get(7)?)).min(sense.len());
    let mut rest = sense.get(8..end)?;
    while let [kind, len, ..] = *rest {
        let size = 2 + usize::from(len);
        if kind == DESCRIPTOR_ATA_RETURN && len >= DESCRIPTOR_ATA_RETURN_LEN && rest.len() >= 14 {
            let d = rest;
            let extended = d[2] & 1 != 0;
            let high = |byte: u8| if extended { byte } else { 0 };
            return Some(Registers {
                error: d[3],
                count: u16::from_be_bytes([high(d[4]), d[5]]),
                lba: u64::from_le_bytes([
                    d[7],
                    d[9],
                    d[11],
                    high(d[6]),
                    high(d[8]),
                    high(d[10]),
                    0,
                    0,
                ]),
                device: d[12],
                status: d[13],
            });
        }
        rest = rest.get(size..)?;
    }
    None
}

/// Fixed format has room for the lower 24 bits of the address and 8 of the count.
fn fixed(
    error: u8,
    status: u8,
    device: u8,
    count: u8,
    specific: &dyn Fn(usize) -> u8,
) -> Registers {
    let lba = [specific(1), specific(2), specific(3), 0, 0, 0, 0, 0];
    Registers { status, error, count: count.into(), lba: u64::from_le_bytes(lba), device }
}

fn without_registers(key: u8, asc: u8, ascq: u8) -> Sense {
    if (key, asc) == (SENSE_ILLEGAL_REQUEST, ASC_INVALID_OPCODE) {
        return Sense::NotAta;
    }
    // "No sense" and "recovered" are no failures, whatever they tell besides.
    if matches!(key, SENSE_NONE | SENSE_RECOVERED) && (asc, ascq) != ASC_INFORMATION {
        return Sense::Derived(Registers::SUCCESS);
    }
    let error = if key == SENSE_MEDIUM { ERROR_UNCORRECTABLE } else { ERROR_ABORTED };
    let status = STATUS_READY | STATUS_ERROR;
    Sense::Derived(Registers { status, error, ..Registers::default() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    fn registers(status: u8, error: u8, count: u16, lba: u64, device: u8) -> Registers {
        Registers { status, error, count, lba, device }
    }

    /// From kernel logs and reports about hdparm and wodim.
    #[test]
    fn sense_data_of_real_machines() {
        for (what, sense, expected) in [
            (
                "a SATA disk behind a bridge, success",
                "72 01 00 1d 00 00 00 0e 09 0c 00 00 00 00 00 00 00 00 00 00 e0 50",
                registers(0x50, 0, 0, 0, 0xe0),
            ),
            (
                "SMART RETURN STATUS, healthy",
                "72 01 00 1d 00 00 00 0e 09 0c 00 00 00 00 00 00 00 4f 00 c2 e0 50",
                registers(0x50, 0, 0, 0x00c2_4f00, 0xe0),
            ),
            (
                "CHECK POWER MODE, spinning",
                "72 01 00 1d 00 00 00 0e 09 0c 00 00 00 ff 00 00 00 00 00 00 40 50",
                registers(0x50, 0, 0xff, 0, 0x40),
            ),
            (
                "aborted, in descriptor format",
                "72 0b 00 00 00 00 00 0e 09 0c 00 54 00 03 00 00 00 00 00 08 b0 51",
                registers(0x51, 0x54, 3, 0x0008_0000, 0xb0),
            ),
            (
                "aborted, in fixed format, of Linux before 6.11",
                "70 00 05 00 00 00 00 0a 04 51 40 00 21 04 00 00 00 00 00 00 00 00 00 00",
                registers(0x51, 0x04, 0, 0, 0x40),
            ),
            (
                "the same for a level of power management that the disk doesn't have",
                "70 00 05 00 00 00 00 0a 04 51 40 fe 21 04 00 00 00 00 00 00 00 00 00 00",
                registers(0x51, 0x04, 0xfe, 0, 0x40),
            ),
        ] {
            assert_eq!(parse(&hex(sense)), Sense::Registers(expected), "{what}");
        }
    }

    #[test]
    fn forms_of_the_standard() {
        // 48 bits: the upper bytes stand between the lower ones.
        let extended = "72 0b 00 00 00 00 00 0e 09 0c 01 40 11 22 44 11 55 22 66 33 40 51";
        let expected = registers(0x51, 0x40, 0x1122, 0x6655_4433_2211, 0x40);
        assert_eq!(parse(&hex(extended)), Sense::Registers(expected));
        // The same bytes without the flag: those aren't meant.
        let short = "72 0b 00 00 00 00 00 0e 09 0c 00 40 11 22 44 11 55 22 66 33 40 51";
        let expected = registers(0x51, 0x40, 0x22, 0x33_2211, 0x40);
        assert_eq!(parse(&hex(short)), Sense::Registers(expected));
        // Behind another descriptor.
        let second = "72 0b 11 04 00 00 00 1a 00 0a 80 00 00 00 00 00 00 00 00 07 \
                      09 0c 00 40 00 01 00 07 00 00 00 00 40 51";
        let expected = registers(0x51, 0x40, 1, 7, 0x40);
        assert_eq!(parse(&hex(second)), Sense::Registers(expected));
        // Fixed format with the registers where they belong: SMART RETURN STATUS of a dying disk.
        let dying = "f0 00 01 00 50 40 00 0a 00 00 f4 2c 00 1d 00 00 00 00";
        let expected = registers(0x50, 0, 0, 0x002c_f400, 0x40);
        assert_eq!(parse(&hex(dying)), Sense::Registers(expected));
    }

    #[test]
    fn no_registers_no_promises() {
        let failed =
            |error| Sense::Derived(Registers { status: 0x41, error, ..Registers::default() });
        for (what, sense, expected) in [
            ("a SAS disk", "70 00 05 00 00 00 00 0a 00 00 00 00 20 00 00 00 00 00", Sense::NotAta),
            ("the same in descriptors", "72 05 20 00 00 00 00 00", Sense::NotAta),
            ("a field not known", "70 00 05 00 00 00 00 0a 00 00 00 00 24 00 00 00", failed(4)),
            ("a bad sector", "72 03 11 00 00 00 00 00", failed(0x40)),
            ("no words at all", "", Sense::Derived(Registers::SUCCESS)),
            ("nothing wrong", "70 00 00 00 00 00 00 0a 00 00 00 00 00 00", {
                Sense::Derived(Registers::SUCCESS)
            }),
            ("a registers' descriptor cut off", "72 0b 00 00 00 00 00 0e 09 0c 00 54", failed(4)),
            ("a length that lies", "72 01 00 1d 00 00 00 ff 09 0c", failed(4)),
        ] {
            assert_eq!(parse(&hex(sense)), expected, "{what}");
        }
    }

    /// Sense data comes from the disk: every length and value is read without a panic.
    #[test]
    fn any_bytes_can_be_read() {
        let mut seed = 1u32;
        for len in 0..80 {
            for first in [0x70, 0x72, 0xf0, 0xf2, 0x00, 0xff] {
                let mut bytes: Vec<u8> = (0..len)
                    .map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        seed.to_be_bytes()[0]
                    })
                    .collect();
                if let Some(byte) = bytes.first_mut() {
                    *byte = first;
                }
                let _ = parse(&bytes);
            }
        }
        // Descriptors of length zero don't turn for ever.
        assert!(matches!(
            parse(&[0x72, 0x0b, 0, 0, 0, 0, 0, 8, 5, 0, 5, 0, 5, 0, 5, 0]),
            Sense::Derived(_)
        ));
    }
}

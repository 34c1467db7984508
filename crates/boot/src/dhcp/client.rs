//! Who asks: what a machine says of itself before it has an operating system.

use std::fmt;

use aoe_wire::MacAddr;
use uuid::Uuid;

/// The program that speaks for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Firmware that loads a file by TFTP (PXE 2.1; option 60 begins with `PXEClient`).
    Pxe,
    /// Firmware that loads a file by HTTP (UEFI 2.5, 24.7; option 60 begins with `HTTPClient`).
    Http,
    /// iPXE, which runs scripts (option 77 is `iPXE`).
    Ipxe,
    /// An operating system, or anything else: it wants an address at most.
    Other,
}

/// What a machine runs code of: option 93 (RFC 4578, and IANA's "Processor Architecture Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// A PC's BIOS.
    Bios,
    /// UEFI on x86-64.
    EfiX64,
    /// UEFI on 32-bit x86.
    EfiIa32,
    /// UEFI on 64-bit ARM.
    EfiArm64,
    /// Another one, by its number.
    Other(u16),
}

impl Architecture {
    /// Machines that say nothing are old: they have a BIOS.
    pub fn of(number: Option<u16>) -> Architecture {
        match number {
            None | Some(0) => Architecture::Bios,
            // 7 is "EFI BC", by which all firmware for x86-64 calls itself; 9 is what RFC 4578 calls that.
            Some(7 | 9 | 16) => Architecture::EfiX64,
            Some(6 | 15) => Architecture::EfiIa32,
            Some(11 | 19) => Architecture::EfiArm64,
            Some(other) => Architecture::Other(other),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Architecture::Bios => f.write_str("bios"),
            Architecture::EfiX64 => f.write_str("efi-x64"),
            Architecture::EfiIa32 => f.write_str("efi-ia32"),
            Architecture::EfiArm64 => f.write_str("efi-arm64"),
            Architecture::Other(number) => write!(f, "architecture {number}"),
        }
    }
}

/// A machine as it shows itself. None of that is proved: whoever sends on the segment says what he likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address of the interface that it asks by.
    pub mac: MacAddr,
    /// Its SMBIOS UUID (option 97).
    pub uuid: Option<Uuid>,
    /// What speaks for it.
    pub program: Program,
    /// What it runs.
    pub architecture: Architecture,
    /// What it calls itself (option 12), of characters that are safe to print.
    pub hostname: Option<String>,
}

//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema,
)]
#[schemars(with = "String", extend("pattern" = "^[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}$"))]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All stations of the segment.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Whether it means several stations.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Not six hexadecimal bytes with colons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address (want for example 52:54:00:12:34:56)")]
pub struct InvalidMacAddr;

impl FromStr for MacAddr {
    type Err = InvalidMacAddr;

    fn from_str(text: &str) -> Result<MacAddr, InvalidMacAddr> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(InvalidMacAddr)?;
            if part.is_empty() || part.len() > 2 || part.starts_with('+') {
                return Err(InvalidMacAddr);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMacAddr)?;
        }
        if parts.next().is_some() { Err(InvalidMacAddr) } else { Ok(MacAddr(bytes)) }
    }
}

block::serde_as_text!(MacAddr);

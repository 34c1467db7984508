//! AoE addresses, written `e194.0`.

use std::fmt;
use std::str::FromStr;

/// The address of an export: a shelf (usually a machine) and a slot in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShelfSlot {
    /// The shelf; [`ShelfSlot::ANY_SHELF`] in requests to all.
    pub shelf: u16,
    /// The slot; [`ShelfSlot::ANY_SLOT`] in requests to all.
    pub slot: u8,
}

impl ShelfSlot {
    /// The shelf number that means all shelves.
    pub const ANY_SHELF: u16 = 0xffff;
    /// The slot number that means all slots.
    pub const ANY_SLOT: u8 = 0xff;
    /// Every export there is.
    pub const ANY: ShelfSlot = ShelfSlot { shelf: Self::ANY_SHELF, slot: Self::ANY_SLOT };

    /// The address `e{shelf}.{slot}`.
    pub fn new(shelf: u16, slot: u8) -> ShelfSlot {
        ShelfSlot { shelf, slot }
    }

    /// Whether this address, as a request carries it, means the export at `own`. Each part is a
    /// wildcard on its own.
    pub fn matches(self, own: ShelfSlot) -> bool {
        (self.shelf == own.shelf || self.shelf == Self::ANY_SHELF)
            && (self.slot == own.slot || self.slot == Self::ANY_SLOT)
    }

    /// Whether an export can have this address: no part is a wildcard.
    pub fn is_concrete(self) -> bool {
        self.shelf != Self::ANY_SHELF && self.slot != Self::ANY_SLOT
    }
}

impl fmt::Display for ShelfSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("e")?;
        match self.shelf {
            Self::ANY_SHELF => f.write_str("*")?,
            shelf => write!(f, "{shelf}")?,
        }
        match self.slot {
            Self::ANY_SLOT => f.write_str(".*"),
            slot => write!(f, ".{slot}"),
        }
    }
}

/// Not an AoE address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an AoE address (want for example e194.0; shelf up to 65534, slot up to 254)")]
pub struct InvalidShelfSlot;

impl FromStr for ShelfSlot {
    type Err = InvalidShelfSlot;

    fn from_str(text: &str) -> Result<ShelfSlot, InvalidShelfSlot> {
        let (shelf, slot) =
            text.strip_prefix('e').unwrap_or(text).split_once('.').ok_or(InvalidShelfSlot)?;
        let shelf = match shelf {
            "*" => Self::ANY_SHELF,
            digits => number(digits, Self::ANY_SHELF - 1)?,
        };
        let slot = match slot {
            "*" => Self::ANY_SLOT,
            digits => u8::try_from(number(digits, u16::from(Self::ANY_SLOT) - 1)?)
                .map_err(|_| InvalidShelfSlot)?,
        };
        Ok(ShelfSlot { shelf, slot })
    }
}

fn number(digits: &str, max: u16) -> Result<u16, InvalidShelfSlot> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidShelfSlot);
    }
    digits.parse().ok().filter(|number| *number <= max).ok_or(InvalidShelfSlot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, address) in [
            ("e194.0", ShelfSlot::new(194, 0)),
            ("e0.254", ShelfSlot::new(0, 254)),
            ("e65534.7", ShelfSlot::new(65534, 7)),
            ("e*.*", ShelfSlot::ANY),
            ("e*.3", ShelfSlot::new(0xffff, 3)),
        ] {
            assert_eq!(text.parse(), Ok(address));
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("7.1".parse(), Ok(ShelfSlot::new(7, 1)));
        for bad in ["", "e", "e1", "e1.", "e.1", "e65535.0", "e1.255", "e1.-1", "e+1.1", "e1.1.1"] {
            assert_eq!(bad.parse::<ShelfSlot>(), Err(InvalidShelfSlot), "{bad}");
        }
    }

    #[test]
    fn each_wildcard_counts_on_its_own() {
        let own = ShelfSlot::new(7, 3);
        for (asked, matches) in [
            (ShelfSlot::new(7, 3), true),
            (ShelfSlot::new(7, 4), false),
            (ShelfSlot::new(8, 3), false),
            (ShelfSlot::new(0xffff, 3), true),
            (ShelfSlot::new(0xffff, 4), false),
            (ShelfSlot::new(7, 0xff), true),
            (ShelfSlot::new(8, 0xff), false),
            (ShelfSlot::ANY, true),
        ] {
            assert_eq!(asked.matches(own), matches, "{asked}");
        }
        assert!(own.is_concrete() && !ShelfSlot::new(7, 0xff).is_concrete());
    }
}

//! AoE addresses, written `e194.0`.

use std::fmt;
use std::str::FromStr;

/// The address of an export: a shelf (usually a machine) and a slot in it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema,
)]
#[schemars(with = "String", extend("pattern" = "^e[0-9]+\\.[0-9]+$"))]
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
        let part = |number: u16, any: u16| match number {
            number if number == any => "*".to_owned(),
            number => number.to_string(),
        };
        let shelf = part(self.shelf, Self::ANY_SHELF);
        let slot = part(self.slot.into(), Self::ANY_SLOT.into());
        f.pad(&format!("e{shelf}.{slot}"))
    }
}

/// Not the address of an export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not an AoE address: want eSHELF.SLOT, for example e194.0 (shelf below 65535, slot below 255)"
)]
pub struct InvalidShelfSlot(pub String);

/// The address of an export: wildcards are the protocol's only, and nothing that people type.
impl FromStr for ShelfSlot {
    type Err = InvalidShelfSlot;

    fn from_str(text: &str) -> Result<ShelfSlot, InvalidShelfSlot> {
        let parts = text.strip_prefix('e').and_then(|numbers| numbers.split_once('.'));
        let address = parts.and_then(|(shelf, slot)| {
            Some(ShelfSlot { shelf: number(shelf)?, slot: number(slot)? })
        });
        let address = address.filter(|address| address.is_concrete());
        address.ok_or_else(|| InvalidShelfSlot(text.to_owned()))
    }
}

fn number<T: FromStr>(digits: &str) -> Option<T> {
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

block::serde_as_text!(ShelfSlot);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, address) in [
            ("e194.0", ShelfSlot::new(194, 0)),
            ("e0.254", ShelfSlot::new(0, 254)),
            ("e65534.7", ShelfSlot::new(65534, 7)),
        ] {
            assert_eq!(text.parse(), Ok(address));
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(format!("{}, {}", ShelfSlot::ANY, ShelfSlot::new(0xffff, 3)), "e*.*, e*.3");
        for bad in [
            "", "e", "e1", "e1.", "e.1", "e65535.0", "e1.255", "e1.-1", "e+1.1", "e1.1.1", "7.1",
            "e*.*", "e1.*", "e.", "e99999.0",
        ] {
            assert_eq!(bad.parse::<ShelfSlot>(), Err(InvalidShelfSlot(bad.to_owned())));
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
